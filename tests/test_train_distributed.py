"""Two processes train the same model as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from synthetic import make_wsol, train_config

from fcam_zoo.train import ClassifierConfig, DecoderConfig, train
from fcam_zoo.train.batch_norm import GlobalBatchNorm

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason='torch was built without distributed')


def torchrun(processes: int, arguments: list[str]) -> subprocess.CompletedProcess:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [sys.executable, '-m', 'torch.distributed.run', f'--nproc-per-node={processes}', f'--master-port={port}']
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}
    )


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 16, 'val': 4})


def recipe_of(data: Path, folder: Path, **kwargs) -> tuple:
    stages = {
        'classifier': ClassifierConfig(epochs=1, batch_size=8),
        'decoder': DecoderConfig(epochs=2, batch_size=8, accumulate=kwargs.pop('accumulate', 1), size_weight=0.1),
    }
    config = train_config(data, **stages, **kwargs)
    path = folder / 'recipe.json'
    path.write_text(json.dumps(config.to_dict()))
    return config, ['-m', 'fcam_zoo', 'train', str(data), '--recipe', str(path), '--quiet', '-o']


def test_two_processes_train_the_same_model_as_one(data, tmp_path):
    config, arguments = recipe_of(data, tmp_path)
    done = torchrun(2, [*arguments, str(tmp_path / 'two')])
    assert done.returncode == 0, done.stderr[-3000:]
    train(config, tmp_path / 'one', quiet=True)
    # Sums are ordered differently; training amplifies the differences of the last bits.
    for stage, terms, tolerance in (('classifier', ['ce'], 1e-4), ('decoder', ['partial_ce', 'crf', 'size'], 1e-2)):
        one, two = ((tmp_path / n / stage / 'metrics.jsonl').read_text().splitlines() for n in ('one', 'two'))
        for a, b in zip(map(json.loads, one), map(json.loads, two), strict=True):
            assert [a[k] for k in terms] == pytest.approx([b[k] for k in terms], rel=tolerance)
            assert a['val']['cls'] == b['val']['cls']
    one, two = (load_file(tmp_path / n / 'classifier' / 'best.safetensors') for n in ('one', 'two'))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4, msg=key)
    # Resuming the finished run in one process changes nothing.
    assert train(config, tmp_path / 'two', resume=True, quiet=True)['decoder'].last.epoch == 2


def test_failing_process_stops_all(data, tmp_path):
    for path in (data / 'images').rglob('train_3.png'):
        (tmp_path / 'kept').write_bytes(path.read_bytes())
        path.write_bytes(b'not an image')
        _, arguments = recipe_of(data, tmp_path)
        done = torchrun(2, [*arguments, str(tmp_path / 'run')])
        path.write_bytes((tmp_path / 'kept').read_bytes())
    assert done.returncode != 0
    assert 'train_3.png' in done.stderr
    assert '--skip-bad' in done.stderr
    # The other process prints one line instead of a traceback.
    assert 'another process ended early' in done.stderr
    assert '[rank0]: Traceback' not in done.stderr
    assert '[rank1]: Traceback' not in done.stderr


def test_bad_images_of_all_processes_are_reported(tmp_path):
    data = make_wsol(tmp_path / 'shapes', {'train': 8})
    bad = ['square/train_4.png', 'disc/train_5.png', 'disc/train_7.png']
    for image_id in bad:
        (data / 'images' / image_id).write_bytes(b'not an image')
    _, arguments = recipe_of(data, tmp_path, skip_bad=True)
    done = torchrun(2, [*arguments, str(tmp_path / 'run')])
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert sorted(summary['decoder']['bad']) == sorted(bad)


def test_global_batch_norm_in_one_process_is_batch_norm():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 5, 6, generator=generator, requires_grad=True)
    norms = [torch.nn.BatchNorm2d(3) for _ in range(2)]
    for norm in norms:
        norm.load_state_dict({**norms[0].state_dict(), 'weight': torch.tensor([1.0, 2, 3]), 'bias': torch.arange(3.0)})
    want = norms[0](x)
    with GlobalBatchNorm():
        found = norms[1](x)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(norms[1].running_var, norms[0].running_var)
    weight = torch.randn(want.shape, generator=generator)
    a, b = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (want, found))
    torch.testing.assert_close(b, a)
    norms[1].eval()
    want = norms[1](x)
    with GlobalBatchNorm():
        assert torch.equal(norms[1](x), want)
