"""What every WSOL method keeps to in training: resume, mixed precision, processes, dry runs, and clear errors."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from synthetic import make_wsol
from test_train_distributed import torchrun
from wsol_nets import config_of

import fcam_zoo
from fcam_zoo import wsol
from fcam_zoo._catalog import WSOL_METHODS
from fcam_zoo.cli import main
from fcam_zoo.data import open_dataset
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TeacherConfig, TrainConfig, train
from fcam_zoo.train.loop import StageRun
from fcam_zoo.train.setup import build_model

FIT_ALL = ('has', 'cutmix')
# Their draws per batch are not those of one process.
DRAW_PER_PROCESS = ('cutmix', 'adl', 'danet')
WITH_LAYERS = [n for n, kind in wsol.METHODS.items() if 'layers' in {own.name for own in fields(kind.Settings)}]

# Trains in the processes of torchrun with each recipe, into the folder beside it. Dropout is off, since its draws are
# not those of one process.
TWO_PROCESSES = """
import sys
import torch.nn.functional as F
from fcam_zoo._distributed import process_group
from fcam_zoo.train import TrainConfig, train

F.dropout = lambda x, *args, **kwargs: x
with process_group('cpu'):
    for recipe in sys.argv[1:]:
        train(TrainConfig.from_file(recipe), recipe.removesuffix('.json'), quiet=True)
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return make_wsol(tmp_path_factory.mktemp('wsol') / 'shapes', {'train': 8, 'val': 2})


def small_config(data: Path, name: str, decoder_epochs: int = 1, **kwargs) -> TrainConfig:
    """Return a config of two steps per stage on images so small that float16, which is slow on CPUs, takes seconds."""
    method = config_of(data, name).classifier.method
    return config_of(
        data,
        name,
        DecoderConfig(epochs=decoder_epochs, batch_size=4),
        classifier=ClassifierConfig(epochs=1, batch_size=4, method=method),
        teacher=TeacherConfig(method='cam'),
        image_size=32,
        **kwargs,
    )


@pytest.fixture(scope='module', params=WSOL_METHODS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope='module')
def run(data, name, tmp_path_factory) -> Path:
    """A finished training of both stages with the method, in float32."""
    folder = tmp_path_factory.mktemp(name) / 'run'
    train(small_config(data, name), folder, quiet=True)
    return folder


def first_epoch(run: Path) -> dict[str, float]:
    """Return the terms of the loss of the classifier in its first epoch."""
    row = json.loads((run / 'classifier' / 'metrics.jsonl').read_text().splitlines()[0])
    return {key: row[key] for key in row if key not in ('epoch', 'seconds', 'images_per_second', 'val')}


def test_interrupted_and_resumed_is_bit_identical(data, name, run, tmp_path, monkeypatch):
    config = small_config(data, name, checkpoint_minutes=1e-9)
    step, count = StageRun.step, 0

    def stopping(self, *args):
        nonlocal count
        count += 1
        # Before the second step of each stage.
        if count in (2, 5):
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(StageRun, 'step', stopping)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / 'parts', resume=resume, quiet=True)
    train(config, tmp_path / 'parts', resume=True, quiet=True)
    whole, parts = (load_file(folder / 'best' / 'model.safetensors') for folder in (run, tmp_path / 'parts'))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_loaded_model_is_the_trained_one(data, name, run):
    config = small_config(data, name)
    trained = build_model(config, open_dataset(data, 'train', ground_truth=False)).eval()
    trained.load_state_dict(load_file(run / 'decoder' / 'best.safetensors'))
    loaded = fcam_zoo.create_model(f'local-dir:{run / "best"}').eval()
    saved = json.loads((run / 'config.json').read_text())
    assert saved['classifier']['method'] == loaded.config.method == wsol.complete_settings(config.classifier.method)
    x, labels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 0])
    assert torch.equal(loaded.cam(x, labels), trained.cam(x, labels))
    assert torch.equal(loaded(x).logits, trained(x).logits)
    assert torch.equal(loaded.fcam(x), trained.fcam(x))


@pytest.mark.parametrize('amp', ['bfloat16', 'float16'])
def test_mixed_precision_is_close_to_float32(data, name, run, tmp_path, monkeypatch, amp):
    # At the default scale of 2^16, the first gradients of CSTN overflow in float16, which skips a step.
    monkeypatch.setattr(torch.amp, 'GradScaler', partial(torch.amp.GradScaler, init_scale=2.0**10))
    config = small_config(data, name, amp=amp)
    train(config, tmp_path / 'run', quiet=True)
    assert first_epoch(tmp_path / 'run') == pytest.approx(first_epoch(run), rel=0.02, abs=0.01)
    start = build_model(config, open_dataset(data, 'train', ground_truth=False))
    trained = load_file(tmp_path / 'run' / 'best' / 'model.safetensors')
    assert all(value.dtype != getattr(torch, amp) for value in trained.values())
    assert any(not torch.equal(trained[f'backbone.{key}'], value) for key, value in start.backbone.named_parameters())


def test_dry_run_times_the_steps_and_writes_nothing(data, name, tmp_path, capsys):
    recipe = tmp_path / 'recipe.json'
    recipe.write_text(json.dumps(small_config(data, name).to_dict()))
    assert main(['train', str(data), '-o', str(tmp_path / 'run'), '--recipe', str(recipe), '--dry-run']) == 0
    found = capsys.readouterr().out
    assert all(f'{stage}: 1 epochs of 2 steps of 4 images' in found for stage in ('classifier', 'decoder'))
    assert list(tmp_path.iterdir()) == [recipe]


def test_two_processes_train_as_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr(F, 'dropout', lambda x, *args, **kwargs: x)
    names = [name for name in WSOL_METHODS if name not in DRAW_PER_PROCESS]
    recipes, script = [tmp_path / f'{name}.json' for name in names], tmp_path / 'two.py'
    script.write_text(TWO_PROCESSES)
    for name, recipe in zip(names, recipes):
        recipe.write_text(json.dumps(small_config(data, name, decoder_epochs=0).to_dict()))
    done = torchrun(2, [str(script), *map(str, recipes)])
    assert done.returncode == 0, done.stderr[-3000:]
    for name in names:
        train(small_config(data, name, decoder_epochs=0), tmp_path / f'{name}_one', quiet=True)
        one, two = tmp_path / f'{name}_one', tmp_path / name
        assert first_epoch(one) == pytest.approx(first_epoch(two), rel=1e-3, abs=1e-4), name
        one, two = (load_file(folder / 'classifier' / 'best.safetensors') for folder in (one, two))
        for key, value in one.items():
            # Sums in another order; the bank of I2C and its counts are among the weights.
            torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4, msg=f'{name}: {key}')
    assert load_file(tmp_path / 'i2c' / 'classifier' / 'best.safetensors')['method.counter'].tolist() == [2, 2]


def failing(arguments: list[str], run: Path, capsys) -> str:
    """Run the command with wrong settings, and return its only line of output."""
    assert main(['train', *arguments, '-o', str(run), '--quiet']) == 1
    out, error = capsys.readouterr()
    assert out == ''
    assert error.count('\n') == 1
    assert not run.exists()
    return error


@pytest.mark.parametrize('name', [name for name in WSOL_METHODS if name not in FIT_ALL])
def test_another_kind_of_backbone_gives_one_error(data, name, tmp_path, capsys):
    other, kind = ('test_resnet', 'ResNet') if name == 'ts_cam' else ('test_vit', 'VisionTransformer')
    needed = 'a vision transformer with a class token' if name == 'ts_cam' else 'a convolutional network'
    error = failing([str(data), '--backbone', other, '--method', name], tmp_path / 'run', capsys)
    assert error.startswith(f'fcam-zoo: error: {wsol.METHODS[name].title} needs {needed}, and {kind} is another')
    assert 'choose another backbone' in error


@pytest.mark.parametrize('name', WITH_LAYERS)
def test_an_unknown_layer_gives_one_error(data, name, tmp_path, capsys):
    layers = ['--set', 'classifier.method.layers=["layer3", "layer9"]']
    error = failing([str(data), '--backbone', 'test_resnet', '--method', name, *layers], tmp_path / 'run', capsys)
    title = wsol.METHODS[name].title
    assert error == f"fcam-zoo: error: {title}: the backbone has no layer 'layer9': name one of its modules\n"
