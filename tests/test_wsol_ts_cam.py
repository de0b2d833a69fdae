"""TS-CAM: equality with the published code, the attention it reads, and a short training."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from tensors import close, gradient
from timm.models import VisionTransformer
from wsol_nets import fcam_with, train_and_load

import fcam_zoo
from fcam_zoo import cams
from fcam_zoo.errors import UnknownModelError
from fcam_zoo.wsol import ts_cam

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def published(golden) -> tuple[dict[str, np.ndarray], fcam_zoo.FCAM]:
    """The golden values, and a model with their weights."""
    arrays = golden('wsol')
    net = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=3, mlp_ratio=2, num_classes=5, qkv_bias=True
    )
    weights = {k.removeprefix('tscam_w_'): torch.tensor(v) for k, v in arrays.items() if k.startswith('tscam_w_')}
    head = {name: weights.pop(f'head.{name}') for name in ('weight', 'bias')}
    net.load_state_dict({**net.state_dict(), **weights})
    model = fcam_zoo.FCAM(net, method='ts_cam').unfreeze().eval()
    model.method.classifier.load_state_dict(head)
    return arrays, model


def test_maps_and_gradients_equal_the_published_code(published):
    arrays, model = published
    labels = torch.tensor(arrays['tscam_labels'])
    encoding = model.encode(torch.tensor(arrays['tscam_images']))
    close(model.method.semantic_maps(encoding), arrays['tscam_semantic_maps'])
    close(model.method.attention(encoding), arrays['tscam_token_attention'])
    for label in range(5):
        close(model.method.class_map(encoding, torch.full((2,), label)), arrays['tscam_cams'][:, label])
    logits = model.classify(encoding)
    close(logits, arrays['tscam_logits'])
    loss = F.cross_entropy(logits, labels)
    close(loss, arrays['tscam_loss'])
    close(gradient(loss, model.method.classifier.weight), arrays['tscam_grad_head.weight'], 1e-4)
    loss = F.cross_entropy(model(torch.tensor(arrays['tscam_images'])).logits, labels)
    close(gradient(loss, model.backbone.blocks[0].attn.qkv.weight), arrays['tscam_grad_qkv0'], 1e-4)
    resized = cams.resize(model.method.class_map(encoding, labels), (32, 32))
    close(cams.normalize(resized), arrays['tscam_norm_maps'], 1e-3)


def test_attention_equals_the_published_code(published):
    arrays, model = published
    with ts_cam.recorded_attention(model.backbone.blocks) as found, torch.no_grad():
        model.backbone(torch.tensor(arrays['tscam_images']))
    close(torch.stack(found, 1), arrays['tscam_attentions'])


@pytest.mark.parametrize(
    'backbone', ['vit_tiny_patch16_224', 'deit_tiny_distilled_patch16_224', 'beit_base_patch16_224']
)
def test_the_attention_is_that_of_a_plain_softmax(backbone):
    torch.manual_seed(0)
    net = timm.create_model(backbone, embed_dim=24, depth=3, num_heads=3, num_classes=3, img_size=(64, 96))
    model = fcam_zoo.FCAM(net, method='ts_cam').eval()
    blocks, taken = model.backbone.blocks, []
    fused = [block.attn.fused_attn for block in blocks]
    assert all(fused)
    encoding = model.encode(IMAGES)
    handles = [b.attn.qkv.register_forward_hook(lambda _m, _i, output: taken.append(output)) for b in blocks]
    found = model.method.attention(encoding)
    for handle in handles:
        handle.remove()
    assert found.shape == (2, *encoding.features.shape[2:])
    assert [block.attn.fused_attn for block in blocks] == fused
    with ts_cam.recorded_attention(blocks) as attentions, torch.no_grad():
        unfused = model.backbone(encoding.images)
    torch.testing.assert_close(unfused, model.backbone(encoding.images), atol=1e-4, rtol=1e-4)
    for attention in attentions:
        torch.testing.assert_close(attention.sum(3), torch.ones(attention.shape[:3]))
    if backbone.startswith('beit'):  # It adds a position bias to the scores.
        return
    prefix, heads, total = encoding.prefix.shape[1], blocks[0].attn.num_heads, 0
    for qkv in taken:
        query, key, _ = qkv.unflatten(2, (3, heads, -1)).unbind(2)
        scores = torch.einsum('bhd,bnhd->bhn', query[:, 0], key) / query.shape[-1] ** 0.5
        total = total + scores.softmax(2)[..., prefix:].mean(1)
    close(found.flatten(1), total)


def test_the_network_is_unchanged_after_an_error():
    model = fcam_with('ts_cam', 'test_vit')
    attention = model.backbone.blocks[0].attn
    with pytest.raises(RuntimeError, match='stop'), ts_cam.recorded_attention(model.backbone.blocks):  # noqa: PT012
        assert not attention.fused_attn
        raise RuntimeError('stop')
    assert attention.fused_attn
    assert not attention.attn_drop._forward_pre_hooks


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit2'])
def test_other_backbones_are_refused(backbone):
    with pytest.raises(UnknownModelError, match='TS-CAM needs a vision transformer with a class token'):
        fcam_with('ts_cam', backbone)


def test_gradients_reach_the_whole_transformer_but_not_its_own_head():
    model = fcam_with('ts_cam', 'test_vit').unfreeze()
    F.cross_entropy(model.classify(model.encode(IMAGES)), torch.tensor([0, 1])).backward()
    without = [name for name, p in model.backbone.named_parameters() if p.grad is None]
    assert without == ['head.weight', 'head.bias']


def test_trains_from_the_command_line(tmp_path):
    train_and_load(tmp_path, 'ts_cam', '--set', 'classifier.optimizer=adamw', backbone='test_vit')
