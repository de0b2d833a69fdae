"""Metrics as objects: printed, called like those of torchmetrics, and without images."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fcam_zoo.benchmark import BoxMetric, PixelAP

BOXES = [[[8, 8, 24, 24]], [[0, 0, 8, 8]], [[4, 4, 30, 30]]]


@pytest.fixture
def maps() -> np.ndarray:
    found = np.zeros((3, 32, 32), np.float32)
    for score_map, shift in zip(found, (0, 0, 4)):
        score_map[8 + shift : 24, 8:24] = 0.9
    return found


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key], equal_nan=True) for key in a)


def test_call_returns_the_batch_and_counts_it(maps):
    metric, logits = BoxMetric(iou=(50,)), np.eye(3)
    first = metric(maps[:2], BOXES[:2], [0, 2], logits=logits[:2])
    assert equal(first, BoxMetric(iou=(50,)).update(maps[:2], BOXES[:2], [0, 2], logits[:2]).compute())
    assert metric(maps[2:], BOXES[2:], [2], logits[2:])['cls'] == 100
    assert equal(metric.compute(), BoxMetric(iou=(50,)).update(maps, BOXES, [0, 2, 2], logits).compute())
    masks = (maps > 0).astype(np.uint8)
    pixels = PixelAP()
    assert pixels(maps[:1], masks[:1])['n'] == 1
    pixels(maps[1:], masks[1:])
    assert equal(pixels.compute(), PixelAP().update(maps, masks).compute())


def test_failed_call_counts_nothing(maps):
    metric = BoxMetric().update(maps[:1], BOXES[:1])
    before = metric.state_dict()
    for batch, message in (((maps[1:], BOXES[:1]), '2 score maps'), ((maps[:1], BOXES[:1], [0], np.eye(1)), 'for all')):
        with pytest.raises(ValueError, match=message):
            metric(*batch)
    assert equal(metric.state_dict(), before)
    pixels = PixelAP()
    with pytest.raises(ValueError, match='no mask has object pixels'):
        pixels(maps, np.zeros(maps.shape, np.uint8))
    assert repr(pixels) == 'PixelAP(n=0)'


def test_repr_has_the_main_figures(maps):
    metric = BoxMetric(multi_contour=True)
    assert repr(metric) == 'BoxMetric(n=0)'
    metric.update(maps, BOXES, [0, 1, 0], np.eye(3))
    values = metric.compute()
    accuracies = ', '.join(f'{iou}: {value:.1f}' for iou, value in zip((30, 50, 70), values['max_box_acc']))
    assert repr(metric).startswith(f'BoxMetric(n=3, max_box_acc={{{accuracies}}}, top1={{30: ')
    assert repr(metric).endswith(f'mean={values["mean"]:.1f}, cls=66.7)')
    metric.reset()
    assert repr(metric) == 'BoxMetric(n=0)'
    pixels = PixelAP().update(maps, np.zeros(maps.shape, np.uint8))
    assert repr(pixels) == 'PixelAP(n=3)'
    pixels.update(maps, (maps > 0).astype(np.uint8))
    assert repr(pixels) == f'PixelAP(n=6, pxap={pixels.compute()["pxap"]:.1f})'


def test_equal_maps_in_a_row_are_measured_once_with_the_same_results(maps, monkeypatch):
    from fcam_zoo.benchmark import box_metric

    a, b = maps[0], maps[2]
    several, truth = np.stack([a, a, b, b, a]), [[[1, 2, 20, 20]], [[3, 3, 9, 30]], [[0, 0, 5, 5]]] * 2
    alone = [BoxMetric().best_iou(m[None], [box])[0] for m, box in zip(several, truth)]
    calls = []
    real = box_metric.distinct_boxes
    monkeypatch.setattr(box_metric, 'distinct_boxes', lambda *args: calls.append(1) or real(*args))
    np.testing.assert_array_equal(BoxMetric().best_iou(several, truth[:5]), alone)
    assert len(calls) == 3


def test_the_metrics_do_not_wait_for_timm():
    code = "import sys, fcam_zoo.benchmark; print('timm' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == 'False\n'
