"""The recipe of a training that starts from an F-CAM, which teaches the decoder together with the new classifier."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from synthetic import make_wsol, train_config

import fcam_zoo
from fcam_zoo._catalog import FINE_TUNE, GENERAL_MODEL
from fcam_zoo.data import EvalTransform, TrainTransform, WSOLDataset, normalize
from fcam_zoo.errors import SettingsError, TrainingError
from fcam_zoo.hub.facts import public_recipe, teacher_of, teacher_text
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TeacherConfig, TrainConfig, train
from fcam_zoo.train.setup import build_model
from fcam_zoo.train.teacher import open_teacher
from fcam_zoo.train.teacher_maps import stored_maps

SIDE = 64
TEACHER = TeacherConfig(['fcam', 'layercam'], ['init', None], 'geometric_mean')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 8, 'val': 4})


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """An F-CAM of other classes."""
    torch.manual_seed(1)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3)
    model.pretrained_cfg['label_names'] = ['a', 'b', 'c']
    torch.nn.init.normal_(model.decoder.head.weight)
    folder = tmp_path_factory.mktemp('start')
    fcam_zoo.hub.save_pretrained(model, folder)
    return str(folder)


def config_of(data, start, **changes):
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}
    return train_config(data, **{**stages, 'teacher': TEACHER, 'init': start, **changes})


def test_the_teacher_is_the_model_before_and_the_classifier_after_its_training(data, start, tmp_path):
    config = config_of(data, start)
    images = WSOLDataset(data, 'train', TrainTransform(SIDE), ground_truth=False)
    student = build_model(config, images).eval()
    teacher = open_teacher(config, images, student)
    # As after the classifier stage: other weights everywhere.
    torch.manual_seed(7)
    trained = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    student.load_state_dict(trained.state_dict())
    found = stored_maps(teacher, config, images, tmp_path, torch.device('cpu'), quiet=True)

    whole = WSOLDataset(data, 'train', EvalTransform(SIDE), ground_truth=False)
    pixels, labels = zip(*[whole[i][:2] for i in range(len(whole))])
    cfg = student.pretrained_cfg
    x = normalize(torch.stack(pixels), cfg['mean'], cfg['std'])
    with torch.no_grad():
        before = fcam_zoo.create_model(start, pretrained=True).eval().fcam(x).float()
    own = trained.eval().cam(x, torch.tensor(labels), 'layercam')
    expected = (before.reshape(own.shape).clamp(min=1e-3) * own.clamp(min=1e-3)).sqrt().numpy()
    maps = np.stack([found[i] for i in range(len(found))]) / 255
    assert np.abs(maps - expected).max() < 0.01
    assert np.abs(maps - own.numpy()).max() > 0.1


def test_stages_are_layers_counted_from_the_last(data, start):
    images = WSOLDataset(data, 'train', TrainTransform(SIDE), ground_truth=False)
    x, labels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1])
    pixels = (x * 255).to(torch.uint8)

    def maps(layers):
        config = config_of(data, start, teacher=TeacherConfig(layers=layers))
        return open_teacher(config, images, student).maps(pixels, labels)

    torch.manual_seed(4)
    student = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2).eval()
    assert torch.equal(maps([-2, -1]), maps(['layer3', 'layer4']))
    assert not torch.equal(maps([-2]), maps([-1]))
    with pytest.raises(TrainingError, match=r'teacher\.layers: test_resnet has no stage -9, only 5 stages'):
        maps([-9])


def test_recipe_from_the_training_to_the_model(data, start, tmp_path):
    """All settings of the packaged recipe, with a smaller network; a resumed run computes no map again."""
    small = {'data': str(data), 'init': start, 'image_size': SIDE, 'workers': 0, 'device': 'cpu'}
    stages = {'classifier.epochs': 1, 'classifier.batch_size': 4, 'decoder.epochs': 1, 'decoder.batch_size': 4}
    config = TrainConfig.from_file(FINE_TUNE).replace(small | stages)
    train(config, tmp_path / 'run', quiet=True)
    saved = json.loads((tmp_path / 'run' / 'best' / 'config.json').read_text())
    assert saved['teacher'] == 'layercam'
    stored = tmp_path / 'run' / 'teacher' / 'maps.npy'
    time = stored.stat().st_mtime_ns
    train(config.replace({'decoder.epochs': 1}), tmp_path / 'run', resume=True, quiet=True)
    assert stored.stat().st_mtime_ns == time


def test_recipe_starts_from_the_general_model():
    assert TrainConfig.from_file(FINE_TUNE).init == GENERAL_MODEL


def test_texts_of_the_teacher():
    recipe = {'teacher': asdict(TEACHER)}
    assert teacher_of(recipe) == 'layercam'
    assert teacher_text('layercam', public_recipe(recipe)) == (
        'fcam of the model it started from and layercam of its own classifier, consensus by their geometric mean'
    )
    packaged = public_recipe(TrainConfig.from_file(FINE_TUNE).to_dict())
    assert teacher_of(packaged) == 'layercam'
    assert teacher_text('layercam', packaged).startswith(
        f'fcam of {GENERAL_MODEL} and layercam of its own classifier, '
    )
    assert teacher_of(packaged, {'name': 'acol'}) == 'cam'


def test_a_classifier_with_its_own_map_teaches_with_it(data, tmp_path):
    """Its maps are those of its head, so the stages of the recipe do not apply."""
    torch.manual_seed(1)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, method='acol')
    model.pretrained_cfg['label_names'] = ['square', 'disc']
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'acol')
    teacher = TrainConfig.from_file(FINE_TUNE).teacher
    config = config_of(data, str(tmp_path / 'acol'), teacher=teacher)
    images = WSOLDataset(data, 'train', TrainTransform(SIDE), ground_truth=False)
    networks = open_teacher(config, images, build_model(config, images)).networks
    assert [network.method for network in networks] == ['fcam', 'cam']


def test_a_folder_with_the_name_of_a_released_model_is_not_the_model(data, tmp_path, monkeypatch):
    (tmp_path / GENERAL_MODEL).mkdir()
    monkeypatch.chdir(tmp_path)
    config = config_of(data, GENERAL_MODEL, image_size=SIDE)
    images = WSOLDataset(data, 'train', TrainTransform(SIDE), ground_truth=False)
    assert open_teacher(config, images, build_model(config, images)) is not None


@pytest.mark.parametrize(
    ('teacher', 'message'),
    [
        ({'layers': [0]}, r'teacher\.layers\[0\] is 0: give -1 for the last stage'),
        (
            {'method': ['fcam', 'fcam'], 'model': ['x', None]},
            r"teacher\.method is 'fcam' for the classifier in training",
        ),
        (
            {'method': 'layercam', 'model': 'init'},
            r"teacher\.model 'init' is the F-CAM that .* give teacher\.method='fcam'",
        ),
    ],
)
def test_refused_teachers(teacher, message):
    with pytest.raises(ValueError, match=message):
        TeacherConfig(**teacher)


def test_init_as_the_teacher_needs_a_model_to_start_from(tmp_path):
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('backbone: resnet18\nteacher: {method: fcam, model: init}\n')
    with pytest.raises(
        SettingsError, match=r"teacher\.model is 'init', and the training starts from no model: give init"
    ):
        TrainConfig.from_file(recipe)


def test_a_classifier_without_decoder_cannot_teach_one(data, start, tmp_path):
    first = config_of(data, start, decoder=DecoderConfig(epochs=0))
    train(first, tmp_path / 'first', quiet=True)
    again = config_of(data, str(tmp_path / 'first' / 'best'))
    with pytest.raises(TrainingError, match=r'trained without a decoder stage, .* give --teacher layercam'):
        train(again, tmp_path / 'again', quiet=True)
    assert not (tmp_path / 'again').exists()
