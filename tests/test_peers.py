"""Class maps compared with pytorch-grad-cam and torch-cam on random timm networks (extra `peers`).

Maps are compared after min-max, at the size of the layer. Where a peer (grad-cam 1.5.7, torch-cam 0.5.0) has another
formula than `variant='published'`, the comparison uses the variant with its formula:

- Grad-CAM++ of grad-cam is Eq. 19 of the paper, which multiplies g^3 of a position by sum(A): 'original'.
- Grad-CAM++ of torch-cam divides a masked copy and discards it; its weights are sum(g^2 relu(g)), as in the F-CAM
  authors' code: 'reference'.
- Smooth Grad-CAM++ of torch-cam uses relu(g) and the activation of the last noisy pass: 'reference'.
- Both keep the layer's output without a copy, so an in-place ReLU right after it changes the activation that they
  weight (and, in torch-cam, the gradient). They run on a copy of the network without in-place ReLUs.
- grad-cam applies a second min-max after its resize.
- Both add 1e-8 to 1e-6 to denominators where we skip zeros, so the tests use float64 and a head with large weights.
"""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
import torch.nn as nn

from fcam_zoo import cams

# Network: a layer whose gradient depends on the input, and the last one, whose gradient is constant in space.
LAYERS = {
    'test_resnet': ('layer3', 'layer4'),
    'resnet18': ('layer2', 'layer4'),
    'mobilenetv2_035': ('blocks.3', 'bn2'),
    'regnetx_002': ('s2', 's4'),
    'test_convnext': ('stages.2', 'stages.3'),
}
MIDDLE = [(name, middle) for name, (middle, _) in LAYERS.items()]
LAST = [(name, last) for name, (_, last) in LAYERS.items()]
# Method: classes of grad-cam and torch-cam.
PEERS = {
    'gradcam': ('GradCAM', 'GradCAM'),
    'gradcampp': ('GradCAMPlusPlus', 'GradCAMpp'),
    'xgradcam': ('XGradCAM', 'XGradCAM'),
    'layercam': ('LayerCAM', 'LayerCAM'),
}
SEED = 0
SAME_FORMULA = ('gradcam', 'xgradcam', 'layercam')


@functools.cache
def random_net(name: str) -> nn.Module:
    """Create a timm network in which every branch is active: timm initializes residual branches with 0."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
        for key, parameter in net.named_parameters():
            if key.endswith('.gamma'):
                parameter.uniform_(0.5, 1.5)
        net.get_classifier().weight.mul_(1e6 / net(images().float()).std())
    return net.double()


def images() -> torch.Tensor:
    return torch.randn(4, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@functools.cache
def labels_of(name: str) -> torch.Tensor:
    """Return the best class of even images and the second best of odd ones; maps of other classes are often all 0."""
    with torch.no_grad():
        top = random_net(name)(images()).topk(2).indices
    return top[torch.arange(len(top)), torch.arange(len(top)) % 2]


def grad_cam_maps(
    method: str, net: nn.Module, layer: str, labels: torch.Tensor, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Compute maps with pytorch-grad-cam, by default at the size of the input."""
    peer = pytest.importorskip('pytorch_grad_cam')
    targets = [peer.utils.model_targets.ClassifierOutputTarget(label) for label in labels.tolist()]
    with getattr(peer, PEERS[method][0])(model=net, target_layers=[net.get_submodule(layer)]) as extractor:
        if size is not None:
            extractor.get_target_width_height = lambda _: size[::-1]
        return torch.from_numpy(extractor(input_tensor=images(), targets=targets))


def torch_cam_maps(cls: str, net: nn.Module, layer: str, labels: torch.Tensor) -> torch.Tensor:
    """Compute maps with torch-cam at the size of the layer."""
    peer = pytest.importorskip('torchcam.methods')
    # It draws its noise in the default dtype.
    torch.set_default_dtype(torch.float64)
    try:
        with getattr(peer, cls)(net, layer) as extractor:
            (maps,) = extractor(labels.tolist(), net(images()), normalized=False)
    finally:
        torch.set_default_dtype(torch.float32)
    return cams.normalize(maps)


def check(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal within 1e-4, and no map is constant."""
    assert got.shape == want.shape
    assert (want.std((1, 2)) > 0.05).all()
    assert (got - want).abs().max() < 1e-4


@pytest.mark.parametrize('method', SAME_FORMULA)
@pytest.mark.parametrize(('name', 'layer'), MIDDLE + LAST)
def test_same_formula(name, layer, method):
    net, labels = random_net(name), labels_of(name)
    got = cams.extract(net, images(), labels, method, layer, None)
    check(got, grad_cam_maps(method, net, layer, labels, got.shape[1:]))
    check(got, torch_cam_maps(PEERS[method][1], net, layer, labels))


@pytest.mark.parametrize(('name', 'layer'), MIDDLE + LAST)
def test_gradcampp_of_grad_cam(name, layer):
    net, labels = random_net(name), labels_of(name)
    got = cams.extract(net, images(), labels, 'gradcampp', layer, None, variant='original')
    check(got, grad_cam_maps('gradcampp', net, layer, labels, got.shape[1:]))
    if (name, layer) in LAST:
        # Where the gradient is constant in space, both variants agree.
        published = cams.extract(net, images(), labels, 'gradcampp', layer, None)
        torch.testing.assert_close(published, got, rtol=0, atol=1e-6)


@pytest.mark.parametrize(('name', 'layer'), MIDDLE + LAST)
def test_gradcampp_of_torch_cam(name, layer):
    net, labels = random_net(name), labels_of(name)
    got = cams.extract(net, images(), labels, 'gradcampp', layer, None, variant='reference')
    check(got, torch_cam_maps('GradCAMpp', net, layer, labels))


@pytest.mark.parametrize(('name', 'layer'), MIDDLE + LAST)
def test_smoothgradcampp_of_torch_cam(name, layer):
    net, labels = random_net(name), labels_of(name)
    generator = torch.Generator().manual_seed(SEED)
    got = cams.extract(net, images(), labels, 'smoothgradcampp', layer, None, variant='reference', generator=generator)
    # torch-cam draws the same numbers from the global generator.
    torch.manual_seed(SEED)
    check(got, torch_cam_maps('SmoothGradCAMpp', net, layer, labels))


@pytest.mark.parametrize(('name', 'layer'), [pair for pair in LAST if pair[0] != 'test_convnext'])
def test_cam_of_torch_cam(name, layer):
    # ConvNeXt has a norm between pooling and the linear layer, so CAM is not defined.
    net, labels = random_net(name), labels_of(name)
    got = cams.extract(net, images(), labels, 'cam', layer, None)
    check(got, torch_cam_maps('CAM', net, layer, labels))


@pytest.mark.parametrize('method', SAME_FORMULA)
@pytest.mark.parametrize(
    ('name', 'layer'), [('test_resnet', 'layer3.0.bn1'), ('resnet18', 'layer4.0.bn1'), ('resnet18', 'bn1')]
)
def test_layer_before_an_inplace_relu(name, layer, method):
    net, labels = random_net(name), labels_of(name)
    plain = copy.deepcopy(net)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            assert module.inplace
            module.inplace = False
    got = cams.extract(net, images(), labels, method, layer, None)
    check(got, grad_cam_maps(method, plain, layer, labels, got.shape[1:]))
    check(got, torch_cam_maps(PEERS[method][1], plain, layer, labels))


@pytest.mark.parametrize(('name', 'layer'), [MIDDLE[0], LAST[0]])
def test_input_size(name, layer):
    net, labels = random_net(name), labels_of(name)
    got = cams.extract(net, images(), labels, 'layercam', layer)
    check(cams.normalize(got), grad_cam_maps('layercam', net, layer, labels))
