"""Jobs on a real Ray cluster of two nodes on this machine, with failures in the middle."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glow import Glow
from jobs import FailingGlow, SlowGlow, make_job, rows
from PIL import Image
from scenes import draw, make_photos, tree
from stored_images import OwnImages, write_tar

from fcam_zoo.cli import main
from fcam_zoo.data import open_source
from fcam_zoo.labelling import ClusterOptions, LabelOptions, export_labels, label_on_ray, map_batches, ray_run
from fcam_zoo.labelling.rows import record_of
from fcam_zoo.labelling.shards import ShardFolder

pytest.importorskip('ray.data')
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != 'linux', reason='tests processes of Linux'),
    pytest.mark.filterwarnings('ignore::ResourceWarning'),
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
]
NODE = {'num_cpus': 1, 'object_store_memory': 80 * 2**20}
OPTIONS = LabelOptions(multi=True, batch_size=2)


@pytest.fixture(scope='module')
def cluster(tmp_path_factory) -> Iterator:
    """A cluster of two nodes with one core each, to which this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            'PYTHONPATH': os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
            'RAY_USAGE_STATS_ENABLED': '0',
            'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO': '0',
            'RAY_worker_niceness': '0',
            # A lost node is noticed after 5 seconds.
            'RAY_health_check_period_ms': '500',
            'RAY_health_check_failure_threshold': '10',
            # Clients of S3 in the workers.
            'AWS_ACCESS_KEY_ID': 'test',
            'AWS_SECRET_ACCESS_KEY': 'test',
            'AWS_DEFAULT_REGION': 'us-east-1',
            'AWS_ENDPOINT_URL': f'http://127.0.0.1:{s3_port()}',
        }.items():
            patch.setenv(key, value)
        nodes = Cluster(initialize_head=True, head_node_args={**NODE, 'include_dashboard': False})
        try:
            nodes.add_node(**NODE)
            ray.init(nodes.address, log_to_driver=False, logging_level=logging.CRITICAL)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


PORTS: list[int] = []


def s3_port() -> int:
    """Return the port of the S3 server, which starts later than the workers."""
    import socket

    if not PORTS:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            PORTS.append(free.getsockname()[1])
    return PORTS[0]


@pytest.fixture
def many(tmp_path) -> Path:
    """24 images, one of them unreadable."""
    for i in range(23):
        draw(tmp_path / 'many' / f'{i:02d}.png', (56, 56), [(8, 8, 16 + i, 40)])
    (tmp_path / 'many' / '23.png').write_bytes(b'\x89PNG')
    return tmp_path / 'many'


@pytest.fixture
def expected(many, tmp_path) -> list:
    """The rows of one process."""
    make_job(many, tmp_path / 'expected')
    return rows(tmp_path / 'expected')


def job_in_thread(model: Glow, images: Path, output: Path) -> tuple[threading.Thread, list]:
    """Start a job; the list gets its summary."""
    done: list = []
    settings = ClusterOptions(shard_size=2)
    thread = threading.Thread(target=lambda: done.append(label_on_ray(model, images, output, OPTIONS, settings)))
    thread.start()
    return thread, done


def wait_for(condition: Callable[[], object], seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'time limit'
        time.sleep(0.05)


def parts(output: Path) -> list[Path]:
    return sorted((output / 'shards').glob('part-*'))


def test_rows_files_and_export_equal_those_of_one_process(cluster, many, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The workers have another working directory.
    done = label_on_ray(Glow(), 'many/*.png', 'out', OPTIONS, ClusterOptions(shard_size=1))
    assert ShardFolder('out').job().sources == [str(tmp_path / 'many/*.png')]
    assert (done.images, done.labelled, done.error_count, done.failed) == (24, 23, 1, {})
    assert len(done.errors) == 1
    assert '23.png: not an image of a known format' in done.errors[0]
    assert rows(tmp_path / 'out') == expected
    # Parts of whole batches; all files but the settings of the job are equal, byte for byte.
    assert [path.name for path in parts(tmp_path / 'out')] == [f'part-{part:06d}.parquet' for part in range(12)]
    assert tree(tmp_path / 'out/shards') == tree(tmp_path / 'expected/shards')
    export_labels(tmp_path / 'out', tmp_path / 'labels', ['coco', 'masks'])
    export_labels(tmp_path / 'expected', tmp_path / 'expected', ['coco', 'masks'])
    assert tree(tmp_path / 'labels/masks') == tree(tmp_path / 'expected/masks')


def test_command(cluster, photos, model_dir, tmp_path, capsys):
    """The parts of a job have the classes of all class folders."""
    (photos / 'dim' / 'bad.jpg').write_bytes(b'no image')
    options = ['--labels', 'folder', '--quiet', '--export', 'coco', '-o']
    arguments = ['predict', str(photos), '--model', f'local-dir:{model_dir}', *options]
    assert main([*arguments, str(tmp_path / 'plain')]) == 1
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / 'job'), '--ray', '--ray-workers', '1']) == 1
    captured = capsys.readouterr()
    assert '5 of 6 images localized' in captured.out
    assert 'bad.jpg: not an image' in captured.err
    assert tree(tmp_path / 'job/coco') == tree(tmp_path / 'plain/coco')


def test_a_source_that_cannot_be_divided(cluster, photos, tmp_path):
    make_job(photos, tmp_path / 'job')
    expected = rows(tmp_path / 'job')
    images = OwnImages({name: (photos / name).read_bytes() for name, _ in expected})
    done = label_on_ray(Glow(), images, tmp_path / 'out', OPTIONS, ClusterOptions(shard_size=2))
    assert (done.labelled, done.failed) == (len(expected), {})
    assert rows(tmp_path / 'out') == expected


@pytest.mark.parametrize('what', ['worker', 'node'])
def test_lost_worker_and_lost_node(cluster, many, expected, tmp_path, what):
    """The worker is killed in the middle of a part; the node with all its processes. Nothing is lost or twice."""
    (tmp_path / 'pids').mkdir()
    node = cluster.add_node(**NODE) if what == 'node' else None
    thread, done = job_in_thread(SlowGlow(tmp_path / 'pids'), many, tmp_path / 'out')
    wait_for(lambda: len(parts(tmp_path / 'out')) >= 2)
    if node:
        cluster.remove_node(node, allow_graceful=False)
    else:
        os.kill(int(next((tmp_path / 'pids').iterdir()).name), signal.SIGKILL)
    assert len(parts(tmp_path / 'out')) < 12
    thread.join(150)
    assert not thread.is_alive()
    assert (done[0].labelled, done[0].error_count, done[0].failed) == (23, 1, {})
    assert rows(tmp_path / 'out') == expected
    assert len(parts(tmp_path / 'out')) == 12


def test_parts_that_always_fail_leave_the_others(cluster, many, tmp_path, monkeypatch):
    """One image kills each worker, another one raises an error that is not of this package."""
    monkeypatch.setattr(ray_run, 'TRIES', 1)
    draw(many / '10.png', (56, 56), [(0, 0, 56, 56)])
    Image.new('L', (56, 56), 128).save(many / '15.png')
    done = label_on_ray(FailingGlow(), many, tmp_path / 'out', OPTIONS, ClusterOptions(shard_size=6))
    assert (done.labelled, done.failed.keys()) == (11, {1, 2})
    assert 'tries ended early: its process died' in done.failed[1]
    assert 'tries ended early: the device is broken' in done.failed[2]
    kept = {path: path.stat().st_mtime_ns for path in parts(tmp_path / 'out')}
    done = label_on_ray(Glow(), many, tmp_path / 'out', LabelOptions(multi=True, batch_size=2, resume=True))
    assert (done.labelled, done.error_count, done.failed) == (23, 1, {})
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in parts(tmp_path / 'out')}.items()


KILLED_JOB = """
import sys
from jobs import SlowGlow
from fcam_zoo.labelling import ClusterOptions, LabelOptions, label_on_ray
options = LabelOptions(multi=True, batch_size=2)
label_on_ray(SlowGlow(sys.argv[3]), sys.argv[1], sys.argv[2], options, ClusterOptions(workers=2, shard_size=2))
"""


def test_killed_driver_resumes(cluster, many, expected, tmp_path):
    """The killed command had started Ray on this machine; the job continues on another cluster."""
    (tmp_path / 'pids').mkdir()
    arguments = [str(many), str(tmp_path / 'out'), str(tmp_path / 'pids')]
    driver = subprocess.Popen([sys.executable, '-c', KILLED_JOB, *arguments], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(parts(tmp_path / 'out')) >= 2, 180)  # It imports torch and starts Ray.
    finally:
        driver.kill()
        driver.wait()
    workers = [Path('/proc', path.name) for path in (tmp_path / 'pids').iterdir()]
    wait_for(lambda: not any(worker.exists() for worker in workers))
    kept = {path: path.stat().st_mtime_ns for path in parts(tmp_path / 'out')}
    assert 2 <= len(kept) < 12
    with pytest.raises(FileExistsError, match='already holds a job'):
        label_on_ray(Glow(), many, tmp_path / 'out', OPTIONS)
    options = LabelOptions(multi=True, batch_size=2, resume=True)
    done = label_on_ray(Glow(), many, tmp_path / 'out', options)
    assert (done.labelled, done.error_count) == (23, 1)
    assert rows(tmp_path / 'out') == expected
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in parts(tmp_path / 'out')}.items()
    # A finished job has nothing left to do, and reports the same.
    again = label_on_ray(Glow(), many, tmp_path / 'out', options)
    assert (again.labelled, again.objects, again.errors) == (done.labelled, done.objects, done.errors)


def fail_some_requests(monkeypatch, number: int) -> list[str]:
    """Let the S3 server answer the first requests for images and parts with 500; returns what was refused."""
    server = pytest.importorskip('moto.server')
    real, refused = server.DomainDispatcherApplication.__call__, []

    def call(self, environ, start_response):
        method, path = environ['REQUEST_METHOD'], environ['PATH_INFO']
        fails = (method == 'PUT' and 'shards/' in path) or (method == 'GET' and path.endswith('.png'))
        if not fails or sum(what.startswith(method) for what in refused) == number:
            return real(self, environ, start_response)
        refused.append(f'{method} {path}')
        environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0))
        start_response('500 Internal Server Error', [('Content-Length', '0')])
        return [b'']

    monkeypatch.setattr(server.DomainDispatcherApplication, '__call__', call)
    return refused


def test_shards_and_a_bucket_to_a_bucket(cluster, tmp_path, monkeypatch, capsys):
    """From tar shards of which one is truncated, and a store that returns 500 sometimes, to this store."""
    server = pytest.importorskip('moto.server').ThreadedMotoServer('127.0.0.1', s3_port(), verbose=False)
    s3fs = pytest.importorskip('s3fs')
    photos = make_photos(tmp_path / 'photos')
    members = [(path.name, path.read_bytes()) for path in sorted(photos.rglob('*.png'))]
    for name in 'ab':
        write_tar(tmp_path / f'{name}.tar', members)
    content = write_tar(tmp_path / 'c.tar', members).read_bytes()
    (tmp_path / 'c.tar').write_bytes(content[: len(content) // 2])
    server.start()
    # A client of an earlier test knows another server.
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        bucket = s3fs.S3FileSystem(skip_instance_cache=True)
        bucket.mkdir('labels')
        for name, image in members:
            bucket.pipe(f'labels/in/{name}', image)
        images = [str(tmp_path / '[abc].tar'), 's3://labels/in']
        refused = fail_some_requests(monkeypatch, 2)
        done = label_on_ray(Glow(), images, 's3://labels/job', OPTIONS, ClusterOptions(shard_size=2))
        assert sorted(what[:3] for what in refused) == ['GET', 'GET', 'PUT', 'PUT']
        assert done.failed == {}
        assert all('c.tar' in error for error in done.errors)
        assert len(done.errors) == done.error_count > 0
        stored = sorted(Path(name).name for name in bucket.ls('labels/job/shards', refresh=True))
        assert stored == [f'part-{part:06d}.parquet' for part in range(-(-done.images // 2))]
        ids = [image_id for image_id, _ in rows('s3://labels/job')]
        assert ids == list(open_source(images).ids)
        assert len(set(ids)) == len(ids) >= 3 * len(members)
        arguments = ['--export', 'coco', 'yolo', '-o', str(tmp_path / 'out'), '--quiet']
        assert main(['export-labels', 's3://labels/job', *arguments]) == int(done.labelled < done.images)
        assert f'{done.labelled} images, {done.objects} objects' in capsys.readouterr().out
    finally:
        server.stop()


def test_map_batches(cluster, photos, tmp_path):
    """The workers leave cores for the tasks that read the data set."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    paths = sorted(photos.rglob('*.*'))
    make_job(photos, tmp_path / 'job')
    expected = dict(rows(tmp_path / 'job'))
    items = [
        {'image': {'bytes': path.read_bytes(), 'path': None}, 'label': i, 'id': path.relative_to(photos).as_posix()}
        for i, path in enumerate(paths)
    ]
    items.append({'image': {'bytes': b'no image', 'path': None}, 'label': -1, 'id': 'bad'})
    pq.write_table(pa.Table.from_pylist(items), tmp_path / 'photos.parquet')
    labelled = map_batches(ray.data.read_parquet(str(tmp_path / 'photos.parquet')), Glow(), multi=True, batch_size=2)
    found = {row['id']: row for row in labelled.take_all()}
    assert found['bad']['status'] == 'error'
    assert 'not an image' in found.pop('bad')['error']
    assert found.keys() == expected.keys()
    for i, path in enumerate(paths):
        row = found[path.relative_to(photos).as_posix()]
        assert row['input_label'] == i
        assert record_of(row) == expected[row['id']]
    with pytest.raises(TypeError, match=r'give a ray\.data\.Dataset'):
        map_batches(items, Glow())
