"""Released weights: loaded by every name, verified, and refused when altered."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors import safe_open

import fcam_zoo
from fcam_zoo import _index
from fcam_zoo.errors import UnknownModelError, WeightsError
from fcam_zoo.hub.facts import facts_of_release
from fcam_zoo.models.names import hub_names

ROOT = Path(__file__).parents[1]
RELEASED = fcam_zoo.list_models(pretrained=True)


def classifier_of(name: str, shared: Path) -> dict[str, Path]:
    """Arguments to load a model offline: a decoder-only release needs the weights of its classifier."""
    entry = fcam_zoo.hub.index()[name]
    if entry.holds_backbone:
        return {}
    path = shared / 'data' / 'backbones' / f'{entry.backbone}.safetensors'
    if not path.is_file():
        pytest.skip(f'{path.name} is missing')
    return {'backbone_checkpoint': path}


@pytest.mark.parametrize('name', RELEASED)
def test_released_model_loads_by_every_name(name, shared):
    x, classifier = torch.rand(1, 3, 224, 224), classifier_of(name, shared)
    model = fcam_zoo.create_model(name, pretrained=True, **classifier)
    with torch.no_grad():
        expected = model(x)
        by_timm = timm.create_model(name, pretrained=True, **classifier).eval()(x)
        group = next(g for g, members in hub_names().items() if name in members)
        by_torch_hub = torch.hub.load(str(ROOT), group, source='local', pretrained=True, **classifier)
    assert expected.maps.shape == (1, 2, 224, 224)
    torch.testing.assert_close(by_timm.maps, expected.maps)
    assert by_torch_hub.num_classes == model.num_classes
    assert model.threshold == fcam_zoo.hub.index()[name].model_args['threshold']
    assert len(model.pretrained_cfg['label_names']) == model.num_classes
    with pytest.raises(WeightsError, match='num_classes'):
        fcam_zoo.create_model(name, pretrained=True, num_classes=model.num_classes + 1)


@pytest.mark.parametrize('name', RELEASED)
def test_released_file_is_float16_safetensors_without_pickle(name):
    entry = fcam_zoo.hub.index()[name]
    path = fcam_zoo.hub.verify(name)
    assert path.suffix == '.safetensors'
    model = fcam_zoo.create_model(name)
    with safe_open(path, 'pt') as f:
        part = '' if entry.holds_backbone else 'decoder.'
        assert set(f.keys()) == {key for key in model.state_dict() if key.startswith(part)}
        for key in f.keys() & dict(model.named_parameters()).keys():
            assert f.get_tensor(key).dtype == torch.float16
    for field in ('dataset', 'teacher', 'metrics', 'license', 'sha256', 'size'):
        assert getattr(entry, field)
    assert {'val', 'test', 'val_last_epoch', 'test_last_epoch'} <= entry.metrics.keys()


def test_weights_stay_small():
    assert sum(f.stat().st_size for f in _index.weights_dir().iterdir()) < 30 * 2**20


@pytest.fixture
def private_weights(tmp_path, monkeypatch):
    """A copy of the weights folder that a test may modify."""
    if not RELEASED:
        pytest.skip('nothing released')
    folder = tmp_path / 'weights'
    shutil.copytree(_index.weights_dir(), folder)
    monkeypatch.setattr(_index, 'weights_dir', lambda: folder)
    _index.index.cache_clear()
    yield folder
    monkeypatch.undo()
    _index.index.cache_clear()


def test_altered_truncated_missing_weights_are_refused(private_weights):
    name = RELEASED[0]
    path = private_weights / fcam_zoo.hub.index()[name].file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match='altered'):
        fcam_zoo.create_model(name, pretrained=True)
    path.write_bytes(content[:-10])
    with pytest.raises(WeightsError, match='truncated'):
        fcam_zoo.create_model(name, pretrained=True)
    path.unlink()
    with pytest.raises(WeightsError, match='missing'):
        fcam_zoo.create_model(name, pretrained=True)


def test_damaged_index_is_named(private_weights):
    (private_weights / 'index.json').write_text('[{"name"')
    with pytest.raises(WeightsError, match=r'index\.json is damaged'):
        fcam_zoo.hub.verify('anything')


def test_unreleased_name_is_refused():
    with pytest.raises(UnknownModelError, match='no released weights'):
        fcam_zoo.hub.verify('fcam_resnet50.cam_cub')


def test_hubconf_exposes_entry_points_only():
    spec = importlib.util.spec_from_file_location('hubconf', ROOT / 'hubconf.py')
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    public = {n for n, v in vars(hubconf).items() if callable(v) and not n.startswith('_')}
    assert public == set(hub_names())
    assert all('.' not in name and getattr(hubconf, name).__doc__ for name in public)
    missing = [d for d in hubconf.dependencies if importlib.util.find_spec(d) is None]
    assert not missing


def test_save_and_load_keep_the_maps(tmp_path):
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3, output_stride=8, threshold=0.3)
    model = model.to(memory_format=torch.channels_last).eval()
    x = torch.rand(1, 3, 64, 64)
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'm')
    again = fcam_zoo.create_model(f'local-dir:{tmp_path / "m"}')
    torch.testing.assert_close(again(x).maps, model(x).maps)
    assert again.threshold == 0.3
    by_timm = timm.create_model(f'local-dir:{tmp_path / "m"}', pretrained=True).eval()
    torch.testing.assert_close(by_timm(x).maps, model(x).maps)
    config = json.loads((tmp_path / 'm' / 'config.json').read_text())
    assert config['architecture'] == 'fcam'
    assert config['model_args']['output_stride'] == 8


def test_folder_without_safetensors_is_refused(tmp_path):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3)
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'm')
    (tmp_path / 'm' / 'model.safetensors').rename(tmp_path / 'm' / 'pytorch_model.bin')
    with pytest.raises(FileNotFoundError, match=r'no model\.safetensors'):
        fcam_zoo.create_model(f'local-dir:{tmp_path / "m"}')


def test_the_best_teacher_of_a_group_is_first(monkeypatch):
    def entry(mean):
        return SimpleNamespace(metrics={'val': {'fcam': {'mean': mean}}})

    scores = {'fcam_resnet50.cam_cub': entry(60.0), 'fcam_resnet50.layercam_cub': entry(70.0)}
    monkeypatch.setattr(_index, 'index', lambda: scores)
    group = hub_names()['fcam_resnet50_cub']
    assert group[:2] == ['fcam_resnet50.layercam_cub', 'fcam_resnet50.cam_cub']
    assert len(group) == len(fcam_zoo.cams.METHODS)


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3)

    def fail(*_args, **_kwargs):
        raise OSError('No space left on device')

    monkeypatch.setattr('fcam_zoo.hub.save.save_file', fail)
    with pytest.raises(OSError, match='No space'):
        fcam_zoo.hub.save_pretrained(model, tmp_path / 'm')
    assert list((tmp_path / 'm').iterdir()) == []


def test_facts_of_a_release_that_started_from_a_model_name_its_network():
    (name,) = fcam_zoo.list_models('*075*cub50', pretrained=True)
    recipe = facts_of_release(name)['recipe']
    assert 'init' not in recipe
    assert (recipe['backbone'], recipe['decoder_type'], recipe['output_stride']) == (
        'mobilenetv1_075.tf_in1k',
        'fpn',
        None,
    )
