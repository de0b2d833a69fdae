"""The FPN decoder: shapes, an independent computation, size, and how it is chosen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fcam_zoo
from fcam_zoo.models.fpn_decoder import FpnDecoder


def pyramid(channels=(4, 6, 8), side=32, batch=2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, side >> i, side >> i, generator=generator) for i, c in enumerate(channels, 1)]


def test_logits_equal_an_independent_computation():
    torch.manual_seed(0)
    decoder = FpnDecoder((4, 6, 8), (10, 7, 5)).double().eval()
    for module in decoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    weights = dict(decoder.state_dict())

    def norm(x, place):
        mean, var, weight, bias = (
            weights[f'{place}.{name}'][:, None, None] for name in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).relu()

    def separable(x, place):
        depthwise = F.conv2d(x, weights[f'{place}.0.weight'], padding=1, groups=x.shape[1])
        return norm(torch.einsum('oi,bihw->bohw', weights[f'{place}.1.weight'][:, :, 0, 0], depthwise), f'{place}.2')

    def mix(x, place):
        return torch.einsum('oi,bihw->bohw', weights[f'{place}.weight'][:, :, 0, 0], x)

    high, middle, low = (level.double() for level in pyramid())
    x = separable(norm(mix(low, 'stem.0'), 'stem.1'), 'stem.3')
    for i, skip in enumerate((middle, high)):
        x = F.interpolate(mix(x, f'blocks.{i}.reduce'), scale_factor=2, mode='bilinear')
        x = separable(norm(x + mix(skip, f'blocks.{i}.lateral'), f'blocks.{i}.norm'), f'blocks.{i}.conv')
    expected = F.interpolate(
        F.conv2d(x, weights['head.weight'], weights['head.bias'], padding=1), scale_factor=2, mode='bilinear'
    )
    found = decoder([high, middle, low], (32, 32))
    assert found.shape == (2, 2, 32, 32)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('backbone', ['test_resnet', 'mobilenetv1_025', 'test_vit'])
def test_full_resolution_of_any_size(backbone):
    model = fcam_zoo.create_model('fcam', backbone=backbone, num_classes=3, decoder_type='fpn').eval()
    side = 160 if backbone == 'test_vit' else 97
    assert model(torch.rand(1, 3, side, 128)).maps.shape == (1, 2, side, 128)
    assert model.model_args['decoder_type'] == 'fpn'


def test_it_is_a_twentieth_of_the_paper_decoder():
    light, unet = (
        fcam_zoo.create_model('fcam', backbone='mobilenetv1_075', num_classes=2, decoder_type=kind)
        for kind in ('fpn', 'unet')
    )
    counts = [sum(p.numel() for p in model.decoder.parameters()) for model in (light, unet)]
    assert counts[0] < 100_000
    assert counts[0] * 10 < counts[1]


def test_saved_and_loaded(tmp_path):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3, decoder_type='fpn').eval()
    fcam_zoo.hub.save_pretrained(model, tmp_path)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(fcam_zoo.create_model(f'local-dir:{tmp_path}').fcam(x), model.fcam(x))


def test_gradient_checkpointing_changes_nothing():
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3, decoder_type='fpn').train()
    x, grads = torch.rand(2, 3, 64, 64), []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        model(x).maps.square().mean().backward()
        grads.append([p.grad.clone() for p in model.decoder.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'decoder_channels': [8, 8]}, 'decoder_channels has 2 numbers: the fpn decoder needs one for each of the '),
        ({'center': True}, 'center is an argument of the unet decoder'),
        ({'decoder_type': 'lite'}, "decoder_type is 'lite': give 'unet' or 'fpn'"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3, **{'decoder_type': 'fpn', **options})
