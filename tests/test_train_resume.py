"""A run that is killed at any moment and resumed gives the same bits as an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from synthetic import make_wsol, train_config

from fcam_zoo.errors import TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig, train
from fcam_zoo.train.checkpoint import Progress
from fcam_zoo.train.loop import StageRun

# Runs the command and, after a number of calls, sends itself a signal during a step or while writing a file.
KILLED = """
import os, sys
from fcam_zoo.cli import main
from fcam_zoo.train import checkpoint, loop

data, recipe, folder, place, calls, number = sys.argv[1:]
calls, number = int(calls), int(number)
module, name = {'step': (loop.StageRun, 'step'), 'write': (checkpoint, 'save_file')}[place]
real, count = getattr(module, name), 0

def dying(*args, **kwargs):
    global count
    count += 1
    if count > calls:
        if place == 'write':
            open(args[1], 'wb').write(b'half a file')
        if count == calls + 1:
            os.kill(os.getpid(), number)
    return real(*args, **kwargs)

setattr(module, name, dying)
sys.exit(main(['train', data, '-o', folder, '--recipe', recipe]))
"""


def run_killed(recipe: Path, folder: Path, place: str, calls: int, number: int) -> subprocess.CompletedProcess:
    data = json.loads(recipe.read_text())['data']
    arguments = [data, str(recipe), str(folder), place, str(calls), str(int(number))]
    # The same number of threads as in this process, since it changes the order of sums.
    env = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())}
    return subprocess.run([sys.executable, '-c', KILLED, *arguments], capture_output=True, text=True, env=env)


@pytest.fixture(scope='module')
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('resume')
    data = make_wsol(folder / 'shapes', {'train': 24, 'val': 4})
    config = train_config(
        data,
        # Save a state after every step, to resume within an epoch too.
        checkpoint_minutes=1e-9,
        backbone_kwargs={'drop_rate': 0.1},
        classifier=ClassifierConfig(
            epochs=1,
            batch_size=8,
            optimizer='adamw',
            lr=1e-3,
            head_lr=1e-2,
            warmup_epochs=0.5,
            cutmix=0.5,
            average=0.9,
        ),
        # The size term changes with the epoch.
        decoder=DecoderConfig(epochs=2, batch_size=8, size_weight=0.1),
    )
    path = folder / 'recipe.json'
    path.write_text(json.dumps(config.to_dict()))
    return path


@pytest.fixture(scope='module')
def whole(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('whole') / 'run'
    train(TrainConfig.from_file(recipe), folder, quiet=True)
    return folder


def assert_same(whole: Path, parts: Path) -> None:
    for which in ('best', 'last'):
        a, b = (load_file(folder / which / 'model.safetensors') for folder in (whole, parts))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
    for stage in ('classifier', 'decoder'):
        a, b = ([json.loads(row) for row in (f / stage / 'metrics.jsonl').open()] for f in (whole, parts))
        for row in (*a, *b):
            del row['seconds'], row['images_per_second']
        assert a == b


@pytest.mark.parametrize(('place', 'calls'), [('step', 1), ('step', 5), ('write', 0), ('write', 3), ('write', 8)])
def test_killed_and_resumed_is_bit_identical(recipe, whole, tmp_path, place, calls):
    done = run_killed(recipe, tmp_path / 'run', place, calls, signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL, done.stderr
    train(TrainConfig.from_file(recipe), tmp_path / 'run', resume=True, quiet=True)
    assert_same(whole, tmp_path / 'run')


@pytest.mark.parametrize(('number', 'calls'), [(signal.SIGINT, 1), (signal.SIGTERM, 4), (signal.SIGINT, 8)])
def test_interrupted_and_resumed_is_bit_identical(recipe, whole, tmp_path, number, calls):
    slow = tmp_path / 'recipe.json'
    slow.write_text(json.dumps(json.loads(recipe.read_text()) | {'checkpoint_minutes': 60.0, 'workers': 1}))
    done = run_killed(slow, tmp_path / 'run', 'step', calls, number)
    assert done.returncode == 130, done.stderr
    assert 'Traceback' not in done.stderr
    assert '--resume' in done.stderr
    train(TrainConfig.from_file(slow), tmp_path / 'run', resume=True, quiet=True)
    assert_same(whole, tmp_path / 'run')


def test_resuming_a_finished_run_changes_nothing(recipe, whole):
    before = (whole / 'decoder' / 'state.safetensors').stat().st_mtime_ns
    summary = train(TrainConfig.from_file(recipe), whole, resume=True, quiet=True)
    assert summary['decoder'].last.epoch == 2
    assert (whole / 'decoder' / 'state.safetensors').stat().st_mtime_ns == before


def test_float16_can_be_resumed_before_its_first_update(tmp_path, monkeypatch):
    # The gradients overflow in all steps, which the scaler skips, so the optimizer has no state.
    monkeypatch.setattr(torch.amp, 'GradScaler', partial(torch.amp.GradScaler, init_scale=2.0**60))
    data = make_wsol(tmp_path / 'shapes', {'train': 4, 'val': 2})
    # Float16 is slow on CPUs.
    small = {'image_size': 32, 'amp': 'float16', 'checkpoint_minutes': 1e-9}
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=2), 'decoder': DecoderConfig(epochs=0)}
    config = train_config(data, **small, **stages)
    train(config, tmp_path / 'whole', quiet=True)
    step, count = StageRun.step, 0

    def stopping(self, *args):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(StageRun, 'step', stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / 'parts', quiet=True)
    train(config, tmp_path / 'parts', resume=True, quiet=True)
    whole, parts = (load_file(tmp_path / run / 'last' / 'model.safetensors') for run in ('whole', 'parts'))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_states_of_earlier_versions_can_be_resumed():
    progress = Progress(epoch=1, best_epoch=1, best_score=50.0)
    assert Progress.from_json(json.dumps(json.loads(progress.to_json()) | {'stage': {'t': 1.01}})) == progress


def test_a_setting_that_earlier_versions_ignored_is_left_out_once(tmp_path, caplog):
    """They allowed decoder.classifier_lr without joint training, where it is an error now."""
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    config = train_config(data, classifier=ClassifierConfig(epochs=0), decoder=DecoderConfig(epochs=1, batch_size=8))
    run = tmp_path / 'run'
    want = train(config, run, quiet=True)
    old = json.loads((run / 'config.json').read_text())
    old['decoder']['classifier_lr'] = 5e-4
    (run / 'config.json').write_text(json.dumps(old))
    text = 'decoder.classifier_lr=0.0005 is left out: it has no effect without decoder.classification_weight'
    for _ in range(2):
        assert train(config, run, resume=True, quiet=True) == want
        assert [message.endswith(text) for message in caplog.messages if 'classifier_lr' in message] == [True]
    # Joint training uses it.
    old['decoder']['classification_weight'] = 1.0
    (run / 'config.json').write_text(json.dumps(old))
    with pytest.raises(TrainingError, match=r'differs in decoder\.classifier_lr .* decoder\.classification_weight|'
                       r'differs in decoder\.classification_weight .* decoder\.classifier_lr'):  # fmt: skip
        train(config, run, resume=True, quiet=True)
