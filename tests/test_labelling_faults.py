"""Failures while a folder is labelled: images that disappear, unusual names, full disks, signals."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
from pathlib import Path

import pytest
from scenes import draw, label, tree

from fcam_zoo.cli.predict import _interruptible
from fcam_zoo.cli.predict import add_parser as add_predict
from fcam_zoo.data.sources import local
from fcam_zoo.labelling.labeller import Labeller
from fcam_zoo.labelling.loading import ImageReader


def test_image_removed_after_listing(photos, tmp_path, monkeypatch):
    real = local.list_images

    def listed(*arguments):
        found = real(*arguments)
        (photos / 'dim' / 'a.png').unlink(missing_ok=True)
        return found

    monkeypatch.setattr(local, 'list_images', listed)
    done = label(photos, tmp_path / 'out')
    assert done.labelled == 4
    assert len(done.errors) == 1
    assert 'a.png' in done.errors[0]


def test_image_removed_before_reading(photos, tmp_path, monkeypatch):
    real = ImageReader.read_batches

    def late(*arguments):
        (photos / 'dim' / 'a.png').unlink()
        return real(*arguments)

    monkeypatch.setattr(ImageReader, 'read_batches', late)
    done = label(photos, tmp_path / 'out')
    assert (done.labelled, len(done.errors)) == (4, 1)
    assert 'no such image file' in done.errors[0]


@pytest.mark.parametrize('how', ['removed', 'damaged', 'replaced'])
def test_image_that_changes_before_drawing_is_in_no_format(photos, tmp_path, monkeypatch, how):
    victim = photos / 'dim' / 'a.png'
    real = Labeller.label

    def changed(self, loaded, score_map, probs):
        if self.source.local_path(loaded.index) == str(victim):
            victim.unlink()
            if how == 'damaged':
                victim.write_bytes(b'\x89PNG')
            elif how == 'replaced':
                draw(victim, (56, 56), [])
        return real(self, loaded, score_map, probs)

    monkeypatch.setattr(Labeller, 'label', changed)
    done = label(photos, tmp_path / 'out')
    assert (done.labelled, len(done.errors)) == (4, 1)
    assert 'a.png' in done.errors[0]
    assert not [name for name in tree(tmp_path / 'out') if Path(name).stem == 'a']
    assert len(json.loads((tmp_path / 'out/coco/annotations.json').read_text())['images']) == 4


def test_names_too_long_for_another_suffix_are_skipped(photos, tmp_path):
    long = tmp_path / ('n' * 255)
    long.write_bytes((photos / 'dim' / 'a.png').read_bytes())
    done = label([photos, long], tmp_path / 'out')
    assert (done.labelled, len(done.errors)) == (5, 1)
    assert 'cannot hold this name' in done.errors[0]


def test_long_names_of_several_folders(tmp_path):
    names = [f'{"é" * 125}.png', f'{"n" * 251}.png']
    for folder in 'abc':
        for name in names:
            draw(tmp_path / 'in' / folder / name, (56, 56), [])
    done = label(tmp_path / 'in', tmp_path / 'out')
    assert (done.labelled, done.errors) == (6, ())


def test_name_that_ends_in_a_space_before_its_suffix(photos, tmp_path):
    """VOC lists names without suffix, and its readers strip lines."""
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


def test_image_given_twice_is_labelled_once(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert label(['photos', photos, photos / 'dim' / '..' / 'dim'], tmp_path / 'out').labelled == 5


@pytest.mark.parametrize('name', ['file', 'file/below', 'loop', 'loop/below'])
def test_output_that_is_not_a_folder(photos, tmp_path, name):
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises((ValueError, OSError), match=name):
        label(photos, tmp_path / name)
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='no /proc')
@pytest.mark.parametrize('name', ['none.png', 'none.xml', 'journal.jsonl', 'annotations.json'])
def test_full_disk_names_the_file_and_the_run_resumes(photos, tmp_path, monkeypatch, name):
    real = os.fsync

    def fsync(descriptor):
        file = Path(f'/proc/self/fd/{descriptor}').readlink()
        if file.name == name and file.stat().st_size > 1000 * (name == 'journal.jsonl'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', fsync)
        with pytest.raises(OSError, match='No space left') as caught:
            label(photos, tmp_path / 'out', batch_size=1)
    assert Path(caught.value.filename).name == name
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['.fcam_zoo']
    assert label(photos, tmp_path / 'out', batch_size=1, resume=True).labelled == 5
    label(photos, tmp_path / 'new', batch_size=1)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


def test_sigterm_ends_a_command_like_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _interruptible():
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
        (['-o', 'out', '--overwrite', '--resume'], 'not allowed with argument'),
        (['-o', 'out', '--threshold', 'high'], "'high' is neither a number in [0,1) nor otsu"),
    ],
)
def test_invalid_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(*arguments)
    assert message in capsys.readouterr().err
