"""Recipes, settings and run folders that are damaged or hostile: one error that names the file and how to continue."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from synthetic import make_folder, make_wsol, train_config

from fcam_zoo.cli import main
from fcam_zoo.errors import DatasetError, SettingsError, TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig, sweep, train
from fcam_zoo.train.checkpoint import Progress
from fcam_zoo.train.sweep import parse_sweeps, plan_runs

SHORT = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}
AGAIN = 'delete the folder of this stage and use --resume to train the stage again'


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """A finished run, and its data set `photos` beside it."""
    folder = tmp_path_factory.mktemp('hostile')
    data = make_folder(folder / 'photos', {'train': 4})
    train(train_config(data, **SHORT), folder / 'run', quiet=True)
    return folder / 'run'


def resume(run: Path, folder: Path) -> None:
    train(train_config(run.parent / 'photos', **SHORT), folder, resume=True, quiet=True)


def copied(path: Path) -> dict[str, torch.Tensor]:
    """Load tensors that do not depend on the file, which will be overwritten."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def edit_state(path: Path, edit: Callable[[dict, dict], object]) -> None:
    """Rewrite a state after an edit of its tensors and its progress."""
    with safe_open(path, 'pt') as f:
        progress = json.loads(f.metadata()['progress'])
    tensors = copied(path)
    changed = edit(tensors, progress)
    save_file(tensors, path, {'progress': changed if isinstance(changed, str) else json.dumps(progress)})


def set_to(name: str, value: object) -> Callable[[dict, dict], object]:
    return lambda tensors, progress: progress.__setitem__(name, value)


def with_first_tensor(change: Callable[[torch.Tensor], torch.Tensor], prefix: str) -> Callable[[dict, dict], object]:
    def edit(tensors: dict, progress: dict) -> None:
        name = next(k for k in tensors if k.startswith(prefix) and tensors[k].ndim == 4)
        tensors[name] = change(tensors[name])

    return edit


ROW = {'epoch': 1, 'ce': 1.0, 'seconds': 1.0, 'images_per_second': 1.0}
EDITS = {
    'epoch of text': set_to('epoch', '1'),
    'epoch too large': set_to('epoch', 10**9),
    'huge epoch': set_to('epoch', 10**400),
    'negative step': set_to('step', -1),
    'step beyond the end': set_to('step', 9),
    'best epoch beyond the end': set_to('best_epoch', 3),
    'no best epoch': set_to('best_epoch', 0),
    'no best score': set_to('best_score', None),
    'best score NaN': set_to('best_score', float('nan')),
    'history missing': lambda tensors, progress: progress.pop('history'),
    'history empty': set_to('history', []),
    'history of numbers': set_to('history', [1.0]),
    'history of lists': set_to('history', [[]]),
    'history without seconds': set_to('history', [{'epoch': 1}]),
    'history of another epoch': set_to('history', [ROW | {'epoch': 7, 'val': {'kept': 1.0}}]),
    'history with text': set_to('history', [ROW | {'ce': 'x'}]),
    'history without metrics': set_to('history', [ROW]),
    'history with other metrics': set_to('history', [ROW | {'val': {'x': 1.0}}]),
    'bad of text': set_to('bad', ['x']),
    'bad beyond the end': set_to('bad', [4]),
    'unknown field': set_to('sharpness', 1),
    'not a record': lambda tensors, progress: 'null',
    'not JSON': lambda tensors, progress: '{',
    'deep': lambda tensors, progress: '[' * 5000,
    'NaN weights': with_first_tensor(lambda t: t.fill_(float('nan')), 'model.'),
    'infinite momentum': with_first_tensor(lambda t: t.fill_(float('inf')), 'optimizer.'),
    'momentum that would broadcast': with_first_tensor(lambda t: t[:1, :1, :1, :1].contiguous(), 'optimizer.'),
    'weights of another shape': with_first_tensor(lambda t: t[:1].contiguous(), 'model.'),
    'weights of another type': with_first_tensor(lambda t: t.to(torch.int32), 'model.'),
    'a missing tensor': lambda tensors, progress: (
        tensors.pop(next(k for k in tensors if k.startswith('model.'))) and None
    ),
    'another tensor': lambda tensors, progress: tensors.update({'model.x': torch.zeros(1)}),
    'momentum of another parameter': lambda tensors, progress: tensors.update(
        {'optimizer.momentum_buffer.999': torch.zeros(1)}
    ),
}


@pytest.mark.parametrize('edit', EDITS.values(), ids=EDITS)
def test_edited_state_is_refused(run, tmp_path, edit):
    shutil.copytree(run, tmp_path / 'run')
    path = tmp_path / 'run' / 'decoder' / 'state.safetensors'
    edit_state(path, edit)
    with pytest.raises(TrainingError) as caught:
        resume(run, tmp_path / 'run')
    message = str(caught.value)
    assert message.startswith(f'{path} is damaged (')
    assert message.endswith(AGAIN)
    assert len(message) < 600
    assert message.isprintable()


def damage(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(path: Path) -> None:
        path.unlink()
        change(path)

    return replace


DAMAGES = {
    'missing': damage(lambda path: None),
    'a folder': damage(lambda path: path.mkdir()),
    'a pipe': damage(os.mkfifo),
    'truncated': lambda path: path.write_bytes(path.read_bytes()[:-50]),
    'empty': lambda path: path.write_bytes(b''),
    'a zip': lambda path: path.write_bytes(b'PK\x03\x04' + bytes(100)),
    'a header of 8 EiB': lambda path: path.write_bytes(b'\xff' * 7 + b'\x7f' + b'{}'),
    'without tensors': lambda path: save_file({}, path),
    'other tensors': lambda path: save_file({'x': torch.zeros(2)}, path),
    'NaN': lambda path: save_file({k: v * float('nan') if v.ndim else v for k, v in copied(path).items()}, path),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize('change', DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize('file', ['classifier/best', 'decoder/state'])
def test_damaged_weights_of_a_run_are_refused(run, tmp_path, file, change):
    shutil.copytree(run, tmp_path / 'run')
    path = tmp_path / 'run' / f'{file}.safetensors'
    change(path)
    if file == 'decoder/state' and not path.exists():  # The stage starts again.
        resume(run, tmp_path / 'run')
        return
    with pytest.raises(TrainingError) as caught:
        resume(run, tmp_path / 'run')
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith(AGAIN)
    assert message.isprintable()


def test_a_stage_whose_folder_was_deleted_is_trained_again(run, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run' / 'decoder')
    resume(run, tmp_path / 'run')
    a, b = (load_file(folder / 'best' / 'model.safetensors') for folder in (run, tmp_path / 'run'))
    assert all(torch.equal(a[k], b[k]) for k in a)


CONFIGS = {
    'not UTF-8': b'\xff\xfe{}',
    'cut': b'{"data": "x"',
    'deep': b'[' * 5000,
    'deep in a record': b'{"data": ' + b'[' * 5000,
    'a number of 5000 digits': b'{"seed": ' + b'9' * 5000 + b'}',
    'a list': b'[]',
    'a text': b'"x"',
    'empty': b'',
    'NaN': b'{"decoder": {"lr": NaN}}',
    'half of a character': b'{"data": "\\ud800"}',
}


@pytest.mark.parametrize('content', CONFIGS.values(), ids=CONFIGS)
def test_damaged_config_of_a_run_is_refused(run, tmp_path, content):
    shutil.copytree(run, tmp_path / 'run')
    (tmp_path / 'run' / 'config.json').write_bytes(content)
    with pytest.raises(
        TrainingError, match=r'config\.json is damaged or of another version .*choose another'
    ) as caught:
        resume(run, tmp_path / 'run')
    assert len(str(caught.value)) < 900
    assert str(caught.value).isprintable()


def test_files_and_folders_in_each_others_place(run, tmp_path):
    def refused(message: str, change: Callable[[Path], object]) -> None:
        shutil.rmtree(tmp_path / 'run', ignore_errors=True)
        shutil.copytree(run, tmp_path / 'run')
        change(tmp_path / 'run')
        with pytest.raises(TrainingError, match=message):
            resume(run, tmp_path / 'run')

    refused(r'config\.json is damaged', _replace('config.json', Path.mkdir))
    refused(r'config\.json is damaged', _replace('config.json', os.mkfifo))
    refused(r'without its config\.json: choose another', _replace('config.json', lambda path: None))
    refused('cannot be written', _replace('decoder', Path.touch))
    refused('cannot be written', _replace('best', Path.touch))
    refused('cannot be written', _replace('summary.json', Path.mkdir))


def _replace(name: str, create: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        create(path)

    return change


@pytest.mark.parametrize('name', ['x' * 300, 'a\0b'])
def test_run_folders_that_cannot_exist(run, tmp_path, name):
    with pytest.raises(TrainingError, match='cannot be written'):
        train(train_config(run.parent / 'photos', **SHORT), tmp_path / name, quiet=True)


def test_metrics_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
    data = make_folder(tmp_path / 'photos', {'train': 4})
    monkeypatch.setattr('fcam_zoo.train.loop.validate', lambda *_: {'kept': float('nan')})
    with pytest.raises(TrainingError, match=r'not finite after epoch 1: lower classifier\.lr'):
        train(train_config(data, **SHORT), tmp_path / 'run', quiet=True)


def test_progress_of_a_state_is_checked_without_a_run():
    for text in ('null', '[1.0]', '{"history": [1.0]}', '{"history": [{}]}', '{"history": {}}', '{"epoch": 1}', ''):
        with pytest.raises(ValueError, match=r'^(not valid JSON|the progress|the field history|history)'):
            Progress.from_json(text)


RECIPES = {
    'deep': ('[' * 5000, 'it is nested too deeply'),
    'deep JSON': ('{"a": ' + '[' * 5000, 'it is nested too deeply'),
    'a timestamp': ('seed: !!timestamp "x"', 'tags'),
    'a date': ('seed: 2001-01-01', "seed is '2001-01-01': give a whole number"),
    'an int': ('seed: !!int "a"', 'tags'),
    'a list': ('teacher: [cam]', r"teacher is \['cam'\]: give fields by name"),
    'an object': ('seed: !!python/object/apply:os.system ["true"]', 'tags'),
    'aliases': ('a: &x [1]\nb: *x', 'anchors'),
    'a merge': ('decoder:\n  <<: {lr: 1}', 'unknown field decoder.<<'),
    'a colon': ('seed: :', 'not valid YAML: mapping values are not allowed here'),
    'a number of 5000 digits': ('seed: ' + '9' * 5000, 'a number has thousands of digits'),
    'a large number': ('seed: ' + '9' * 50, 'seed is 9+...9+: give a whole number'),
    'a huge float': ('decoder:\n  lr: 1.0e+999', r'decoder\.lr is inf: give a number'),
    'a key that is a number': ('1: 2', 'unknown field 1'),
    'a key that is null': ('~: 2', 'unknown field None'),
    'a key that is a list': ('[1]: 2', 'not valid YAML'),
    'control characters': ('seed: \x07', 'not valid YAML'),
    'too long': ('# x\n' * 20_000, 'more than the limit of'),
    'a checkpoint': ('backbone_kwargs: {checkpoint_path: /x.pth}', 'checkpoint_path'),
    'a download': ('backbone_kwargs: {pretrained_cfg_overlay: {url: "http://x"}}', 'pretrained_cfg_overlay'),
    'a nested backbone': ('backbone_kwargs: {backbone: resnet18}', 'backbone'),
    'a wide decoder': ('decoder_channels: [65536]', r'decoder_channels\[0\] is 65536'),
    'many classes': ('num_classes: 999999999', 'num_classes is 999999999'),
    'a large image': ('image_size: 1000000', 'image_size is 1000000'),
    'a large square': ('decoder: {erosion: 1000001}', 'erosion is 1000001'),
    'many workers': ('workers: 1000000', 'workers is 1000000'),
    'many epochs': ('classifier: {epochs: 999999999}', 'epochs is 999999999'),
    'a rate that overflows': ('decoder: {lr: 1.0e+200}', r'decoder\.lr is 1e\+200: give a number from 1e-30 to 1e30'),
    'a rate near 0': ('classifier: {head_lr: 5.0e-324}', 'head_lr is 5e-324: give a number from 1e-30'),
    'a growing rate': ('decoder: {gamma: 1.0e+300}', r'decoder\.gamma is 1e\+300: give a number from 0 to 1'),
    'a weight that overflows': ('classifier: {weight_decay: 1.0e+200}', r'weight_decay is 1e\+200: give at most 1e30'),
    'a long name': (f'backbone: {"x" * 5000}', 'backbone is .x+.*: give text of at most 800 characters'),
    'a name of two lines': ('backbone: "a\\nb"', 'backbone is .*: give text of .* without control characters'),
    'long layers': (
        f'classifier: {{head_layers: [{"x" * 5000}]}}',
        r'head_layers\[0\] is .*: give text of at most 800',
    ),
    'a far shift': ('decoder: {shift: [1.0e+300, 0]}', r'shift\[0\] is 1e\+300'),
}


@pytest.mark.parametrize(('text', 'message'), RECIPES.values(), ids=RECIPES)
def test_hostile_recipes(tmp_path, capsys, text, message):
    path = tmp_path / 'recipe.yaml'
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        TrainConfig.from_file(path)
    assert main(['train', 'data', '-o', str(tmp_path / 'run'), '--recipe', str(path), '--dry-run']) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert line.isprintable()
    assert len(line) < 1000


@pytest.mark.timeout(20)
def test_recipes_that_are_not_files(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'bytes').write_bytes(b'seed: \xff')
    for name, message in (('', 'it is not a file'), ('pipe', 'it is not a file'), ('bytes', 'it is not UTF-8 text')):
        with pytest.raises(SettingsError, match=message):
            TrainConfig.from_file(tmp_path / name)
    with pytest.raises(SettingsError, match='cannot be read'):
        TrainConfig.from_file(tmp_path / ('x' * 300))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--set', 'decoder.lr=1' + '0' * 400], 'decoder.lr is 10'),
        (['--set', 'decoder.lr=' + '9' * 5000], "decoder.lr is '9"),
        (['--set', 'seed=' + '[' * 5000], "seed is '["),
        (['--set', 'decoder.lr=NaN'], "decoder.lr is 'NaN': give a number"),
        (['--set', 'decoder.lr=1e999'], 'decoder.lr is inf: give a number'),
        (['--set', '=1'], 'write KEY=VALUE'),
        (['--set', 'a\nb'], r"'a\nb': write KEY=VALUE"),
        (['--set', 'a\nb=1'], r"unknown field 'a\nb'"),
        (['--set', 'x' * 10**5], 'write KEY=VALUE'),
        (['--set', 'decoder.lr.x=1'], 'unknown setting'),
        (['--set', 'decoder=1'], 'decoder is 1: give fields by name'),
        (['--set', 'backbone_kwargs={"checkpoint_path": "x"}'], 'checkpoint_path'),
        (['--sweep', 'x' * 10**5], 'write KEY=V1,V2'),
        (['--sweep', 'decoder.lr'], 'write KEY=V1,V2'),
        (['--sweep', '=1'], 'write KEY=V1,V2'),
        (['--sweep', 'decoder.lr=0.1,,0.2'], 'write KEY=V1,V2'),
    ],
)
def test_hostile_arguments(tmp_path, capsys, arguments, message):
    assert main(['train', 'data', '-o', str(tmp_path / 'run'), '--dry-run', *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert len(line) < 1000


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('decoder.lr=0.1,fast', r"decoder\.lr is 'fast': give a number"),
        ('decoder.lr=0.1,' + '9' * 5000, r"decoder\.lr is '9"),
        ('decoder.lr=0.1,' + '[' * 5000, r"decoder\.lr is '\["),
        ('decoder.lr=0.1,0.1', 'values of decoder.lr repeat'),
        ('decoder.lr=0.1,NaN', r"decoder\.lr is 'NaN'"),
        ('a\nb=1', r"unknown field 'a\\nb'"),
    ],
)
def test_hostile_sweeps(run, tmp_path, text, message):
    """Refused before training, also by --dry-run."""
    with pytest.raises(ValueError, match=message):
        sweep(train_config(run.parent / 'photos', **SHORT), tmp_path / 'run', parse_sweeps([text]), quiet=True)
    assert not (tmp_path / 'run').exists()


def test_folders_of_a_sweep_stay_in_its_folder():
    """A value can be a path, or longer than the name of a folder can be."""
    config = TrainConfig()
    values = ['local-dir:/a/../../b', '../' * 200, 'ä' * 300]
    names = [run.folder for run in plan_runs(config, {'init': values})]
    assert len(names) == 3
    assert all('/' not in name and name.startswith('init=') and len(name.encode()) < 200 for name in names)
    runs = plan_runs(config, {'decoder.shift': [[0, 1], [1, 0]], 'seed': [3]})
    assert [run.folder for run in runs] == ['decoder.shift=[0, 1],seed=3', 'decoder.shift=[1, 0],seed=3']


def test_labels_beyond_the_images_are_refused_before_a_model_is_built(tmp_path):
    data = make_wsol(tmp_path / 'shapes', {'train': 4})
    path = data / 'metadata' / 'train' / 'class_labels.txt'
    path.write_text(path.read_text().replace(',1', ',999999999'))
    with pytest.raises(DatasetError, match=r'class_labels\.txt, line 2: label 999999999 is too large'):
        train(train_config(data, **SHORT), tmp_path / 'run', quiet=True)
