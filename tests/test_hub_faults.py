"""Failures between the Hub and a model: each gives one clear error, and nothing is loaded or left in the cache."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from safetensors.torch import save_file

import fcam_zoo
from fcam_zoo import hub
from fcam_zoo.errors import HubError, WeightsError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def good(tmp_path_factory) -> dict[str, bytes]:
    """Files of a small model."""
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3)
    folder = hub.write_repository(model, tmp_path_factory.mktemp('good'), 'org/tiny')
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def quick(monkeypatch):
    """The Hub's client without its waiting time between tries."""
    monkeypatch.setattr(time, 'sleep', lambda _seconds: None)
    for what in ('HF_HUB_ETAG_TIMEOUT', 'HF_HUB_DOWNLOAD_TIMEOUT'):
        monkeypatch.setattr(constants, what, 1)


@pytest.fixture
def tiny(loopback, good, quick) -> LoopbackHub:
    loopback.add('org/tiny', good)
    return loopback


def load(name: str = 'org/tiny', **kwargs) -> fcam_zoo.FCAM:
    return fcam_zoo.create_model(f'hf-hub:{name}', **kwargs)


def cached() -> list[str]:
    """Names of the files in the cache, without locks and blobs."""
    root = Path(constants.HF_HUB_CACHE)
    return sorted(p.name for p in root.rglob('*') if p.is_file() and '.locks' not in p.parts and 'blobs' not in p.parts)


def down(hub: LoopbackHub) -> None:
    hub.stop()


def responding(status: int, code: str = '') -> Callable[[LoopbackHub], None]:
    def fault(hub: LoopbackHub) -> None:
        hub.status, hub.error_code = status, code

    return fault


def locked(hub: LoopbackHub) -> None:
    hub.token = 'another'


def slow(hub: LoopbackHub) -> None:
    # The timeout of the first try is one second; later tries of the client take longer.
    hub.stall = 30.0


@pytest.mark.parametrize(
    ('fault', 'message'),
    [
        (down, r'is unreachable \('),
        (responding(500), 'returned HTTP status 500 for config.json .*try again later'),
        (responding(503), 'returned HTTP status 503 for config.json .*try again later'),
        (responding(403), 'returned HTTP status 403 for config.json .*HF_TOKEN'),
        (responding(403, 'GatedRepo'), 'org/tiny is gated: request access'),
        (locked, 'returned HTTP status 401 for config.json .*HF_TOKEN'),
    ],
)
def test_server_errors_are_explained(tiny, fault, message):
    fault(tiny)
    with pytest.raises(HubError, match=message) as caught:
        load()
    assert 'org/tiny' in str(caught.value)
    assert '\n' not in str(caught.value)
    assert not any(name.endswith('.safetensors') for name in cached())


def test_a_slow_server_times_out(tiny, monkeypatch):
    monkeypatch.setattr('huggingface_hub.file_download._ETAG_RETRY_TIMEOUT', 0.2, raising=False)
    slow(tiny)
    began = time.monotonic()
    with pytest.raises(HubError, match='is unreachable'):
        load()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize('fault', [down, responding(500), locked])
def test_a_cached_model_loads_despite_server_errors(tiny, fault):
    load()
    fault(tiny)
    load()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('org/none', 'org/none does not exist'),
        ('org/tiny@none', 'the revision does not exist'),
        ('org/tiny@' + '0' * 40, 'the revision does not exist'),
        ('a/b/c', 'is not a repository id'),
        ('../../etc', 'is not a repository id'),
    ],
)
def test_missing_repositories_and_revisions_are_named(tiny, name, message):
    with pytest.raises(HubError, match=message):
        load(name)
    assert cached() == []


def test_a_cut_download_is_resumed(tiny, good, monkeypatch):
    # The client keeps only complete chunks.
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 1000)
    tiny.cuts = [1_000_500, 1_000_500]
    load()
    headers = [{k.lower(): v for k, v in h.items()} for h in tiny.headers_of('GET', 'model.safetensors')]
    assert [h.get('range') for h in headers] == [None, 'bytes=1000000-', 'bytes=2000000-']


def test_an_aborted_download_leaves_nothing(tiny):
    tiny.cuts = [0] * 50
    with pytest.raises(HubError, match=r'download of model\.safetensors of org/tiny'):
        load()
    assert 'model.safetensors' not in cached()
    tiny.cuts = []
    load()


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ('alter', 'error', 'message'),
    [
        (flipped, WeightsError, r'altered.*removed from the cache'),
        (lambda content: content[:-100], HubError, 'download of model.safetensors of org/tiny.* failed'),
        (lambda content: content + b'more', HubError, 'download of model.safetensors of org/tiny.* failed'),
        (lambda content: b'<html>Please log in</html>', HubError, 'download of model.safetensors'),
    ],
)
def test_wrong_content_is_refused_and_downloaded_again(tiny, good, alter, error, message):
    tiny.altered['model.safetensors'] = alter(good['model.safetensors'])
    for route in (load, lambda: timm.create_model('hf-hub:org/tiny', pretrained=True)):
        with pytest.raises(error, match=message):
            route()
        assert 'model.safetensors' not in cached()
    tiny.altered.clear()
    load()


def test_a_damaged_cache_is_repaired(tiny):
    load()
    (path,) = Path(constants.HF_HUB_CACHE).rglob('model.safetensors')
    path.write_bytes(flipped(path.read_bytes()))
    with pytest.raises(WeightsError, match=r'altered.*removed from the cache'):
        load(local_files_only=True)
    load()


def test_a_full_disk_is_reported(tiny):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(HubError, match=r'disk is too full for model\.safetensors'):
            load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 'model.safetensors' not in cached()
    load()


def test_an_unwritable_cache_is_reported(tiny, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(HubError, match=r'the cache cannot store config\.json.*writable cache_dir'):
        load(cache_dir=tmp_path / 'file' / 'cache')


def test_read_only_cache_is_used(tiny):
    load()
    root = Path(constants.HF_HUB_CACHE)
    folders = [root, *(p for p in root.rglob('*') if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        load()
        load(local_files_only=True)
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_two_processes_download_at_once(tiny, tmp_path):
    environment = {**os.environ, 'HF_ENDPOINT': tiny.endpoint, 'HF_HOME': str(tmp_path / 'home')}
    environment.pop('HF_HUB_OFFLINE', None)
    code = "import fcam_zoo; print(float(fcam_zoo.create_model('hf-hub:org/tiny').decoder.head.weight.detach().sum()))"
    both = [
        subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] == f'{float(load().decoder.head.weight.detach().sum())}\n'
    assert not list(tmp_path.rglob('*.incomplete'))


def with_config(good: dict[str, bytes], **changes) -> dict[str, bytes]:
    config = {**json.loads(good['config.json']), **changes}
    return {**good, 'config.json': json.dumps(config).encode()}


def without_hash(good: dict[str, bytes], weights: bytes) -> dict[str, bytes]:
    return {**with_config(good, weights=None), 'model.safetensors': weights}


def pickle_only(good: dict[str, bytes]) -> dict[str, bytes]:
    evil = b'cos\nsystem\n(S"touch hacked"\ntR.'
    return {'config.json': good['config.json'], 'pytorch_model.bin': evil, 'model.pth': evil}


def pickle_in_disguise(good: dict[str, bytes]) -> dict[str, bytes]:
    return without_hash(good, b'cos\nsystem\n(S"touch hacked"\ntR.')


def huge_header(good: dict[str, bytes]) -> dict[str, bytes]:
    return without_hash(good, struct.pack('<Q', 2**62) + b'{}')


def header_beyond_the_file(good: dict[str, bytes]) -> dict[str, bytes]:
    header = json.dumps({'a': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 2**42]}}).encode()
    return without_hash(good, struct.pack('<Q', len(header)) + header)


def model_args(**changes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def build(good: dict[str, bytes]) -> dict[str, bytes]:
        return with_config(good, model_args={**json.loads(good['config.json'])['model_args'], **changes})

    return build


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (pickle_only, r'no model\.safetensors, and pickles are never loaded'),
        (pickle_in_disguise, r'header claims .*Pickles .* are never read'),
        (huge_header, 'header claims 4,611,686,018,427,387,904 bytes'),
        (header_beyond_the_file, 'is damaged'),
        (lambda good: {**good, 'config.json': b'[' * 100_000}, 'is damaged'),
        (lambda good: {**good, 'config.json': b'\xff'}, 'is damaged'),
        (lambda good: {**good, 'config.json': b'{}'}, 'the field architecture is missing'),
        (lambda good: with_config(good, architecture='resnet50'), 'unknown F-CAM architecture'),
        (lambda good: with_config(good, architecture=['fcam']), 'architecture is .*: give text'),
        (lambda good: with_config(good, num_classes=10**12), 'num_classes is 1000000000000'),
        (lambda good: with_config(good, weights={'size': 1}), 'the field weights.sha256 is missing'),
        (
            lambda good: with_config(good, pretrained_cfg={'evil': 1}),
            "pretrained_cfg holds 'evil', which a file cannot set",
        ),
        (lambda good: with_config(good, model_args=[1]), 'model_args is .*: give fields by name'),
        (
            model_args(backbone_checkpoint='/etc/passwd'),
            "model_args holds 'backbone_checkpoint', which a file cannot set",
        ),
        (model_args(cache_dir='/somewhere'), "model_args holds 'cache_dir', which a file"),
        (model_args(decoder_channels=[10**9]), r'decoder_channels\[0\] is '),
        (
            model_args(backbone_kwargs={'checkpoint_path': 'evil.pth'}),
            "backbone_kwargs holds 'checkpoint_path', which a file cannot set",
        ),
        (model_args(backbone='hf-hub:evil/net'), 'timm has no such model'),
    ],
)
def test_a_hostile_repository_is_refused(loopback, good, quick, build, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Names that lead out of the cache are never requested.
    loopback.add('org/evil', {**build(good), '../../escaped': b'', 'run.py': b''})
    with pytest.raises(fcam_zoo.FcamZooError, match=message):
        load('org/evil')
    with pytest.raises((fcam_zoo.FcamZooError, ValueError, RuntimeError, TypeError, AttributeError, KeyError)):
        timm.create_model('hf-hub:org/evil', pretrained=True)
    assert set(cached()) <= {'CACHEDIR.TAG', 'config.json', 'model.safetensors', 'main', 'pytorch_model.bin'}
    assert not list(tmp_path.rglob('hacked'))
    assert not list(tmp_path.rglob('escaped'))


def test_timm_gets_no_hostile_argument(loopback, good, quick):
    loopback.add('org/evil', model_args(backbone_checkpoint='/etc/passwd')(good))
    with pytest.raises(WeightsError, match="model_args holds 'backbone_checkpoint', which a file cannot set"):
        timm.create_model('hf-hub:org/evil')


def test_a_config_without_arguments_uses_those_of_the_architecture(loopback, good, quick):
    """timm's own push writes such a config for models that were created by name only."""
    config = json.loads(good['config.json'])
    del config['model_args']
    loopback.add('org/bare', {**good, 'config.json': json.dumps(config).encode()})
    with pytest.raises(WeightsError, match='does not fit'):
        load('org/bare')


def test_removing_a_file_does_not_follow_links_out_of_the_cache(tiny, tmp_path):
    load()
    outside = tmp_path / 'precious.safetensors'
    outside.write_bytes(b'precious')
    (path,) = Path(constants.HF_HUB_CACHE).rglob('model.safetensors')
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(WeightsError, match='bytes instead of'):
        load(local_files_only=True)
    assert outside.read_bytes() == b'precious'


def test_push_explains_server_errors(loopback, quick, good):
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3)
    loopback.token = 'another'
    with pytest.raises(HubError, match=r'was not published .*401.*log in'):
        hub.push_to_hub(model, 'org/new')
    loopback.token = None
    loopback.stop()
    with pytest.raises(HubError, match=r'was not published .*network'):
        hub.push_to_hub(model, 'org/new')


def test_all_differing_keys_are_listed(tmp_path):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3)
    state = model.state_dict()
    missing, misshaped = 'decoder.head.bias', 'backbone.fc.bias'
    del state[missing]
    state['extra'] = torch.zeros(1)
    state[misshaped] = torch.zeros(5)
    save_file(state, tmp_path / 'w.safetensors')
    with pytest.raises(WeightsError) as caught:
        model.load_weights(tmp_path / 'w.safetensors')
    assert 'has 5 classes' in str(caught.value)
    state[misshaped] = state[misshaped][:3]
    state['backbone.conv1.0.weight'] = torch.zeros(1, 2)
    save_file(state, tmp_path / 'w.safetensors')
    with pytest.raises(WeightsError) as caught:
        model.load_weights(tmp_path / 'w.safetensors')
    for word in (missing, 'extra', 'backbone.conv1.0.weight is (1, 2)'):
        assert word in str(caught.value)


def test_another_number_of_classes_needs_reset_head(tiny):
    with pytest.raises(WeightsError, match=r'num_classes=5.*reset_head=True'):
        load(num_classes=5)
    model = load(num_classes=5, reset_head=True)
    assert model.num_classes == 5
    assert model(torch.rand(1, 3, 64, 64)).logits.shape == (1, 5)
    assert model.decoder.head.weight.equal(load().decoder.head.weight)


def test_label_names_are_dropped_with_a_new_head(good, tmp_path):
    """Otherwise `localize` would return names of the old classes for a new head."""
    config = {**json.loads(good['config.json']), 'label_names': ['a', 'b', 'c']}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    (tmp_path / 'model.safetensors').write_bytes(good['model.safetensors'])
    name = f'local-dir:{tmp_path}'
    assert list(fcam_zoo.create_model(name).pretrained_cfg['label_names']) == ['a', 'b', 'c']
    for create in (fcam_zoo.create_model, timm.create_model):
        model = create(name, pretrained=True, num_classes=2, reset_head=True)
        assert not model.pretrained_cfg.get('label_names')
    for released in fcam_zoo.list_models(pretrained=True):
        assert not fcam_zoo.create_model(released, num_classes=2).pretrained_cfg.get('label_names')
