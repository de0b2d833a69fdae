"""The epochs that a training chooses for a small data set, and the settings and metrics that it records and logs."""

from __future__ import annotations

import json
import logging
from datetime import date

import pytest
from synthetic import make_folder, make_wsol
from synthetic import train_config as config

import fcam_zoo
from fcam_zoo.cli import build_parser, main
from fcam_zoo.cli.train import stages_without_epochs
from fcam_zoo.errors import TrainingError
from fcam_zoo.hub import save_pretrained
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig, plan, sweep, train
from fcam_zoo.train.collapse import enough_epochs
from fcam_zoo.train.plan import images_per_class

TINY = ['--backbone', 'test_resnet', '--output-stride', '8', '--set', 'image_size=64', '--workers', '0']


@pytest.mark.parametrize(
    ('options', 'recipe', 'stages'),
    [
        ([], None, ['classifier', 'decoder']),
        (['--epochs', '7'], None, []),
        (['--classifier-epochs', '7'], None, ['decoder']),
        (['--set', 'decoder.epochs=15'], None, ['classifier']),
        (['--sweep', 'decoder.epochs=5,15'], None, ['classifier']),
        (['--sweep', 'decoder.erosion=5,15'], None, ['classifier', 'decoder']),
        ([], 'fcam_resnet50_cub', []),
        ([], 'fcam_mobilenetv1_075_cub50', []),
        ([], 'decoder:\n  lr: 0.01\n  epochs: 15\n', ['classifier']),
        (['--epochs', '3'], 'teacher: cam\n', []),
    ],
)
def test_only_epochs_that_nobody_gave_are_chosen(options, recipe, stages, tmp_path):
    if recipe:
        if '\n' in recipe:
            (tmp_path / 'recipe.yaml').write_text(recipe)
            recipe = tmp_path / 'recipe.yaml'
        options = [*options, '--recipe', str(recipe)]
    assert stages_without_epochs(build_parser('train').parse_args(['train', 'x', '-o', 'y', *options])) == stages


@pytest.mark.parametrize(
    ('images', 'epochs'),
    [
        (1, {'classifier.epochs': 150, 'decoder.epochs': 150}),
        (40, {'classifier.epochs': 150, 'decoder.epochs': 30}),
        (100, {'classifier.epochs': 50}),
        (1000, {}),
    ],
)
def test_a_stage_gets_at_least_150_steps(images, epochs):
    count = {'classifier': images, 'decoder': images}.__getitem__
    found = enough_epochs(TrainConfig(), ('classifier', 'decoder'), count, False)
    assert found == epochs
    enough = TrainConfig().replace(found)
    assert enough_epochs(enough, ('classifier', 'decoder'), count, False) == {}
    skipped = TrainConfig(classifier=ClassifierConfig(epochs=0))
    assert 'classifier.epochs' not in enough_epochs(skipped, ('classifier', 'decoder'), count, False)


@pytest.mark.parametrize(('counts', 'text'), [({'cat': 3, 'dog': 20}, '3 (cat) to 20'), ({'cat': 3, 'dog': 3}, '3')])
def test_images_per_class(counts, text):
    assert images_per_class(counts) == text


def test_the_chosen_epochs_are_planned_recorded_and_resumed(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr('fcam_zoo.train.collapse.FEW_STEPS', 4)
    monkeypatch.setattr('fcam_zoo.train.setup.FEW_STEPS', 4)
    data, run = make_folder(tmp_path / 'photos', {'train': 8}), tmp_path / 'run'
    arguments = ['train', str(data), '-o', str(run), *TINY, '--classifier-epochs', '0', '--batch-size', '8']
    # The default is enough for the decoder, and kept.
    assert main([*arguments, '--dry-run']) == 0
    assert 'decoder: 15 epochs of 1 steps of 8 images' in capsys.readouterr().out
    monkeypatch.setattr('fcam_zoo.train.collapse.FEW_STEPS', 16)
    assert main([*arguments, '--dry-run']) == 0
    assert 'decoder: 16 epochs of 1 steps of 8 images' in capsys.readouterr().out
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert main(arguments) == 0
    assert sum('decoder.epochs=16, for at least' in line for line in caplog.messages) == 1
    assert TrainConfig.from_file(run / 'config.json').decoder.epochs == 16
    # Resume keeps them, also when another number would be chosen now.
    monkeypatch.setattr('fcam_zoo.train.collapse.FEW_STEPS', 20)
    assert main([*arguments, '--resume']) == 0
    assert TrainConfig.from_file(run / 'config.json').decoder.epochs == 16
    assert main([*arguments, '--resume', '--decoder-epochs', '20']) == 1
    assert 'decoder.epochs (was 16, now 20)' in capsys.readouterr().err


def test_python_has_the_epochs_that_it_gives(tmp_path, monkeypatch):
    monkeypatch.setattr('fcam_zoo.train.collapse.FEW_STEPS', 3)
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    stages = {'classifier': ClassifierConfig(epochs=0), 'decoder': DecoderConfig(epochs=1, batch_size=8)}
    assert 'decoder: 1 epochs' in plan(config(data, **stages), tmp_path / 'run')
    assert 'decoder: 3 epochs' in plan(config(data, **stages), tmp_path / 'run', ['decoder'])
    assert train(config(data, **stages), tmp_path / 'one', quiet=True)['decoder'].last.epoch == 1
    summary = train(config(data, **stages), tmp_path / 'three', quiet=True, auto_epochs=['decoder'])
    assert summary['decoder'].last.epoch == 3
    sweep(config(data, **stages), tmp_path / 'swept', {'decoder.erosion': [5, 7]}, quiet=True, auto_epochs=['decoder'])
    assert TrainConfig.from_file(tmp_path / 'swept' / 'decoder.erosion=5' / 'config.json').decoder.epochs == 3


def test_config_has_the_network_of_init(tmp_path):
    data, init, run = make_folder(tmp_path / 'photos', {'train': 8}), tmp_path / 'init', tmp_path / 'run'
    model = fcam_zoo.create_model(
        'fcam', backbone='test_resnet', num_classes=2, decoder_type='fpn', backbone_kwargs={'drop_rate': 0.1}
    )
    save_pretrained(model, init)
    stages = {'classifier': ClassifierConfig(epochs=0), 'decoder': DecoderConfig(epochs=1, batch_size=8)}
    started = TrainConfig(data=data, init=init, image_size=64, workers=0, **stages)
    train(started, run, quiet=True)
    saved = json.loads((run / 'config.json').read_text())
    network = {key: saved[key] for key in ('backbone', 'output_stride', 'decoder_type', 'backbone_kwargs')}
    assert network == {
        'backbone': 'test_resnet',
        'output_stride': None,
        'decoder_type': 'fpn',
        'backbone_kwargs': {'drop_rate': 0.1},
    }
    for settings in (started, TrainConfig.from_file(run / 'config.json')):
        train(settings, run, resume=True, quiet=True)
    # As a recipe, with init and without it.
    train(TrainConfig.from_file(run / 'config.json'), tmp_path / 'again', quiet=True)
    new = TrainConfig.from_file(run / 'config.json').replace({'init': None})
    train(new, tmp_path / 'new', quiet=True)
    assert fcam_zoo.create_model(tmp_path / 'new' / 'best').model_args['decoder_type'] == 'fpn'
    with pytest.raises(TrainingError, match='differs in init'):
        train(new, run, resume=True, quiet=True)


@pytest.mark.parametrize(
    ('make', 'text'),
    [
        (
            lambda root: make_folder(root, {'train': 8}),
            (
                'there is no val split; classifier: the last epoch; decoder: best epoch by image labels only, on '
                'images of train: the probability of the label with the background removed'
            ),
        ),
        (
            lambda root: make_folder(root, {'train': 8, 'val': 4}),
            (
                'val has no boxes or masks; classifier: best epoch by accuracy on val; decoder: best epoch by image '
                'labels only, on images of val: the probability of the label with the background removed'
            ),
        ),
        (
            lambda root: make_wsol(root, {'train': 8, 'val': 4}),
            (
                'val has boxes; classifier: best epoch by accuracy on val; decoder: best epoch by mean of MaxBoxAcc '
                'at IoU 30, 50 and 70 on val, threshold by its boxes'
            ),
        ),
    ],
)
def test_what_selects_the_epoch_is_said_once(make, text, tmp_path, caplog):
    stages = {'classifier': ClassifierConfig(epochs=1), 'decoder': DecoderConfig(epochs=1, batch_size=8)}
    settings = config(make(tmp_path / 'photos'), **stages)
    assert f'images; {text}\n' in plan(settings, tmp_path / 'run')
    with caplog.at_level(logging.INFO):
        train(settings, tmp_path / 'run', quiet=True)
    assert [line for line in caplog.messages if 'val' in line and 'images/s' not in line] == [
        f'{text} (docs/training.md)'
    ]


def test_the_accuracy_on_training_images_is_logged(tmp_path, caplog):
    data = make_folder(tmp_path / 'photos', {'train': 16})
    stages = {'classifier': ClassifierConfig(epochs=8, batch_size=8, lr=0.02), 'decoder': DecoderConfig(epochs=0)}
    with caplog.at_level(logging.INFO):
        train(config(data, **stages), tmp_path / 'run', quiet=True)
    rows = map(json.loads, (tmp_path / 'run' / 'classifier' / 'metrics.jsonl').read_text().splitlines())
    found = [row['train_accuracy'] for row in rows]
    assert all(0 <= value <= 100 for value in found)
    assert found[-1] >= 75
    assert f'; accuracy on augmented training images: {found[-1]:.1f}; ' in caplog.text


@pytest.mark.parametrize(
    ('make', 'metric', 'selection'),
    [
        (
            lambda root: make_folder(root, {'train': 8}),
            ('train', 'probability of the label without background: '),
            'best epoch by image labels only',
        ),
        (
            lambda root: make_wsol(root, {'train': 8, 'val': 4}),
            ('val', 'MaxBoxAcc: F-CAM '),
            'best epoch by mean of MaxBoxAcc at IoU 30, 50 and 70 on val, threshold by its boxes',
        ),
    ],
)
def test_info_of_a_trained_model(make, metric, selection, tmp_path, capsys):
    stages = {'classifier': ClassifierConfig(epochs=1), 'decoder': DecoderConfig(epochs=2, batch_size=8)}
    summary = train(config(make(tmp_path / 'photos'), **stages), tmp_path / 'run', quiet=True)
    assert main(['info', str(tmp_path / 'run' / 'best')]) == 0
    card = {line[:12].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}
    best, version = summary['decoder'].best_epoch, fcam_zoo.__version__
    assert card['training'].startswith(
        f'classifier epoch 1 of 1, decoder epoch {best} of 2, fcam_zoo {version}, {date.today().year}-'
    )
    assert (card['data'], card['teacher'], card['classes'][:2]) == ('photos, 8 training images', 'layercam', '2:')
    assert card[metric[0]].startswith(metric[1])
    assert selection in card['threshold']
    facts = json.loads((tmp_path / 'run' / 'last' / 'config.json').read_text())
    assert facts['selection'] == 'the last epoch'
    (values,) = facts['metrics'].values()
    assert values == {'fcam': summary['decoder'].last.val}
