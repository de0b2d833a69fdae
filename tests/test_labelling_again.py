"""A second run in an output folder: what it takes away, what it leaves, and how it keeps off the first."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scenes import ALL, SCENES, draw, label, make_photos, tree

from fcam_zoo.labelling import run as run_module
from fcam_zoo.labelling.state import Written, sole_run

EVERY = [*ALL, 'overlays']


@pytest.fixture
def photos(tmp_path) -> Path:
    return make_photos(tmp_path / 'photos')


def interrupt(monkeypatch, after: int = 1) -> None:
    """The next run ends after some batches."""
    real, left = run_module.Journal.add, [after]

    def add(self, batch):
        if not left[0]:
            monkeypatch.undo()
            raise KeyboardInterrupt
        left[0] -= 1
        real(self, batch)

    monkeypatch.setattr(run_module.Journal, 'add', add)


def images(output: Path) -> list[str]:
    return [image['file_name'] for image in json.loads((output / 'coco.json').read_text())['images']]


def change(photos: Path, how: str) -> None:
    if how == 'removed':
        (photos / 'dim' / 'a.png').unlink()
    elif how == 'renamed':
        (photos / 'dim' / 'a.png').rename(photos / 'dim' / 'z.png')
    elif how == 'moved':
        (photos / 'dim' / 'a.png').rename(photos / 'a.png')
    elif how == 'spoilt':
        (photos / 'dim' / 'a.png').write_bytes(b'')
    elif how == 'drawn anew':
        draw(photos / 'dim' / 'a.png', (224, 112), [(0, 0, 112, 112)])


@pytest.mark.parametrize('how', ['removed', 'renamed', 'moved', 'spoilt', 'drawn anew'])
def test_exports_are_of_the_images_that_are_there_now(photos, tmp_path, how):
    label(photos, tmp_path / 'out', EVERY)
    change(photos, how)
    again = label(photos, tmp_path / 'out', EVERY)
    new = label(photos, tmp_path / 'new', EVERY)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')
    # voc, yolo, masks and overlays have a file an image.
    assert again.removed == (0 if how in ('drawn anew', 'moved') else 4) + (3 if how == 'moved' else 0)
    assert new.removed == 0


def test_other_settings_label_a_finished_folder_anew(photos, tmp_path):
    label(photos, tmp_path / 'out', EVERY)
    label(photos, tmp_path / 'out', EVERY, threshold=0.9, labels='folder', name='other')
    label(photos, tmp_path / 'new', EVERY, threshold=0.9, labels='folder', name='other')
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


def test_formats_that_are_not_named_stay(photos, tmp_path):
    label(photos, tmp_path / 'out', EVERY)
    before = tree(tmp_path / 'out')
    change(photos, 'removed')
    assert label(photos, tmp_path / 'out', ['coco', 'masks']).removed == 1
    after = tree(tmp_path / 'out')
    assert before.keys() - after.keys() == {'masks/dim/a.png'}
    assert after['boxes.csv'] == before['boxes.csv']
    # Known still as the first run's own.
    assert label(photos, tmp_path / 'out', EVERY).removed == 3


def test_files_of_others_are_neither_removed_nor_overwritten(photos, tmp_path):
    out = tmp_path / 'out'
    label(photos, out, EVERY)
    mine = ['notes.txt', 'voc/Annotations/dim/notes.xml', 'masks/bright/of mine.png', 'yolo/labels/new.txt']
    for name in mine:
        (out / name).write_text('mine')
    (out / 'yolo' / 'images').symlink_to(photos, target_is_directory=True)
    change(photos, 'removed')
    draw(photos / 'new.png', (56, 56), [])
    with pytest.raises(FileExistsError, match=r'new\.txt is there, and not known'):
        label(photos, out, EVERY)
    (photos / 'new.png').unlink()
    label(photos, out, EVERY)
    assert [(out / name).read_text() for name in mine] == ['mine'] * 4
    assert (out / 'yolo' / 'images').is_symlink()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'boxes.csv').write_text('mine')
    with pytest.raises(FileExistsError, match=r'boxes\.csv is there'):
        label(photos, tmp_path / 'other', ['coco', 'csv'])
    assert (tmp_path / 'other' / 'boxes.csv').read_text() == 'mine'
    assert not (tmp_path / 'other' / 'coco.json').exists()


def test_nothing_is_removed_outside_the_output(photos, tmp_path):
    out, outside = tmp_path / 'out', tmp_path / 'outside'
    draw(photos / 'alone' / 'a.png', (56, 56), [])
    label(photos, out, ['masks', 'voc'])
    outside.mkdir()
    (outside / 'a.png').write_text('mine')
    (out / 'masks' / 'alone' / 'a.png').unlink()
    (out / 'masks' / 'alone').rmdir()
    (out / 'masks' / 'alone').symlink_to(outside, target_is_directory=True)
    (out / 'voc' / 'Annotations' / 'alone' / 'a.xml').unlink()
    (out / 'voc' / 'Annotations' / 'alone' / 'a.xml').symlink_to(outside / 'a.png')
    with (out / '.fcam_zoo' / 'files.txt').open('a') as f:
        f.write(f'masks\t../outside/a.png\nmasks\t{outside}/a.png\n')
    (photos / 'alone' / 'a.png').unlink()
    assert label(photos, out, ['masks', 'voc']).removed == 0
    assert (outside / 'a.png').read_text() == 'mine'
    assert (out / 'voc' / 'Annotations' / 'alone' / 'a.xml').is_symlink()


def test_what_a_killed_run_wrote_is_known(photos, tmp_path, monkeypatch):
    """Also of batches that the journal does not hold yet, and with the last line of the list torn."""
    interrupt(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        label(photos, tmp_path / 'out', EVERY, batch_size=1)
    with (tmp_path / 'out' / '.fcam_zoo' / 'files.txt').open('a') as f:
        f.write('voc\tvoc/Annot')
    for name in list(SCENES)[:3]:
        (photos / name).unlink()
    with pytest.raises(ValueError, match=r'images: some were added, removed or changed since.*--restart'):
        label(photos, tmp_path / 'out', EVERY, batch_size=1)
    label(photos, tmp_path / 'out', EVERY, batch_size=1, restart=True)
    label(photos, tmp_path / 'new', EVERY, batch_size=1)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


def test_a_killed_rerun_goes_on_and_takes_away(photos, tmp_path, monkeypatch):
    label(photos, tmp_path / 'out', EVERY, batch_size=1)
    change(photos, 'removed')
    interrupt(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        label(photos, tmp_path / 'out', EVERY, batch_size=1)
    assert len(images(tmp_path / 'out')) == 5  # Whole, of the first run.
    assert label(photos, tmp_path / 'out', EVERY, batch_size=1).removed == 4
    assert len(images(tmp_path / 'out')) == 4
    assert not (tmp_path / 'out' / '.fcam_zoo' / 'unfinished').exists()


def test_files_that_were_lost_since_the_kill_are_written_again(photos, tmp_path, monkeypatch):
    label(photos, tmp_path / 'new', EVERY, batch_size=1)
    interrupt(monkeypatch, after=4)
    with pytest.raises(KeyboardInterrupt):
        label(photos, tmp_path / 'out', EVERY, batch_size=1)
    (tmp_path / 'out' / 'masks' / 'bright' / 'none.png').unlink()
    label(photos, tmp_path / 'out', EVERY, batch_size=1)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


def test_formats_named_twice_are_one(photos, tmp_path, monkeypatch):
    interrupt(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        label(photos, tmp_path / 'out', ['csv', 'csv'], batch_size=1)
    assert len(label(photos, tmp_path / 'out', ['csv'], batch_size=1).files) == 1
    assert len(list(csv.reader((tmp_path / 'out' / 'boxes.csv').open()))) == 7


def test_second_run_at_the_same_time_is_refused(photos, tmp_path):
    with sole_run(tmp_path / 'out'), pytest.raises(BlockingIOError, match='is being written by another run'):
        label(photos, tmp_path / 'out', workers=1)
    with sole_run(tmp_path / 'other'):
        assert label(photos, tmp_path / 'out').labelled == 5


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_killed_run_leaves_no_lock_though_its_workers_live(tmp_path):
    code = (
        'import os, signal, sys, time\n'
        'from pathlib import Path\n'
        'from fcam_zoo.labelling.state import sole_run\n'
        'with sole_run(Path(sys.argv[1])):\n'
        '    worker = os.fork()\n'
        '    if not worker:\n'
        '        print(os.getpid(), flush=True)\n'
        '        time.sleep(60)\n'
        '        os._exit(0)\n'
        '    time.sleep(60)\n'
    )
    process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    try:
        with pytest.raises(BlockingIOError), sole_run(tmp_path):
            pass
        process.kill()
        process.wait()
        os.kill(worker, 0)
        with sole_run(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()


def test_state_that_is_a_link_is_refused(photos, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / '.fcam_zoo').symlink_to(tmp_path / 'elsewhere', target_is_directory=True)
    with pytest.raises(ValueError, match='symbolic link'):
        label(photos, tmp_path / 'out')
    assert list((tmp_path / 'elsewhere').iterdir()) == []


def test_images_are_never_removed(tmp_path):
    """An image in the output folder whose name is on the list."""
    draw(tmp_path / 'in' / 'a.png', (56, 56), [])
    draw(tmp_path / 'in' / 'b.png', (56, 56), [])
    label(tmp_path / 'in', tmp_path / 'out', ['masks'])
    (tmp_path / 'in' / 'b.png').unlink()
    assert label([tmp_path / 'in', tmp_path / 'out' / 'masks' / 'b.png'], tmp_path / 'out', ['masks']).removed == 1
    assert (tmp_path / 'out' / 'masks' / 'b.png').exists()


def test_list_of_files_holds_every_file(photos, tmp_path):
    label(photos, tmp_path / 'out', EVERY)
    with sole_run(tmp_path / 'out'):
        listed = {file for _, file in Written(tmp_path / 'out')._lines()}
    assert listed == {name for name in tree(tmp_path / 'out') if not name.startswith('.fcam_zoo')}
