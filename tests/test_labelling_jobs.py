"""Jobs of Parquet files: relative paths, errors of the store that holds them, and what they write about their images."""

from __future__ import annotations

import pytest
from jobs import make_job
from scenes import make_photos
from stored_images import write_tar

from fcam_zoo.data import open_source
from fcam_zoo.labelling.inputs import absolute_argument, with_absolute_paths
from fcam_zoo.labelling.shards import ShardFolder
from fcam_zoo.labelling.store import Store, StoreError

pytest.importorskip('pyarrow.parquet')


def test_relative_paths_are_read_from_another_folder(tmp_path, monkeypatch):
    photos = make_photos(tmp_path / 'photos')
    write_tar(tmp_path / 'a.tar', [(f'in-{path.name}', path.read_bytes()) for path in photos.rglob('*.png')])
    monkeypatch.chdir(tmp_path)
    source = open_source(['photos', 'a.tar'])
    moved = with_absolute_paths(source)
    assert (moved.ids, moved.digest) == (source.ids, source.digest)
    assert source.local_path(0).startswith('photos/')
    assert absolute_argument('photos/**/*.jpg') == str(tmp_path / 'photos/**/*.jpg')
    assert absolute_argument('{000..012}.tar') == str(tmp_path / '{000..012}.tar')
    assert [absolute_argument(text) for text in ('-', 's3://a/b')] == ['-', 's3://a/b']
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir('elsewhere')
    assert [moved.image(i).size for i in range(len(moved))]
    assert moved.local_path(0) == str(tmp_path / 'photos' / moved.ids[0])


@pytest.fixture
def memory(monkeypatch):
    """A store in memory, and its client class."""
    fsspec = pytest.importorskip('fsspec')
    monkeypatch.setattr('fcam_zoo.labelling.store._PAUSES', (0.0, 0.0))
    yield type(fsspec.filesystem('memory'))
    fsspec.filesystem('memory').store.clear()


class ClientError(Exception):
    """An error that is not one of the system, as clients of stores raise."""


def fail(monkeypatch, client, method: str, times: int) -> None:
    """Let the first calls of a method fail."""
    real, failures = getattr(client, method), [ClientError('HTTP 503')] * times

    def call(self, *arguments, **options):
        if failures:
            raise failures.pop()
        return real(self, *arguments, **options)

    monkeypatch.setattr(client, method, call)


@pytest.mark.parametrize('method', ['cat_file', 'info', 'ls'])
def test_reads_of_the_store_are_tried_again(photos, memory, monkeypatch, method):
    folder, job = make_job(photos, 'memory://bucket/job')
    known = folder.finished(job)
    assert len(known) == job.parts == 3
    with monkeypatch.context() as patch:
        fail(patch, memory, method, 2)
        assert folder.finished(job) == known
    # Parts that cannot be read now are not damaged: they are not labelled again.
    fail(monkeypatch, memory, method, 10**6)
    with pytest.raises(StoreError, match=r'memory://bucket/job.*: the store refuses it \(HTTP 503\)'):
        folder.finished(job)


def test_end_of_a_file(memory, tmp_path):
    for where in (tmp_path, 'memory://bucket'):
        store = Store(where)
        store.write('a', bytes(range(100)))
        assert store.read_end('a', 3) == bytes([97, 98, 99])
        assert store.read_end('a', 1000) == bytes(range(100))
        with pytest.raises(FileNotFoundError):
            store.read_end('b', 3)


def test_metadata_that_is_larger_than_the_end_that_is_read_first(photos, memory, monkeypatch):
    folder, job = make_job(photos, 'memory://bucket/job')
    known = folder.finished(job)
    monkeypatch.setattr('fcam_zoo.labelling.shards._END', 16)
    assert ShardFolder('memory://bucket/job').finished(job) == known
