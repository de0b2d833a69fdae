"""SPOL: equality with the published code of its first stage and pseudo labels, and a short training."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from synthetic import make_wsol, train_config
from tensors import close
from wsol_nets import encoding_of, fcam_with, network_of, renamed, train_and_load

from fcam_zoo import wsol
from fcam_zoo.data import open_dataset
from fcam_zoo.errors import TrainingError, UnknownModelError
from fcam_zoo.hub import save_pretrained
from fcam_zoo.models.pyramid import Encoding
from fcam_zoo.train import ClassifierConfig, DecoderConfig, train
from fcam_zoo.wsol import spol, spol_labels

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def published(golden) -> tuple[dict[str, np.ndarray], spol.SPOL, Encoding]:
    """The golden values, a method with their weights, and their features."""
    arrays = golden('wsol')
    method = spol.SPOL(network_of(nn.Identity(), 5, 12, [6, 8, 12]), spol.SPOLSettings(channels=4))
    names = {'classifier': 'linear'}
    for number, level in enumerate((3, 4, 5)):
        stage = f'stages.{number}'
        names |= {f'{stage}.squeeze.0': f'fc{level}1', f'{stage}.squeeze.1': f'bn{level}1'}
        names |= {f'{stage}.expand': f'fc{level}2'}
        names |= {f'{stage}.embed.0': f'linear{level}', f'{stage}.embed.1': f'bn{level}'}
    counters = {k: v for k, v in method.state_dict().items() if k.endswith('num_batches_tracked')}
    method.load_state_dict({**renamed(arrays, 'spol_w_', names), **counters}, strict=True)
    levels = [torch.tensor(arrays[f'spol_features_{level}']) for level in (3, 4, 5)]
    return arrays, method, encoding_of(levels[2], levels)


def test_maps_equal_the_published_code(published):
    arrays, method, encoding = published
    method.eval()
    close(method.maps(encoding).fused, arrays['spol_eval_maps'])
    labels = torch.tensor(arrays['spol_labels'])
    own = arrays['spol_eval_maps'][np.arange(4), arrays['spol_labels']]
    close(method.class_map(encoding, labels), own)
    close(method.logits(encoding), arrays['spol_eval_maps'].mean((2, 3)))


def test_loss_equals_the_published_code(published):
    arrays, method, encoding = published
    method.train()
    method.dropout.eval()
    maps = method.maps(encoding)
    close(maps.deep, arrays['spol_train_maps_deep'])
    close(maps.fused, arrays['spol_train_maps_fused'])
    logits, terms = method(encoding, wsol.Targets(torch.tensor(arrays['spol_labels'])), None)
    close(logits, arrays['spol_train_maps_fused'].mean((2, 3)))
    ce, distillation, total = map(float, arrays['spol_loss_parts'])
    assert 2 * terms['ce'].item() == pytest.approx(ce, rel=1e-5)
    assert 2 * terms['distillation_maps'].item() == pytest.approx(distillation, rel=1e-5)
    assert sum(terms.values()).item() == pytest.approx(total, rel=1e-5)


def test_the_distillation_does_not_teach_the_deep_maps(published):
    _, method, encoding = published
    method.train().dropout.eval()
    terms = method(encoding, wsol.Targets(torch.tensor([0, 1, 2, 3])), None).terms
    maps = method.maps(encoding)
    deep, fused = (own.mean((2, 3)) for own in maps)
    by_hand = -(deep.softmax(1).detach() * fused.log_softmax(1)).sum(1).mean() / 2
    weight = method.classifier.weight
    found, wanted = (torch.autograd.grad(t, weight)[0] for t in (terms['distillation_maps'], by_hand))
    torch.testing.assert_close(found, wanted)
    assert float(found.abs().sum()) > 0


def test_pseudo_labels_equal_the_published_code(golden):
    arrays = golden('wsol')
    maps = torch.tensor(arrays['spol_pseudo_maps'])
    for own, fore, gauss in zip(maps, arrays['spol_pseudo_fore_u8'], arrays['spol_pseudo_gauss_u8']):
        pictures = spol_labels.pseudo_pictures(own.numpy(), 256)
        for found, want in zip(pictures, (fore, gauss)):
            difference = np.abs((found * 255).astype(np.uint8).astype(int) - want)
            assert (difference <= 1).mean() >= 0.999


def test_pseudo_labels_are_object_background_or_neither():
    rows, columns = np.mgrid[:40, :40]
    distance = (rows - 15.0) ** 2 + (columns - 22.0) ** 2
    score = np.exp(-distance / 60).astype(np.float32)
    found = spol_labels.pseudo_labels(score, 80)
    assert found.shape == (80, 80)
    assert set(np.unique(found)) == {0.0, 0.5, 1.0}
    assert found[31, 45] == 1
    assert found[0, 0] == 0
    # Without the Gaussians only these would be the object.
    assert (found == 1).sum() >= (spol_labels.pseudo_pictures(score, 80)[0] > 0.25).sum()
    constant = spol_labels.pseudo_labels(np.zeros((8, 8), np.float32), 16)
    assert (constant == 0).all()


def test_class_map_is_the_rectified_product_of_the_levels():
    model = fcam_with({'name': 'spol', 'channels': 8})
    method, encoding = model.method, model.encode(IMAGES)
    features = [*encoding.levels[-3:-1], encoding.features]
    gates = 1
    for stage, own in zip(method.stages, features):
        gates = gates * stage.squeeze(F.adaptive_avg_pool2d(own, 1))
    product = 1
    for stage, own in zip(method.stages, features):
        embedded = stage.embed(own * stage.expand(gates).sigmoid())
        size = features[0].shape[-2:]
        product = product * F.interpolate(embedded, size, mode='bilinear', align_corners=True)
    maps = F.conv2d(product, method.classifier.weight, method.classifier.bias).relu()
    torch.testing.assert_close(method.class_map(encoding, torch.tensor([2, 0])), maps[[0, 1], [2, 0]])
    torch.testing.assert_close(model.classify(encoding), maps.mean((2, 3)))


def test_backbones_that_do_not_fit():
    with pytest.raises(UnknownModelError, match='SPOL needs a convolutional network'):
        fcam_with('spol', 'test_vit')
    with pytest.raises(UnknownModelError, match='SPOL needs 3 stages, and Identity has 2'):
        spol.SPOL(network_of(nn.Identity(), 3, 8, [4, 8]), spol.SPOLSettings())


def test_one_image_per_backward_pass_is_refused_before_training(tmp_path):
    data = make_wsol(tmp_path / 'data', {'train': 8, 'val': 2})
    for settings in ({'batch_size': 1}, {'batch_size': 4, 'accumulate': 4}):
        classifier = ClassifierConfig(epochs=1, method={'name': 'spol', 'channels': 8}, **settings)
        config = train_config(data, classifier=classifier, decoder=DecoderConfig(epochs=0))
        message = rf'SPOL needs at least 2 images .* classifier\.batch_size={settings["batch_size"]} gives 1: raise it'
        with pytest.raises(TrainingError, match=message):
            train(config, tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


def test_trains_from_the_command_line(tmp_path):
    train_and_load(tmp_path, 'spol', '--set', 'classifier.method.channels=16')


def test_the_example_of_the_docs_stores_the_labels_of_all_images(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / 'docs' / 'methods.md').read_text()
    (example,) = (block for block in re.findall(r'```python\n(.*?)```', text, re.S) if 'pseudo_labels' in block)
    data = make_wsol(tmp_path / 'birds', {'train': 2})
    save_pretrained(fcam_with({'name': 'spol', 'channels': 8}, num_classes=2), tmp_path / 'runs' / 'spol' / 'best')
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    ids = open_dataset(data, 'train', ground_truth=False).ids
    assert all(set(np.unique(np.load(tmp_path / 'labels' / f'{i}.npy'))) <= {0, 0.5, 1} for i in ids)
