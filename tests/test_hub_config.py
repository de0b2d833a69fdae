"""A config.json that is damaged or hostile: one clear error before a model is built, whatever it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fcam_zoo
from fcam_zoo import hub
from fcam_zoo.errors import FcamZooError


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(0)
    return hub.save_pretrained(fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3), tmp_path / 'm')


@pytest.mark.parametrize(
    ('part', 'changes', 'message'),
    [
        (None, {'label_names': 'abc'}, 'label_names must be a list of names'),
        (None, {'label_names': ['a', {}, None]}, 'label_names must be a list of names'),
        (None, {'weights': {'size': 'many', 'sha256': None}}, 'must have size and sha256'),
        ('model_args', {'threshold': float('nan')}, 'threshold=nan: this cannot be'),
        ('model_args', {'threshold': 7}, 'threshold=7: this cannot be'),
        ('model_args', {'threshold': None}, 'threshold=None: this cannot be'),
        ('model_args', {'backbone': None}, 'backbone=None: this cannot be'),
        ('model_args', {'backbone_kwargs': {'act_layer': 'evil'}}, 'does not take these arguments: .*evil'),
        ('pretrained_cfg', {'mean': 'grey'}, 'mean=grey: this cannot be'),
        ('pretrained_cfg', {'mean': [float('nan')] * 3}, 'mean=.nan'),
        ('pretrained_cfg', {'std': [0, 0, 0]}, r'std=.0, 0, 0.: this cannot be'),
        ('pretrained_cfg', {'input_size': [3, 10**6, 10**6]}, 'input_size=.3, 1000000'),
        ('pretrained_cfg', {'input_size': []}, 'input_size=..: this cannot be'),
        ('pretrained_cfg', {'label_names': 5}, 'label_names must be a list of names'),
    ],
)
def test_a_config_that_cannot_be_is_refused(folder, part, changes, message):
    config = json.loads((folder / 'config.json').read_text())
    (config[part] if part else config).update(changes)
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(FcamZooError, match=message) as caught:
        fcam_zoo.create_model(f'local-dir:{folder}')
    assert '\n' not in str(caught.value)
