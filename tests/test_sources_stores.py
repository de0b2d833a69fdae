"""Stores with a URL: a web server and an S3 server on the loopback address, and memory."""

from __future__ import annotations

import gzip
import multiprocessing
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace

import fsspec
import pytest
from loopback_store import LoopbackStore
from stored_images import jpeg, read_all, write_parquet, write_tar

from fcam_zoo.data import open_source
from fcam_zoo.data.sources import store_reader, tar
from fcam_zoo.data.sources.remote import RemoteFiles
from fcam_zoo.data.sources.store_reader import StoredObject
from fcam_zoo.data.sources.urls import public_url
from fcam_zoo.errors import ImageError, StoreReadError

IDS = ('cat/1.jpg', 'dog/2.jpg')


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(store_reader, 'FIRST_WAIT', 0.01)


@pytest.fixture
def web() -> Iterator[LoopbackStore]:
    pytest.importorskip('aiohttp')
    with LoopbackStore() as server:
        server.files = {f'photos/{name}': jpeg() for name in IDS}
        yield server


@pytest.fixture
def shards(tmp_path) -> dict[str, bytes]:
    """Contents of two tar shards and a Parquet file."""
    members = [(name, jpeg()) for name in IDS] + [('cat/1.cls', b'0')]
    content = write_tar(tmp_path / 'made' / 'a.tar', members).read_bytes()
    table = write_parquet(tmp_path / 'made' / 'a.parquet', IDS, [1, 0])
    return {'a-0.tar': content, 'a-1.tar': content, 'a.parquet': table.read_bytes()}


@pytest.fixture
def memory(shards) -> Iterator[None]:
    files = fsspec.filesystem('memory')
    for name, content in {**{f'photos/{name}': jpeg() for name in IDS}, **shards, 'photos/a.md': b'?'}.items():
        files.pipe(f'/bucket/{name}', content)
    yield
    files.rm('/bucket', recursive=True)


@pytest.mark.parametrize(
    ('url', 'ids'),
    [
        ('memory://bucket/photos', IDS),
        ('memory://bucket/photos/', IDS),
        ('memory://bucket/photos/cat/1.jpg', ('1.jpg',)),
        ('memory://bucket/**/*.jpg', tuple(f'photos/{name}' for name in IDS)),
        ('memory://bucket/a-0.tar', IDS),
        ('memory://bucket/a-{0..1}.tar', (*(f'a-0/{name}' for name in IDS), *(f'a-1/{name}' for name in IDS))),
        ('memory://bucket/a-*.tar', (*(f'a-0/{name}' for name in IDS), *(f'a-1/{name}' for name in IDS))),
        ('memory://bucket/a.parquet', IDS),
        (['memory://bucket/photos/cat', 'memory://bucket/photos/dog'], IDS),
        ('memory://bucket/none', None),
        ('memory://bucket/none*', None),
    ],
)
def test_urls(memory, url, ids):
    if ids is None:
        with pytest.raises(FileNotFoundError, match=r'none.*; check the URL'):
            open_source(url)
    else:
        source = read_all(open_source(url))
        assert (source.ids, source.problems) == (ids, ())
        assert source.local_path(0) is None
        assert list(source.local_files()) == []
        assert source.describe(0).startswith('memory://')


def test_digest_changes_with_an_object(memory):
    before = open_source('memory://bucket/photos').digest
    assert open_source('memory://bucket/photos').digest == before
    fsspec.filesystem('memory').pipe('/bucket/photos/cat/1.jpg', jpeg('blue'))
    assert open_source('memory://bucket/photos').digest != before


def test_web_server(web, shards):
    web.files |= shards
    assert read_all(open_source(f'{web.url}/photos/cat/1.jpg')).ids == ('1.jpg',)
    assert read_all(open_source(f'{web.url}/a-0.tar')).ids == IDS
    assert read_all(open_source(f'{web.url}/a.parquet')).ids == IDS
    assert open_source([f'{web.url}/photos/{name}' for name in IDS]).ids == IDS
    web.ranges = False
    with pytest.raises(ImageError, match='the server must support byte ranges'):
        open_source(f'{web.url}/a-0.tar').image(0)


def test_list_of_urls_sends_no_requests_until_images_are_read(web, tmp_path):
    lines = [f'{web.url}/photos/cat/1.jpg', f'{web.url}/photos/dog/2.jpg?size=1', f'{web.url}/photos/dog/2.jpg?size=2']
    (tmp_path / 'urls.txt').write_text('\n'.join([*lines, lines[0], f'{web.url}/photos/dog/no.jpg']))
    source = open_source(tmp_path / 'urls.txt')
    assert not web.requests
    assert source.ids[:2] == IDS
    assert source.ids[2].startswith('dog/2-')
    assert len(source.ids) == 4
    assert source.image(2).size == (20, 10)
    with pytest.raises(FileNotFoundError, match=r'no.jpg: no such object'):
        source.image(3)
    web.files['list.txt'] = b'photos/cat/1.jpg\nphotos/dog/2.jpg\n'
    assert read_all(open_source(f'{web.url}/list.txt')).ids == tuple(f'photos/{name}' for name in IDS)


def test_server_errors_are_tried_again(web):
    source = open_source(f'{web.url}/photos/cat/1.jpg')
    name = 'photos/cat/1.jpg'
    web.requests.clear()
    web.failures[name] = 2
    assert source.image(0).size == (20, 10)
    assert web.requests[name] == 3
    web.failures[name] = -1
    with pytest.raises(ImageError, match=r'1.jpg: the store did not return it in 4 tries \(HTTP status 500\)'):
        source.image(0)
    assert web.requests[name] == 3 + store_reader.TRIES


@pytest.mark.parametrize(('status', 'tries'), [(403, 1), (429, 4), (503, 4)])
def test_only_errors_that_may_pass_are_tried_again(web, status, tries):
    source = open_source(f'{web.url}/photos/cat/1.jpg')
    web.requests.clear()
    web.status, web.failures['photos/cat/1.jpg'] = status, -1
    with pytest.raises(ImageError, match=f'HTTP status {status}') as caught:
        source.image(0)
    assert isinstance(caught.value, StoreReadError) == (tries > 1)
    assert web.requests['photos/cat/1.jpg'] == tries


@pytest.mark.parametrize(
    ('url', 'public'),
    [
        ('https://me:secret@a.org:8080/b/c.jpg?X-Sig=secret#x', 'https://a.org:8080/b/c.jpg'),
        ('https://a.org?key=secret', 'https://a.org'),
        ('HTTP://secret@a.org/b@c.jpg', 'HTTP://a.org/b@c.jpg'),
        ('s3://key:secret@bucket/a?b#1.jpg', 's3://bucket/a?b#1.jpg'),
        ('s3://bucket/a.tar?versionId=secret', 's3://bucket/a.tar'),
        ('photos/me@home?x=1.jpg', 'photos/me@home?x=1.jpg'),
    ],
)
def test_public_url(url, public):
    assert public_url(url) == public


def test_slow_server(web, monkeypatch):
    source = open_source(f'{web.url}/photos/cat/1.jpg')
    monkeypatch.setattr(store_reader, 'SECONDS', 0.1)
    monkeypatch.setattr(store_reader, 'TRIES', 2)
    web.delay = 1
    began = time.monotonic()
    with pytest.raises(ImageError, match=r'in 2 tries \(.*[Tt]ime'):
        source.image(0)
    assert time.monotonic() - began < 0.9


def test_object_that_vanishes_and_object_that_is_too_large(web, monkeypatch):
    source = open_source([f'{web.url}/photos/{name}' for name in IDS])
    del web.files['photos/cat/1.jpg']
    with pytest.raises(FileNotFoundError, match=r'1.jpg: no such object'):
        source.image(0)
    monkeypatch.setattr(store_reader, 'MAX_BYTES', 100)
    with pytest.raises(ImageError, match=r'2.jpg: .* more than the limit of 100'):
        source.image(1)


def test_shard_whose_server_fails(web, shards):
    web.files |= shards
    source = open_source(f'{web.url}/a-0.tar')
    web.failures['a-0.tar'] = 2
    assert source.image(0).size == (20, 10)
    web.failures['a-0.tar'] = -1
    with pytest.raises(ImageError, match=r'a-0.tar: the store did not return it in 4 tries'):
        source.image(0)
    both = open_source([f'{web.url}/a-0.tar', f'{web.url}/a-1.tar'])
    assert both.ids == tuple(f'a-1/{name}' for name in IDS)
    assert len(both.problems) == 1
    assert '0 images before the break are used' in both.problems[0]


def test_servers_that_send_more_than_they_said(web, monkeypatch):
    name = 'photos/cat/1.jpg'
    source, listed = open_source(f'{web.url}/{name}'), RemoteFiles([(StoredObject(f'{web.url}/{name}'), web.url)])
    monkeypatch.setattr(store_reader, 'MAX_BYTES', 2 * 2**20)
    web.ranges, web.files[name] = False, bytes(64 * 2**20)
    for images in (source, listed):
        with pytest.raises(ImageError, match='more than the limit of 2097152'):
            images.open(0)
    web.files[name], web.encoding = gzip.compress(bytes(64 * 2**20)), 'gzip'
    with pytest.raises(ImageError, match='2097153 bytes are more than the limit of 2097152'):
        listed.open(0)


def test_keys_of_urls_are_not_shown(web, shards, tmp_path, caplog):
    web.files |= {**shards, 'photos/x.heic': b'', 'bad.tar': b'?' * 1000}
    host = web.url.removeprefix('http://')
    key = '?X-Signature=hidden'
    (tmp_path / 'urls.txt').write_text(f'http://me:hidden@{host}/photos/dog/2.jpg{key}\n{web.url}/no.jpg{key}')
    urls = [f'{web.url}/{name}{key}' for name in ('a-0.tar', 'a.parquet', 'bad.tar', 'none.jpg')]
    source = open_source([tmp_path / 'urls.txt', *urls])
    texts = [*source.problems, *source.ids, *(source.describe(i) for i in range(len(source)))]
    with pytest.raises(FileNotFoundError) as caught:
        source.image(1)
    web.failures['photos/dog/2.jpg'], web.failures['a-0.tar'], web.failures['a.parquet'] = -1, -1, -1
    for index in (0, 2, 4):
        with pytest.raises(StoreReadError) as failed:
            source.image(index)
        texts.append(str(failed.value))
    texts += [str(caught.value), caplog.text]
    assert len(source.problems) == 2
    assert not [text for text in texts if 'hidden' in text]


def test_a_missing_client_is_reported_before_images_are_read(tmp_path, monkeypatch):
    (tmp_path / 'urls.txt').write_text('s3://bucket/1.jpg\n')
    monkeypatch.setitem(sys.modules, 's3fs', None)
    monkeypatch.delitem(sys.modules['fsspec.registry']._registry, 's3', raising=False)
    with pytest.raises(ImportError, match=r's3://bucket/1.jpg needs the client of its store: .*fcam-zoo\[stores\]'):
        open_source(tmp_path / 'urls.txt')


def test_shards_are_indexed_at_the_same_time_and_in_order(web, monkeypatch, tmp_path):
    for number in range(40):
        member = (f'{number}.jpg', jpeg()), ('same.jpg', jpeg()), (f'{number}.cls', b'%d' % (number % 3))
        web.files[f'shards/{number:03d}.tar'] = write_tar(tmp_path / 'a.tar', member).read_bytes()
    web.files['shards/020.tar'] = web.files['shards/020.tar'][:300]
    together, real = threading.Barrier(4), tar._ShardIndex.read

    def read(self):
        if self.shard.prefix in ('000/', '001/', '002/', '003/'):
            together.wait(60)
        return real(self)

    monkeypatch.setattr(tar._ShardIndex, 'read', read)
    source = open_source(f'{web.url}/shards/{{000..039}}.tar')
    whole = [number for number in range(40) if number != 20]
    assert [name for name in source.ids if 'same' not in name] == [f'{n:03d}/{n}.jpg' for n in whole]
    assert [source.label(index) for index, name in enumerate(source.ids) if 'same' not in name] == [
        n % 3 for n in whole
    ]
    assert len(source.problems) == 1
    assert '020.tar: truncated' in source.problems[0]


def test_a_bad_line_of_a_list_does_not_end_it(web, tmp_path):
    (tmp_path / 'urls.txt').write_text(f'{web.url}/none.tar\n{web.url}/photos/cat/1.jpg\n')
    source = open_source(tmp_path / 'urls.txt')
    assert len(source) == len(source.problems) == 1


@pytest.mark.parametrize('ending', ['shards', 'shards/'])
def test_a_folder_of_shards_needs_a_pattern(tmp_path, shards, ending):
    files = fsspec.filesystem('memory')
    write_tar(tmp_path / 'shards' / 'a.tar', [])
    files.pipe('/bucket/shards/a.parquet', b'')
    for place, suffix in ((f'memory://bucket/{ending}', 'parquet'), (f'{tmp_path}/{ending}', 'tar')):
        folder = place.rstrip('/')
        with pytest.raises(FileNotFoundError, match=re.escape(f"give '{folder}/*.{suffix}' for its shards")):
            open_source(place)
    files.rm('/bucket', recursive=True)


@pytest.mark.parametrize(('seconds', 'tries'), [(0, 4), (5, 4), (9, 3), (11, 2), (25, 1)])
def test_no_try_begins_late(monkeypatch, seconds, tries):
    now = [1000.0]
    monkeypatch.setattr(store_reader, 'time', SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None))
    calls = []

    def action():
        calls.append(now[0])
        now[0] += seconds
        raise OSError('no answer')

    with pytest.raises(StoreReadError, match='no answer'):
        store_reader.attempt(action, lambda error, number: StoreReadError(f'{error} {number}'))
    assert len(calls) == tries


@pytest.fixture(scope='module')
def s3_server() -> Iterator[str]:
    server = pytest.importorskip('moto.server').ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    pytest.importorskip('s3fs')
    server.start()
    host, port = server.get_host_and_port()
    yield f'http://{host}:{port}'
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch, shards) -> Iterator[fsspec.AbstractFileSystem]:
    """A bucket with images and shards, which s3fs finds by the environment."""
    values = {'ACCESS_KEY_ID': 'test', 'SECRET_ACCESS_KEY': 'test', 'DEFAULT_REGION': 'us-east-1', 'MAX_ATTEMPTS': '1'}
    for key, value in {**values, 'ENDPOINT_URL': s3_server}.items():
        monkeypatch.setenv(f'AWS_{key}', value)
    files = fsspec.filesystem('s3', skip_instance_cache=True)
    files.mkdir('photos')
    for name, content in {**{f'in/{name}': jpeg() for name in IDS}, **shards}.items():
        files.pipe(f'photos/{name}', content)
    yield files
    files.rm('photos', recursive=True)
    # The next test has another server.
    type(files).clear_instance_cache()


def test_s3(bucket):
    for url, ids in (
        ('s3://photos/in', IDS),
        ('s3://photos/**/*.jpg', tuple(f'in/{name}' for name in IDS)),
        ('s3://photos/in/dog/2.jpg', ('2.jpg',)),
        ('s3://photos/a-0.tar', IDS),
        ('s3://photos/a.parquet', IDS),
    ):
        source = read_all(open_source(url))
        assert (source.ids, source.problems) == (ids, ())
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda n, s=source: s.image(n % len(s)).size, range(12))) == {(20, 10)}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork')) as processes:
        assert processes.submit(read_all, source).result().ids == IDS
    before = open_source('s3://photos/in').digest
    source = open_source('s3://photos/in')
    bucket.pipe('photos/in/cat/1.jpg', jpeg('blue'))
    assert open_source('s3://photos/in').digest != before
    bucket.rm('photos/in/cat/1.jpg')
    with pytest.raises(FileNotFoundError, match=r's3://photos/in/cat/1.jpg: no such object'):
        source.image(0)
    with pytest.raises(FileNotFoundError, match=r's3://none/a.jpg'):
        open_source('s3://none/a.jpg')
