"""Where cells look: by hand, by gradients of real networks, and how maps are drawn there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import create_conv2d

from fcam_zoo import cams
from fcam_zoo.cams import CellGeometry, cell_geometry
from fcam_zoo.models.backbone import build_backbone


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def conv(kernel: int, stride: int = 1, padding: int | str = 0, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(3, 3, kernel, stride, padding, dilation)


def chain(padding: int | str, layers: int = 4) -> nn.Sequential:
    return nn.Sequential(*(create_conv2d(3, 3, 3, stride=2, padding=padding) for _ in range(layers)))


def geometry(function: Callable[[torch.Tensor], torch.Tensor], *size: int) -> tuple[float, float, float]:
    """Offset, stride and spread along the columns."""
    module = function if isinstance(function, nn.Module) else Fn(function)
    found = cell_geometry(module, None, size or (32, 48))
    return found.offset[1], found.stride[1], found.spread[1]


def to_blocks(x: torch.Tensor) -> torch.Tensor:
    """2x2 blocks to channels, (B,C,H,W) -> (B,4C,H/2,W/2)."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def windows_and_back(x: torch.Tensor) -> torch.Tensor:
    """Attention within windows of 4x4, on NHWC, rolled by two to and fro."""
    x = x.permute(0, 2, 3, 1).roll((-2, -2), (1, 2))
    b, h, w, c = x.shape
    tokens = x.view(b, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)
    tokens = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
    x = tokens.view(b, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(b, h, w, c)
    return x.roll((2, 2), (1, 2)).permute(0, 3, 1, 2)


BY_HAND = {
    'identity': (lambda x: x, 0, 1, 0),
    'valid 3x3': (conv(3), 1, 1, 0),
    'symmetric 3x3': (conv(3, padding=1), 0, 1, 0),
    'symmetric 3x3 stride 2': (conv(3, 2, 1), 0, 2, 0),
    'dilated': (conv(3, 2, 0, 3), 3, 2, 0),
    'patches': (conv(4, 4), 1.5, 4, 0),
    'padding same, even kernel': (conv(2, padding='same'), 0.5, 1, 0),
    'functional, unbatched weights': (lambda x: F.conv2d(x, torch.zeros(5, 3, 5, 5), stride=3, padding=1), 1, 3, 0),
    'transposed': (nn.Sequential(conv(4, 4), nn.ConvTranspose2d(3, 3, 4, 2, 1)), 0.5, 2, 0),
    'max pool': (nn.MaxPool2d(3, 2, 1), 0, 2, 0),
    'max pool, dilated, ceil': (nn.MaxPool2d(2, 2, dilation=3, ceil_mode=True), 1.5, 2, 0),
    'average pool': (nn.AvgPool2d(2), 0.5, 2, 0),
    'adaptive pool': (nn.AdaptiveAvgPool2d((4, 6)), 3.5, 8, 0),
    'pad and crop': (lambda x: F.pad(x, (3, 1, 2, 2), mode='reflect')[:, :, :, 1:], -2, 1, 0),
    'every third': (lambda x: x[..., -47::3], 1, 3, 0),
    'nearest': (nn.Sequential(conv(4, 4), nn.Upsample(scale_factor=2)), 0.5, 2, 0),
    'bilinear': (nn.Sequential(conv(4, 4), nn.Upsample(scale_factor=4, mode='bilinear')), 0, 1, 0),
    'corners': (lambda x: F.interpolate(x, (32, 95), mode='bilinear', align_corners=True), 0, 0.5, 0),
    'concat and gate': (lambda x: torch.cat([x[:, :1], x * x.mean((2, 3), keepdim=True).sigmoid()], 1), 0, 1, 0),
    'branches': (lambda x: F.avg_pool2d(x, 2) + x[..., ::2, ::2], 0.25, 2, 0.25),
    'NHWC linear': (nn.Sequential(conv(4, 4), Fn(lambda x: x.permute(0, 2, 3, 1)), nn.Linear(3, 7)), 1.5, 4, 0),
    'blocks to channels': (nn.Sequential(Fn(to_blocks), nn.Conv2d(12, 3, 1)), 0.5, 2, 0),
    'tokens and back': (lambda x: x.flatten(2).transpose(1, 2).softmax(-1).mT.unflatten(2, x.shape[2:]), 0, 1, 0),
    'windows': (nn.Sequential(conv(2, 2), Fn(windows_and_back)), 0.5, 2, 0),
    'in place': (lambda x: x.clone().relu_().add_(1).mul_(x), 0, 1, 0),
}


@pytest.mark.parametrize('name', BY_HAND)
def test_by_hand(name):
    function, *expected = BY_HAND[name]
    assert geometry(function) == pytest.approx(expected)


def test_same_and_symmetric_padding_at_stride_16():
    same, symmetric = cell_geometry(chain('same'), None, (224, 224)), cell_geometry(chain(1), None, (224, 224))
    assert (same.offset, same.stride, same.shift) == ((15, 15), (16, 16), (7.5, 7.5))
    assert (symmetric.offset, symmetric.stride, symmetric.shift) == ((0, 0), (16, 16), (-7.5, -7.5))
    # 'same' padding depends on the size: at 225 = 14 * 16 + 1 it is symmetric in every layer.
    mixed = cell_geometry(chain('same'), None, (224, 225))
    assert mixed.shift == (7.5, -7.5)
    assert mixed.mean_shift((224, 225), (14, 15)) == (7.5, 0)


def test_layer_by_name_module_and_images():
    net = timm.create_model('resnet18')
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    assert cell_geometry(net, 'layer2', images) == CellGeometry((0, 0), (8, 8))
    assert cell_geometry(net, net.layer2, (3, 64, 64)) == CellGeometry((0, 0), (8, 8))
    assert cell_geometry(net, 'conv1', (5, 3, 64, 64), run=net.forward_features).stride == (2, 2)


def test_layer_that_runs_twice_counts_as_of_its_last_run():
    pool = nn.MaxPool2d(2)
    assert cell_geometry(nn.Sequential(pool, pool), pool, (32, 32)).stride == (4, 4)


def test_an_empty_layer_counts():
    empty = nn.Sequential()
    assert cell_geometry(nn.Sequential(conv(2, 2), empty, conv(2, 2)), empty, (32, 32)).stride == (2, 2)


def test_leaves_the_network_as_it_was():
    net = nn.Sequential(conv(3), nn.BatchNorm2d(3), nn.Dropout())
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.inference_mode():
        found = cell_geometry(net, net[1], (16, 16))
    assert found == CellGeometry((1, 1), (1, 1))
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_channels_last(dtype):
    net = chain('same').to(dtype, memory_format=torch.channels_last)
    assert cell_geometry(net, None, (64, 64)).shift == (7.5, 7.5)
    with torch.autocast('cpu', torch.bfloat16):
        assert cell_geometry(chain('same'), None, (64, 64)).shift == (7.5, 7.5)


def test_trained_kernels_lean():
    layer = nn.Conv2d(1, 3, 3, 2, 1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        # Upper left; right, whatever its size and sign; and one that is switched off.
        layer.weight[0, 0, 0, 0], layer.weight[1, 0, 1, 2] = 1, -40
    net = nn.Sequential(layer, nn.MaxPool2d(3, 2, 1))
    assert cell_geometry(net, None, (1, 32, 32), kernels='trained').offset == (-0.5, 0)
    assert cell_geometry(net, None, (1, 32, 32)).offset == (0, 0)
    nn.init.zeros_(layer.weight)
    assert cell_geometry(net, None, (1, 32, 32), kernels='trained').offset == (0, 0)
    nn.init.ones_(layer.weight)
    assert cell_geometry(net, None, (1, 32, 32), kernels='trained').offset == (0, 0)


def test_trained_kernels_match_squared_gradients():
    """Random signs, and sizes that lean: the squared gradient of a cell stands where the squared kernels say."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Conv2d(24, 24, 3, stride, 1, bias=False) for stride in (2, 1, 2)))
    profile = torch.tensor([1, 0.8, 0.2])
    for layer in net:
        layer.weight.data *= profile[:, None] * profile.flip(0)
    x = torch.zeros(1, 24, 48, 48, requires_grad=True)
    out = net(x)[0, :, 6, 7]
    energy = sum(torch.autograd.grad(channel, x, retain_graph=True)[0].square() for channel in out)
    found, even = (cell_geometry(net, None, x, kernels=kernels) for kernels in ('trained', 'even'))
    assert even.offset == (0, 0)
    assert found.offset == pytest.approx((-2.9, 2.9), abs=0.2)
    want = [o + s * i for o, s, i in zip(found.offset, found.stride, (6, 7))]
    assert centroid(energy[0].sum(0)) == pytest.approx(want, abs=0.15)


# Network, output stride (0: its own), image size. Even and odd; sizes large enough for the middle cell not to see the
# border.
NETS = [
    ('resnet18', 0, 224, 225),
    ('resnet18', 16, 160, 161),
    ('resnet26d', 0, 224, 225),
    ('mobilenetv1_025', 0, 224, 225),
    ('mobilenetv1_025', 16, 192, 161),
    ('mobilenetv2_035', 0, 256, 225),
    ('mobilenetv2_035', 16, 160, 161),
    ('efficientnet_b0', 16, 224, 225),
    ('tf_efficientnet_b0', 16, 224, 225),
    ('regnetx_002', 16, 160, 161),
    ('densenet121', 0, 192, 193),
    ('vgg11_bn', 8, 80, 81),
    ('inception_v3', 0, 299, 300),
    ('xception41', 8, 128, 129),
    ('repvgg_a0', 16, 160, 161),
    ('convnext_atto', 0, 160, 161),
    ('convnext_atto', 8, 128, 129),
    ('poolformer_s12', 0, 192, 192),
    ('test_resnet', 0, 160, 161),
    ('test_efficientnet', 16, 160, 161),
    ('test_byobnet', 0, 160, 161),
]
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
GATES = {'SqueezeExcite', 'SEModule', 'EffectiveSEModule'}


@pytest.mark.parametrize(('name', 'stride', 'rows', 'columns'), NETS)
def test_against_gradients(name, stride, rows, columns, monkeypatch):
    net = make_even(build_backbone(name, 2, output_stride=stride or None), monkeypatch)
    x = torch.full((1, 3, rows, columns), 1e-3, dtype=torch.float64, requires_grad=True)
    out = net.forward_features(x)
    cell = [n // 2 for n in out.shape[-2:]]
    (gradient,) = torch.autograd.grad(out[0, :, cell[0], cell[1]].sum(), x)
    found = cell_geometry(net, None, (rows, columns), run=net.forward_features)
    for got, offset, pitch, spread, i in zip(
        centroid(gradient[0].sum(0)), found.offset, found.stride, found.spread, cell
    ):
        # Half a pixel is the least that a wrong padding moves a cell by.
        assert abs(got - (offset + pitch * i)) < spread + 0.2


@torch.no_grad()
def make_even(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Let the gradient of a cell spread evenly around its centre.

    Kernels become positive and symmetric, mostly their middle so that cells do not see the border; maxima become means,
    since of equal inputs a maximum takes the first. Norms and gates go: their gradient spreads over the whole image.
    """

    def mean_pool(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode)

    monkeypatch.setattr(F, 'max_pool2d', mean_pool)
    for module in net.double().eval().modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.fill_(1 / module.weight[0].numel())
            if isinstance(module, nn.Conv2d):
                y, x = (slice((k - 1) // 2, k // 2 + 1) for k in module.kernel_size)
                module.weight[..., y, x] += 4 / module.weight[0, :, y, x].numel()
                module.weight /= 5
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, NORMS) or type(module).__name__ in GATES:
            module.register_forward_hook(lambda _module, inputs, _output: inputs[0])
    return net


def centroid(weights: torch.Tensor) -> list[float]:
    sides = [torch.arange(n, dtype=weights.dtype) for n in weights.shape]
    return [float((weights.sum(1 - i) * sides[i]).sum() / weights.sum()) for i in (0, 1)]


def test_vision_transformers():
    swin = timm.create_model('swin_tiny_patch4_window7_224', depths=(1, 2, 1, 1), embed_dim=24)
    found = cell_geometry(swin, 'layers', (224, 224))
    assert found == CellGeometry((15.5, 15.5), (32, 32))
    vit = timm.create_model('vit_tiny_patch16_224', depth=1)
    assert cell_geometry(vit, 'patch_embed.proj', (224, 224)) == CellGeometry((7.5, 7.5), (16, 16))
    with pytest.raises(ValueError, match='no map of 4 dimensions'):
        cell_geometry(vit, 'blocks', (224, 224))
    with pytest.raises(ValueError, match='cannot be followed back'):
        # A class token stands before the others.
        cell_geometry(vit, None, (224, 224), run=lambda x: vit.forward_intermediates(x, intermediates_only=True)[-1])


LOST = {
    'flipped': lambda x: x.flip(3),
    'rolled': lambda x: x.roll(1, 3),
    'sorted': lambda x: x.sort(3)[0],
    'indexed': lambda x: x[..., torch.arange(9)],
    'pooled unevenly': lambda x: F.adaptive_avg_pool2d(x, (7, 7)),
    'nearest, unevenly': lambda x: F.interpolate(x, (32, 50)),
    'scale other than of the sizes': lambda x: F.interpolate(x, scale_factor=1.03, mode='bilinear'),
    'windows': lambda x: x.unflatten(3, (12, 4))[0].transpose(0, 1),
    'windows as rows': lambda x: x.unflatten(3, (12, 4)).permute(0, 4, 1, 2, 3).flatten(2, 3)[0][None],
    'mixed over tokens': lambda x: (x.flatten(2) @ torch.zeros(32 * 48, 32 * 48)).unflatten(2, (32, 48)),
    'behind one another': lambda x: torch.cat([x, x], 3),
    'rows and columns differ': lambda x: x + x.unflatten(3, (12, 4)).transpose(3, 4).flatten(3),
    'no function of the image': lambda x: torch.zeros(1, 3, 32, 48),
    'overwritten': lambda x: x.clone().zero_(),
}


@pytest.mark.parametrize('name', LOST)
def test_lost_positions_are_an_error(name):
    with pytest.raises(ValueError, match=r'cells of the map \(.*\) of the network cannot be followed back'):
        geometry(LOST[name])


def test_rows_and_columns_may_change_places():
    net = nn.Sequential(nn.Conv2d(3, 3, (2, 4), (2, 4)), Fn(lambda x: x.transpose(2, 3)))
    assert cell_geometry(net, None, (32, 32)) == CellGeometry((0.5, 1.5), (2, 4))


def test_failures():
    net = nn.Sequential(conv(3), nn.Flatten())
    with pytest.raises(ValueError, match="no layer 'nope' in the Sequential"):
        cell_geometry(net, 'nope', (16, 16))
    with pytest.raises(ValueError, match='layer Conv2d does not run'):
        cell_geometry(net, conv(3), (16, 16))
    with pytest.raises(ValueError, match='layer 1 gives no map of 4 dimensions'):
        cell_geometry(net, '1', (16, 16))
    with pytest.raises(ValueError, match='is no shape of images'):
        cell_geometry(net, '0', (16,))
    with pytest.raises(ValueError, match='is no shape of images'):
        cell_geometry(net, '0', (16, 0))
    with pytest.raises(ValueError, match='unknown kernels'):
        cell_geometry(net, '0', (16, 16), kernels='learned')
    with pytest.raises(ValueError, match='unknown align'):
        cams.align_geometry('corners', net, '0', (16, 16))
    for fields in [((0, 0), (0, 1)), ((0, 0), (1, 1), (-1, 0)), ((0,), (1, 1)), ((0, float('nan')), (1, 1))]:
        with pytest.raises(ValueError, match='must have'):
            CellGeometry(*fields)


def test_failed_forward_leaves_no_hook():
    net = nn.Sequential(conv(3), Fn(lambda x: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        cell_geometry(net, '0', (16, 16))
    assert not net[0]._forward_hooks
    assert net.training


@pytest.mark.parametrize(
    ('size', 'cells', 'offset', 'stride', 'shift'),
    [
        ((24, 32), (3, 4), (7.0, 7.0), (8.0, 8.0), (0.0, 0.0)),
        ((25, 31), (5, 3), (-1.5, 3.25), (6.0, 9.5), (0.0, 0.0)),
        ((17, 9), (1, 9), (4.0, 0.0), (16.0, 1.0), (2.0, -0.75)),
    ],
)
def test_resize_draws_cells_where_they_look(size, cells, offset, stride, shift):
    maps = torch.rand(3, *cells, generator=torch.Generator().manual_seed(0))
    got = cams.resize(maps, size, shift, CellGeometry(offset, stride))
    for one, low in zip(got.numpy(), maps.double().numpy()):
        # NumPy's interpolation repeats the border as well.
        y, x = (o + s + p * np.arange(n) for o, s, p, n in zip(offset, shift, stride, cells))
        rows = np.stack([np.interp(np.arange(size[0]), y, column) for column in low.T], 1)
        want = np.stack([np.interp(np.arange(size[1]), x, row) for row in rows])
        np.testing.assert_allclose(one, want, atol=1e-6)


def test_resize_agrees_with_plain_and_shift():
    maps = torch.rand(2, 7, 5, generator=torch.Generator().manual_seed(1))
    plain = CellGeometry((7.5, 7.5), (16, 16))
    assert plain.shift == (0, 0)
    torch.testing.assert_close(cams.resize(maps, (112, 80), geometry=plain), cams.resize(maps, (112, 80)))
    same = CellGeometry((15, 11), (16, 16))
    moved = cams.resize(maps, (112, 80), geometry=same)
    torch.testing.assert_close(moved, cams.resize(maps, (112, 80), shift=same.shift), atol=1e-5, rtol=0)
    # At half the size, the same places of the image.
    half = cams.resize(maps, (56, 40), geometry=same.scaled((112, 80), (56, 40)))
    torch.testing.assert_close(half, F.avg_pool2d(moved[:, None], 2)[:, 0], atol=0.05, rtol=0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_resize_keeps_the_range(dtype):
    maps = torch.ones(1, 14, 14, dtype=dtype)
    maps[0, ::3] = torch.tensor(1 / 3, dtype=dtype)
    got = cams.resize(maps, (224, 224), geometry=CellGeometry((12.37, 1.1), (15.9, 16.3)))
    assert got.dtype == dtype
    assert float(got.max()) == 1
    assert float(got.min()) == float(maps.min())


def test_extract_aligns_with_the_cells():
    torch.manual_seed(0)
    net = nn.Sequential(chain('same', 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    nn.init.uniform_(net[4].weight)
    images = torch.rand(2, 3, 64, 48)
    low = cams.extract(net, images, layer='1', size=None, align='cells')
    for align, kernels in (('cells', 'even'), ('kernels', 'trained')):
        where = cell_geometry(net, '1', images, kernels=kernels)
        got = cams.extract(net, images, layer='1', align=align)
        torch.testing.assert_close(got, cams.resize(low, (64, 48), geometry=where))
        got = cams.extract(net, images, layer='1', size=(32, 48), align=align)
        torch.testing.assert_close(got, cams.resize(low, (32, 48), geometry=where.scaled((64, 48), (32, 48))))
    assert torch.equal(cams.extract(net, images, layer='1', align='plain'), cams.resize(low, (64, 48)))
    with pytest.raises(ValueError, match='unknown align'):
        cams.extract(net, images, align='corners')


def test_extract_finds_a_spot_where_it_is():
    """A spot moves with 'same' padding in a plain map, and stands still in an aligned one."""
    net = nn.Sequential(chain('same'), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False))
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0 if parameter.ndim == 1 else 0.1)
    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing='ij')
    images = (-((y - 104) ** 2 + (x - 124) ** 2) / (2 * 16**2)).exp().expand(1, 3, -1, -1)
    spot = {align: centroid(cams.extract(net, images, layer='1', align=align)[0]) for align in cams.ALIGNS}
    assert spot['cells'] == pytest.approx([104, 124], abs=0.5)
    assert spot['kernels'] == pytest.approx(spot['cells'])
    assert spot['plain'] == pytest.approx([104 - 7.5, 124 - 7.5], abs=0.5)
