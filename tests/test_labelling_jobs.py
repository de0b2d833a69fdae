"""Jobs of Parquet files: relative paths, errors of their store, and their replacement."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
from glow import Glow
from jobs import make_job
from scenes import label, make_photos, tree
from stored_images import write_tar

from fcam_zoo.data import open_source
from fcam_zoo.data.sources import remote
from fcam_zoo.errors import StoreReadError
from fcam_zoo.labelling import LabelOptions, check_export, export_labels, ray_data, ray_run, run
from fcam_zoo.labelling.cluster import Share
from fcam_zoo.labelling.inputs import absolute_argument, public_places, with_absolute_paths
from fcam_zoo.labelling.job_files import JobFiles, StoreError
from fcam_zoo.labelling.journal import Journal, seal
from fcam_zoo.labelling.loading import NotReturned
from fcam_zoo.labelling.pipeline import Pipeline
from fcam_zoo.labelling.ray_data import RowLabeller
from fcam_zoo.labelling.ray_workers import PartLabeller
from fcam_zoo.labelling.shards import ShardFolder, how_to_resume

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
    monkeypatch.setattr('fcam_zoo.data.sources.store_reader.FIRST_WAIT', 0.0)
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
        store = JobFiles(where)
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


def write_parts(folder: ShardFolder, old, job, parts) -> None:
    """Write the parts of a job with the rows of an older one."""
    for part in parts:
        ids, results = zip(*folder.rows(old, [part]))
        folder.write(job, part, ids, results)


@pytest.mark.parametrize('where', ['{}/job', 'memory://bucket/job'])
def test_old_parts_stay_until_the_new_job_has_finished(photos, memory, tmp_path, where):
    folder, old = make_job(photos, where.format(tmp_path))
    new = folder.start(replace(old, settings={**old.settings, 'threshold': 0.7}), resume=False)
    assert (old.folder, new.folder) == ('shards', 'shards-2')
    write_parts(folder, old, new, [0])
    assert len(folder.finished(old)) == 3  # A kill at this moment loses nothing.
    with pytest.raises(ValueError, match='2 of 3 parts are missing'):
        export_labels(folder.files.where, tmp_path / 'out', ['csv'])
    resumed = folder.start(new, resume=True)
    assert (resumed.key, resumed.folder) == (new.key, 'shards-2')
    write_parts(folder, old, new, [1, 2])
    folder.finish(new)
    assert (folder.job().key, folder.job().folder) == (new.key, 'shards-2')
    assert len(folder.finished(new)) == 3
    assert folder.finished(old) == {}
    assert not folder.files.exists('unfinished.json')
    # The next one, with equal settings, uses the first folder again; after a kill it can be discarded.
    third = folder.start(new, resume=False)
    write_parts(folder, new, third, [0])
    fourth = folder.start(new, resume=False)
    assert (third.folder, fourth.folder, folder.finished(fourth)) == ('shards', 'shards', {})
    assert len(folder.finished(new)) == 3


def test_export_into_the_folder_of_a_job(photos, tmp_path):
    make_job(photos, tmp_path / 'job')
    export_labels(tmp_path / 'job', tmp_path / 'job', ['coco'])  # The process was killed before it published `csv`.
    before = tree(tmp_path / 'job')
    with pytest.raises(FileExistsError, match=r'fcam-zoo export-labels .* --overwrite --export coco csv') as caught:
        check_export(str(tmp_path / 'job'), ['coco', 'csv'], replace=False)
    assert 'replace them with --overwrite' not in str(caught.value)
    check_export(str(tmp_path / 'job'), ['coco', 'csv'], replace=True)
    export_labels(tmp_path / 'job', tmp_path / 'job', ['coco', 'csv'], overwrite=True)
    assert tree(tmp_path / 'job').items() >= before.items()


def test_command_that_resumes_a_job(photos, tmp_path):
    _, job = make_job(photos, tmp_path / 'job')
    job = replace(job, sources=['/my photos/*.jpg', '/b$c'], model_name='a b')
    command = "fcam-zoo predict '/my photos/*.jpg' '/b$c' --model 'a b' --ray --resume -o '/out put'"
    assert how_to_resume(job, '/out put').endswith(f'with its options: {command}')
    assert '(with the keys of the URLs, which are not stored)' in how_to_resume(replace(job, left_out=True), 'out')


def test_images_that_their_store_did_not_return_are_labelled_again(photos, memory, tmp_path, monkeypatch):
    """Through the part that a worker labels; the driver leaves such parts out of the finished ones."""
    from fcam_zoo.data.sources import store_reader

    monkeypatch.setattr(store_reader, 'FIRST_WAIT', 0.0)
    client = memory()
    for name in ('a', 'b', 'c'):
        client.pipe(f'/in/{name}.png', (photos / 'dim/a.png').read_bytes())
    client.pipe('/in/d.png', b'no image')
    with monkeypatch.context() as patch:
        fail(patch, memory, 'cat_file', 4)
        folder, job = make_job('memory://in', tmp_path / 'job', 4)
    results = dict(folder.rows(job, [0]))
    assert [type(result).__name__ for result in results.values()] == [
        'NotReturned',
        'ImageRecord',
        'ImageRecord',
        'str',
    ]
    about = folder.about(job, 0)
    assert (about.images, about.labelled, about.unavailable) == (4, 2, 1)
    done = export_labels(tmp_path / 'job', tmp_path / 'out', ['csv'])
    assert (done.labelled, len(done.errors)) == (2, 2)
    pipeline = Pipeline.for_model(Glow(), open_source('memory://in'), LabelOptions(multi=True, batch_size=4))
    worker = object.__new__(PartLabeller)
    worker.pipeline, worker.folder, worker.job, worker.tries = pipeline, folder, job, FakeActor()
    monkeypatch.setitem(sys.modules, 'ray', SimpleNamespace(get=lambda value: value))
    (report,) = worker({'part': [0]})['report']
    assert (json.loads(report)['labelled'], json.loads(report)['unavailable']) == (3, 0)
    again = ray_run._Run(None, folder, job, Share(1, 1, 0))
    again.label_rest(pipeline, progress=False)
    assert (again.summary(()).labelled, again.summary(()).unavailable) == (3, 0)


def test_paths_in_a_table_are_ids_if_it_has_no_others(photos, monkeypatch):
    """Without Ray; tests/test_ray.py has a data set of encoded images."""
    pyarrow = pytest.importorskip('pyarrow')
    pipeline = Pipeline.for_model(Glow(), open_source(photos), LabelOptions(multi=True))
    monkeypatch.setattr(ray_data, 'load_pipeline', lambda *_: pipeline)
    worker = RowLabeller(None, None, Share(1, 1, 0))
    paths = [str(path) for path in sorted(photos.rglob('*.*'))]
    table = worker(pyarrow.table({'path': paths, 'label': range(len(paths))}))
    assert table['id'].to_pylist() == paths
    assert set(table['status'].to_pylist()) == {'ok'}
    named = worker(pyarrow.table({'path': paths, 'id': range(len(paths))}))
    assert named['id'].to_pylist() == [str(number) for number in range(len(paths))]
    assert set(named['status'].to_pylist()) == {'ok'}


class FakeActor:
    """Counts no tries."""

    begin = SimpleNamespace(remote=lambda part: '')


@pytest.mark.parametrize('failures', [8, 10**6])
def test_a_run_tries_images_again_at_its_end(photos, memory, tmp_path, monkeypatch, failures):
    """The store fails while the first two images are read, or always; the files are the same as without an error."""
    monkeypatch.setattr('fcam_zoo.data.sources.store_reader.FIRST_WAIT', 0.0)
    for path in sorted(photos.glob('dim/*')) + sorted(photos.glob('bright/*.png')):
        memory().pipe(f'/photos/{path.parent.name}/{path.name}', path.read_bytes())
    expected = label('memory://photos', tmp_path / 'expected', batch_size=2)
    fail(monkeypatch, memory, 'cat_file', failures)
    done = label('memory://photos', tmp_path / 'out', batch_size=2)
    if failures == 8:
        assert (done.labelled, done.errors) == (expected.labelled, ())
        assert tree(tmp_path / 'out') == tree(tmp_path / 'expected')
    else:
        assert (done.labelled, len(done.errors)) == (0, 5)


@pytest.mark.parametrize('refused', [False, True])
def test_a_run_ends_when_its_store_no_longer_returns_images(photos, memory, tmp_path, monkeypatch, caplog, refused):
    """The continued run has the files of one without errors; it ends also if the store refuses the images forever."""
    for number, path in enumerate(sorted(photos.glob('dim/*')) + sorted(photos.glob('bright/*.png'))):
        memory().pipe(f'/photos/{number}.png', path.read_bytes())
    label('memory://photos', tmp_path / 'expected', batch_size=2)
    real, returned = remote.read_object, set()

    def read(url, size):
        if url.rpartition('/')[2] not in returned:
            raise StoreReadError(f'{url}: no answer')
        return real(url, size)

    monkeypatch.setattr(remote, 'read_object', read)
    monkeypatch.setattr(run, 'MAX_LOST', 4)
    with pytest.raises(StoreReadError, match=r'did not return 4 images in a row .*: no answer.*continue with --resume'):
        label('memory://photos', tmp_path / 'out', batch_size=2)
    assert caplog.text.count('such images are tried again at the end') == 1
    returned.update(['4.png'] if refused else [f'{number}.png' for number in range(5)])
    done = label('memory://photos', tmp_path / 'out', batch_size=2, resume=True)
    assert (done.labelled, len(done.errors)) == ((1, 4) if refused else (5, 0))
    assert refused or tree(tmp_path / 'out') == tree(tmp_path / 'expected')


def errors(journal: Journal) -> list[str]:
    return [result for result in journal.results() if isinstance(result, str)]


def test_second_tries_in_the_journal(photos, tmp_path):
    folder, job = make_job(photos, tmp_path / 'job')
    record = next(result for _, result in folder.rows(job, [0]))
    ids = ['a', record.image, 'c']
    journal = Journal(tmp_path / 'journal')
    journal.open({'threshold': 0.5})
    journal.add(['broken', NotReturned('no answer')])
    journal.add([NotReturned('no answer')])
    journal.close()
    journal = Journal(tmp_path / 'journal')
    assert (journal.done, journal.unavailable, errors(journal)) == (3, {1, 2}, ['broken', *['no answer'] * 2])
    journal.open({})
    journal.add_second(1, record)
    journal.add_second(2, NotReturned('again'))
    journal.close()
    for known in (journal, Journal(tmp_path / 'journal')):
        known.check(ids, 2, complete=True)
        assert known.unavailable == set()
        assert [found.to_json() for found in known.records()] == [json.loads(json.dumps(record.to_json()))]
        assert errors(known) == ['broken', 'again']
    with (tmp_path / 'journal').open('ab') as file:  # A second try of an image that has a result.
        file.write(json.dumps(seal({'index': 0, 'result': 'x'}), separators=(',', ':')).encode() + b'\n')
    assert errors(Journal(tmp_path / 'journal')) == ['broken', 'again']


def test_job_holds_no_keys_of_urls(photos, tmp_path):
    given = ['https://me:secret@example.org/a.tar?sig=secret', '/photos/{000..012}.tar']
    public, left_out = public_places(given)
    assert (public, left_out) == (['https://example.org/a.tar', given[1]], True)
    assert public_places(given[1:]) == (given[1:], False)
    folder, job = make_job(photos, tmp_path / 'job')
    folder._write_job('job.json', replace(job, sources=public, left_out=True))
    with pytest.raises(ValueError, match='does not say where they are: give the images with --source'):
        export_labels(tmp_path / 'job', tmp_path / 'out', ['yolo'])
    assert JobFiles('https://me:secret@example.org/job?sig=secret').name_of('a') == 'https://example.org/job/a'


def test_urls_in_capitals_and_missing_clients(monkeypatch):
    assert [JobFiles(where).is_local for where in ('S3://bucket/x', 's3://bucket/x', 'c:/x')] == [False, False, True]
    monkeypatch.setitem(sys.modules, 'dropboxdrivefs', None)
    with pytest.raises(ImportError, match=r'^dropbox://bucket/x needs the client of its store: .*dropboxdrivefs'):
        JobFiles('dropbox://bucket/x').read('a')
    # fsspec keeps the clients that earlier tests have used.
    monkeypatch.delitem(import_module('fsspec.registry')._registry, 's3', raising=False)
    monkeypatch.setitem(sys.modules, 's3fs', None)
    with pytest.raises(ImportError, match=r'^s3://bucket/x needs the client of its store: .*fcam-zoo\[ray,stores\]'):
        JobFiles('s3://bucket/x').read('a')
