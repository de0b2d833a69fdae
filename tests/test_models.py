"""Networks: shapes, strides, freezing, class maps, names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from golden_nets import DECODERS, load_decoder

import fcam_zoo
from fcam_zoo.data import WSOLDataset, normalize
from fcam_zoo.errors import UnknownModelError, WeightsError
from fcam_zoo.models import FCAMConfig
from fcam_zoo.models.backbone import build_backbone as build_from_config

SHARED = Path(__file__).parents[2] / 'shared'
TINY = ('test_resnet', 'test_efficientnet', 'test_convnext', 'mobilenetv1_025', 'mobilenetv2_035')


def tiny(backbone: str = 'test_resnet', **kwargs) -> fcam_zoo.FCAM:
    torch.manual_seed(0)
    return fcam_zoo.create_model('fcam', backbone=backbone, **{'num_classes': 5, **kwargs})


def build_backbone(name: str, **kwargs) -> nn.Module:
    return build_from_config(FCAMConfig(name, num_classes=3, **kwargs))


@pytest.mark.parametrize('size', [(64, 64), (97, 128)])
@pytest.mark.parametrize('backbone', TINY)
def test_full_resolution_output(backbone, size):
    model = tiny(backbone).eval()
    output = model(torch.rand(2, 3, *size))
    assert output.logits.shape == (2, 5)
    assert output.maps.shape == (2, 2, *size)
    fcam = model.fcam(torch.rand(2, 3, *size))
    assert fcam.shape == (2, *size)
    assert ((fcam >= 0) & (fcam <= 1)).all()


@pytest.mark.parametrize('stride', [8, 16, 32])
@pytest.mark.parametrize('backbone', ['test_resnet', 'mobilenetv1_025', 'mobilenetv2_035', 'resnet18'])
def test_strides_are_removed_without_dilation(backbone, stride):
    plain, net = build_backbone(backbone), build_backbone(backbone, output_stride=stride)
    assert net.forward_features(torch.rand(1, 3, 128, 128)).shape[-1] == 128 // stride
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    assert all(m.dilation == (1, 1) for m in net.modules() if isinstance(m, nn.Conv2d))


def test_dilated_strides():
    net = build_backbone('resnet18', output_stride=8, dilated=True)
    assert net.forward_features(torch.rand(1, 3, 128, 128)).shape[-1] == 16
    assert any(m.dilation != (1, 1) for m in net.modules() if isinstance(m, nn.Conv2d))


def test_freezing_survives_train():
    model = tiny()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    assert model.decoder.training
    assert not any(m.training for m in model.backbone.modules())
    model(torch.rand(2, 3, 64, 64)).maps.sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith('backbone.'))
    assert any(not torch.equal(before[k], after[k]) for k in before if k.endswith('running_mean'))
    model.unfreeze()
    assert all(m.training for m in model.backbone.modules())


@pytest.mark.parametrize('method', fcam_zoo.cams.METHODS)
def test_class_map_equals_the_gradient_one(method):
    model = tiny('test_resnet').eval()
    assert model.pyramid.linear_head
    encoding, labels = model.encode(torch.randn(3, 3, 64, 64)), torch.tensor([0, 3, 4])
    features = encoding.features
    head = nn.Module()
    head.identity, head.net = nn.Identity(), model.backbone
    head.forward = lambda x: head.net.forward_head(head.identity(x))
    generator = torch.Generator().manual_seed(0)
    expected = fcam_zoo.cams.extract(
        head, features, labels, method, head.identity, size=None, generator=generator, n_samples=1
    )
    torch.testing.assert_close(model.class_map(encoding, labels, method), expected, atol=1e-4, rtol=1e-4)


def test_head_with_a_norm_uses_the_gradient():
    model = tiny('test_convnext').eval()
    assert not model.pyramid.linear_head
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = model.cam(x, torch.tensor([1, 2]), 'gradcam')
    assert maps.shape == (2, 64, 64)
    assert not maps.requires_grad
    assert maps.amax() <= 1
    assert maps.amin() >= 0
    with pytest.raises(ValueError, match="'cam' needs"):
        model.cam(x, method='cam')


# Heads without a closed form, and the layer of the network whose output the class map explains.
HEADS = {'test_convnext': 'stages.3', 'test_vit': 'blocks.4', 'mobilenetv3_small_050': 'blocks.5'}


@pytest.mark.parametrize('method', [m for m in fcam_zoo.cams.METHODS if m != 'cam'])
@pytest.mark.parametrize('backbone', HEADS)
def test_class_map_of_the_head_equals_that_of_the_network(backbone, method, monkeypatch):
    """The class map from an encoding equals that of a hook in the whole network."""
    model = tiny(backbone).eval()
    assert not model.pyramid.linear_head
    x, labels = torch.randn(2, 3, 64, 96), torch.tensor([1, 4])
    encoding = model.encode(x)
    torch.testing.assert_close(model.classify(encoding), model.backbone(x))
    noise = torch.randn(x.shape)
    monkeypatch.setattr(torch, 'randn', lambda *_, **__: noise)
    want = fcam_zoo.cams.extract(model.backbone, x, labels, method, HEADS[backbone], None)
    got = model.class_map(encoding, labels, method)
    assert got.amax() == 1
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_vision_transformer_levels_and_sizes():
    model = tiny('test_vit').eval()
    encoding = model.encode(torch.randn(1, 3, 70, 90))
    assert encoding.images.shape[-2:] == (64, 96)
    assert [tuple(level.shape[1:]) for level in encoding.levels] == [(64, 16, 24), (64, 8, 12), (64, 4, 6)]
    assert encoding.prefix.shape == (1, 1, 64)
    assert model(torch.randn(1, 3, 70, 90)).maps.shape == (1, 2, 70, 90)
    # The patches overlap: their stride is lowered, their kernel unchanged.
    finer = tiny('test_vit', output_stride=8).eval()
    assert finer.encode(torch.randn(1, 3, 64, 64)).features.shape[-2:] == (8, 8)
    assert {k: v.shape for k, v in finer.backbone.state_dict().items()} == {
        k: v.shape for k, v in model.backbone.state_dict().items()
    }
    # Images are resized for a network with a fixed input size.
    fixed = timm.create_model('vit_tiny_patch16_224', num_classes=5, depth=2, embed_dim=48)
    wrapped = fcam_zoo.wrap(fixed).eval()
    assert wrapped.encode(torch.randn(1, 3, 64, 64)).images.shape[-2:] == (224, 224)


@pytest.mark.parametrize('version', ['swin_tiny_patch4_window7_224', 'swinv2_tiny_window8_256'])
def test_unstrided_merging_merges_at_every_patch(version):
    small = {'embed_dim': 24, 'depths': (1, 1, 1, 1)}
    torch.manual_seed(0)
    plain = build_backbone(version, backbone_kwargs=small).eval()
    torch.manual_seed(0)
    dense = build_backbone(version, output_stride=16, backbone_kwargs=small).eval()
    merging, unstrided = plain.layers[3].downsample, dense.layers[3].downsample
    x = torch.randn(2, 6, 8, merging.dim)
    torch.testing.assert_close(unstrided(x)[:, ::2, ::2], merging(x))
    assert unstrided(x).shape[1:3] == (6, 8)


def test_distilled_heads_are_a_list():
    model = tiny('deit_tiny_distilled_patch16_224', backbone_kwargs={'depth': 3, 'embed_dim': 48})
    assert len(model.get_classifier()) == 2
    model.reset_classifier(9)
    assert model(torch.rand(1, 3, 64, 64)).logits.shape == (1, 9)


@pytest.mark.parametrize(
    ('backbone', 'kwargs', 'reason'),
    [
        ('test_vit', {'output_stride': 32}, 'the last map of VisionTransformer has stride 16; give at most 16'),
        ('mobilenetv3_small_050', {'output_stride': 16, 'dilated': True}, 'does not support dilated=True'),
        ('cait_xxs24_224', {'backbone_kwargs': {'depth': 2}}, 'uses only its class token'),
        ('levit_128s', {}, 'are not a map'),
        ('test_resnet', {'backbone_kwargs': {'nonsense': 1}}, "does not support these arguments: .*'nonsense'"),
    ],
)
def test_unsupported_backbone_is_refused_with_the_reason(backbone, kwargs, reason):
    with pytest.raises(UnknownModelError, match=reason):
        tiny(backbone, **kwargs)


@pytest.mark.parametrize(
    ('kwargs', 'reason'),
    [
        ({'output_stride': 0}, 'output_stride is 0: give a number from 1 to 64'),
        ({'output_stride': '8'}, "output_stride is '8'"),
        ({'num_classes': 0}, 'num_classes is 0'),
        ({'dilated': True}, 'dilated=True needs output_stride'),
        ({'backbone_kwargs': {'output_stride': 8}}, 'backbone_kwargs holds output_stride'),
    ],
)
def test_invalid_arguments_are_refused(kwargs, reason):
    with pytest.raises(ValueError, match=reason):
        tiny(**kwargs)


def test_linear_head_is_detected_by_layers_not_values():
    """A head with a norm layer is not linear, even if fresh weights make it the identity or zero."""
    model = tiny('efficientvit_m0')
    assert not model.pyramid.linear_head
    zero = tiny('test_vit', backbone_kwargs={'global_pool': 'avg', 'weight_init': 'jax'})
    assert not zero.pyramid.linear_head
    classifier = timm.create_model('test_resnet', num_classes=4)
    nn.init.zeros_(classifier.fc.weight)
    assert fcam_zoo.wrap(classifier).pyramid.linear_head


@pytest.mark.parametrize('backbone', ['vitamin_small_224', 'mixer_s32_224'])
def test_unusual_networks_of_one_stride(backbone):
    model = tiny(backbone).eval()
    for size in ((97, 128), (225, 225)):
        with torch.no_grad():
            encoding = model.encode(torch.rand(1, 3, *size))
        assert len(encoding.levels) == 3
        assert model.decoder(encoding.levels, size).shape == (1, 2, *size)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_wrap_takes_dtype_and_channels_of_the_classifier(dtype):
    classifier = timm.create_model('test_resnet', num_classes=3, in_chans=1).to(dtype)
    model = fcam_zoo.wrap(classifier).eval()
    assert model.in_chans == 1
    assert model(torch.rand(1, 1, 64, 64, dtype=dtype)).maps.dtype == dtype


@pytest.mark.parametrize(
    'arguments', [{'output_stride': 8}, {'global_pool': 'max'}, {'act_layer': 'silu'}, {'layers': (1, 1, 1, 2)}]
)
def test_wrapped_classifier_with_unrecorded_arguments_is_not_saved(arguments, tmp_path):
    torch.manual_seed(0)
    model = fcam_zoo.wrap(timm.create_model('test_resnet', num_classes=3, **arguments)).eval()
    with pytest.raises(WeightsError, match='could not be loaded again: build the model with create_model'):
        fcam_zoo.hub.save_pretrained(model, tmp_path / 'model')
    assert not (tmp_path / 'model').exists()


def test_plain_wrapped_classifier_is_saved(tmp_path):
    model = fcam_zoo.wrap(timm.create_model('test_resnet', num_classes=3)).eval()
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'model')
    again, x = fcam_zoo.create_model(f'local-dir:{tmp_path / "model"}'), torch.rand(1, 3, 96, 96)
    assert torch.equal(again(x).maps, model(x).maps)


def test_noise_and_variant_reach_the_class_map():
    model, x = tiny('test_convnext').eval(), torch.randn(1, 3, 64, 64)
    draws = [model.cam(x, method='smoothgradcampp', generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(model.cam(x, method='gradcampp', variant='reference'), model.cam(x, method='gradcampp'))


def test_too_many_decoder_blocks_are_refused():
    with pytest.raises(ValueError, match=r'has 6 blocks: .* at full resolution after 5 of them'):
        tiny(decoder_channels=[8] * 6)


def test_cam_of_the_predicted_class_by_default():
    model = tiny().eval()
    x = torch.randn(4, 3, 64, 64)
    labels = model(x).logits.argmax(1)
    assert torch.equal(model.cam(x), model.cam(x, labels))
    low = model.class_map(model.encode(x), labels)
    assert torch.equal(model.cam(x), fcam_zoo.cams.resize(low, (64, 64)))


def test_wrap_keeps_the_classifier():
    classifier = timm.create_model('test_resnet', num_classes=7).eval()
    x = torch.rand(2, 3, 64, 64)
    expected = classifier(x)
    model = fcam_zoo.wrap(classifier).eval()
    torch.testing.assert_close(model(x).logits, expected)
    assert model.num_classes == 7
    with pytest.raises(ValueError, match='keeps the classifier: use create_model for output_stride'):
        fcam_zoo.wrap(classifier, output_stride=8)
    with pytest.raises(ValueError, match='timm classifier'):
        fcam_zoo.wrap(nn.Linear(2, 2))


@pytest.mark.parametrize('kind', DECODERS)
def test_decoder_equals_golden(golden, kind):
    arrays = golden('decoder')
    net, features = load_decoder(arrays, kind)
    with torch.no_grad():
        got = net(features[1:], tuple(features[0].shape[-2:]))
    np.testing.assert_allclose(got.numpy(), arrays[f'{kind}_eval_logits'], atol=1e-5)


def test_mobilenet_checkpoint_loads_and_classifies():
    checkpoint = SHARED / 'data' / 'backbones' / 'mobilenetv1_025.tf_in1k.safetensors'
    if not checkpoint.exists():
        pytest.skip(f'{checkpoint.name} is missing')
    model = fcam_zoo.create_model(
        'fcam_mobilenetv1_025', num_classes=1000, output_stride=None, backbone_checkpoint=checkpoint
    ).eval()
    data = WSOLDataset(SHARED / 'data' / 'imagenette', 'val')
    images = torch.stack([data[i][0] for i in range(0, 100, 2)])
    with torch.no_grad():
        logits = model(normalize(images, model.pretrained_cfg['mean'], model.pretrained_cfg['std'])).logits
    # The accuracy on other images of these classes is 52 %.
    assert (logits.argmax(1).numpy() == data.labels[::2]).mean() > 0.35


def test_checkpoint_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        tiny(backbone_checkpoint=tmp_path / 'none.safetensors')
    damaged = tmp_path / 'damaged.safetensors'
    damaged.write_bytes(b'\x10\x00')
    with pytest.raises(WeightsError, match='truncated, damaged'):
        tiny(backbone_checkpoint=damaged)
    other = fcam_zoo.hub.save_pretrained(tiny('mobilenetv1_025'), tmp_path / 'other')
    with pytest.raises(WeightsError, match='missing'):
        tiny(backbone_checkpoint=other / 'model.safetensors')


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownModelError, match=r'Did you mean fcam_resnet50'):
        fcam_zoo.create_model('fcam_resnet99')
    with pytest.raises(UnknownModelError, match='Architectures: fcam'):
        fcam_zoo.create_model('nosuch')
    with pytest.raises(UnknownModelError, match='no backbone'):
        tiny('resnet5000')
    with pytest.raises(UnknownModelError, match=r'no released weights.*fcam-zoo train'):
        fcam_zoo.create_model('fcam_resnet50.layercam_cub', pretrained=True)
    with pytest.raises(UnknownModelError, match='goes from stride 2 to 4, and its kernel allows no stride between'):
        tiny('test_resnet', output_stride=3)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        fcam_zoo.create_model('local-dir:nowhere')
