"""The recipe that a release writes: all settings that repeat a training, and never over a file written by hand."""

from __future__ import annotations

import re
import shlex

import pytest

import fcam_zoo
from fcam_zoo import _index
from fcam_zoo.cli import build_parser
from fcam_zoo.cli.train import settings_of
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TeacherConfig, TrainConfig
from fcam_zoo.train.run import claim_folder
from tools.recipes import write_recipe

NAME, BASE = 'fcam_mobilenetv1_025.layercam_shapes', 'test_resnet.r160_in1k'


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """An empty folder of recipes of released models."""
    monkeypatch.setattr(_index, 'RELEASED_RECIPES', tmp_path / 'recipes')
    return tmp_path / 'recipes'


def settings(tmp_path, **changes) -> TrainConfig:
    values = {
        'data': str(tmp_path / 'shapes'),
        'backbone': 'test_resnet',
        'seed': 3,
        'workers': 0,
        'device': 'cpu',
        'classifier': ClassifierConfig(epochs=2, lr=1e-9, crop_scale=[0.4, 1.0]),
        'decoder': DecoderConfig(epochs=1, dense=[0.1, 0.3]),
    }
    return TrainConfig(**{**values, **changes})


def write(tmp_path, config: TrainConfig, **options) -> tuple[str, TrainConfig]:
    """Write the recipe of a run with these settings, and return its text and what its command sets."""
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    claim_folder(tmp_path / 'runs' / 'one', config, model)
    write_recipe(NAME, tmp_path / 'runs' / 'one', BASE, **options)
    path = _index.recipe_path(NAME)
    text = path.read_text()
    (command,) = re.findall(r'^#   fcam-zoo (train .*)$', text, re.MULTILINE)
    words = shlex.split(command.replace(f'--recipe {NAME}', f'--recipe {path}'))
    return text, settings_of(build_parser('train').parse_args(words))


def machine(config: TrainConfig) -> dict[str, object]:
    """Return the settings of the machine of a training, to compare the others."""
    return {name: getattr(config, name) for name in ('data', 'workers', 'device', 'annotations')}


def test_the_command_repeats_the_training(tmp_path, recipes):
    text, found = write(tmp_path, config := settings(tmp_path))
    assert found == config.replace(machine(found) | {'backbone_checkpoint': f'{BASE}.safetensors'})
    assert f'#   fcam-zoo train shapes/ -o runs/one --recipe {NAME} --backbone-checkpoint {BASE}.safetensors\n' in text
    assert 'other trainings' not in text
    assert str(tmp_path) not in text


def test_other_trainings_keep_their_whole_names(tmp_path, recipes):
    runs = tmp_path / 'runs'
    config = settings(
        tmp_path,
        init=['runs/a/last', str(runs / 'b' / 'best')],
        annotations=str(tmp_path / 'shapes' / 'boxes' / '{split}.csv'),
        teacher=TeacherConfig(method='fcam', model=[f'local-dir:{runs / "c" / "last"}', 'fcam_mobilenetv1_075_cub50']),
        classifier=ClassifierConfig(epochs=1, teacher='runs/d/best'),
    )
    text, found = write(tmp_path, config)
    assert found.init == ['runs/a/last', 'runs/b/best']
    assert found.teacher.model == ['runs/c/last', 'fcam_mobilenetv1_075_cub50']
    assert found.classifier.teacher == 'runs/d/best'
    assert found.annotations == 'shapes/boxes/{split}.csv'
    assert found.backbone_checkpoint is None
    assert '# Paths of runs/ are other trainings, which must be finished first.\n' in text
    assert str(tmp_path) not in text
    outside = config.replace({'init': [str(tmp_path / 'elsewhere' / 'best')]})
    with pytest.raises(ValueError, match=r'init is .*elsewhere.* which is not in .*runs: move that training there'):
        write(tmp_path, outside, overwrite=True)


def test_a_file_written_by_hand_is_kept(tmp_path, recipes, caplog):
    text, _ = write(tmp_path, settings(tmp_path))
    recipes.joinpath(f'{NAME}.yaml').write_text(by_hand := f'# By hand.\n{text}')
    assert write(tmp_path, settings(tmp_path))[0] == by_hand
    assert not caplog.messages
    other = settings(tmp_path, seed=4, decoder=DecoderConfig(epochs=2, dense=[0.1, 0.3]))
    assert write(tmp_path, other)[0] == by_hand
    (message,) = caplog.messages
    assert f'{NAME}.yaml is kept, but differs from the training in seed, decoder.epochs: ' in message
    text, found = write(tmp_path, other, overwrite=True)
    assert (found.seed, found.decoder.epochs) == (4, 2)
    assert 'By hand' not in text
