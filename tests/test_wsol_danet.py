"""DANet: equality with the published code, levels of classes, and a short training."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from tensors import close, gradient
from wsol_nets import encoding_of, fcam_with, network_of, train_and_load

from fcam_zoo import cams, wsol
from fcam_zoo.errors import UnknownModelError
from fcam_zoo.wsol import danet

TREE = {'parents': [0, 1, 1], 'roots': [0, 0, 0], 'maps': 4, 'channels': [8, 8, 8]}
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_divergence_equals_the_published_code(golden):
    arrays = golden('wsol')
    maps = torch.tensor(arrays['danet_maps']).requires_grad_(True)
    loss = danet.divergence(maps[:, torch.tensor(arrays['danet_pick'])])
    close(loss, arrays['danet_cosine_loss'])
    close(gradient(loss, maps), arrays['danet_grad'], 1e-4)


@pytest.mark.parametrize('level', ['child', 'parent', 'root'])
def test_maps_of_a_class_equal_the_published_code(golden, level):
    arrays = golden('wsol')
    close(danet.mean_map(torch.tensor(arrays[f'danet_{level}'])), arrays[f'danet_{level}_maps'])


def test_divergence_is_the_mean_over_all_pairs():
    maps = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    sums = [
        abs(sum(F.cosine_similarity(a.flatten(), b.flatten(), 0) for a, b in itertools.combinations(own, 2)))
        for own in maps
    ]
    torch.testing.assert_close(danet.divergence(maps), sum(sums) / 3 / 10)
    same = torch.rand(1, 1, 4, 6).expand(2, 3, 4, 6)
    assert danet.divergence(same).item() == pytest.approx(1)
    apart = torch.eye(4).view(1, 4, 2, 2)
    assert danet.divergence(apart).item() == 0


@pytest.mark.parametrize('coarse', ['ancestors', 'predicted'])
def test_class_map_adds_the_maps_of_the_levels(coarse):
    model = fcam_with({'name': 'danet', **TREE, 'coarse': coarse})
    method, encoding, labels = model.method, model.encode(IMAGES), torch.tensor([2, 0])
    child, parent, root = method.maps(encoding)
    assert [own.shape[1] for own in (child, parent, root)] == [3, 2, 1]
    assert root.shape[-2:] == encoding.levels[-3].shape[-2:]
    chosen = torch.tensor([1, 0]) if coarse == 'ancestors' else parent.mean((2, 3, 4)).argmax(1)
    total = 0
    for maps, own in ((child, labels), (parent, chosen), (root, torch.tensor([0, 0]))):
        one = torch.stack([m[k].relu().mean(0) for m, k in zip(maps, own)])
        total = total + F.interpolate(one[:, None], root.shape[-2:], mode='bilinear', align_corners=True)[:, 0]
    torch.testing.assert_close(method.class_map(encoding, labels), total)
    torch.testing.assert_close(model.classify(encoding), child.mean((2, 3, 4)))
    torch.testing.assert_close(model.cam(IMAGES, labels), cams.resize(cams.normalize(total), (64, 96)))


def test_loss_has_all_levels_and_half_of_the_maps():
    model = fcam_with({'name': 'danet', **TREE})
    method, labels = model.method, torch.tensor([2, 0])
    draws = method.draw(IMAGES.shape, wsol.Generators(torch.Generator().manual_seed(0), []))
    assert len(set(draws.tolist())) == len(draws) == 6
    assert draws.max() < 12
    encoding = model.encode(IMAGES)
    logits, terms = method(encoding, wsol.Targets(labels), draws)
    assert list(terms) == ['ce', 'ce_parents', 'ce_roots', 'divergence']
    torch.testing.assert_close(terms['ce'], F.cross_entropy(logits, labels) / 2)
    child, parent, root = method.maps(encoding)
    wanted = F.cross_entropy(parent.mean((2, 3, 4)), torch.tensor([1, 0])) / 2
    torch.testing.assert_close(terms['ce_parents'], wanted)
    assert terms['ce_roots'].item() == 0
    true = [child[[0, 1], [2, 0]], parent[[0, 1], [1, 0]], root[[0, 1], [0, 0]]]
    resized = [F.interpolate(m, root.shape[-2:], mode='bilinear', align_corners=True) for m in true]
    wanted = danet.divergence(torch.cat(resized, 1)[:, draws])
    torch.testing.assert_close(terms['divergence'], 0.01 * wanted)


def test_without_a_tree_there_is_one_level():
    model = fcam_with({'name': 'danet', 'maps': 2, 'channels': [8, 8, 8]})
    method, labels = model.method, torch.tensor([2, 0])
    draws = method.draw(IMAGES.shape, wsol.Generators(torch.Generator(), []))
    assert sorted(draws.tolist()) == [0, 1]
    terms = method(model.encode(IMAGES), wsol.Targets(labels), draws).terms
    assert list(terms) == ['ce', 'divergence']


def test_trees_and_backbones_that_do_not_fit():
    with pytest.raises(ValueError, match=r'method\.parents has 2 entries for 3 classes'):
        fcam_with({'name': 'danet', 'parents': [0, 1]})
    with pytest.raises(ValueError, match=r'method\.roots are the parents of method\.parents'):
        fcam_with({'name': 'danet', 'roots': [0, 0, 0]})
    with pytest.raises(ValueError, match=r'method\.parents\[0\] is -1'):
        fcam_with({'name': 'danet', 'parents': [-1, 0, 0]})
    with pytest.raises(UnknownModelError, match='DANet needs a convolutional network'):
        fcam_with('danet', 'test_vit')
    few = network_of(torch.nn.Identity(), 3, 8, [4, 8])
    with pytest.raises(UnknownModelError, match='DANet needs 3 stages'):
        danet.DANet(few, danet.DANetSettings(parents=[0, 1, 1], roots=[0, 0, 0]))
    two = danet.DANet(few, danet.DANetSettings(parents=[0, 1, 1], channels=[8, 8, 8]))
    levels = [torch.rand(1, 4, 8, 8), torch.rand(1, 8, 4, 4)]
    assert two.class_map(encoding_of(levels[1], levels), torch.tensor([1])).shape == (1, 8, 8)


def test_new_classes_need_a_new_tree():
    tree = {'name': 'danet', 'parents': [0, 1, 1], 'maps': 2, 'channels': [8, 8, 8]}
    model = fcam_with(tree)
    before, hooks = model(IMAGES), len(model.backbone._forward_hooks)
    with pytest.raises(ValueError, match=r'method\.parents has 3 entries for 4 classes'):
        model.reset_classifier(4)
    assert model.num_classes == model.backbone.num_classes == 3
    assert torch.equal(model(IMAGES).logits, before.logits)
    model.reset_classifier(4, method=tree | {'parents': [0, 0, 1, 2]})
    assert model(IMAGES).logits.shape == (2, 4)
    assert model.config.method['parents'] == model.method.settings.parents == [0, 0, 1, 2]
    assert len(model.backbone._forward_hooks) == hooks


def test_trains_from_the_command_line(tmp_path):
    tree = ['parents=[0, 1]', 'roots=[0, 0]', 'maps=2', 'channels=[8, 8, 8]']
    arguments = [part for setting in tree for part in ('--set', f'classifier.method.{setting}')]
    model = train_and_load(tmp_path, 'danet', *arguments)
    assert model.config.method['parents'] == [0, 1]
