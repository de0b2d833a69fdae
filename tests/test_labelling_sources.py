"""Labelling images of tar shards, Parquet files and stores: the same results as for their folder."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from jobs import make_job
from loopback_store import LoopbackStore
from PIL import Image
from scenes import draw, label, tree
from stored_images import write_tar

from fcam_zoo.data import open_source
from fcam_zoo.data.sources import store_reader
from fcam_zoo.labelling import FORMATS, export_labels, pipeline
from fcam_zoo.labelling.labeller import Labeller
from fcam_zoo.localization import Postprocessor

ALL = list(FORMATS)


def files_of(folder: Path) -> list[Path]:
    """List the images of a folder."""
    return sorted(folder.rglob('*.*g'))


def tar_of(folder: Path, path: Path, labels: bool = False) -> Path:
    """Write the images of a folder into a shard, with their class folder as label."""
    members = []
    for file in files_of(folder):
        name = file.relative_to(folder).as_posix()
        members.append((name, file.read_bytes()))
        if labels:
            members.append((name.rpartition('.')[0] + '.cls', name.split('/')[0].encode()))
    return write_tar(path, members)


def parquet_of(folder: Path, path: Path) -> Path:
    """Write the images of a folder into a Parquet file."""
    pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    files = files_of(folder)
    rows = [{'bytes': file.read_bytes(), 'path': file.relative_to(folder).as_posix()} for file in files]
    pq.write_table(pa.table({'image': rows}), path, row_group_size=2)
    return path


def without_places(folder: Path) -> dict[str, bytes]:
    """Return all files of a run; the places of images in predictions.json are shortened to their names."""
    files = tree(folder)
    for name in files:
        if name.endswith('predictions.json'):
            content = json.loads(files[name])
            for entry in content['predictions']:
                entry['image'] = Path(unquote(entry['image'])).name
            files[name] = json.dumps(content).encode()
    return files


@pytest.mark.parametrize(
    ('kind', 'workers'),
    [('tar', 0), ('tar', 2), ('parquet', 0), ('parquet', 2), ('web', 2), ('list', 0), ('pattern', 0)],
)
def test_all_formats_are_those_of_the_folder(photos, tmp_path, kind, workers):
    done = label(photos, tmp_path / 'folder', ALL)
    images = {
        'tar': lambda: tar_of(photos, tmp_path / 'a.tar'),
        'parquet': lambda: parquet_of(photos, tmp_path / 'a.parquet'),
        'pattern': lambda: f'{photos}/**/*.*g',
    }
    if kind in images:
        same = label(images[kind](), tmp_path / 'out', ALL, workers=workers)
    elif kind == 'list':
        names = [f.relative_to(photos).as_posix() for f in files_of(photos)]
        (photos / 'list.txt').write_text('\n'.join(names))
        same = label(photos / 'list.txt', tmp_path / 'out', ALL)
    else:
        pytest.importorskip('aiohttp')
        with LoopbackStore() as web:
            web.files = {f.relative_to(photos).as_posix(): f.read_bytes() for f in files_of(photos)}
            same = label([f'{web.url}/{quote(name)}' for name in web.files], tmp_path / 'out', ALL, workers=workers)
    assert (same.labelled, same.objects, same.errors) == (done.labelled, done.objects, ())
    assert without_places(tmp_path / 'out') == without_places(tmp_path / 'folder')


def test_labels_of_the_source(photos, tmp_path):
    path = tar_of(photos, tmp_path / 'a.tar', labels=True)
    label(path, tmp_path / 'out', labels='folder')
    label(photos, tmp_path / 'folder', labels='folder')
    assert without_places(tmp_path / 'out') == without_places(tmp_path / 'folder')
    members = [('a/1.png', (photos / 'dim' / 'a.png').read_bytes()), ('b/1.png', b''), ('b/1.cls', b'x')]
    with pytest.raises(ValueError, match=r'a/1.png has no label'):
        label(write_tar(tmp_path / 'b.tar', members), tmp_path / 'new', labels='folder')
    with pytest.raises(ValueError, match='too large'):
        label(write_tar(tmp_path / 'b.tar', [*members[:2], ('a/1.cls', b'999999')]), tmp_path / 'new', labels='folder')
    assert label(tmp_path / 'b.tar', tmp_path / 'new').labelled == 1


def test_bad_members_are_errors_of_the_run(photos, tmp_path):
    good = (photos / 'dim' / 'a.png').read_bytes()
    path = write_tar(tmp_path / 'a.tar', [('1.png', good), ('2.png', b'no image'), ('3.png', good), ('1.png', good)])
    done = label(path, tmp_path / 'out', ALL)
    assert done.labelled == 2
    assert len(done.errors) == 2
    assert 'earlier image of this name' in done.errors[0]
    assert 'a.tar/2.png: not an image of a known format' in done.errors[1]


@pytest.mark.parametrize('formats', [['coco'], ['yolo'], ALL])
def test_object_that_the_store_refuses_is_an_error_and_in_no_format(photos, tmp_path, monkeypatch, formats):
    pytest.importorskip('aiohttp')
    monkeypatch.setattr(store_reader, 'FIRST_WAIT', 0.01)
    content = (photos / 'dim' / 'a.png').read_bytes()
    with LoopbackStore() as web:
        web.files = {f'in/{name}.png': content for name in 'abc'}
        web.failures['in/b.png'] = -1
        done = label([f'{web.url}/in/{name}.png' for name in 'abc'], tmp_path / 'out', formats)
        assert (done.labelled, len(done.errors)) == (2, 1)
        assert 'b.png: the store did not return it in 4 tries (HTTP status 500)' in done.errors[0]
        assert not [name for name in tree(tmp_path / 'out') if Path(name).stem == 'b']
        # Later, when a large image is read again for pictures and copies.
        monkeypatch.setattr(pipeline, 'KEPT_BYTES', 10)
        web.failures['in/b.png'] = 0
        source = open_source([f'{web.url}/in/{name}.png' for name in 'abc'])
        monkeypatch.setattr(type(source), 'open', _opened_once(type(source).open))
        done = label(source, tmp_path / 'new', formats)
    if formats == ['coco']:
        assert done.labelled == 3
    else:
        assert (done.labelled, len(done.errors)) == (0, 3)
        assert not [name for name in tree(tmp_path / 'new') if Path(name).stem in 'abc']


@pytest.mark.parametrize('workers', [0, 2])
def test_objects_of_stores_are_read_once(photos, tmp_path, workers):
    pytest.importorskip('aiohttp')
    content = (photos / 'dim' / 'a.png').read_bytes()
    with LoopbackStore() as web:
        web.files = {f'in/{name}.png': content for name in 'abc'}
        given = [f'{web.url}/in/{name}.png' for name in 'abc']
        assert label(open_source(given), tmp_path / 'coco', ['coco'], workers=workers).labelled == 3
        opening = Counter(web.requests)
        web.requests.clear()
        assert label(open_source(given), tmp_path / 'all', ALL, workers=workers).labelled == 3
        assert web.requests == opening
    assert (tmp_path / 'all/yolo/images/a.png').read_bytes() == content


def test_export_reads_objects_once(photos, tmp_path):
    pytest.importorskip('pyarrow')
    path = tar_of(photos, tmp_path / 'a.tar')
    make_job(path, tmp_path / 'job')
    source, opened = open_source(path), Counter()
    real = type(source).open

    class Counting(type(source)):
        def open(self, index):
            opened[index] += 1
            return real(self, index)

    source.__class__ = Counting
    done = export_labels(tmp_path / 'job', tmp_path / 'out', ['yolo'], source=source)
    assert opened == dict.fromkeys(range(done.labelled), 1)


def _opened_once(real):
    """Return a function that opens each image once, and then raises the error of a store."""
    opened = set()

    def open_once(self, index):
        if index in opened:
            raise OSError(f'{index}: gone')
        opened.add(index)
        return real(self, index)

    return open_once


def test_images_that_yolo_does_not_read_are_saved_as_png(tmp_path):
    draw(tmp_path / 'a.png', (56, 56), [])
    gif = io.BytesIO()
    Image.open(tmp_path / 'a.png').save(gif, 'GIF')
    label(write_tar(tmp_path / 'a.tar', [('a.gif', gif.getvalue())]), tmp_path / 'out', ['yolo'])
    assert Image.open(tmp_path / 'out' / 'yolo' / 'images' / 'a.png').size == (56, 56)


def test_resumed_run_refuses_a_changed_shard(photos, tmp_path, monkeypatch):
    from fcam_zoo.labelling.run import Journal

    path = tar_of(photos, tmp_path / 'a.tar')
    real = Journal.add

    def killed(self, batch):
        real(self, batch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, 'add', killed)
        with pytest.raises(KeyboardInterrupt):
            label(path, tmp_path / 'out', batch_size=1)
    content = path.read_bytes()
    tar_of(photos, path, labels=True)
    with pytest.raises(ValueError, match='other settings'):
        label(path, tmp_path / 'out', batch_size=1, resume=True)
    stat = path.stat()
    path.write_bytes(content)
    assert stat.st_mtime_ns != path.stat().st_mtime_ns


def test_shard_in_a_folder_that_is_replaced(photos, tmp_path):
    path = tar_of(photos, tmp_path / 'out' / 'coco' / 'a.tar')
    with pytest.raises(ValueError, match='in a folder that would be replaced'):
        label(path, tmp_path / 'out', ['coco'], overwrite=True)


def test_classes_of_shards_without_labels_are_folders_in_them(tmp_path):
    for name in ('s0', 's1'):
        write_tar(tmp_path / f'{name}.tar', [(f'{folder}/{name}.png', b'') for folder in ('cat', 'dog')])
    source = open_source(str(tmp_path / '*.tar'))
    labeller = Labeller(source, Postprocessor(0.5, ('a', 'b')), 'folder')
    assert labeller.classes == ('cat', 'dog')
    assert [labeller._known_label(i) for i in range(4)] == [0, 1, 0, 1]
    for name in ('s0', 's1'):
        write_tar(tmp_path / f'{name}.tar', [(f'{name}.png', b'')])
    with pytest.raises(ValueError, match=r's0\.tar/s0\.png is not in a class folder; .* give shards labels'):
        Labeller(open_source(str(tmp_path / '*.tar')), Postprocessor(0.5, ('a', 'b')), 'folder')
