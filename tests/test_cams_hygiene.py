"""`cams.extract` inside other programs: hooks, modes, precision, memory, layouts."""

from __future__ import annotations

import gc

import pytest
import timm
import torch
import torch.nn as nn

import fcam_zoo
from fcam_zoo import cams

GRADIENT_METHODS = [m for m in cams.METHODS if m != 'cam']
# A layer in the middle, where gradients depend on the image.
NETS = {
    'test_resnet': 'layer3',
    'mobilenetv1_025': 'blocks.3',
    'test_convnext': 'stages.2',
    'test_efficientnet': 'blocks.3',
}


@pytest.fixture(scope='module', params=NETS)
def net(request) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(request.param, num_classes=6).eval()


def layer_of(net: nn.Module) -> str:
    return NETS[net.pretrained_cfg['architecture']]


def images(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 64, 80, generator=torch.Generator().manual_seed(seed))


def maps(net: nn.Module, x: torch.Tensor, method: str = 'layercam', **kwargs) -> torch.Tensor:
    labels = torch.arange(len(x)) % 6
    kwargs.setdefault('layer', layer_of(net))
    kwargs.setdefault('generator', torch.Generator().manual_seed(0))
    return cams.extract(net, x, labels, method, size=None, **kwargs)


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules())


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().float(), b.flatten().float()]))[0, 1])


@pytest.mark.parametrize('method', GRADIENT_METHODS)
def test_frozen_parameters_no_grad_and_inference_mode(net, method):
    want = maps(net, images(), method)
    assert want.amax() == 1
    net.requires_grad_(False)
    try:
        with torch.no_grad():
            assert torch.equal(maps(net, images(), method), want)
        with torch.inference_mode():
            assert torch.equal(maps(net, images(), method), want)
        assert not any(p.requires_grad for p in net.parameters())
    finally:
        net.requires_grad_(True)


@pytest.mark.parametrize('method', [m for m in GRADIENT_METHODS if m != 'smoothgradcampp'])
def test_batch_equals_loop(net, method):
    x, double = images(4).double(), net.double()
    try:
        # In float64, because the denominator of Grad-CAM++ may be near 0.
        batch = maps(double, x, method)
        labels = torch.arange(4)
        for i in range(4):
            one = cams.extract(double, x[i : i + 1], labels[i : i + 1], method, layer_of(net), None)
            torch.testing.assert_close(batch[i], one[0], rtol=1e-6, atol=1e-6)
    finally:
        net.float()


@pytest.mark.parametrize('method', GRADIENT_METHODS)
def test_channels_last(net, method):
    want = maps(net, images(), method)
    net.to(memory_format=torch.channels_last)
    try:
        got = maps(net, images().contiguous(memory_format=torch.channels_last), method)
    finally:
        net.to(memory_format=torch.contiguous_format)
    assert correlation(got, want) > 0.999


# The other methods divide by sums that are near 0 in random networks, where rounding matters.
@pytest.mark.parametrize('method', ['gradcam', 'layercam'])
def test_bfloat16_autocast(net, method):
    want = maps(net, images(), method)
    with torch.autocast('cpu', torch.bfloat16):
        got = maps(net, images(), method)
    assert got.dtype == torch.float32
    assert torch.isfinite(got).all()
    assert correlation(got, want) > 0.95


def test_closed_form_under_autocast():
    features, weight, labels = torch.rand(2, 8, 5, 5), torch.randn(3, 8), torch.tensor([0, 2])
    want = cams.class_activation_map(features, weight, labels)
    with torch.autocast('cpu', torch.bfloat16):
        got = cams.class_activation_map(features.bfloat16(), weight, labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0, atol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
@pytest.mark.parametrize('method', GRADIENT_METHODS)
def test_cuda(net, method):
    want = maps(net, images(), method)
    got = maps(net.cuda(), images().cuda(), method)
    net.cpu()
    assert got.is_cuda
    assert correlation(got.cpu(), want) > 0.999


class Failing(nn.Module):
    """A classifier that fails after its explained layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.conv(x)
        raise RuntimeError('failed after the layer')


@pytest.mark.parametrize('layer', ['conv', None])
def test_exception_leaves_no_side_effects(layer):
    net = Failing().train()
    with pytest.raises(ValueError, match=r'the classifier cannot run on images .*\(failed after the layer\)'):
        cams.extract(net, images(), layer=layer)
    assert hooks(net) == 0
    assert net.training
    assert net.conv.training
    assert all(p.requires_grad for p in net.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize('method', GRADIENT_METHODS)
def test_call_leaves_no_side_effects(net, method):
    net.train()
    statistics = {k: v.clone() for k, v in net.state_dict().items()}
    maps(net, images(), method)
    assert hooks(net) == 0
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(v, statistics[k]) for k, v in net.state_dict().items())
    net.eval()


def test_no_graph_is_recorded_before_the_layer(net):
    """The layer's output is the first tensor that requires a gradient, so memory is that of a forward pass."""
    flags = []

    def note(_module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        flags.append((inputs[0].requires_grad, output.requires_grad))

    handles = [m.register_forward_hook(note) for m in net.modules() if isinstance(m, nn.Conv2d)]
    maps(net, images())
    for handle in handles:
        handle.remove()
    assert flags[0] == (False, False)
    outputs = [output for _, output in flags]
    assert outputs == sorted(outputs)


def test_memory_does_not_grow():
    net = timm.create_model('test_resnet', num_classes=3).eval()
    x, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])

    def live() -> int:
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    cams.extract(net, x, labels)
    before = live()
    for _ in range(200):
        cams.extract(net, x, labels, layer='layer4')
    assert live() == before


def test_classifier_that_needs_contiguous_maps():
    """`view` fails on channels-last maps."""

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, 2), nn.Linear(4 * 49 * 59, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x).relu()
            return self.fc(x.view(len(x), -1))

    torch.manual_seed(0)
    net, x = Viewing().eval(), torch.randn(2, 3, 100, 120)
    with pytest.raises(RuntimeError, match='view size'):
        net(x.contiguous(memory_format=torch.channels_last))
    for method in ('layercam', 'smoothgradcampp'):
        got = cams.extract(net, x, torch.tensor([0, 1]), method, 'conv')
        assert got.shape == (2, 100, 120)
        assert got.amax() > 0
    assert hooks(net) == 0


def test_labels_out_of_range(net):
    with pytest.raises(ValueError, match=r'labels are in \[0, 6\]: the classifier has 6 classes'):
        cams.extract(net, images(2), torch.tensor([0, 6]), layer=layer_of(net))


def test_layer_that_does_not_reach_the_logits():
    class Aside(Failing):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.conv(x)
            return self.fc(x.mean((2, 3)))

    with pytest.raises(ValueError, match='no gradient leads from the logits to layer Conv2d'):
        cams.extract(Aside(), images(), layer='conv')


def test_outputs_that_begin_with_logits(net):
    class Pair(nn.Module):
        def __init__(self, kind: type) -> None:
            super().__init__()
            self.net, self.kind = net, kind

        def forward(self, x: torch.Tensor) -> object:
            logits = self.net(x)
            return (logits, x) if self.kind is tuple else fcam_zoo.FCAMOutput(logits, x)

    labels = torch.tensor([0, 1, 2])
    want = cams.extract(net, images(), labels, layer=layer_of(net))
    for kind in (tuple, fcam_zoo.FCAMOutput):
        assert torch.equal(cams.extract(Pair(kind), images(), labels, layer=f'net.{layer_of(net)}'), want)


def test_tokens_are_maps():
    """The map of a transformer block has the patch tokens row by row, without the class token."""
    torch.manual_seed(0)
    net = timm.create_model('test_vit', num_classes=5, dynamic_img_size=True).eval()
    x, labels = torch.randn(2, 3, 64, 96), torch.tensor([1, 4])
    got = cams.extract(net, x, labels, 'layercam', 'blocks.3', None, False)
    assert got.shape == (2, 4, 6)
    kept = {}
    handle = net.blocks[3].register_forward_hook(lambda _m, _i, output: kept.update(a=output))
    with torch.no_grad():
        net(x)
    handle.remove()
    tokens = kept['a'].detach().requires_grad_()
    y = tokens
    for block in net.blocks[4:]:
        y = block(y)
    net.forward_head(net.norm(y))[torch.arange(2), labels].sum().backward()
    want = (tokens.grad.relu() * tokens)[:, 1:].sum(2).relu().detach().reshape(2, 4, 6)
    torch.testing.assert_close(got, want)
    assert got.amax() > 0
    # The default is the last layer from which patches reach the class token.
    default = cams.extract(net, x, labels, 'gradcam', size=None)
    assert torch.equal(default, cams.extract(net, x, labels, 'gradcam', net.blocks[-1].norm1, None))
    assert default.amax() == 1
    with pytest.raises(ValueError, match='tokens do not form a grid'):
        cams.extract(net, x, labels, layer='blocks.3', prefix_tokens=2)


def test_channels_last_networks():
    torch.manual_seed(0)
    net = timm.create_model(
        'swin_tiny_patch4_window7_224', num_classes=5, strict_img_size=False, embed_dim=24, depths=(1, 1, 2, 1)
    ).eval()
    x, labels = torch.randn(2, 3, 64, 96), torch.tensor([1, 4])
    got = cams.extract(net, x, labels, 'cam', size=None, normalize=False)
    assert got.shape == (2, 2, 3)
    features = net.forward_features(x).detach()
    want = torch.einsum('bc,bhwc->bhw', net.get_classifier().weight.detach()[labels], features)
    torch.testing.assert_close(got, want)
    assert cams.extract(net, x, labels, layer='layers.1').shape == (2, 64, 96)
    with pytest.raises(ValueError, match="unknown layout 'HWC'"):
        cams.extract(net, x, labels, layout='HWC')
    with pytest.raises(ValueError, match=r'does not output a \(B,C,h,w\) map'):
        cams.extract(net, x, labels, layer='layers.1', layout='NLC')


@pytest.mark.parametrize(
    ('count', 'size', 'grid'),
    [(196, (224, 224), (14, 14)), (300, (240, 320), (15, 20)), (56, (225, 75), (14, 4)), (12, (70, 90), (3, 4))],
)
def test_token_grid(count, size, grid):
    assert cams.layout.token_grid(count, size) == grid


@pytest.mark.parametrize(('count', 'size'), [(197, (224, 224)), (13, (64, 64)), (0, (64, 64))])
def test_tokens_that_do_not_form_a_grid(count, size):
    with pytest.raises(ValueError, match='do not form a grid with the aspect ratio of a'):
        cams.layout.token_grid(count, size)


def test_cam_of_a_convolutional_head():
    torch.manual_seed(0)
    net = timm.create_model('resnetv2_50', num_classes=4, layers=(1, 1, 1, 1)).eval()
    assert isinstance(net.get_classifier(), nn.Conv2d)
    x, labels = torch.randn(2, 3, 64, 64), torch.tensor([3, 1])
    features = net.forward_features(x).detach()
    want = torch.einsum('bc,bchw->bhw', net.get_classifier().weight.detach()[labels].flatten(1), features)
    torch.testing.assert_close(cams.extract(net, x, labels, 'cam', size=None, normalize=False), want)


@pytest.mark.parametrize(
    ('name', 'kwargs', 'layer'),
    [
        ('test_vit', {}, 'blocks.5.norm1'),
        ('test_vit', {'global_pool': 'avg'}, 'blocks.5'),
        ('test_vit3', {}, 'norm'),
        ('test_convnext', {}, 'stages'),
    ],
)
def test_default_layer_of_timm_networks(name, kwargs, layer):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=3, **kwargs).eval()
    x, labels = torch.randn(1, 3, 160, 160), torch.tensor([1])
    got = cams.extract(net, x, labels, 'gradcam', size=None)
    assert torch.equal(got, cams.extract(net, x, labels, 'gradcam', layer, None))


def test_default_layer_before_tokens_is_an_error():
    class Tokens(nn.Module):
        """A convolution whose output becomes tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mix, self.fc = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.mix(self.stem(x).flatten(2).transpose(1, 2)).mean(1))

    torch.manual_seed(0)
    with pytest.raises(
        ValueError, match=r'default layer cannot be inferred, .* output tokens \(B,L,C\): name one with layer='
    ):
        cams.extract(Tokens(), images())
    assert cams.extract(Tokens(), images(), layer='mix').shape == (3, 64, 80)


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        ({'layer': []}, ValueError, 'layer is a list: give at least one'),
        ({'layer': 4}, TypeError, 'layer is a int'),
        ({'layer': ''}, ValueError, "no layer '' in the ResNet"),
        ({'labels': torch.tensor([0.0, 1.0])}, TypeError, 'labels: got a tensor of torch.float32'),
        ({'size': 'big'}, ValueError, "size is 'big': choose 'input', None or"),
        ({'size': 50}, ValueError, 'size is 50'),
        ({'images': torch.zeros(0, 3, 64, 64)}, ValueError, 'images have the shape'),
        ({'images': [1]}, TypeError, 'images: got list'),
    ],
)
def test_inputs_are_checked(arguments, error, message):
    net = timm.create_model('test_resnet', num_classes=3).eval()
    with pytest.raises(error, match=message):
        cams.extract(net, **{'images': images(2), **arguments})
    with pytest.raises(ValueError, match='layer is the whole classifier'):
        cams.extract(net, images(2), layer=net)
