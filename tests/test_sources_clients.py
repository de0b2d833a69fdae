"""The real clients of Google Cloud Storage and of the Hugging Face Hub, with servers on the loopback address."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import fsspec
import pytest
from loopback_google import LoopbackGoogle
from loopback_hub import LoopbackHub
from scenes import label
from stored_images import jpeg, read_all, write_parquet, write_tar

from fcam_zoo.data import open_source
from fcam_zoo.data.sources import store_reader
from fcam_zoo.errors import StoreReadError

IDS = ('cat/1.jpg', 'dog/2.jpg')


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(store_reader, 'FIRST_WAIT', 0.01)


@pytest.fixture
def files(tmp_path) -> dict[str, bytes]:
    """Images, a tar shard and a Parquet file."""
    shard = write_tar(tmp_path / 'a.tar', [(name, jpeg()) for name in IDS])
    table = write_parquet(tmp_path / 'a.parquet', IDS, [1, 0])
    shards = {path.name: path.read_bytes() for path in (shard, table)}
    return {**{f'in/{name}': jpeg() for name in IDS}, **shards}


@pytest.fixture
def google(files, monkeypatch) -> Iterator[LoopbackGoogle]:
    """A bucket that gcsfs finds by the environment; it tries again at once."""
    gcsfs = pytest.importorskip('gcsfs')

    async def no_sleep(seconds: float) -> None:
        pass

    monkeypatch.setattr('gcsfs.retry.asyncio', SimpleNamespace(sleep=no_sleep))
    with LoopbackGoogle('photos') as store:
        store.files = files
        monkeypatch.setenv('STORAGE_EMULATOR_HOST', store.url)
        monkeypatch.setitem(fsspec.config.conf, 'gs', {'token': 'anon'})
        yield store
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def dataset(files, loopback, monkeypatch) -> Iterator[LoopbackHub]:
    """A data set on the Hub, whose client tries again at once."""
    clock = SimpleNamespace(sleep=lambda seconds: None, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr('huggingface_hub.utils._http.time', clock)
    loopback.add('datasets/org/name', files)
    yield loopback
    fsspec.get_filesystem_class('hf').clear_instance_cache()


def check_sources(root: str) -> None:
    """Read all kinds of sources below a URL, also by several threads."""
    for url, ids in (
        (f'{root}/in', IDS),
        (f'{root}/**/*.jpg', tuple(f'in/{name}' for name in IDS)),
        (f'{root}/in/dog/2.jpg', ('2.jpg',)),
        (f'{root}/a.tar', IDS),
        (f'{root}/*.parquet', IDS),
    ):
        source = read_all(open_source(url))
        assert (source.ids, source.problems) == (ids, ()), url
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda n, s=source: s.image(n % len(s)).size, range(12))) == {(20, 10)}
    with pytest.raises(FileNotFoundError, match=f'{root}/none.jpg: no such object'):
        open_source(f'{root}/none.jpg')


def test_google_cloud_storage(google, tmp_path):
    check_sources('gs://photos')
    before = open_source('gs://photos/in').digest
    google.files['in/cat/1.jpg'] = jpeg('blue')
    assert open_source('gs://photos/in').digest != before
    assert label('gs://photos/in', tmp_path / 'out', ['coco'], workers=2).labelled == 2


def test_google_cloud_storage_that_does_not_answer(google):
    source = open_source('gs://photos/in')
    google.failures = 2
    assert source.image(0).size == (20, 10)
    google.failures = 10**6
    with pytest.raises(StoreReadError, match=r'gs://photos/in/cat/1.jpg: the store did not return it'):
        source.image(0)


def test_data_set_of_the_hub(dataset, tmp_path):
    check_sources('hf://datasets/org/name')
    before = open_source('hf://datasets/org/name/in').digest
    dataset.files('datasets/org/name')['in/cat/1.jpg'] = jpeg('blue')
    assert open_source('hf://datasets/org/name/in').digest != before
    assert label('hf://datasets/org/name/in', tmp_path / 'out', ['coco'], workers=2).labelled == 2


def test_hub_that_does_not_answer(dataset):
    dataset.failures = 1  # The client does not ask again what the data set is.
    source = open_source('hf://datasets/org/name/in')
    dataset.failures = 2
    assert source.image(0).size == (20, 10)
    dataset.status = 500
    with pytest.raises(StoreReadError, match=r'hf://datasets/org/name/in/cat/1.jpg: the store did not return it'):
        source.image(0)
