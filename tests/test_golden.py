"""Equality with the golden values in tests/golden (see its README.md), which every clone has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_nets import GoldenNet, load_decoder
from tensors import close, gradient

from fcam_zoo import cams, losses, sampling
from fcam_zoo.benchmark import BoxMetric, PixelAP, boxes_from_score_map

FOLDER = Path(__file__).parent / 'golden'


@pytest.fixture(scope='module')
def arrays(request) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f'{request.param}.npz', allow_pickle=False) as values:
        return dict(values)


def using(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize('arrays', [name], indirect=True)


def unpack(bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, axis=-1).reshape(*bits.shape[:-1], 224, 224).astype(bool)


METHODS = [
    *((net, method, 'published') for net in 'AB' for method in ('gradcam', 'gradcampp', 'xgradcam', 'layercam')),
    *((net, method, 'reference') for net in 'AB' for method in ('gradcampp', 'smoothgradcampp')),
    ('A', 'cam', 'published'),
]


@using('cams')
@pytest.mark.parametrize(('net', 'method', 'variant'), METHODS)
def test_class_maps(arrays, monkeypatch, net, method, variant):
    model, x = GoldenNet(arrays, net).eval(), torch.tensor(arrays['x'])
    close(model(x), arrays[f'{net}_logits'])
    for k, label in enumerate(arrays['labels']):
        noise = iter(torch.tensor(arrays['smooth_noise']).squeeze(2).unbind(1))
        monkeypatch.setattr(torch, 'randn', lambda *_, noise=noise, **__: next(noise) / 0.3)
        labels = torch.full((3,), int(label))
        want = arrays[f'{net}.{method}.{variant}.raw'][:, k]
        got = cams.extract(model, x, labels, method, model.relu2, None, False, variant)
        for a, b in zip(got, want):
            # The denominator of divided Grad-CAM++ is near 0 in net B.
            close(a, b, 2e-4 if (net, method, variant) == ('B', 'gradcampp', 'published') else 1e-5)
        if net == 'A' and method != 'smoothgradcampp':
            features, weight = model.features(x).detach(), model.fc.weight.detach()
            close(cams.class_activation_map(features, weight, labels, method, variant=variant), want)
        if method == 'layercam':
            close(cams.extract(model, x, labels, method, model.relu2), arrays[f'{net}.layercam.published.full'][:, k])


@using('sampling')
def test_otsu_and_foreground(arrays):
    # The middle of each grey level, so that truncation gives the level again.
    maps = (torch.tensor(arrays['grey']).float() + 0.5).clamp(max=255) / 255
    np.testing.assert_array_equal(sampling.otsu_threshold(maps), arrays['otsu'].clip(1, 254))
    exists = arrays['foreground_exists']
    for (kernel, iterations), bits in zip(arrays['foreground_settings'].tolist(), arrays['foreground_bits']):
        got, _ = sampling.regions(maps, erosion=kernel if iterations else 1, erosion_iterations=iterations)
        np.testing.assert_array_equal(got[exists], unpack(bits)[exists])
        assert not got[~exists].any()


@using('sampling')
def test_background(arrays):
    for fraction, bits in zip(arrays['fractions'].tolist(), arrays['background_bits']):
        np.testing.assert_array_equal(sampling.regions(torch.tensor(arrays['maps']), fraction)[1], unpack(bits))


@using('sampling')
def test_seeds(arrays):
    """With one candidate per class, the draw is determined."""
    centres, want = arrays['seed_centres'], unpack(arrays['seed_bits'])
    masks = torch.zeros(2, len(centres), 224, 224, dtype=torch.bool)
    for i, drawn in enumerate(centres):
        for label, (row, column) in enumerate(drawn):
            masks[label, i, row, column] = True
    labels = sampling.seeds(masks[1], masks[0])
    for label in (0, 1):
        np.testing.assert_array_equal(labels == label, want[:, label])


@using('losses')
def test_size_and_partial_cross_entropy(arrays):
    for case in range(8):
        for k, t in enumerate(arrays['t'].tolist()):
            fx = torch.tensor(arrays[f'barrier_{case}.f'], requires_grad=True)
            loss = losses.log_barrier(fx, t)
            close(loss, arrays[f'barrier_{case}.loss'][k])
            close(gradient(loss, fx), arrays[f'barrier_{case}.grad'][k])
    logits = torch.tensor(arrays['logits'], requires_grad=True)
    for t, want in zip(arrays['t'].tolist(), arrays['size_loss']):
        close(losses.size_loss(logits, t), want)
    close(gradient(losses.size_loss(logits, arrays['t'][2]), logits), arrays['size_grad_t2'])
    loss = losses.partial_cross_entropy(logits, torch.tensor(arrays['seeds']))
    close(loss, arrays['pce_loss'])
    close(gradient(loss, logits), arrays['pce_grad'])
    terms = losses.PixelAlignmentLoss()
    for want in arrays['t_schedule']:
        assert terms.t == pytest.approx(want, rel=1e-5)
        terms.step_epoch()


@using('losses')
def test_crf(arrays):
    images, probs = torch.tensor(arrays['crf.images']), torch.tensor(arrays['crf.probs'])
    for (sigma_rgb, sigma_xy), energies in zip(arrays['crf.sigmas'].tolist(), arrays['crf.loss']):
        for image, prob, want in zip(images, probs, energies):
            close(losses.crf_loss(image[None], prob[None], sigma_rgb, sigma_xy, 'exact'), want)
    probs = torch.tensor(arrays['crf3.probs'], requires_grad=True)
    loss = losses.crf_loss(torch.tensor(arrays['crf3.images']), probs, kernel='exact')
    close(loss, arrays['crf3.loss'])
    close(gradient(loss, probs), arrays['crf3.grad'], 1e-4)


@using('boxes')
@pytest.mark.parametrize('kind', ['single', 'multi'])
def test_box_metric(arrays, kind):
    maps, truth = arrays['maps'].astype(float), [b[:n] for b, n in zip(arrays['boxes'], arrays['n_boxes'])]
    metric = BoxMetric(arrays['thresholds'], (30, 50, 70), multi_contour=kind == 'multi')
    result = metric.update(maps, truth, arrays['labels'], arrays['logits']).compute()
    for key in ('num_correct', 'num_correct_top1', 'num_correct_top5'):
        np.testing.assert_array_equal(result[key], arrays[f'{kind}_{key}'])
    for score_map, want in zip(maps, arrays['single_boxes']):
        np.testing.assert_array_equal(np.concatenate(boxes_from_score_map(score_map, arrays['box_thresholds'])), want)


@using('pixels')
def test_pixel_ap(arrays):
    for score_map, mask, want in zip(arrays['maps'].astype(float), arrays['masks'], arrays['pxap']):
        result = PixelAP(arrays['thresholds']).update(score_map[None], mask[None]).compute()
        assert result['pxap'] == pytest.approx(want, abs=1e-9)


@using('decoder')
@pytest.mark.parametrize('kind', ['resnet', 'vgg', 'odd'])
def test_decoder(arrays, kind):
    net, features = load_decoder(arrays, kind)
    with torch.no_grad():
        got = net(features[1:], tuple(features[0].shape[-2:]))
    np.testing.assert_allclose(got.numpy(), arrays[f'{kind}_eval_logits'], atol=1e-5)
