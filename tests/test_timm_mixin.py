"""timm's tools on F-CAMs: registry, input configuration, head, levels, layer groups, checkpointing."""

from __future__ import annotations

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay

import fcam_zoo
from fcam_zoo.errors import UnknownModelError
from fcam_zoo.models.names import ARCHITECTURES

RELEASED = fcam_zoo.list_models(pretrained=True)


@pytest.fixture
def tiny() -> fcam_zoo.FCAM:
    torch.manual_seed(0)
    return timm.create_model('fcam', backbone='test_resnet', num_classes=3)


def test_registry_lists_the_released_models():
    assert sorted(timm.list_models('fcam_*', pretrained=True)) == sorted(RELEASED)
    assert set(timm.list_models('fcam*')) == {'fcam', *ARCHITECTURES}
    assert all(timm.is_model(name) for name in fcam_zoo.list_models())
    for name in RELEASED:
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.has_weights
        assert len(cfg.label_names) == cfg.num_classes
    with pytest.raises(ValueError, match='has no released weights'):
        timm.create_model('fcam_resnet50.cam_cub', pretrained=True)
    with pytest.raises(UnknownModelError, match='no features_only'):
        timm.create_model('fcam', backbone='test_resnet', features_only=True)


def test_input_configuration(tiny):
    assert tiny.default_cfg is tiny.pretrained_cfg
    cfg = resolve_model_data_config(tiny)
    assert cfg['input_size'] == (3, 224, 224)
    assert (cfg['crop_pct'], cfg['crop_mode'], cfg['interpolation']) == (1.0, 'squash', 'bilinear')
    assert tuple(cfg['mean']) == tuple(tiny.backbone.pretrained_cfg['mean'])
    assert create_transform(**cfg)(Image.new('RGB', (90, 50))).shape == (3, 224, 224)


def test_head(tiny):
    assert tiny.get_classifier() is tiny.backbone.fc
    assert tiny.get_submodule(tiny.pretrained_cfg['classifier']) is tiny.backbone.fc
    assert tiny.get_submodule(tiny.pretrained_cfg['first_conv']).in_channels == 3
    tiny.pretrained_cfg['label_names'] = ['a', 'b', 'c']
    tiny.reset_classifier(5)
    assert tiny.num_classes == tiny.get_classifier().out_features == 5
    assert 'label_names' not in tiny.pretrained_cfg
    tiny.eval()
    x = torch.rand(1, 3, 64, 64)
    assert tiny(x).logits.shape == (1, 5)
    features = tiny.forward_features(x)
    torch.testing.assert_close(tiny.forward_head(features), tiny(x).logits)
    assert tiny.forward_head(features, pre_logits=True).shape == (1, tiny.num_features)


def test_feature_info(tiny):
    x = torch.rand(1, 3, 64, 64)
    levels = tiny.eval().encode(x).levels
    info = tiny.feature_info[-len(levels) :]
    assert [level['num_chs'] for level in info] == [m.shape[1] for m in levels]
    for level in tiny.feature_info:
        tiny.get_submodule(level['module'])


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit', 'test_efficientnet', 'convnext_atto'])
@pytest.mark.parametrize('coarse', [False, True])
def test_layer_groups_equal_those_of_the_classifier(backbone, coarse):
    model = fcam_zoo.create_model('fcam', backbone=backbone, num_classes=3)
    backbone_groups = group_parameters(model.backbone, model.backbone.group_matcher(coarse), reverse=True)
    whole = group_parameters(model, model.group_matcher(coarse), reverse=True)
    assert {k.removeprefix('backbone.'): v for k, v in whole.items() if k.startswith('backbone.')} == backbone_groups
    # The decoder is grouped with the head.
    last = max(whole.values())
    assert {v for k, v in whole.items() if k.startswith('decoder.')} == {last}


def test_layer_decay_and_weight_decay():
    model = fcam_zoo.create_model('fcam', backbone='test_vit', num_classes=3, frozen=False)
    assert model.no_weight_decay() == {f'backbone.{name}' for name in model.backbone.no_weight_decay()}
    groups = param_groups_layer_decay(model, 0.05, layer_decay=0.5)
    scales = {id(p): g['lr_scale'] for g in groups for p in g['params']}
    assert scales[id(model.backbone.pos_embed)] < scales[id(model.decoder.head.weight)] == 1.0
    assert len(scales) == len(list(model.parameters()))


def test_gradient_checkpointing_changes_no_gradient():
    x, gradients = torch.rand(2, 3, 64, 64), []
    for enable in (False, True):
        torch.manual_seed(0)
        model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3, frozen=False).train()
        model.set_grad_checkpointing(enable)
        assert model.backbone.grad_checkpointing is model.decoder.grad_checkpointing is enable
        out = model(x)
        (out.maps.square().mean() + out.logits.square().mean()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(checkpointed, plain)
