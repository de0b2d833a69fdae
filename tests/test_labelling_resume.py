"""A second run in an output folder: overwrite, resume after a kill, refusals, and the lock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scenes import SCENES, draw, label, tree

from fcam_zoo.labelling import run as run_module
from fcam_zoo.labelling.output import OutputFolder, lock
from fcam_zoo.labelling.pipeline import Pipeline

KILLED_RUN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from scenes import label
from fcam_zoo.labelling.{module} import {owner}
original, calls = {owner}.{method}, []
def patched(self, *arguments):
    calls.append(arguments)
    if len(calls) > {calls}:
        os.kill(os.getpid(), 9)
    return original(self, *arguments)
{owner}.{method} = patched
label(sys.argv[2], sys.argv[3], batch_size=2, workers=1, overwrite={overwrite})
"""


def kill_run(photos: Path, output: Path, module: str, owner: str, method: str, calls=0, overwrite=False) -> None:
    """Label in a process that is killed at a call of a method, after some calls."""
    code = KILLED_RUN.format(module=module, owner=owner, method=method, calls=calls, overwrite=overwrite)
    arguments = [sys.executable, '-c', code, str(Path(__file__).parent), str(photos), str(output)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL


def interrupt(monkeypatch, photos: Path, output: Path, **options) -> None:
    """Label two images, then interrupt."""
    original = run_module.Journal.add

    def add(self, batch):
        if self.done == 2:
            raise KeyboardInterrupt
        original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Journal, 'add', add)
        with pytest.raises(KeyboardInterrupt):
            label(photos, output, batch_size=1, **options)


def images(output: Path) -> list[str]:
    return [image['file_name'] for image in json.loads((output / 'coco/annotations.json').read_text())['images']]


@pytest.mark.parametrize(
    ('module', 'owner', 'method', 'calls'),
    [
        ('journal', 'Journal', 'add', 1),  # While a batch is not in the journal yet.
        ('formats', 'Voc', 'finish', 0),  # While files of the whole run are written.
        ('output', 'OutputFolder', 'publish', 0),  # Before the folders are moved.
    ],
)
def test_killed_run_resumes_to_identical_files(photos, tmp_path, module, owner, method, calls):
    (photos / 'bright' / 'broken.png').write_bytes(b'\x89PNG')
    out, new = tmp_path / 'out', tmp_path / 'new'
    kill_run(photos, out, module, owner, method, calls)
    assert [path.name for path in out.iterdir()] == ['.fcam_zoo']
    expected = label(photos, new, batch_size=2)
    resumed = label(photos, out, batch_size=2, resume=True)
    assert (resumed.labelled, resumed.objects, resumed.errors) == (5, 5, expected.errors)
    assert len(resumed.errors) == 1
    assert tree(out) == tree(new)


@pytest.mark.parametrize('torn', [b'[{"image": "torn', b'[{"image":"whole","objects":[]}]', b'\x00\xff\n'])
def test_torn_journal_resumes(photos, tmp_path, monkeypatch, torn):
    interrupt(monkeypatch, photos, tmp_path / 'out')
    journal = tmp_path / 'out/.fcam_zoo/unfinished/journal.jsonl'
    journal.write_bytes(journal.read_bytes() + torn)
    label(photos, tmp_path / 'out', batch_size=1, resume=True)
    label(photos, tmp_path / 'new', batch_size=1)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


def test_run_killed_between_two_moves_resumes(photos, tmp_path):
    """The first format is in place, the second moved aside, the others not yet replaced."""
    out, state = tmp_path / 'out', tmp_path / 'out/.fcam_zoo/unfinished'
    label(photos, out)
    (photos / 'dim' / 'a.png').unlink()
    label(photos, tmp_path / 'new', batch_size=2)
    kill_run(photos, out, 'output', 'OutputFolder', 'publish', overwrite=True)
    (state / 'old').mkdir()
    (out / 'overlays').rename(state / 'old/overlays')
    (state / 'complete/overlays').rename(out / 'overlays')
    (out / 'coco').rename(state / 'old/coco')
    shutil.copytree(out, tmp_path / 'copy')
    assert label(photos, out, batch_size=2, resume=True).labelled == 4
    assert tree(out) == tree(tmp_path / 'new')
    # When the run is discarded instead, the results that were moved aside return.
    label(photos, tmp_path / 'copy', ['csv'], overwrite=True)
    assert len(images(tmp_path / 'copy')) == 5


def test_unfinished_run_is_refused_without_a_choice(photos, tmp_path, monkeypatch):
    interrupt(monkeypatch, photos, tmp_path / 'out')
    with pytest.raises(FileExistsError, match=r'unfinished run: continue it with --resume .* discard it with --over'):
        label(photos, tmp_path / 'out', batch_size=1)
    with pytest.raises(ValueError, match=r'other settings \(threshold: 0\.5\): resume it with these'):
        label(photos, tmp_path / 'out', batch_size=1, threshold=0.7, resume=True)
    draw(photos / 'more.png', (56, 56), [])
    with pytest.raises(ValueError, match=r"other settings \(images: '5 with SHA-256 .*--overwrite"):
        label(photos, tmp_path / 'out', batch_size=1, resume=True)
    label(photos, tmp_path / 'out', batch_size=1, overwrite=True)
    label(photos, tmp_path / 'new', batch_size=1)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


def test_run_without_a_finished_batch_needs_no_choice(photos, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError('out of memory')

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, '_outputs', fail)
        with pytest.raises(RuntimeError, match='out of memory'):
            label(photos, tmp_path / 'out', batch_size=4)
    assert label(photos, tmp_path / 'out', batch_size=1).labelled == 5


def test_resume_without_an_unfinished_run_starts_one(photos, tmp_path):
    assert label(photos, tmp_path / 'out', resume=True).labelled == 5
    with pytest.raises(FileExistsError, match='already holds results'):
        label(photos, tmp_path / 'out', resume=True)


def test_results_are_replaced_only_with_overwrite(photos, tmp_path):
    out = tmp_path / 'out'
    label(photos, out)
    before = tree(out)
    (photos / 'dim' / 'a.png').unlink()
    draw(photos / 'new.png', (56, 56), [])
    with pytest.raises(FileExistsError, match=r'overlays already holds results: replace them with --overwrite'):
        label(photos, out)
    assert tree(out) == before
    label(photos, out, overwrite=True, threshold=0.9, labels='predicted', model_name='other')
    label(photos, tmp_path / 'new', threshold=0.9, model_name='other')
    assert tree(out) == tree(tmp_path / 'new')


def test_nothing_else_in_the_output_is_touched(photos, tmp_path):
    out = tmp_path / 'out'
    label(photos, out)
    (out / 'notes.txt').write_text('mine')
    (out / 'photos').symlink_to(photos, target_is_directory=True)
    before = tree(out)
    (photos / 'dim' / 'a.png').unlink()
    label(photos, out, ['coco', 'masks'], overwrite=True)
    changed = {name for name, content in tree(out).items() if before.get(name) != content}
    assert changed == {'coco/annotations.json'}
    assert before.keys() - tree(out).keys() == {'masks/dim/a.png'}
    assert (out / 'photos').is_symlink()


def test_interrupted_overwrite_keeps_the_old_results(photos, tmp_path, monkeypatch):
    label(photos, tmp_path / 'out')
    before = tree(tmp_path / 'out')
    (photos / 'dim' / 'a.png').unlink()
    interrupt(monkeypatch, photos, tmp_path / 'out', overwrite=True)
    assert {k: v for k, v in tree(tmp_path / 'out').items() if 'unfinished' not in k} == before
    label(photos, tmp_path / 'out', batch_size=1, resume=True)
    assert len(images(tmp_path / 'out')) == 4
    assert [path.name for path in (tmp_path / 'out/.fcam_zoo').iterdir()] == ['lock']


@pytest.mark.parametrize('kind', ['folder', 'file', 'link'])
def test_what_others_wrote_is_never_replaced(photos, tmp_path, kind):
    out, mine = tmp_path / 'out', tmp_path / 'out/masks'
    draw(tmp_path / 'others' / 'a.png', (56, 56), [])
    out.mkdir()
    if kind == 'folder':
        draw(mine / 'a.png', (56, 56), [])
    elif kind == 'file':
        mine.write_text('mine')
    else:
        mine.symlink_to(tmp_path / 'others', target_is_directory=True)
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r'masks was not written by fcam_zoo: move it away'):
            label(photos, out, overwrite=overwrite)
    assert tree(tmp_path).keys() - before.keys() == {'out/.fcam_zoo/lock'}


def test_folder_that_appears_during_the_run_is_not_replaced(photos, tmp_path, monkeypatch):
    original = OutputFolder.publish

    def publish(self):
        draw(self.path / 'masks' / 'mine.png', (56, 56), [])
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, 'publish', publish)
        with pytest.raises(FileExistsError, match=r'masks was not written by fcam_zoo'):
            label(photos, tmp_path / 'out')
    (tmp_path / 'out/masks').rename(tmp_path / 'mine')
    assert label(photos, tmp_path / 'out', resume=True).labelled == 5
    assert (tmp_path / 'mine/mine.png').exists()


def test_inputs_are_never_replaced(photos, tmp_path):
    with pytest.raises(ValueError, match='is the folder of the images'):
        label(photos, photos)
    label(photos, tmp_path / 'out', ['masks'])
    draw(tmp_path / 'out/masks/mine.png', (56, 56), [])
    (tmp_path / 'link.png').symlink_to(tmp_path / 'out/masks/mine.png')
    (tmp_path / 'out/masks/link.png').symlink_to(photos / 'dim' / 'a.png')
    for image in ('out/masks', 'out/masks/mine.png', 'link.png', 'out/masks/link.png'):
        with pytest.raises(ValueError, match='is in a folder that would be replaced'):
            label(tmp_path / image, tmp_path / 'out', ['masks'], overwrite=True)
    assert (tmp_path / 'out/masks/mine.png').exists()


def test_state_with_links_is_refused(photos, tmp_path, monkeypatch):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/.fcam_zoo').symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ValueError, match='is a symbolic link: remove it'):
        label(photos, tmp_path / 'out')
    (tmp_path / 'out/.fcam_zoo').unlink()
    interrupt(monkeypatch, photos, tmp_path / 'out')
    masks = tmp_path / 'out/.fcam_zoo/unfinished/new/masks/bright'
    shutil.rmtree(masks)
    masks.symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ValueError, match='is a symbolic link: remove it'):
        label(photos, tmp_path / 'out', batch_size=1, resume=True)
    assert list(elsewhere.iterdir()) == []


def test_second_run_at_the_same_time_is_refused(photos, tmp_path):
    with lock(tmp_path / 'out'), pytest.raises(BlockingIOError, match='is being written by another run'):
        label(photos, tmp_path / 'out', workers=1)
    with lock(tmp_path / 'other'):
        assert label(photos, tmp_path / 'out').labelled == len(SCENES)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_killed_run_releases_the_lock_although_its_workers_live(tmp_path):
    code = (
        'import os, sys, time\n'
        'from pathlib import Path\n'
        'from fcam_zoo.labelling.output import lock\n'
        'with lock(Path(sys.argv[1])):\n'
        '    worker = os.fork()\n'
        '    if not worker:\n'
        '        print(os.getpid(), flush=True)\n'
        '    time.sleep(60)\n'
    )
    process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    try:
        with pytest.raises(BlockingIOError), lock(tmp_path):
            pass
        process.kill()
        process.wait()
        os.kill(worker, 0)
        with lock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()
