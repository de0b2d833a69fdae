"""The real client of the Hugging Face Hub against a Hub on the loopback interface: publish, load, pin, prune."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard, constants, hf_hub_download
from safetensors.torch import save_file

import fcam_zoo
from fcam_zoo import _index, hub
from fcam_zoo._weights import digest
from fcam_zoo.cli import main
from fcam_zoo.errors import HubError, TrainingError, WeightsError
from fcam_zoo.models import zoo

ROOT = Path(__file__).parents[1]
FACTS = {
    'backbone': 'test_resnet.r160_in1k',
    'dataset': {'title': 'Two Shapes', 'license': 'CC0-1.0', 'note': 'synthetic'},
    'teacher': 'layercam',
    'metrics': {
        'val': {'fcam': {'max_box_acc_50': 80.0, 'mean': 60.0}},
        'test': {'cam': {'max_box_acc_50': 50.0}, 'fcam': {'max_box_acc_50': 75.0, 'cls': 88.0}},
    },
    'epochs': {'decoder': {'best': 2, 'last': 3}},
    'selection': 'best epoch on val, by its boxes or masks',
    'recipe': {'seed': 0},
    'license': 'apache-2.0',
}


def tiny(seed: int = 0, **kwargs) -> fcam_zoo.FCAM:
    torch.manual_seed(seed)
    return fcam_zoo.create_model('fcam', backbone='test_resnet', **{'num_classes': 3, **kwargs}).eval()


def maps(model: torch.nn.Module) -> torch.Tensor:
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(x).maps


def test_published_model_loads_by_every_route(loopback, tmp_path):
    model = tiny(threshold=0.4)
    pinned = hub.push_to_hub(model, 'org/tiny', **FACTS)
    assert set(loopback.files('org/tiny')) == {'config.json', 'model.safetensors', 'README.md'}
    assert {h.get('authorization', h.get('Authorization')) for h in loopback.headers_of('POST', '/commit/main')} == {
        'Bearer hf_of_a_test'
    }
    for load in (
        lambda: fcam_zoo.create_model('hf-hub:org/tiny'),
        lambda: fcam_zoo.create_model(f'hf-hub:{pinned}', cache_dir=tmp_path / 'other'),
        lambda: hub.from_pretrained('org/tiny'),
        lambda: hub.from_pretrained(hub.pull('org/tiny')),
        lambda: timm.create_model('hf-hub:org/tiny', pretrained=True),
    ):
        again = load()
        torch.testing.assert_close(maps(again), maps(model), rtol=0, atol=0)
        assert again.threshold == 0.4
    assert fcam_zoo.create_model('hf-hub:org/tiny').pretrained_cfg['hf_hub_id'] == pinned
    assert not maps(timm.create_model('hf-hub:org/tiny')).equal(maps(model))  # timm needs pretrained=True


def test_a_model_published_by_timm_loads(loopback):
    model = tiny(output_stride=8)
    timm.models.push_to_hf_hub(model, 'org/by-timm', safe_serialization=True)
    assert 'weights' not in json.loads(loopback.files('org/by-timm')['config.json'])
    assert maps(fcam_zoo.create_model('hf-hub:org/by-timm')).equal(maps(model))
    again = hub.push_to_hub(fcam_zoo.create_model('hf-hub:org/by-timm', num_classes=4, reset_head=True), 'org/again')
    assert fcam_zoo.create_model(f'hf-hub:{again}').num_classes == 4


def test_card_has_front_matter_metrics_and_facts(loopback):
    hub.push_to_hub(tiny(), 'org/tiny', **FACTS)
    card = ModelCard(loopback.files('org/tiny')['README.md'].decode())
    data = card.data.to_dict()
    assert data['license'] == 'apache-2.0'
    assert data['library_name'] == 'fcam_zoo'
    assert data['pipeline_tag'] == 'image-segmentation'
    assert data['base_model'] == 'timm/test_resnet.r160_in1k'
    assert data['datasets'] == ['two-shapes']
    assert data['metrics'] == ['max_box_acc_50', 'mean', 'cls']
    assert {'timm', 'fcam'} <= set(data['tags'])
    measured = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert measured[('test', 'max_box_acc_50')] == 75.0
    assert len(measured) == 4
    config = json.loads(loopback.files('org/tiny')['config.json'])
    for said in (
        config['weights']['sha256'],
        'by its boxes or masks',
        'CC0-1.0',
        'epoch 2 of 3',
        '| test | cam | 50.0 | - | - |',
    ):
        assert said in card.text


def test_card_names_supervision_and_the_method(tmp_path):
    supervised = {'teacher': {'method': 'layercam', 'supervision': 5}}
    text = {}
    for name, method, recipe in (('weak', None, {'teacher': 'cam'}), ('few', 'has', supervised)):
        facts = FACTS | {'recipe': recipe, 'teacher': hub.facts.teacher_of(recipe)}
        folder = hub.write_repository(tiny(method=method), tmp_path / name, f'org/{name}', **facts)
        text[name] = (folder / 'README.md').read_text()
    assert 'Trained with image labels; boxes or masks of the validation split, if any, only' in text['weak']
    assert 'Method of the classifier' not in text['weak']
    assert 'Trained with image labels' not in text['few']
    assert 'The decoder was trained with boxes or masks of 5 images per class, the classifier with' in text['few']
    assert 'Method of the classifier: HaS (cell 44, rate 0.5). Teacher: boxes or masks of 5 images' in text['few']


def test_the_default_teacher_is_that_of_the_method():
    recipe = {'teacher': {'method': None}}
    assert hub.facts.teacher_of(recipe) == hub.facts.teacher_of(recipe, {'name': 'adl'}) == 'layercam'
    assert hub.facts.teacher_of(recipe, {'name': 'acol'}) == 'cam'
    assert hub.facts.teacher_text('cam', recipe) == 'cam'


def test_card_without_facts(loopback):
    hub.push_to_hub(tiny(), 'org/bare')
    text = loopback.files('org/bare')['README.md'].decode()
    assert 'None were measured' in text
    assert 'The recipe was not recorded' in text


def test_a_pinned_commit_stays_while_main_moves(loopback):
    first = hub.push_to_hub(tiny(0), 'org/tiny')
    second = hub.push_to_hub(tiny(1), 'org/tiny', message='Better')
    assert first != second
    assert maps(hub.from_pretrained(first)).equal(maps(tiny(0)))
    assert maps(hub.from_pretrained('org/tiny')).equal(maps(tiny(1)))
    assert maps(hub.from_pretrained('org/tiny', revision=first.split('@')[1])).equal(maps(tiny(0)))
    before = len(loopback.requests)
    fcam_zoo.create_model(f'hf-hub:{first}')
    assert len(loopback.requests) == before


def test_cached_models_need_no_network(loopback, tmp_path, monkeypatch):
    hub.push_to_hub(tiny(), 'org/tiny')
    with pytest.raises(HubError, match='not in the cache, and offline mode is on'):
        fcam_zoo.create_model('hf-hub:org/tiny', local_files_only=True)
    hub.pull('org/tiny')
    before = len(loopback.requests)
    again = fcam_zoo.create_model('hf-hub:org/tiny', local_files_only=True)
    assert len(loopback.requests) == before
    assert maps(again).equal(maps(tiny()))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert maps(fcam_zoo.create_model('hf-hub:org/tiny')).equal(maps(tiny()))
    with pytest.raises(HubError, match='offline mode is on'):
        fcam_zoo.create_model('hf-hub:org/tiny', cache_dir=tmp_path / 'empty')


def test_environment_reaches_a_fresh_process(loopback, tmp_path):
    """The client reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported."""
    hub.push_to_hub(tiny(), 'org/tiny')
    environment = {**os.environ, 'HF_ENDPOINT': loopback.endpoint, 'HF_HOME': str(tmp_path / 'home')}
    environment.pop('HF_HUB_OFFLINE', None)
    command = [sys.executable, '-m', 'fcam_zoo', 'pull', 'org/tiny']

    def pull(**more: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=ROOT, env={**environment, **more}, capture_output=True, text=True)

    cold = pull(HF_HUB_OFFLINE='1')
    assert cold.returncode == 1
    assert 'offline mode is on' in cold.stderr
    assert 'Traceback' not in cold.stderr
    online, warm = pull(), pull(HF_HUB_OFFLINE='1')
    assert online.returncode == warm.returncode == 0, online.stderr + warm.stderr
    assert str(tmp_path / 'home') in online.stdout
    assert online.stdout == warm.stdout


@pytest.fixture
def released(loopback, tmp_path, monkeypatch):
    """Add a tiny model on the Hub to the index, as fcam_resnet50.cam_cub; complete or decoder-only."""

    def release(model: fcam_zoo.FCAM, **options) -> _index.ReleaseEntry:
        pinned = hub.push_to_hub(model, 'org/release', half=True, **options)
        config = json.loads(loopback.files('org/release')['config.json'])
        entry = {
            **FACTS,
            **config['weights'],
            'name': 'fcam_resnet50.cam_cub',
            'hf_hub_id': pinned,
            'num_classes': model.num_classes,
            'class_names': [str(i) for i in range(model.num_classes)],
            'model_args': config['model_args'],
            'backbone': config['model_args']['backbone'],
        }
        folder = tmp_path / 'weights'
        folder.mkdir(exist_ok=True)
        (folder / 'index.json').write_text(json.dumps([entry]))
        monkeypatch.setattr(_index, 'weights_dir', lambda: folder)
        _index.index.cache_clear()
        return _index.index()[entry['name']]

    yield release
    monkeypatch.undo()
    _index.index.cache_clear()


def test_release_on_the_hub(released, loopback, tmp_path, capsys):
    entry = released(tiny())
    name = entry.name
    assert main(['weights', 'verify']) == 0
    assert 'not downloaded' in capsys.readouterr().out
    with pytest.raises(HubError, match='not in the cache'):
        hub.verify(name)
    model = fcam_zoo.create_model(name, pretrained=True)
    torch.testing.assert_close(maps(model), maps(tiny()), rtol=0.02, atol=0.02)
    path = hub.verify(name)
    assert main(['weights', 'path', name]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert hub.load_weights(name)['decoder.head.bias'].dtype == torch.float16
    assert zoo._location(entry) == {'hf_hub_id': entry.hf_hub_id, 'hf_hub_filename': 'model.safetensors'}
    assert main(['weights', 'list']) == 0
    assert str(path) in capsys.readouterr().out


def test_release_on_the_hub_is_verified(released, loopback):
    name = released(tiny()).name
    content = loopback.files('org/release')['model.safetensors']
    loopback.altered['model.safetensors'] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(WeightsError, match=r'altered.*removed from the cache'):
        fcam_zoo.create_model(name, pretrained=True)
    loopback.altered.clear()
    fcam_zoo.create_model(name, pretrained=True)


class _Timm:
    """Replaces timm's download of backbone weights, and counts its calls."""

    def __init__(self, monkeypatch) -> None:
        torch.manual_seed(7)
        self.net = timm.create_model('test_resnet.r160_in1k')
        self.calls = 0
        monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', self.give)

    def give(self, *_args, **_kwargs) -> dict[str, torch.Tensor]:
        self.calls += 1
        return self.net.state_dict()


def test_a_decoder_only_release_loads_its_backbone_from_timm(released, tmp_path, monkeypatch):
    source = _Timm(monkeypatch)
    whole = fcam_zoo.create_model('fcam', backbone='test_resnet.r160_in1k', backbone_pretrained=True).eval()
    entry = released(whole, backbone_from='test_resnet.r160_in1k')
    assert all(key.startswith('decoder.') for key in hub.load_weights(entry.name))
    source.calls = 0
    model = fcam_zoo.create_model(entry.name, pretrained=True)
    assert source.calls == 1
    torch.testing.assert_close(maps(model), maps(whole), rtol=0.02, atol=0.02)
    by_folder = fcam_zoo.create_model('hf-hub:org/release')
    assert maps(by_folder).equal(maps(model))

    def offline(*_args, **_kwargs):
        raise OSError('no network')

    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', offline)
    with pytest.raises(fcam_zoo.FcamZooError, match='backbone_checkpoint'):
        fcam_zoo.create_model(entry.name, pretrained=True)
    checkpoint = tmp_path / 'backbone.safetensors'
    save_file(source.net.state_dict(), checkpoint)
    local = fcam_zoo.create_model(entry.name, pretrained=True, backbone_checkpoint=checkpoint)
    assert maps(local).equal(maps(model))
    # The decoder only fits the features of its own classifier.
    index = hub.index()
    entry.classifier_sha256 = digest(source.net.state_dict())
    monkeypatch.setattr('fcam_zoo._index.index', lambda: {**index, entry.name: entry})
    assert maps(fcam_zoo.create_model(entry.name, pretrained=True, backbone_checkpoint=checkpoint)).equal(maps(model))
    next(source.net.parameters()).data += 1e-3
    save_file(source.net.state_dict(), checkpoint)
    with pytest.raises(WeightsError, match='r160_in1k as backbone_checkpoint'):
        fcam_zoo.create_model(entry.name, pretrained=True, backbone_checkpoint=checkpoint)


def test_the_backbone_is_not_downloaded_if_the_weights_contain_it(released, monkeypatch, tmp_path):
    source = _Timm(monkeypatch)
    name = released(tiny()).name
    folder = hub.save_pretrained(tiny(), tmp_path / 'm')
    fcam_zoo.create_model(name, pretrained=True, backbone_pretrained=True)
    fcam_zoo.create_model(f'local-dir:{folder}', backbone_pretrained=True)
    fcam_zoo.create_model('hf-hub:org/release', backbone_pretrained=True)
    assert source.calls == 0


@pytest.mark.parametrize('name', ['test_resnet.r160_in1k', 'test_vit.r160_in1k', 'test_resnet.none', 'none'])
def test_decoder_only_needs_timm_weights_of_the_classifier(tmp_path, name):
    with pytest.raises(WeightsError, match='backbone_from'):
        hub.save_pretrained(tiny(), tmp_path / 'm', backbone_from=name)
    assert not (tmp_path / 'm').exists()


def test_prune_keeps_revisions_in_use(loopback, tmp_path, capsys):
    for seed in (0, 1):
        hub.push_to_hub(tiny(seed), 'org/tiny')
        hub.pull('org/tiny')
    loopback.add('org/other', {'config.json': b'{"library_name": "other"}'})
    other = Path(hf_hub_download('org/other', 'config.json'))
    old, new = hub.downloads()
    assert (old.in_use, new.in_use) == (False, True)
    assert main(['weights', 'prune', '--dry-run']) == 0
    assert len(hub.downloads()) == 2
    assert main(['weights', 'prune']) == 0
    assert f'removed org/tiny@{old.commit}' in capsys.readouterr().out
    assert hub.downloads() == [new]
    assert maps(fcam_zoo.create_model('hf-hub:org/tiny', local_files_only=True)).equal(maps(tiny(1)))
    assert main(['weights', 'prune', '--all']) == 0
    assert hub.downloads() == []
    assert other.exists()
    assert hub.downloads(tmp_path / 'nowhere') == []


def test_push_refuses_other_folders_and_ids(loopback, tmp_path):
    with pytest.raises(TrainingError, match=r'config\.json does not exist'):
        hub.facts_of_run(tmp_path)
    with pytest.raises(ValueError, match='write org/name'):
        hub.push_to_hub(tiny(), 'not a name')
    assert not loopback.repos
