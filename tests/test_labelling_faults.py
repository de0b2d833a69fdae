"""What goes wrong while a folder is labelled: images that vanish, odd names, full disks, signals, lost workers."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from glow import Glow
from PIL import Image
from scenes import ALL, draw, label, make_photos, tree

from fcam_zoo import FcamZooError
from fcam_zoo.cli.predict import _terminable
from fcam_zoo.cli.predict import add_parser as add_predict
from fcam_zoo.labelling import inputs as inputs_module
from fcam_zoo.labelling import label_images
from fcam_zoo.labelling import run as run_module
from fcam_zoo.labelling.formats import flat_names
from fcam_zoo.labelling.pictures import dead_workers_told

EVERY = [*ALL, 'overlays']


@pytest.fixture
def photos(tmp_path) -> Path:
    return make_photos(tmp_path / 'photos')


def test_image_that_vanishes_after_it_was_listed(photos, tmp_path, monkeypatch):
    real = inputs_module.list_images

    def listed(argument):
        found = real(argument)
        (photos / 'dim' / 'a.png').unlink(missing_ok=True)
        return found

    monkeypatch.setattr(inputs_module, 'list_images', listed)
    done = label(photos, tmp_path / 'out', EVERY)
    assert done.labelled == 4
    assert len(done.errors) == 1
    assert 'a.png' in done.errors[0]


def test_image_that_vanishes_before_it_is_read(photos, tmp_path, monkeypatch):
    real = run_module.batches

    def late(*arguments):
        (photos / 'dim' / 'a.png').unlink()
        return real(*arguments)

    monkeypatch.setattr(run_module, 'batches', late)
    done = label(photos, tmp_path / 'out', EVERY)
    assert (done.labelled, len(done.errors)) == (4, 1)
    assert 'no such image file' in done.errors[0]


@pytest.mark.parametrize('how', ['gone', 'spoilt', 'another'])
def test_image_that_changes_before_it_is_drawn(photos, tmp_path, monkeypatch, how):
    """No format has it then."""
    victim = photos / 'dim' / 'a.png'
    real = run_module._Labeller.shot

    def shot(self, picture, score_map, probs):
        if self.inputs.paths[picture.index] == str(victim):
            victim.unlink()
            if how == 'spoilt':
                victim.write_bytes(b'\x89PNG')
            elif how == 'another':
                draw(victim, (56, 56), [])
        return real(self, picture, score_map, probs)

    monkeypatch.setattr(run_module._Labeller, 'shot', shot)
    done = label(photos, tmp_path / 'out', EVERY)
    assert (done.labelled, len(done.errors)) == (4, 1)
    assert 'a.png' in done.errors[0]
    assert not [name for name in tree(tmp_path / 'out') if Path(name).stem == 'a']
    assert len(json.loads((tmp_path / 'out' / 'coco.json').read_text())['images']) == 4


def test_names_too_long_for_another_suffix_are_reported(photos, tmp_path):
    long = tmp_path / ('n' * 255)
    long.write_bytes((photos / 'dim' / 'a.png').read_bytes())
    done = label([photos, long], tmp_path / 'out', EVERY)
    assert (done.labelled, len(done.errors)) == (5, 1)
    assert 'cannot hold this name' in done.errors[0]


def test_long_names_of_several_folders(tmp_path):
    names = [f'{"é" * 125}.png', f'{"n" * 251}.png']
    for folder in 'abc':
        for name in names:
            draw(tmp_path / 'in' / folder / name, (56, 56), [])
    assert label(tmp_path / 'in', tmp_path / 'out', EVERY).labelled == 6
    flat = flat_names(f'{folder}/{name}' for folder in 'abc' for name in names).values()
    assert len(set(flat)) == 6
    assert max(len(name.encode()) for name in flat) == 255


def test_name_that_ends_in_a_space_before_its_suffix(photos, tmp_path):
    """VOC lists stems, and its readers strip lines."""
    (photos / 'dim' / 'a.png').rename(photos / 'dim' / 'a .png')
    done = label(photos, tmp_path / 'out')
    assert (done.labelled, len(done.errors)) == (4, 1)
    assert 'cannot hold this name' in done.errors[0]


def test_folder_that_cannot_be_read(photos, tmp_path, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith('dim'):
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return real(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    done = label(photos, tmp_path / 'out')
    assert done.labelled == 3
    assert done.errors == (f'{photos / "dim"}: the folder cannot be read (Permission denied); its images are left out',)


def test_image_that_is_given_twice_is_labelled_once(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert label(['photos', photos, photos / 'dim' / '..' / 'dim'], tmp_path / 'out').labelled == 5


@pytest.mark.parametrize('name', ['file', 'file/below', 'loop', 'loop/below'])
def test_output_that_is_no_folder(photos, tmp_path, name):
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises((ValueError, OSError), match=name):
        label(photos, tmp_path / name)
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize('where', ['masks', 'journal', 'list'])
def test_full_disk_names_the_file_and_the_run_goes_on(photos, tmp_path, monkeypatch, where):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        if where == 'masks':
            patch.setattr(Image.Image, 'save', full)
        else:
            real = os.fsync
            name = {'journal': 'journal.jsonl', 'list': 'files.txt'}[where]

            def fsync(descriptor):
                if Path(f'/proc/self/fd/{descriptor}').readlink().name == name:
                    full()
                real(descriptor)

            if not Path('/proc/self/fd').exists():
                pytest.skip('no /proc')
            patch.setattr(os, 'fsync', fsync)
        with pytest.raises(OSError, match='No space left') as caught:
            label(photos, tmp_path / 'out', batch_size=2)
    assert {'masks': 'masks', 'journal': 'journal.jsonl', 'list': 'files.txt'}[where] in caught.value.filename
    assert label(photos, tmp_path / 'out', batch_size=2).labelled == 5
    label(photos, tmp_path / 'new', batch_size=2)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


def test_worker_that_dies_is_told():
    with pytest.raises(FcamZooError, match='fewer workers'), dead_workers_told():
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')
    with pytest.raises(RuntimeError, match='another'), dead_workers_told():
        raise RuntimeError('another')


def test_workers_leave_when_the_main_process_is_killed(tmp_path):
    """Also with more in their queue than a pipe holds."""
    for i in range(64):
        draw(tmp_path / 'in' / f'{i}.png', (56, 56), [])
    code = (
        f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n'
        'import time\n'
        'from glow import Glow\n'
        'from fcam_zoo.labelling import label_images, run\n'
        'def add(self, batch):\n'
        '    time.sleep(1)\n'
        '    print(flush=True)\n'
        '    time.sleep(60)\n'
        'run.Journal.add = add\n'
        'label_images(Glow(), sys.argv[1], sys.argv[2], ["csv"], workers=2)\n'
    )
    arguments = [sys.executable, '-c', code, str(tmp_path / 'in'), str(tmp_path / 'out')]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    began = time.monotonic()
    process.stdout.read()  # Ends when the last process that holds it has.
    assert time.monotonic() - began < 40
    process.stdout.close()
    process.wait()
    assert label_images(Glow(), tmp_path / 'in', tmp_path / 'out', ['csv'], workers=0).labelled == 64


def test_sigterm_ends_a_command_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_predict(parser.add_subparsers())
    return parser.parse_args(['predict', 'in', '--model', 'm', *arguments])


def test_export_may_be_given_several_times():
    assert parse('-o', 'out', '--export', 'coco', 'voc', '--export', 'coco').export == ['coco', 'voc', 'coco']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['-o', ''], 'the name is empty'),
        (['-o', 'out', '--threshold', 'high'], "'high' is neither a number in [0,1) nor otsu"),
    ],
)
def test_arguments_that_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(*arguments)
    assert message in capsys.readouterr().err
