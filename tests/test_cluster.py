"""The shares of workers, and clusters that cannot be used; no cluster is started."""

from __future__ import annotations

import os
import socket

import pytest
from glow import Glow
from jobs import make_job

from fcam_zoo.labelling import ClusterOptions, LabelOptions, label_on_ray, ray_run
from fcam_zoo.labelling.cluster import RayError, Share, connected, count_tries, share_devices, warn_if_busy
from fcam_zoo.labelling.rows import PartSummary

CORES = [{'CPU': 4.0}, {'CPU': 2.0}, {'memory': 1.0}]
GPUS = [{'CPU': 8.0, 'GPU': 2.0}, {'CPU': 16.0}]


@pytest.mark.parametrize(
    ('nodes', 'workers', 'device', 'share'),
    [
        (CORES, None, 'auto', Share(6, 1, 0)),
        (CORES, 3, 'cpu', Share(3, 2, 0)),
        # A share of 3 cores would fit only once.
        (CORES, 2, 'auto', Share(2, 2, 0)),
        (CORES, 1, 'auto', Share(1, 4, 0)),
        (CORES, 12, 'auto', Share(12, 0.25, 0)),
        (GPUS, None, 'auto', Share(2, 4, 1)),
        (GPUS, 1, 'cuda', Share(1, 4, 1)),
        (GPUS, None, 'cpu', Share(24, 1, 0)),
    ],
)
def test_shares(nodes, workers, device, share):
    assert share_devices(nodes, workers, device) == share
    assert share.device == ('cuda' if share.gpus else 'cpu')
    assert share.threads == max(1, int(share.cpus))
    assert share.readers == (3 if share.gpus else 0)


@pytest.mark.parametrize(
    ('nodes', 'workers', 'device', 'message'),
    [
        (CORES, None, 'cuda', 'the cluster has no GPU: choose the device cpu'),
        (GPUS, 3, 'auto', '3 workers for 2 GPUs'),
        ([{'memory': 1.0}], None, 'auto', 'no CPU core'),
    ],
)
def test_clusters_without_devices(nodes, workers, device, message):
    with pytest.raises(RayError, match=message):
        share_devices(nodes, workers, device)


@pytest.mark.parametrize(
    'values',
    [
        {'address': ''},
        {'address': 'ray://head:10001'},
        {'workers': 0},
        {'device': 'cuda:1'},
        {'shard_size': 0},
        {'readers': -1},
    ],
)
def test_invalid_options(values):
    with pytest.raises(ValueError, match=f'{next(iter(values))} is '):
        ClusterOptions(**values)


def test_address_without_a_cluster(photos, tmp_path):
    pytest.importorskip('ray.data')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    with pytest.raises(RayError, match=f'no Ray cluster at {address} .*: check the address'):
        label_on_ray(Glow(), photos, tmp_path / 'out', LabelOptions(), ClusterOptions(address))
    assert not (tmp_path / 'out').exists()


def test_folder_that_the_nodes_do_not_share(photos, tmp_path):
    pytest.importorskip('pyarrow.parquet')
    folder, job = make_job(photos, tmp_path / 'job')
    (tmp_path / 'job' / 'shards/part-000001.parquet').unlink()
    run = ray_run._Run(None, folder, job, Share(1, 1, 0), done={1: PartSummary(job.key, 1, 2, 2, 2)})
    with pytest.raises(RayError, match='the nodes do not share this folder'):
        run._check_files([0, 1])
    # The report of a part was lost with its node, but its file is there.
    run = ray_run._Run(None, folder, job, Share(1, 1, 0), failed={0: 'lost'})
    run._check_files([0, 1])
    assert run.done == {0: folder.about(job, 0)}
    assert run.failed == {}


@pytest.mark.parametrize(
    ('available', 'share', 'waiting'),
    [
        ({'CPU': 8.0, 'GPU': 1.0}, Share(2, 4, 1), '1 of 2'),
        ({}, Share(2, 4, 1), '2 of 2'),
        ({'CPU': 5.0}, Share(3, 2, 0), '1 of 3'),
        ({'CPU': 6.0}, Share(3, 2, 0), ''),
        ({'CPU': 2.9999999}, Share(12, 0.25, 0), ''),
    ],
)
def test_busy_cluster(available, share, waiting, caplog):
    warn_if_busy(available, share)
    assert (f'waiting for the devices of {waiting} workers' in caplog.text) == bool(waiting) == bool(caplog.text)


def test_environment_is_restored(monkeypatch):
    ray = pytest.importorskip('ray')
    seen = {}
    monkeypatch.setenv('RAY_BACKEND_LOG_LEVEL', 'info')
    monkeypatch.delenv('RAY_USAGE_STATS_ENABLED', raising=False)
    monkeypatch.setattr(ray, 'is_initialized', lambda: False)
    monkeypatch.setattr(ray, 'init', lambda *arguments, **options: seen.update(os.environ))
    monkeypatch.setattr(ray, 'shutdown', lambda: None)
    before = dict(os.environ)
    with connected('local'):
        pass
    assert (seen['RAY_USAGE_STATS_ENABLED'], seen['RAY_BACKEND_LOG_LEVEL']) == ('0', 'info')
    assert dict(os.environ) == before


def test_tries_are_counted():
    class FakeRay:
        @staticmethod
        def remote(**options):
            return lambda cls: type('Handle', (), {'remote': staticmethod(cls)})

    tries = count_tries(FakeRay, 2)
    assert [tries.begin(3), tries.begin(4), tries.begin(3)] == ['', '', '']
    assert tries.begin(3).startswith('2 tries ended early: its process died')
    tries.note(3, 'broken')
    assert tries.begin(3) == '2 tries ended early: broken'
