"""A damaged or hostile config.json gives one clear error before a model is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fcam_zoo
from fcam_zoo import hub
from fcam_zoo.errors import FcamZooError, HubError, UnknownModelError, WeightsError
from fcam_zoo.models.zoo import hub_names


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
        ('model_args', {'threshold': float('nan')}, 'threshold is nan: give a number from 0 to 1'),
        ('model_args', {'threshold': 7}, 'threshold is 7: give'),
        ('model_args', {'threshold': None}, 'threshold is None'),
        ('model_args', {'backbone': None}, 'backbone is None: give a timm name'),
        ('model_args', {'backbone_kwargs': {'act_layer': 'evil'}}, 'does not support these arguments: .*evil'),
        ('pretrained_cfg', {'mean': 'gray'}, 'invalid mean=gray'),
        ('pretrained_cfg', {'mean': [float('nan')] * 3}, 'mean=.nan'),
        ('pretrained_cfg', {'std': [0, 0, 0]}, r'invalid std=.0, 0, 0.'),
        ('pretrained_cfg', {'input_size': [3, 10**6, 10**6]}, 'input_size=.3, 1000000'),
        ('pretrained_cfg', {'input_size': []}, 'invalid input_size=..'),
        ('pretrained_cfg', {'label_names': 5}, 'label_names must be a list of names'),
    ],
)
def test_an_invalid_config_is_refused(folder, part, changes, message):
    config = json.loads((folder / 'config.json').read_text())
    (config[part] if part else config).update(changes)
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(FcamZooError, match=message) as caught:
        fcam_zoo.create_model(f'local-dir:{folder}')
    assert '\n' not in str(caught.value)


def test_a_folder_that_only_looks_cached_is_not_removed(folder):
    """Other tools use the same folder names; only a download may be removed, since it can be downloaded again."""
    own = folder.rename(folder.parent / 'snapshots').rename(folder.parent / ('0' * 40))
    (folder.parent / 'snapshots').mkdir()
    own = own.rename(folder.parent / 'snapshots' / own.name)
    weights = own / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(WeightsError, match='truncated') as caught:
        fcam_zoo.create_model(f'local-dir:{own}')
    assert 'cache' not in str(caught.value)
    assert weights.exists()


def test_all_name_forms_are_accepted(loopback, folder):
    pinned = hub.push_to_hub(hub.from_pretrained(folder), 'org/tiny')
    for name in (f'local-dir:{folder}', 'org/tiny', 'hf-hub:org/tiny', f'hf_hub:{pinned}'):
        assert hub.from_pretrained(name).num_classes == 3
    assert hub.pull(f'hf-hub:{pinned}') == hub.pull('org/tiny')
    with pytest.raises(HubError, match='or the path of an existing folder'):
        hub.from_pretrained('runs/birds/best')
    with pytest.raises(UnknownModelError, match='unknown model'):
        hub.from_pretrained('nosuch')


@pytest.mark.parametrize('name', fcam_zoo.list_models(pretrained=True))
def test_short_names_are_verified(name):
    if hub.index()[name].hf_hub_id:
        pytest.skip('on the Hub')
    group = next(g for g, members in hub_names().items() if name in members)
    assert hub.verify(group) == hub.verify(hub_names()[group][0])
