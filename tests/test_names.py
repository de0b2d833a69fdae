"""Model names: parsed into parts, and written from them."""

from __future__ import annotations

import pytest

import fcam_zoo
from fcam_zoo import _index
from fcam_zoo._index import ModelName
from fcam_zoo.errors import UnknownModelError
from fcam_zoo.models import names
from fcam_zoo.train import TrainConfig


@pytest.mark.parametrize(
    ('text', 'parts', 'hub_name'),
    [
        ('fcam_resnet50.cam_cub', ('fcam_resnet50', 'cam', 'cub', ''), 'fcam_resnet50_cub'),
        ('fcam_vgg16.ts_cam_cub', ('fcam_vgg16', 'ts_cam', 'cub', ''), 'fcam_vgg16_cub'),
        (
            'fcam_mobilenetv1_075_s8.layercam_cub50_seed1_long',
            ('fcam_mobilenetv1_075_s8', 'layercam', 'cub50', 'seed1_long'),
            'fcam_mobilenetv1_075_s8_cub50',
        ),
    ],
)
def test_name_is_split_and_joined(text, parts, hub_name):
    name = ModelName.parse(text)
    assert name == ModelName(*parts)
    assert str(name) == text
    assert name.tag == text.split('.')[1]
    assert name.hub_name == hub_name


@pytest.mark.parametrize(
    'text', ['', 'resnet50', 'fcam_resnet50', 'fcam_resnet50.cam', 'resnet50.cam_cub', 'fcam_x.a_b.c']
)
def test_other_text_is_refused(text):
    with pytest.raises(UnknownModelError, match=r'not a model name: use fcam_<backbone>\.<teacher>_<dataset>'):
        ModelName.parse(text)


@pytest.fixture
def one_of_025(monkeypatch):
    """An index with one model of the smallest architecture and two of the next one."""
    entries = {name: entry for name, entry in _index.index().items() if 'cub50' in name or 'pets3' in name}
    monkeypatch.setattr(_index, 'index', lambda: entries)


def test_short_names(one_of_025):
    assert names.full_name('fcam_mobilenetv1_025') == 'fcam_mobilenetv1_025.layercam_cub50'
    assert names.short_name('fcam_mobilenetv1_025.layercam_cub50') == 'fcam_mobilenetv1_025'
    assert names.short_name('fcam_mobilenetv1_075.layercam_cub50') == 'fcam_mobilenetv1_075_cub50'
    assert names.full_name('fcam_mobilenetv1_075') == 'fcam_mobilenetv1_075'
    for name in _index.index():
        assert names.released(names.short_name(name)).name == name
    with pytest.raises(UnknownModelError, match=r'several released models: choose one of fcam_mobilenetv1_075\.cam'):
        fcam_zoo.create_model('fcam_mobilenetv1_075', pretrained=True)


def test_architecture_with_one_model(one_of_025):
    assert fcam_zoo.create_model('fcam_mobilenetv1_025', pretrained=True).num_classes == 50
    # Without weights, the name is only the network.
    assert fcam_zoo.create_model('fcam_mobilenetv1_025', num_classes=7).num_classes == 7


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('mobilenetv1_075_cub50', 'fcam_mobilenetv1_075_cub50'),
        ('FCAM_MobileNetV1_075_CUB50', 'fcam_mobilenetv1_075_cub50'),
        ('fcam_resnet50.layercam_cbu', 'fcam_resnet50.layercam_cub'),
        ('pets3', 'fcam_mobilenetv1_075.cam_pets3'),
    ],
)
def test_near_misses_are_suggested(text, expected):
    assert expected in names.similar_names(text)
    for load in (fcam_zoo.create_model, fcam_zoo.hub.verify):
        with pytest.raises(UnknownModelError, match=rf'unknown model .* Did you mean .*{expected}.*\?'):
            load(text)


def test_far_misses_are_not(one_of_025):
    assert names.similar_names('') == names.similar_names('zq') == []
    assert len(names.similar_names('cub' * 10**6)) <= 3
    with pytest.raises(FileNotFoundError, match=r'fcam_resnet50_cbu does not exist.* Did you mean fcam_resnet50_cub'):
        TrainConfig.from_file('fcam_resnet50_cbu')
