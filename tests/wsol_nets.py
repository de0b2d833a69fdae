"""Networks, trainings and checks that the tests of several WSOL methods share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from safetensors.torch import load_file
from synthetic import make_wsol, train_config

import fcam_zoo
from fcam_zoo import wsol
from fcam_zoo.cli import main
from fcam_zoo.models.pyramid import Encoding
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig

BACKBONE = 'test_resnet'
# Settings of small methods for two classes.
SMALL = {name: {'channels': 8} for name in ('acol', 'spg', 'i2c', 'spol')}
SMALL['cstn'] = {'channels': 8, 'windows': [1, 3]}
SMALL['danet'] = {'channels': [8, 8, 8], 'maps': 2, 'parents': [0, 1], 'roots': [0, 0]}
NO_DECODER = DecoderConfig(epochs=0)


def network_of(net: nn.Module, num_classes: int, num_features: int, channels: list[int] | None = None) -> wsol.Network:
    """Describe a network of maps, as `FCAM` describes its backbone."""
    return wsol.Network(net, 'NCHW', num_classes, 3, channels or [], num_features, True, net, net)


def encoding_of(features: torch.Tensor, levels: list[torch.Tensor] | None = None) -> Encoding:
    return Encoding(levels or [features], features, None, features)


def renamed(arrays: dict[str, np.ndarray], prefix: str, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return golden weights under the names of this project, from names here to published ones."""
    state = {}
    for own, theirs in names.items():
        start = f'{prefix}{theirs}.'
        state |= {f'{own}.{k.removeprefix(start)}': torch.tensor(v) for k, v in arrays.items() if k.startswith(start)}
    return state


def fcam_with(method: str | dict, backbone: str = BACKBONE, num_classes: int = 3) -> fcam_zoo.FCAM:
    torch.manual_seed(0)
    return fcam_zoo.create_model('fcam', backbone=backbone, num_classes=num_classes, method=method).eval()


def config_of(data: Path, name: str | None, decoder: DecoderConfig = NO_DECODER, **kwargs) -> TrainConfig:
    """Return the config of a training with a small method: an epoch of the classifier, without a decoder."""
    method = {'name': name, **SMALL.get(name, {})} if name else None
    kwargs = {'classifier': ClassifierConfig(epochs=1, batch_size=8, method=method), 'decoder': decoder} | kwargs
    if name == 'ts_cam':
        kwargs = {'backbone': 'test_vit', 'output_stride': 16} | kwargs
    return train_config(data, **kwargs)


def train_and_load(folder: Path, method: str, *arguments: str, backbone: str = BACKBONE) -> fcam_zoo.FCAM:
    """Train a classifier with a method for one epoch from the command line, and return the best model.

    Checks that the saved model has the trained weights, that a copy of it on disk has the same class map and logits,
    and that the map of an image does not depend on the others.
    """
    data, run = make_wsol(folder / 'data', {'train': 8, 'val': 2}), folder / 'run'
    common = ['--backbone', backbone, '--method', method, '--classifier-epochs', '1', '--decoder-epochs', '0']
    short = ['--device', 'cpu', '--workers', '0', '--set', 'image_size=64', '--set', 'classifier.batch_size=4']
    assert main(['train', str(data), '-o', str(run), *common, *short, *arguments, '--quiet']) == 0
    trained, final = (load_file(run / path) for path in ('classifier/best.safetensors', 'best/model.safetensors'))
    own = [name for name in trained if name.startswith(('backbone.', 'method.'))]
    assert all(torch.equal(trained[name], final[name]) for name in own)
    model = fcam_zoo.create_model(f'local-dir:{run / "best"}').eval()
    assert model.method.name == method
    again = fcam_zoo.create_model(f'local-dir:{fcam_zoo.hub.save_pretrained(model, folder / "again")}').eval()
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0])
    maps = model.cam(x, labels)
    assert maps.shape == (3, 64, 64)
    assert float(maps.amax()) > 0
    assert torch.equal(maps, again.cam(x, labels))
    assert torch.equal(model(x).logits, again(x).logits)
    for i in range(3):
        torch.testing.assert_close(model.cam(x[i : i + 1], labels[i : i + 1]), maps[i : i + 1], atol=1e-4, rtol=1e-4)
    return model
