"""Model names: parsed into parts, and written from them."""

from __future__ import annotations

import pytest

from fcam_zoo._index import ModelName
from fcam_zoo.errors import UnknownModelError


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
