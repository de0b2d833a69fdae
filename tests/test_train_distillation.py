"""Distillation: classifiers that teach the classifier in training, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import make_wsol, train_config

import fcam_zoo
from fcam_zoo.data import TrainTransform, WSOLDataset
from fcam_zoo.errors import SettingsError, TrainingError
from fcam_zoo.hub.facts import public_recipe
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig, train
from fcam_zoo.train.distillation import distillation, open_ensemble

SIDE = 64


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 16, 'val': 4})


def save_teacher(folder, names, seed=1, backbone='test_resnet', bias=0.0):
    torch.manual_seed(seed)
    model = fcam_zoo.create_model('fcam', backbone=backbone, num_classes=len(names))
    head = model.get_classifier()
    torch.nn.init.normal_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.linspace(0, bias, len(names)))
    model.pretrained_cfg['label_names'] = names
    fcam_zoo.hub.save_pretrained(model, folder)
    return f'local-dir:{folder}'


def config(data, teacher, **settings):
    classifier = ClassifierConfig(epochs=2, batch_size=8, teacher=teacher, **settings)
    return train_config(data, classifier=classifier, decoder=DecoderConfig(epochs=0))


def ensemble_of(data, teacher, **settings):
    images = WSOLDataset(data, 'train', TrainTransform(SIDE), ground_truth=False)
    return open_ensemble(config(data, teacher, **settings), images)


def test_distillation_is_the_scaled_divergence_and_its_gradient_the_difference_of_probabilities():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(3, 4, generator=generator, dtype=torch.float64).div(3).softmax(1)
    loss = distillation(logits, teacher, 3.0)
    z = np.exp(logits.detach().numpy() / 3)
    q, p = z / z.sum(1, keepdims=True), teacher.numpy()
    assert loss.item() == pytest.approx(9 * (p * np.log(p / q)).sum(1).mean())
    loss.backward()
    # d/dz T^2 KL(p, softmax(z / T)) = T (q - p), averaged over the 3 images.
    assert np.allclose(logits.grad.numpy(), 3 * (q - p) / 3)
    assert distillation(logits, (logits / 3).softmax(1).detach(), 3.0).item() == pytest.approx(0, abs=1e-12)


def test_probabilities_are_averaged_by_class_name_at_the_side_of_each_teacher(data, tmp_path):
    one = save_teacher(tmp_path / 'one', ['square', 'disc'])
    # It knows more classes, in another order.
    two = save_teacher(tmp_path / 'two', ['cross', 'disc', 'square'], seed=2, bias=2.0)
    ensemble = ensemble_of(data, [one, two], teacher_sizes=[SIDE, 96])
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    found = ensemble.probabilities(images, 2.0)

    expected = []
    for name, side, classes in ((one, SIDE, [0, 1]), (two, 96, [2, 1])):
        model = fcam_zoo.create_model(name).eval()
        mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ('mean', 'std'))
        x = torch.from_numpy(np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)))
        logits = model((((x.permute(2, 0, 1) / 255) - mean) / std)[None]).logits
        expected.append((logits[:, classes] / 2).softmax(1))
    assert torch.allclose(found, sum(expected) / 2, atol=0.01)
    assert not torch.allclose(expected[0], expected[1], atol=0.05)
    assert not found.requires_grad


def test_a_student_learns_the_opinion_of_its_teacher(data, tmp_path):
    """The teacher calls everything a disc; with a weight of 1, the labels do not count."""
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    with torch.no_grad():
        model.get_classifier().weight.zero_()
        model.get_classifier().bias.copy_(torch.tensor([0.0, 3.0]))
    model.pretrained_cfg['label_names'] = ['square', 'disc']
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'teacher')
    settings = config(data, f'local-dir:{tmp_path / "teacher"}', teacher_weight=1.0, temperature=1.0)
    train(settings, tmp_path / 'run', quiet=True)
    first, last = map(json.loads, (tmp_path / 'run' / 'classifier' / 'metrics.jsonl').read_text().splitlines())
    assert first['ce'] == last['ce'] == 0
    assert last['distillation'] < 0.5 * first['distillation']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'teacher': 'a', 'teacher_sizes': [64, 96]}, 'teacher_sizes has 2 sides for 1 teachers'),
        ({'teacher_sizes': [64]}, 'teacher_sizes has 1 sides for 0 teachers'),
        ({'teacher': 'a', 'teacher_weight': 1.5}, 'classifier.teacher_weight'),
        ({'teacher': 'a', 'temperature': 0.0}, 'classifier.temperature'),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises((SettingsError, ValueError), match=message):
        TrainConfig.from_dict({'classifier': settings})


def test_teachers_that_do_not_fit(data, tmp_path):
    other = save_teacher(tmp_path / 'other', ['square', 'cross'])
    with pytest.raises(TrainingError, match='lacks 1 of 2 classes, the first disc'):
        train(config(data, other), tmp_path / 'run', quiet=True)
    fits = save_teacher(tmp_path / 'fits', ['square', 'disc'])
    with pytest.raises(TrainingError, match='leave out num_classes=5'):
        train(config(data, fits).replace({'num_classes': 5}), tmp_path / 'run', quiet=True)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        train(config(data, f'local-dir:{tmp_path / "nowhere"}'), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


def test_published_recipes_have_no_place_of_this_machine():
    public = public_recipe({'classifier': {'teacher': ['local-dir:/place/runs/a/best', 'local-dir:/place/b'], 'lr': 1}})
    assert public['classifier'] == {'teacher': ['local-dir:a/best', 'local-dir:b'], 'lr': 1}


def test_teachers_are_not_opened_without_a_stage_that_uses_them(data):
    images = WSOLDataset(data, 'train', TrainTransform(SIDE), ground_truth=False)
    classifier = ClassifierConfig(epochs=0, teacher='not-a-model')
    for decoder in (DecoderConfig(epochs=1), DecoderConfig(epochs=0, classification_weight=0.5)):
        settings = train_config(data, classifier=ClassifierConfig(epochs=1), decoder=decoder)
        settings.classifier = classifier
        assert open_ensemble(settings, images) is None
