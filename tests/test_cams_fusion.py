"""Fusing the maps of several layers."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from fcam_zoo import cams

LAYERS = ['layer2', 'layer4']


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=4).eval()


def maps(n=3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, 5, 6, generator=generator) for _ in range(n)]


@pytest.mark.parametrize(
    ('fusion', 'independent'),
    [
        ('mean', lambda x: x.mean(0)),
        ('max', lambda x: x.max(0)),
        ('geometric_mean', lambda x: np.prod(np.maximum(x, 1e-3), 0) ** (1 / len(x))),
    ],
)
def test_fusions(fusion, independent):
    found = maps()
    found[0][0, 0, 0] = 0
    expected = independent(np.stack([each.double().numpy() for each in found]))
    np.testing.assert_allclose(cams.fuse(found, fusion).numpy(), expected, rtol=1e-5)
    assert cams.fuse(found[:1], fusion) is found[0]


def test_extract_fuses_the_maps_of_layers(net):
    x, labels = torch.rand(2, 3, 64, 64), torch.tensor([1, 3])
    single = [cams.extract(net, x, labels, 'layercam', layer, None) for layer in LAYERS]
    assert single[0].shape[1] > single[1].shape[1]
    expected = cams.fuse([single[0], cams.resize(single[1], tuple(single[0].shape[1:]))], 'max')
    torch.testing.assert_close(cams.extract(net, x, labels, 'layercam', LAYERS, None, fusion='max'), expected)
    whole = cams.extract(net, x, labels, 'layercam', [net.layer2, net.layer4])
    assert whole.shape == (2, 64, 64)
    full = [cams.extract(net, x, labels, 'layercam', layer) for layer in LAYERS]
    torch.testing.assert_close(whole, cams.fuse(full, 'geometric_mean'))


def test_bad_arguments(net):
    x = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match="fusion is 'sum': choose one of geometric_mean, mean, max"):
        cams.extract(net, x, layer=LAYERS, fusion='sum')
    with pytest.raises(ValueError, match='layer is a list: give at least one'):
        cams.extract(net, x, layer=[])
    with pytest.raises(ValueError, match='normalize=True'):
        cams.extract(net, x, layer=LAYERS, normalize=False)
    with pytest.raises(ValueError, match="no layer 'layer9'"):
        cams.extract(net, x, layer=['layer2', 'layer9'])
    with pytest.raises(ValueError, match='maps are empty'):
        cams.fuse([])
    with pytest.raises(ValueError, match=r'maps\[1\] has the shape \(2, 5, 6\), maps\[0\] \(2, 4, 6\): resize one'):
        cams.fuse([maps(1)[0][:, :4], *maps(1)])
    with pytest.raises(TypeError, match=r'maps\[0\]'):
        cams.fuse([maps(1)[0].numpy()])
