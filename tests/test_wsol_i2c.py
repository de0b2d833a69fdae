"""I2C: equality with the published code, its seeds, bank and pairs, and a short training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn as nn
from synthetic import make_wsol, train_config
from tensors import close
from wsol_nets import encoding_of, fcam_with, network_of, renamed, train_and_load

from fcam_zoo import cams, wsol
from fcam_zoo.errors import TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, train
from fcam_zoo.train.loading import paired_order
from fcam_zoo.wsol import i2c

SMALL = {'name': 'i2c', 'channels': 8}


def published(arrays: dict[str, np.ndarray]) -> i2c.I2C:
    settings = i2c.I2CSettings(sampling='first', channels=6, pool=True)
    method = i2c.I2C(network_of(nn.Identity(), 4, 8), settings)
    state = renamed(arrays, 'i2c_w_', {'head.1': 'cls_fc6.0', 'head.4': 'cls_fc7.0', 'head.7': 'cls_fc8'})
    bank = {'bank': torch.tensor(arrays['i2c_bank_before']), 'counter': torch.tensor(arrays['i2c_w_counter'])}
    method.load_state_dict({**state, **bank}, strict=True)
    # The golden values are without dropout.
    return method.eval()


def test_loss_and_bank_equal_the_published_code(golden):
    arrays = golden('wsol')
    method, labels = published(arrays), torch.tensor(arrays['i2c_labels'])
    features = torch.tensor(arrays['i2c_features']).requires_grad_(True)
    encoding = encoding_of(features)
    close(method.logits(encoding), arrays['i2c_logits'])
    close(cams.normalize(method.class_map(encoding, labels)), arrays['i2c_attention'])
    draws = method.draw(features.shape, wsol.Generators(torch.Generator(), []))
    logits, terms = method(encoding, wsol.Targets(labels), draws)
    close(logits, arrays['i2c_logits'])
    total = sum(terms.values())
    for found, want in zip((total, *terms.values()), arrays['i2c_loss_parts'], strict=True):
        assert found.item() == pytest.approx(float(want), rel=1e-5)
    total.backward()
    close(features.grad, arrays['i2c_grad_features'], 1e-4)
    close(method.bank, arrays['i2c_bank_after'])
    close(method.counter, arrays['i2c_counter_after'])


def test_seeds_and_distances_equal_the_published_code(golden):
    arrays = golden('wsol')
    method, labels = published(arrays), torch.tensor(arrays['i2c_labels'])
    features = torch.nn.functional.avg_pool2d(torch.tensor(arrays['i2c_features']), 3, 1, 1)
    mask = method.object_mask(method.head(features), labels)
    np.testing.assert_array_equal(mask, arrays['i2c_object_mask'] == 1)
    index = i2c.choose_cells(mask, torch.arange(3).expand(6, 3))
    np.testing.assert_array_equal(index, arrays['i2c_seed_index'])
    seeds = torch.stack([own.flatten(1)[:, cells].T for own, cells in zip(features, index)]).unflatten(0, (3, 2))
    rows = torch.tensor(arrays['i2c_bank_before'])[labels[::2]]
    terms = i2c.pair_terms(seeds, rows, torch.ones(3, dtype=torch.bool))
    close(terms.centers, arrays['i2c_centres'])
    assert terms.local.item() == pytest.approx(float(arrays['i2c_pair_distance'].mean()), rel=1e-5)


def test_the_chosen_cells_are_those_of_the_mask_in_raster_order():
    mask = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(0)) > 0.6
    mask[3] = False
    ranks = torch.arange(40).expand(5, 40)
    found = i2c.choose_cells(mask, ranks)
    for own, cells in zip(mask, found):
        wanted = own.flatten().nonzero().flatten().tolist()
        if wanted:
            assert cells.tolist() == [wanted[rank % len(wanted)] for rank in range(40)]
        assert cells.max() < 24


def step(method: i2c.I2C, labels: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    images = torch.rand(len(labels), 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(labels))]
    draws = method.draw(images.shape, wsol.Generators(torch.Generator(), generators))
    return method(method.network.encode(images), wsol.Targets(torch.tensor(labels)), draws).terms


def test_the_first_update_of_the_bank_is_the_center_and_later_ones_move_it():
    method = fcam_with(SMALL, num_classes=4).method
    random, centers = method.bank.clone(), []
    update = method._update
    method._update = lambda labels, own, valid: (centers.append(own), update(labels, own, valid))
    step(method, [2, 2, 0, 0])
    assert torch.equal(method.bank[[1, 3]], random[[1, 3]])
    assert method.counter.tolist() == [1, 0, 1, 0]
    torch.testing.assert_close(method.bank[[2, 0]], centers[0])
    before = method.bank.clone()
    # Two pairs of one class count as one update by their mean.
    step(method, [2, 2, 2, 2], 1)
    m = np.exp(-0.002)
    torch.testing.assert_close(method.bank[2], (1 - m) * before[2] + m * centers[1].mean(0))
    assert method.counter.tolist() == [1, 0, 2, 0]


def test_images_that_are_not_a_pair_have_no_distance():
    method = fcam_with(SMALL).method
    bank = method.bank.clone()
    for labels in ([0, 1, 2, 0], [0, 1, 2]):
        terms = step(method, labels)
        assert terms['local'].item() == terms['global'].item() == 0
        assert torch.equal(method.bank, bank)
    assert step(method, [1, 1, 0, 2])['local'].item() > 0
    nn.init.zeros_(method.head[7].weight)
    # Constant maps have no object.
    assert step(method, [1, 1])['local'].item() == 0


def test_random_seeds_belong_to_the_image():
    method = fcam_with(SMALL).method
    sources = [torch.Generator().manual_seed(i) for i in (3, 4)]
    both = method.draw(torch.Size([2, 3, 8, 8]), wsol.Generators(torch.Generator(), sources))
    one = [torch.Generator().manual_seed(4)]
    assert torch.equal(method.draw(torch.Size([1, 3, 8, 8]), wsol.Generators(torch.Generator(), one))[0], both[1])
    assert both.shape == (2, 3)


def test_order_of_an_epoch_has_pairs_of_a_class():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 101)
    orders = [paired_order(labels, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    order = orders[0]
    assert len(order) == 101
    first, second = np.array(order[:100:2]), np.array(order[1:100:2])
    np.testing.assert_array_equal(labels[first], labels[second])
    assert (first != second).all()
    # No class recurs in the first pairs.
    assert len(set(labels[first[:10]])) == 10
    assert paired_order(np.array([3]), torch.Generator()) == [0]
    counts = np.bincount(order, minlength=101)
    assert counts.max() <= 2
    assert (counts > 0).sum() >= 90


def test_pairs_need_an_even_batch(tmp_path):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    classifier = ClassifierConfig(epochs=1, batch_size=3, method=SMALL)
    with pytest.raises(TrainingError, match=r'batch_size=3 is not a multiple of 2 .* x 2 images of a class'):
        train(train_config(data, classifier=classifier, decoder=DecoderConfig(epochs=0)), tmp_path / 'run', quiet=True)


def test_trains_from_the_command_line(tmp_path):
    model = train_and_load(tmp_path, 'i2c', '--set', 'classifier.method.channels=8')
    assert model.method.counter.sum() > 0
