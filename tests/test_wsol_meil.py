"""MEIL: equality with the published code of EIL, what each pass erases, and a short training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensors import close
from wsol_nets import fcam_with, train_and_load

from fcam_zoo import wsol
from fcam_zoo.errors import UnknownModelError
from fcam_zoo.wsol import meil


@pytest.mark.parametrize('i', [0, 1])
def test_erased_features_equal_the_published_code(golden, i):
    arrays = golden('wsol')
    features = torch.tensor(arrays['eil_features']).requires_grad_(True)
    found = meil.erase(features, float(arrays['eil_thresholds'][i]))
    close(found, arrays[f'eil_{i}_out'])
    found.sum().backward()
    # The mask is a constant.
    np.testing.assert_array_equal(features.grad, np.broadcast_to(arrays[f'eil_{i}_keep_mask'], features.shape))


def test_loss_equals_the_published_code(golden, monkeypatch):
    arrays = golden('wsol')
    plain, erased = (torch.tensor(arrays[f'eil_{name}']) for name in ('logits', 'logits_erased'))
    method = fcam_with({'name': 'meil', 'layers': ['layer3']}, num_classes=5).method
    encoding = method.network.encode(torch.zeros(3, 3, 64, 64))
    monkeypatch.setattr(method, 'logits', lambda own: plain if own is encoding else erased)
    logits, terms = method(encoding, wsol.Targets(torch.tensor(arrays['eil_labels'])), None)
    close(logits, plain)
    assert list(terms) == ['ce', 'ce_erased_1']
    close(sum(terms.values()), arrays['eil_loss'])


def test_each_pass_erases_after_one_layer_and_leaves_the_statistics():
    model = fcam_with({'name': 'meil', 'weight': 0.5}).unfreeze().train()
    method, backbone = model.method, model.backbone
    assert method.layers == ['layer3', 'layer4']
    x, labels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    encoding = model.encode(x)
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    logits, terms = method(encoding, wsol.Targets(labels), None)
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    assert all(m.track_running_stats for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
    torch.testing.assert_close(terms['ce'], F.cross_entropy(logits, labels))
    # The same by hand: the last block gives the features of the head, and the one before its input.
    features = encoding.features
    attention = features.mean(1, keepdim=True)
    kept = features * (attention < 0.7 * attention.amax((2, 3), keepdim=True))
    wanted = F.cross_entropy(backbone.forward_head(kept), labels)
    torch.testing.assert_close(terms['ce_erased_2'], 0.5 * wanted)
    deep = encoding.levels[-2]
    attention = deep.mean(1, keepdim=True)
    kept = deep * (attention < 0.7 * attention.amax((2, 3), keepdim=True))
    wanted = F.cross_entropy(backbone.forward_head(backbone.layer4(kept)), labels)
    torch.testing.assert_close(terms['ce_erased_1'], 0.5 * wanted)


def test_the_strongest_position_is_erased_and_nothing_outside_training():
    features = torch.rand(4, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    strongest = features.mean(1).flatten(1).argmax(1)
    erased = meil.erase(features, 1.0)
    for i, position in enumerate(strongest):
        assert (erased[i].flatten(1)[:, position] == 0).all()
    for i in range(4):
        assert torch.equal(meil.erase(features[i : i + 1], 0.8), meil.erase(features, 0.8)[i : i + 1])
    x = torch.rand(2, 3, 64, 64)
    plain, model = fcam_with('has'), fcam_with('meil')
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x).logits, plain(x).logits)
    assert torch.equal(model.cam(x, [0, 1]), plain.cam(x, [0, 1]))


def test_hooks_are_off_after_an_error(monkeypatch):
    method = fcam_with('meil').method
    monkeypatch.setattr(method, 'logits', lambda _encoding: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        method.erased_logits(torch.zeros(1, 3, 64, 64), 'layer4')
    assert method._erased is None


def test_layers_and_backbones_that_do_not_fit():
    with pytest.raises(UnknownModelError, match="MEIL: the backbone has no layer 'layer9'"):
        fcam_with({'name': 'meil', 'layers': ['layer9']})
    with pytest.raises(UnknownModelError, match='MEIL needs a convolutional network'):
        fcam_with('meil', 'test_vit')


def test_trains_from_the_command_line(tmp_path):
    train_and_load(tmp_path, 'meil')
