"""A damaged or hostile config.json gives one clear error before a model is built."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.resnet import BasicBlock

import fcam_zoo
from fcam_zoo import hub
from fcam_zoo.errors import FcamZooError, HubError, UnknownModelError, WeightsError
from fcam_zoo.models.names import hub_names


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(0)
    return hub.save_pretrained(fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3), tmp_path / 'm')


PICKLE = '/nonexistent/weights.pth'


VIT = {'backbone': 'test_vit', 'decoder_channels': [8] * 4}


def nested(**inner) -> dict:
    return {'backbone': 'fcam', 'backbone_kwargs': {'backbone': 'test_resnet', **inner}}


def net(**arguments) -> dict:
    return {'backbone_kwargs': arguments}


@pytest.mark.parametrize(
    ('part', 'changes', 'message'),
    [
        (None, {'label_names': 'abc'}, "label_names is 'abc': give a list"),
        (None, {'label_names': ['a', {}, None]}, r'label_names\[1\] is {}: give text'),
        (None, {'label_names': ['a\nb']}, r'label_names\[0\] is .*: give one line of text'),
        (None, {'weights': {'size': 'many', 'sha256': None}}, "weights.size is 'many': give a whole number"),
        (None, {'weights': {'size': 1, 'sha256': '0'}}, "weights.sha256 is '0': give 64 hex digits"),
        (None, {'weights': {'size': 1}}, 'the field weights.sha256 is missing'),
        (None, {'holds': 'nothing'}, "holds is 'nothing': give '' or 'decoder'"),
        (None, {'num_classes': True}, 'num_classes is True'),
        # Paths, addresses and downloads, at every depth.
        ('model_args', {'backbone': 'fcam'}, 'an F-CAM cannot be a backbone'),
        ('model_args', {'backbone': 'fcam_resnet50.cam_cub'}, 'an F-CAM cannot be a backbone'),
        ('model_args', nested(backbone_kwargs={'checkpoint_path': PICKLE}), 'an F-CAM cannot be a backbone'),
        ('model_args', nested(backbone_checkpoint=PICKLE), 'an F-CAM cannot be a backbone'),
        ('model_args', nested(backbone_pretrained=True), 'an F-CAM cannot be a backbone'),
        ('model_args', {'backbone': 'hf-hub:org/evil'}, 'timm has no such model'),
        ('model_args', {'backbone': f'local-dir:{PICKLE}'}, 'timm has no such model'),
        (
            'model_args',
            {'backbone_pretrained': True},
            "model_args holds 'backbone_pretrained', which a file cannot set",
        ),
        ('model_args', {'backbone_checkpoint': PICKLE}, "model_args holds 'backbone_checkpoint'"),
        ('model_args', {'cache_dir': '/tmp'}, "model_args holds 'cache_dir'"),
        ('model_args', net(checkpoint_path=PICKLE), "backbone_kwargs holds 'checkpoint_path', which a file cannot set"),
        ('model_args', net(pretrained_cfg_overlay={'url': 'http://127.0.0.1:9/x'}), "holds 'pretrained_cfg_overlay'"),
        ('model_args', net(pretrained_cfg={'file': PICKLE}), "holds 'pretrained_cfg', which a file cannot set"),
        ('pretrained_cfg', {'url': 'http://127.0.0.1:9/x'}, "pretrained_cfg holds 'url', which a file cannot set"),
        ('pretrained_cfg', {'file': PICKLE}, "pretrained_cfg holds 'file', which a file cannot set"),
        ('pretrained_cfg', {'custom_load': True}, 'pretrained_cfg.custom_load is True: give False'),
        # Wrong types and ranges.
        ('model_args', {'threshold': float('nan')}, 'NaN is not a JSON number'),
        ('model_args', {'threshold': 7}, r'model_args.threshold is 7.0: give a number in \[0,1\)'),
        ('model_args', {'threshold': 1}, r'threshold is 1.0: give a number in \[0,1\)'),
        ('model_args', {'threshold': None}, 'threshold is None'),
        ('model_args', {'backbone': None}, 'backbone is None: give text'),
        ('model_args', {'in_chans': 2}, 'pretrained_cfg.mean must have one value for each of the 2 channels'),
        ('model_args', {'decoder_channels': [65536] * 5}, r'decoder_channels\[0\] is 65536: give a number from 1 to'),
        ('model_args', {'output_stride': 10**9}, 'output_stride is 1000000000'),
        ('model_args', net(act_layer='evil'), 'does not support these arguments: .*evil'),
        ('model_args', net(block=2), "backbone_kwargs holds 'block', which a file cannot set"),
        ('model_args', net(global_pool={}), "global_pool is {}: give '' or 'avg'"),
        ('model_args', net(layers=[60, 60, 60, 60]), 'give at most 160 blocks in all'),
        ('model_args', net(depth=5000), 'depth is 5000: give a number from 1 to 160'),
        ('model_args', net(img_size=[10**6, 10**6]), 'img_size'),
        ('model_args', net(drop_rate='0.1'), "drop_rate is '0.1': give a number"),
        ('model_args', {**VIT, **net(embed_dim=7, num_heads=3)}, 'does not support these arguments'),
        ('pretrained_cfg', {'mean': 'gray'}, "pretrained_cfg.mean is 'gray': give a list"),
        ('pretrained_cfg', {'mean': [0, 0]}, 'pretrained_cfg.mean must have one value for each of the 3 channels'),
        ('pretrained_cfg', {'std': [0, 0, 0]}, r'pretrained_cfg.std\[0\] is 0.0: give a number from 1e-06'),
        ('pretrained_cfg', {'input_size': [3, 8192, 8192]}, r'input_size\[1\] is 8192: give a number from 16 to 2048'),
        ('pretrained_cfg', {'input_size': [1]}, r'pretrained_cfg.input_size is \[1\]: give 3 values'),
        ('pretrained_cfg', {'fixed_input_size': True}, 'fixed_input_size is True: give False'),
        ('pretrained_cfg', {'classifier': 5}, 'pretrained_cfg.classifier is 5: give text'),
        ('pretrained_cfg', {'label_names': 5}, 'pretrained_cfg.label_names is 5: give a list'),
        ('pretrained_cfg', {'evil': 1}, "pretrained_cfg holds 'evil', which a file cannot set"),
    ],
)
def test_an_invalid_config_is_refused(folder, part, changes, message, monkeypatch):
    config = json.loads((folder / 'config.json').read_text())
    (config[part] if part else config).update(changes)
    (folder / 'config.json').write_text(json.dumps(config))
    for reach in ('torch.load', 'socket.socket.connect'):
        monkeypatch.setattr(reach, lambda *_args, **_kwargs: pytest.fail('the config reached a file or the network'))
    with pytest.raises(FcamZooError, match=message) as caught:
        fcam_zoo.create_model(f'local-dir:{folder}')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'backbone': 'vit_gigantic_patch14_clip_224.laion2b', 'decoder_channels': [8] * 4},
            'does not fit this FCAM: ',
        ),
        ({'backbone': 'vit_gigantic_patch14_clip_224.laion2b'}, 'json is damaged .decoder_channels has 5 blocks'),
        ({'backbone': 'resnet18', 'backbone_kwargs': {'layers': [40, 40, 40, 40]}}, 'does not fit this FCAM: '),
        ({'decoder_channels': [1024] * 5}, r'decoder.blocks.0.conv1.0.weight is \(.*\), the model has \(1024, '),
        ({**VIT, 'backbone_kwargs': {'embed_dim': 8192, 'num_heads': 1}}, 'does not fit this FCAM: '),
    ],
)
def test_a_network_larger_than_its_weights_is_not_allocated(folder, changes, message, monkeypatch):
    config = json.loads((folder / 'config.json').read_text())
    config['model_args'].update(changes)
    (folder / 'config.json').write_text(json.dumps(config))
    made = []
    allocate = torch.nn.Conv2d.reset_parameters

    def note(layer):
        made.append(layer.weight.device.type)
        allocate(layer)

    monkeypatch.setattr(torch.nn.Conv2d, 'reset_parameters', note)
    with pytest.raises(WeightsError, match=message):
        fcam_zoo.create_model(f'local-dir:{folder}')
    assert set(made) <= {'meta'}


def rewrite_weights(folder: Path, change) -> None:
    """Change the tensors of a model folder; its config then has no size and SHA-256."""
    state = load_file(folder / 'model.safetensors')
    save_file(change(state), folder / 'model.safetensors')
    config = json.loads((folder / 'config.json').read_text())
    del config['weights']
    (folder / 'config.json').write_text(json.dumps(config))


def with_value(value: float, dtype: torch.dtype):
    def change(state):
        key = 'decoder.head.weight'
        return {**state, key: torch.full_like(state[key], value, dtype=dtype)}

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (with_value(float('nan'), torch.float32), 'decoder.head.weight holds NaN or infinite values'),
        (with_value(float('inf'), torch.float16), 'decoder.head.weight holds NaN or infinite values'),
        (with_value(1e300, torch.float64), 'decoder.head.weight holds NaN or infinite values'),
        (with_value(1, torch.int64), 'decoder.head.weight has the type torch.int64'),
        (with_value(1, torch.complex64), 'decoder.head.weight has the type torch.complex64'),
        (lambda _state: {}, 'holds no tensors'),
        (lambda _state: {'a': torch.zeros(3)}, r'62 missing .*1 unexpected \(a\)'),
    ],
)
def test_weights_that_cannot_be_used_are_refused(folder, change, message):
    rewrite_weights(folder, change)
    with pytest.raises(WeightsError, match=message):
        fcam_zoo.create_model(f'local-dir:{folder}')


def test_loading_refused_weights_leaves_the_model_unchanged(folder):
    model = hub.from_pretrained(folder)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rewrite_weights(folder, with_value(float('nan'), torch.float32))
    with pytest.raises(WeightsError, match='NaN'):
        model.load_weights(folder / 'model.safetensors')
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_that_cannot_be_loaded_again_is_not_saved(folder, tmp_path):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', backbone_kwargs={'block': BasicBlock})
    with pytest.raises(WeightsError, match="backbone_kwargs holds 'block', which a file cannot set"):
        hub.save_pretrained(model, tmp_path / 'new')
    model = hub.from_pretrained(folder)
    with torch.no_grad():
        model.decoder.head.weight[0, 0] = 1e6
    with pytest.raises(WeightsError, match='holds NaN or infinite values in float16'):
        hub.save_pretrained(model, tmp_path / 'new', half=True)
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'evil': 1}, "pretrained_cfg holds 'evil', which a file cannot set"),
        ({'input_size': [3, 8192, 8192]}, r'input_size\[1\] is 8192'),
        ({'fixed_input_size': True}, 'fixed_input_size is True'),
    ],
)
@pytest.mark.parametrize('pretrained', [False, True])
def test_timm_refuses_an_invalid_config(folder, changes, message, pretrained):
    config = json.loads((folder / 'config.json').read_text())
    config['pretrained_cfg'].update(changes)
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        timm.create_model(f'local-dir:{folder}', pretrained=pretrained)


def test_a_pipe_is_not_read_as_weights(tmp_path):
    os.mkfifo(tmp_path / 'pipe.safetensors')
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    with pytest.raises(WeightsError, match='is not a file: give a safetensors file'):
        model.load_weights(tmp_path / 'pipe.safetensors')


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
