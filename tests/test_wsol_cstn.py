"""CSTN: equality of its layer with the published code, its class map and boxes, and a short training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensors import close
from wsol_nets import fcam_with, network_of, train_and_load

from fcam_zoo import wsol
from fcam_zoo.errors import UnknownModelError
from fcam_zoo.wsol import cstn

IMAGES = torch.rand(2, 3, 128, 192, generator=torch.Generator().manual_seed(0))
SMALL = {'name': 'cstn', 'channels': 8, 'windows': [3, 3]}


def test_transformed_convolution_equals_the_published_code(golden):
    arrays = golden('wsol')
    layer = cstn.TransformedConv(3, 4, 3)
    weights = {k.removeprefix('cstn_w_'): torch.tensor(v) for k, v in arrays.items() if k.startswith('cstn_w_')}
    names = {'transform.0.weight': 'stn0.weight', 'transform.0.bias': 'stn0.bias', 'transform.2.weight': 'stn1.weight'}
    state = {own: weights[theirs] for own, theirs in names.items()}
    state |= {'conv.weight': weights['conv.weight'].view(4, 3, 3, 3), 'conv.bias': weights['conv.bias']}
    layer.load_state_dict(state)
    x = torch.tensor(arrays['cstn_x'])
    found = layer(x)
    close(found.values, arrays['cstn_scores'])
    # The published code lists the positions column by column.
    close(found.offset.transpose(1, 2).flatten(0, 2), arrays['cstn_theta_minus_identity'])
    for axis, name in enumerate(('grid_x', 'grid_y')):
        close(found.grid[..., axis].transpose(1, 2).flatten(0, 2), arrays[f'cstn_{name}'])
    torch.nn.init.zeros_(layer.transform[2].weight)
    close(layer(x).values, arrays['cstn_scores_identity'])


def test_at_first_it_is_a_convolution():
    layer = cstn.TransformedConv(5, 4, 3)
    x = torch.randn(2, 5, 6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x).values, F.conv2d(x, layer.conv.weight, layer.conv.bias), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match='a map of 2x9 cells is smaller than its window of 3'):
        layer(x[:, :, :2])


def moved_model():
    model = fcam_with(SMALL)
    for scale in model.method.scales:
        torch.nn.init.normal_(scale.transform[2].weight, std=0.05)
    return model


def test_class_map_and_boxes_are_those_of_the_windows():
    model, labels = moved_model(), torch.tensor([2, 0])
    method, encoding = model.method, model.encode(IMAGES)
    found = method.windows(encoding)
    scores = torch.cat([own.values.flatten(2) for own in found], 2)
    joint = scores.flatten(1).softmax(1).view(scores.shape)
    torch.testing.assert_close(model.classify(encoding).softmax(1), joint.sum(2))
    corners = []
    for own in found:
        points = (own.grid.flatten(1, 2).flatten(2, 3) + 1) / 2
        corners.append(torch.cat([points.amin(2), points.amax(2)], 2))
    corners = torch.cat(corners, 1)
    maps, boxes = method.class_map(encoding, labels), method.boxes(encoding, labels)
    assert maps.shape == (2, 16, 24)
    for i, label in enumerate(labels):
        for row, column in ((0, 0), (6, 14), (15, 23), (10, 5)):
            y, x = (row + 0.5) / 16, (column + 0.5) / 24
            x0, y0, x1, y1 = corners[i].T
            inside = (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
            torch.testing.assert_close(maps[i, row, column], joint[i, label][inside].sum())
        torch.testing.assert_close(boxes[i], corners[i, joint[i, label].argmax()].clamp(0, 1))


def test_loss_has_the_penalties():
    model, labels = moved_model(), torch.tensor([2, 0])
    method, encoding = model.method, model.encode(IMAGES)
    logits, terms = method(encoding, wsol.Targets(labels), None)
    found = method.windows(encoding)
    scores = torch.cat([own.values.flatten(2) for own in found], 2)
    joint = scores.flatten(1).softmax(1).view(scores.shape)
    torch.testing.assert_close(terms['ce'], -joint.sum(2)[[0, 1], labels].log().mean())
    moved = sum(own.offset.square().sum() for own in found) / 2
    assert terms['transform'].item() == pytest.approx(1.6e-3 * moved.item(), rel=1e-4)
    count = found[0].values[0, 0].numel()
    own = joint[[0, 1], logits.argmax(1)]
    difference = own[:, count:].amax(1) - own[:, :count].amax(1)
    assert terms['scale'].item() == pytest.approx(80 * difference.clamp(min=0).mean().item(), rel=1e-4, abs=1e-9)


def test_settings_and_backbones_that_do_not_fit():
    with pytest.raises(ValueError, match=r'method\.windows .* give two odd numbers'):
        fcam_with({'name': 'cstn', 'windows': [7, 4]})
    with pytest.raises(UnknownModelError, match='CSTN needs a convolutional network'):
        fcam_with('cstn', 'test_vit')
    with pytest.raises(UnknownModelError, match='CSTN needs two stages'):
        cstn.CSTN(network_of(torch.nn.Identity(), 3, 8, [8]), cstn.CSTNSettings())


def test_trains_from_the_command_line(tmp_path):
    settings = ['classifier.method.channels=8', 'classifier.method.windows=[3, 3]']
    train_and_load(tmp_path, 'cstn', *(part for setting in settings for part in ('--set', setting)))
