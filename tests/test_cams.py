"""CAM methods against golden values, the closed form against autograd, and side effects of extraction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from golden_nets import GoldenNet
from tensors import close

import fcam_zoo
from fcam_zoo import cams
from fcam_zoo.cams.methods import UnknownMethodError

# Golden name: method and variant that reproduce it.
GOLDEN = {
    'CAM': ('cam', 'published'),
    'GradCAM': ('gradcam', 'published'),
    'GradCAMpp': ('gradcampp', 'reference'),
    'ownGradCAMppDivided': ('gradcampp', 'published'),
    'SmoothGradCAMpp': ('smoothgradcampp', 'reference'),
    'XGradCAM': ('xgradcam', 'published'),
    'LayerCAM': ('layercam', 'published'),
}


def linear_net(seed: int = 0, inplace: bool = False, bias: bool = True) -> nn.Sequential:
    """Convolutions with batch norm and dropout, global average pooling and one linear layer: 3 -> 7 classes."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace),
        nn.Conv2d(6, 9, 3, 2, 1),
        nn.ReLU(inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(9, 7, bias),
    )
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


def images(batch: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, 26, 34, generator=torch.Generator().manual_seed(seed))


def cases() -> list[tuple[str, str]]:
    return [(net, method) for net in 'AB' for method in GOLDEN if (net, method) != ('B', 'CAM')]


@pytest.mark.parametrize('label', range(5))
@pytest.mark.parametrize(('net', 'name'), cases())
def test_golden(golden, monkeypatch, net, name, label):
    arrays = golden('cams')
    model, x = GoldenNet(arrays, net).eval(), torch.tensor(arrays['x'])
    method, variant = GOLDEN[name]
    labels = torch.full((3,), label)
    # Divided Grad-CAM++ of net B has a denominator near 0: float64 is 1.5e-4 from the golden float32 value.
    tolerance = 2e-4 if (net, name) == ('B', 'ownGradCAMppDivided') else 1e-5
    kinds = {'raw': (None, False), 'norm': (None, True), 'full': ('input', True)}
    for kind, (size, normalize) in kinds.items():
        if f'{net}_{name}_{kind}_0_{label}' not in arrays:
            assert (name, kind) == ('ownGradCAMppDivided', 'full')
            continue
        if method == 'smoothgradcampp':
            noise = iter(torch.tensor(arrays['smooth_noise']).squeeze(2).unbind(1))
            monkeypatch.setattr(torch, 'randn', lambda *_, noise=noise, **__: next(noise) / float(arrays['smooth_std']))
        got = cams.extract(model, x, labels, method, model.relu2, size, normalize, variant)
        for image in range(3):
            want = arrays[f'{net}_{name}_{kind}_{image}_{label}']
            assert got[image].shape == want.shape
            close(got[image], np.nan_to_num(want), tolerance)


@pytest.mark.parametrize('net', 'AB')
def test_golden_logits(golden, net):
    arrays = golden('cams')
    close(GoldenNet(arrays, net)(torch.tensor(arrays['x'])).detach(), arrays[f'{net}_logits'])


@pytest.mark.parametrize('name', [name for name in GOLDEN if name != 'SmoothGradCAMpp'])
def test_golden_closed_form(golden, name):
    arrays = golden('cams')
    model = GoldenNet(arrays, 'A')
    features = model.features(torch.tensor(arrays['x'])).detach()
    method, variant = GOLDEN[name]
    for label in range(5):
        labels = torch.full((3,), label)
        got = cams.class_activation_map(features, model.fc.weight.detach(), labels, method, variant=variant)
        for image in range(3):
            close(got[image], arrays[f'A_{name}_raw_{image}_{label}'])


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(
    ('method', 'variant'),
    [*((m, 'published') for m in cams.METHODS), ('gradcampp', 'reference'), ('gradcampp', 'original')],
)
def test_closed_form_equals_autograd(method, variant, seed):
    net, x = linear_net(seed), images(4, seed)
    labels = torch.tensor([0, 3, 6, 3])
    with torch.no_grad():
        features = net[:5](x)
        closed = cams.class_activation_map(features, net[-1].weight, labels, method, variant=variant)
    assert (closed >= 0).all() or method == 'cam'
    assert closed.abs().max() > 0
    close(cams.extract(net, x, labels, method, '4', None, False, variant), closed)


def test_smooth_reference_weights_the_last_noisy_activation():
    """Independent formula on a GAP head: w = n relu(g) / (2 + g sum(A)) with the clean A, applied to the noisy A."""
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=5).eval()
    x, labels = torch.randn(3, 3, 64, 80), torch.tensor([0, 3, 4])

    def cam(variant: str) -> torch.Tensor:
        return model.cam(x, labels, 'smoothgradcampp', variant=variant, generator=torch.Generator().manual_seed(7))

    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(x.shape, generator=generator) for _ in range(4)][-1]
    clean, noisy = (model.backbone.forward_features(y).detach() for y in (x, x + 0.3 * noise))
    n = clean[0, 0].numel()
    g = model.backbone.get_classifier().weight.detach()[labels] / n
    weight = n * g.relu() / (2 + g * clean.sum((2, 3)))
    want = torch.einsum('bc,bchw->bhw', weight, noisy).relu()
    want = torch.stack([(m - m.min()) / (m.max() - m.min()) for m in want])
    close(cam('reference'), F.interpolate(want[:, None], x.shape[-2:], mode='bilinear')[:, 0])
    assert not torch.allclose(cam('reference'), cam('published'), atol=0.05)
    features, weight = torch.rand(1, 2, 3, 3), torch.rand(4, 2)
    with pytest.raises(UnknownMethodError, match=r'no closed form, because it needs .* noisy image: use cams\.extract'):
        cams.class_activation_map(features, weight, labels[:1], 'smoothgradcampp', variant='reference')


def test_closed_form_by_hand():
    """Two channels of two cells, with a positive and a negative weight."""
    features = torch.tensor([[[[1.0, 3.0]], [[2.0, 1.0]]]])
    weight, labels = torch.tensor([[9.0, 9.0], [4.0, -2.0]]), torch.tensor([1])
    maps = {m: cams.class_activation_map(features, weight, labels, m)[0, 0].tolist() for m in cams.METHODS}
    assert maps['cam'] == [0.0, 10.0]
    assert maps['gradcam'] == maps['xgradcam'] == [0.0, 5.0]
    assert maps['layercam'] == [2.0, 6.0]
    # g = 2, S = 4: alpha = 4 / (8 + 8 * 4) = 0.1, weight = 2 cells * 0.1 * 2 = 0.4.
    assert maps['gradcampp'] == pytest.approx([0.4, 1.2])
    assert maps['smoothgradcampp'] == pytest.approx([0.4, 1.2])
    reference = cams.class_activation_map(features, weight, labels, 'gradcampp', variant='reference')
    assert reference[0, 0].tolist() == [16.0, 48.0]


@pytest.mark.parametrize('method', cams.METHODS)
def test_dead_channels_and_zero_weights_give_no_nan(method):
    features, weight = torch.rand(2, 4, 3, 3), torch.randn(3, 4).abs()
    features[:, 1] = 0
    weight[:, 2] = 0
    kept = [0, 3]
    labels = torch.tensor([0, 2])
    got = cams.class_activation_map(features, weight, labels, method)
    close(got, cams.class_activation_map(features[:, kept], weight[:, kept], labels, method))
    assert (cams.class_activation_map(torch.zeros(2, 4, 3, 3), weight, labels, method) == 0).all()


@pytest.mark.parametrize('method', cams.METHODS)
def test_batch_equals_loop(method):
    net, x, labels = linear_net(), images(5), torch.tensor([0, 1, 6, 3, 3])
    got = cams.extract(net, x, labels, method, '4', generator=torch.Generator().manual_seed(0), n_samples=2)
    assert got.shape == (5, 26, 34)
    assert not got.requires_grad
    # With this head the result of 'smoothgradcampp' does not depend on the noise.
    one = [cams.extract(net, x[i : i + 1], labels[i : i + 1], method, '4', n_samples=2)[0] for i in range(5)]
    close(got, torch.stack(one))
    features = net[:5](x).detach()
    closed = cams.class_activation_map(features, net[-1].weight.detach(), labels, method)
    one = [
        cams.class_activation_map(features[i : i + 1], net[-1].weight.detach(), labels[i : i + 1], method)[0]
        for i in range(5)
    ]
    close(closed, torch.stack(one))


def test_batch_equals_loop_at_a_middle_layer():
    """The gradient depends on the input there."""
    # In float64, because the denominator of Grad-CAM++ may be near 0.
    net, x, labels = linear_net().double(), images(4).double(), torch.tensor([5, 1, 6, 3])
    for method in ('gradcam', 'gradcampp', 'xgradcam', 'layercam'):
        got = cams.extract(net, x, labels, method, '2', None, False)
        assert got.shape == (4, 13, 17)
        for i in range(4):
            close(got[i], cams.extract(net, x[i : i + 1], labels[i : i + 1], method, '2', None, False)[0])


def test_default_labels_and_layer():
    net, x = linear_net(), images()
    got = cams.extract(net, x)
    assert torch.equal(got, cams.extract(net, x, net(x).argmax(1), 'layercam', net[4]))
    assert not torch.equal(got, cams.extract(net, x, net(x).argmin(1), 'layercam', net[4]))


def test_smooth_noise_follows_the_generator():
    net, x, labels = linear_net(), images(), torch.tensor([0, 1, 2])

    def draw(seed: int, n: int = 3, variant: str = 'published') -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return cams.extract(net, x, labels, 'smoothgradcampp', '2', None, False, variant, generator, n)

    assert torch.equal(draw(0), draw(0))
    assert not torch.allclose(draw(0), draw(1))
    assert not torch.allclose(draw(0), draw(0, n=1))
    assert not torch.allclose(draw(0), draw(0, variant='reference'))


@pytest.mark.parametrize('layer', ['2', '3', '4'])
@pytest.mark.parametrize('method', ['gradcam', 'gradcampp', 'xgradcam', 'layercam'])
def test_inplace_relu(method, layer):
    plain, inplace, x = linear_net(), linear_net(inplace=True), images()
    labels = torch.tensor([0, 1, 2])
    got = cams.extract(inplace, x, labels, method, layer, None, False)
    assert torch.equal(got, cams.extract(plain, x, labels, method, layer, None, False))
    assert got.abs().max() > 0


def test_last_run_of_a_module_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 5, 3, 2)
            self.act, self.fc = nn.ReLU(), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.act(self.b(self.act(self.a(x)))).mean((2, 3)))

    torch.manual_seed(0)
    net, x, labels = Twice(), images(2), torch.tensor([0, 2])
    features = net.act(net.b(net.act(net.a(x)))).detach()
    want = cams.class_activation_map(features, net.fc.weight.detach(), labels, 'layercam')
    close(cams.extract(net, x, labels, 'layercam', net.act, None, False), want)


@pytest.mark.parametrize('method', cams.METHODS)
def test_under_inference_mode(method):
    net = linear_net()
    want = cams.extract(net, images(), torch.tensor([0, 1, 2]), method, '4', None, False)
    with torch.inference_mode():
        got = cams.extract(net, images(), torch.tensor([0, 1, 2]), method, '4', None, False)
        assert torch.is_inference_mode_enabled()
        close(got, want)
        assert cams.extract(net, images()).shape == (3, 26, 34)


def test_no_side_effects():
    net, x = linear_net().train(), images()
    net[1].eval()
    modes = [m.training for m in net.modules()]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for layer in (None, '2', net[4]):
        cams.extract(net, x, layer=layer)
    with pytest.raises(UnknownMethodError):
        cams.extract(net, x, method='cam', layer='2')
    with pytest.raises(ValueError, match=r'does not output a \(B,C,h,w\) map'):
        cams.extract(net, x, layer='8')
    assert [m.training for m in net.modules()] == modes
    assert all(not m._forward_hooks and not m._backward_hooks for m in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_training_mode_does_not_change_the_map():
    net, x = linear_net(), images()
    want = cams.extract(net, x)
    assert torch.equal(cams.extract(net.train(), x), want)


@pytest.mark.parametrize(('size', 'shape'), [('input', (26, 34)), (None, (7, 9)), ((5, 40), (5, 40))])
def test_sizes(size, shape):
    net, x = linear_net(), images()
    maps = cams.extract(net, x, size=size)
    assert maps.shape == (3, *shape)
    assert 0 <= maps.min() <= maps.max() <= 1
    low = cams.extract(net, x, size=None)
    want = low if size is None else F.interpolate(low[None], shape, mode='bilinear', align_corners=False)[0]
    close(maps, want)


def test_normalize():
    maps = torch.tensor([[[2.0, 4.0], [3.0, 6.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 0.0], [0.0, 0.0]]])
    got = cams.normalize(maps)
    assert got[0].tolist() == [[0.0, 0.5], [0.25, 1.0]]
    assert (got[1:] == 0).all()
    tiny = cams.normalize(torch.tensor([[[0.0, 1e-38]]]))
    assert tiny.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize('method', cams.METHODS)
def test_constant_map_is_zero(method):
    net, x = linear_net(), images()
    nn.init.zeros_(net[-1].weight)
    got = cams.extract(net, x, torch.tensor([0, 1, 2]), method, '4')
    assert (got == 0).all()


def test_resize_shift():
    maps = torch.rand(2, 6, 7)
    plain = cams.resize(maps, (12, 14))
    assert torch.equal(plain, F.interpolate(maps[None], (12, 14), mode='bilinear', align_corners=False)[0])
    moved = cams.resize(maps, (12, 14), (2.0, 4.0))
    close(moved[:, 2:, 4:], plain[:, :-2, :-4])
    torch.testing.assert_close(moved[:, :2], moved[:, 2:3].expand(-1, 2, -1), rtol=0, atol=1e-5)
    nearly = cams.resize(maps, (12, 14), (1e-6, 0.0))
    torch.testing.assert_close(nearly, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize('method', ['', 'CAM', 'layer-cam', 'scorecam'])
def test_unknown_method(method):
    with pytest.raises(UnknownMethodError, match=f'unknown CAM method {method!r}: choose one of cam, gradcam'):
        cams.extract(linear_net(), images(), method=method)
    with pytest.raises(UnknownMethodError, match='unknown CAM method'):
        cams.class_activation_map(torch.rand(1, 2, 3, 3), torch.rand(4, 2), torch.tensor([0]), method)
    with pytest.raises(UnknownMethodError, match="unknown variant 'x'"):
        cams.extract(linear_net(), images(), variant='x')


def test_cam_needs_a_linear_head_after_the_layer():
    with pytest.raises(UnknownMethodError, match=r"has neither there: use method='gradcam' or 'layercam'"):
        cams.extract(linear_net(), images(), method='cam', layer='2')
    head = nn.Sequential(linear_net()[:7], nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 4))
    with pytest.raises(UnknownMethodError, match='average pooling and one linear layer'):
        cams.extract(head, images(), method='cam')
    assert cams.extract(head, images(), method='gradcam').shape == (3, 26, 34)


def test_cam_of_a_head_without_bias():
    net, x, labels = linear_net(bias=False), images(), torch.tensor([0, 3, 6])
    want = torch.einsum('bc,bchw->bhw', net[-1].weight[labels], net[:5](x)).detach()
    close(cams.extract(net, x, labels, 'cam', size=None, normalize=False), want)


def test_layer_errors():
    net, x = linear_net(), images()
    with pytest.raises(ValueError, match=r"no layer 'nope' in the Sequential; its last layers: .*8"):
        cams.extract(net, x, layer='nope')
    with pytest.raises(ValueError, match='does not run in the forward pass'):
        cams.extract(net, x, layer=nn.ReLU())
    with pytest.raises(ValueError, match=r'no layer of the classifier outputs a \(B,C,h,w\) map'):
        cams.extract(nn.Sequential(nn.Flatten(), nn.Linear(3 * 26 * 34, 2)), x)
    with pytest.raises(ValueError, match=r'need logits \(B,K\)'):
        cams.extract(net[:5], x, layer='4')


def test_argument_errors():
    net, x = linear_net(), images()
    # With too few labels the other images would have no gradient.
    for labels in (torch.tensor([0]), torch.tensor([0, 1, 2, 3])):
        with pytest.raises(ValueError, match=r'labels have shape .*: give one class per image, \(3,\)'):
            cams.extract(net, x, labels)
    with pytest.raises(ValueError, match=r'labels: got the shape \(3, 1\)'):
        cams.extract(net, x, torch.tensor([[0], [1], [2]]))
    with pytest.raises(ValueError, match='n_samples is 0'):
        cams.extract(net, x, method='smoothgradcampp', n_samples=0)
    features, weight, labels = torch.rand(2, 4, 3, 3), torch.rand(5, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r'features \(2, 4, 3, 3\) and weight \(5, 3\) do not fit'):
        cams.class_activation_map(features, weight[:, :3], labels)
    with pytest.raises(ValueError, match=r'features: got the shape \(4, 3, 3\); give a floating-point tensor'):
        cams.class_activation_map(features[0], weight, labels)
    with pytest.raises(ValueError, match=r'labels have shape \(1,\): give one class per image, \(2,\)'):
        cams.class_activation_map(features, weight, labels[:1])
    with pytest.raises(ValueError, match='n_samples is 0'):
        cams.class_activation_map(features, weight, labels, 'smoothgradcampp', n_samples=0)
