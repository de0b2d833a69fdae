"""The converter of Keras' MobileNet v1, on files with the layout of the published ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from fcam_zoo._weights import digest
from tools import convert_keras_mobilenet as converter

h5py = pytest.importorskip('h5py')

ROOT = Path(__file__).parents[1]
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


def layers(alpha: float) -> dict[str, dict[str, np.ndarray]]:
    """Random weights by layer, in Keras' names and shapes."""
    rng = np.random.default_rng(0)

    def norm(channels: int) -> dict[str, np.ndarray]:
        names = ('gamma', 'beta', 'moving_mean', 'moving_variance')
        return {f'{name}:0': rng.uniform(0.5, 1.5, channels).astype(np.float32) for name in names}

    def kernel(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * (2 / np.prod(shape[:3])) ** 0.5).astype(np.float32)

    channels = int(32 * alpha)
    found = {'conv1': {'kernel:0': kernel(3, 3, 3, channels)}, 'conv1_bn': norm(channels)}
    for i, width in enumerate(WIDTHS, 1):
        found[f'conv_dw_{i}'] = {'depthwise_kernel:0': kernel(3, 3, channels, 1) * channels**0.5}
        found[f'conv_dw_{i}_bn'] = norm(channels)
        found[f'conv_pw_{i}'] = {'kernel:0': kernel(1, 1, channels, int(width * alpha))}
        channels = int(width * alpha)
        found[f'conv_pw_{i}_bn'] = norm(channels)
    found['conv_preds'] = {'kernel:0': kernel(1, 1, channels, 1000), 'bias:0': kernel(1000, 1, 1)[:, 0, 0]}
    return found


def write(path: Path, content: dict[str, dict[str, np.ndarray]]) -> Path:
    """Write weights as Keras does: a group per layer, whose `weight_names` are paths to the arrays in it."""
    with h5py.File(path, 'w') as file:
        file.attrs['layer_names'] = ['input_1', *content, 'act_softmax']
        file.create_group('input_1').attrs['weight_names'] = []
        for layer, arrays in content.items():
            group = file.create_group(layer)
            group.attrs['weight_names'] = [f'{layer}/{name}' for name in arrays]
            for name, array in arrays.items():
                group.create_dataset(f'{layer}/{name}', data=array)
    return path


def same_convolution(x: torch.Tensor, kernel: np.ndarray, stride: int, groups: int = 1) -> torch.Tensor:
    """Convolution with TensorFlow's 'same' padding, of a kernel (out,in,h,w)."""
    side, k = x.shape[-1], kernel.shape[-1]
    total = max((-(-side // stride) - 1) * stride + k - side, 0)
    before, after = total // 2, total - total // 2
    x = F.pad(x, (before, after, before, after))
    return F.conv2d(x, torch.from_numpy(kernel.copy()), stride=stride, groups=groups)


def keras_logits(content: dict[str, dict[str, np.ndarray]], x: torch.Tensor) -> torch.Tensor:
    """The network of Keras, in plain operations."""

    def norm(x: torch.Tensor, layer: str) -> torch.Tensor:
        parts = {name: torch.from_numpy(array).view(-1, 1, 1) for name, array in content[layer].items()}
        scaled = (x - parts['moving_mean:0']) / (parts['moving_variance:0'] + 1e-3).sqrt()
        return (scaled * parts['gamma:0'] + parts['beta:0']).clamp(0, 6)

    x = norm(same_convolution(x, content['conv1']['kernel:0'].transpose(3, 2, 0, 1), 2), 'conv1_bn')
    for i in range(1, 14):
        depthwise = content[f'conv_dw_{i}']['depthwise_kernel:0'].transpose(2, 3, 0, 1)
        stride = 2 if i in (2, 4, 6, 12) else 1
        x = norm(same_convolution(x, depthwise, stride, x.shape[1]), f'conv_dw_{i}_bn')
        x = norm(same_convolution(x, content[f'conv_pw_{i}']['kernel:0'].transpose(3, 2, 0, 1), 1), f'conv_pw_{i}_bn')
    kernel, bias = (torch.from_numpy(content['conv_preds'][name]) for name in ('kernel:0', 'bias:0'))
    return x.mean((2, 3)) @ kernel[0, 0] + bias


@pytest.mark.parametrize(('alpha', 'name'), [(0.25, 'mobilenetv1_025'), (0.75, 'mobilenetv1_075')])
def test_the_converted_network_is_that_of_keras(alpha, name, tmp_path, monkeypatch, capsys):
    content = layers(alpha)
    source = write(tmp_path / 'weights.h5', content)
    found, state = converter.read(source)
    assert found == name
    monkeypatch.setitem(converter.NETWORKS, int(32 * alpha), (name, digest(state)))
    monkeypatch.chdir(tmp_path)
    assert converter.main([str(source)]) == 0
    assert f'{name}.tf_in1k.safetensors: equal' in capsys.readouterr().out
    net = timm.create_model(name).eval()
    missing, unexpected = net.load_state_dict(load_file(tmp_path / f'{name}.tf_in1k.safetensors'), strict=False)
    assert unexpected == []
    assert all('num_batches_tracked' in key for key in missing)
    x = torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net(x), keras_logits(content, x), rtol=1e-3, atol=1e-3)


def test_a_whole_model_and_names_as_bytes(tmp_path):
    """model.save() of Keras has the layers in a group; old versions stored the names as bytes of a fixed length."""
    path = write(tmp_path / 'plain.h5', layers(0.25))
    with h5py.File(path) as file, h5py.File(tmp_path / 'model.h5', 'w') as whole:
        file.copy(file, whole, 'model_weights')
        names = whole['model_weights/conv1'].attrs
        names['weight_names'] = np.array([name.encode() for name in names['weight_names']])
    first, second = (converter.read(p)[1] for p in (path, tmp_path / 'model.h5'))
    assert digest(first) == digest(second)


def test_recorded_digests_are_those_of_the_backbones(shared):
    for name, sha256 in converter.NETWORKS.values():
        path = shared / 'data' / 'backbones' / f'{name}.tf_in1k.safetensors'
        if not path.is_file():
            pytest.skip('needs the backbone files')
        assert digest(load_file(path)) == sha256


def without(layer: str):
    return lambda content: content.pop(layer)


def changed(layer: str, name: str, array: np.ndarray):
    return lambda content: content[layer].update({name: array})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (without('conv1'), 'has no layer conv1: give a file of https://'),
        (without('conv_preds'), 'has no layer conv_preds (files named *_no_top.h5 have no classifier)'),
        (without('conv_pw_13_bn'), 'has no layer conv_pw_13_bn'),
        (lambda content: content['conv_dw_3_bn'].pop('beta:0'), 'layer conv_dw_3_bn has no weight beta (its weight'),
        (changed('conv1', 'kernel:0', np.zeros((3, 3, 3, 16), np.float32)), 'the first layer has 16 channels; give'),
        (changed('conv_dw_1', 'depthwise_kernel:0', np.zeros((3, 3, 1, 8), np.float32)), 'does not fit blocks.0.0'),
        (changed('conv_preds', 'kernel:0', np.zeros((256, 1000), np.float32)), 'does not fit classifier.weight'),
        (changed('conv_preds', 'bias:0', np.zeros(1001, np.float32)), 'has shape (1001,), which does not fit'),
        (changed('conv1_bn', 'gamma:0', np.zeros(8)), 'conv1_bn/gamma has the type float64, not float32'),
        (lambda content: None, 'instead of a875897b'),
    ],
)
def test_another_file_is_one_error_and_writes_nothing(change, message, tmp_path, capsys):
    content = layers(0.25)
    change(content)
    source = write(tmp_path / 'weights.h5', content)
    assert converter.main([str(source), '-o', str(tmp_path / 'out.safetensors')]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith('error: ')
    assert error.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['weights.h5']


def test_what_is_not_an_hdf5_file_is_one_error(tmp_path, capsys):
    (tmp_path / 'text.h5').write_text('no weights')
    whole = write(tmp_path / 'whole.h5', layers(0.25)).read_bytes()
    (tmp_path / 'cut.h5').write_bytes(whole[: len(whole) // 2])
    for name in ('text.h5', 'cut.h5'):
        assert converter.main([str(tmp_path / name)]) == 1
        assert 'is not an HDF5 file or is damaged' in capsys.readouterr().err
    for path in (tmp_path / 'none.h5', tmp_path):
        assert converter.main([str(path)]) == 1
        assert f'{path} is not a file: download it from' in capsys.readouterr().err


def test_without_h5py_is_one_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    assert converter.main([str(tmp_path / 'weights.h5')]) == 1
    assert capsys.readouterr().err == "error: reading .h5 files needs h5py: pip install -e '.[convert]'\n"


@pytest.mark.parametrize('command', [['tools/convert_keras_mobilenet.py'], ['-m', 'tools.convert_keras_mobilenet']])
def test_help(command):
    done = subprocess.run([sys.executable, *command, '--help'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'mobilenet_7_5_224_tf.h5' in done.stdout
