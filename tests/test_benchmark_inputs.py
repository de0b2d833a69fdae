"""Arguments of the metrics that are not numbers, too large, or of the wrong kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_data import SIDE, Squares

from fcam_zoo.benchmark import (
    BoxMetric,
    PixelAP,
    box_iou,
    boxes_from_score_map,
    evaluate,
    evaluate_many,
    maps_of,
    resize_boxes,
)
from fcam_zoo.benchmark.plots import curves

MAPS, BOXES = np.zeros((1, 4, 4)), [[[0, 0, 1, 1]]]
HUGE = 10**400
pytestmark = pytest.mark.filterwarnings('error')

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    'tensor without data': (
        lambda: BoxMetric().update(torch.zeros(1, 4, 4, device='meta'), BOXES),
        'Tensor is not an array',
    ),
    'sparse tensor': (lambda: BoxMetric().update(torch.zeros(1, 4, 4).to_sparse(), BOXES), 'Tensor is not an array'),
    'ragged maps': (lambda: BoxMetric().update([[[1], [1, 2]]], BOXES), 'list is not an array'),
    'no maps': (lambda: BoxMetric().update(None, BOXES), 'score_maps must be real numbers, got object'),
    'huge score': (lambda: BoxMetric().update([[[HUGE]]], BOXES), 'score_maps must be real numbers'),
    'huge threshold': (lambda: boxes_from_score_map(MAPS[0], [HUGE]), 'thresholds must be real numbers'),
    'threshold as text': (lambda: boxes_from_score_map(MAPS[0], ['0.5']), 'thresholds must be real numbers'),
    'complex threshold': (lambda: boxes_from_score_map(MAPS[0], [0.5j]), 'thresholds must be real numbers'),
    'thresholds in a dict': (lambda: PixelAP({}), 'thresholds must be real numbers'),
    'huge box': (lambda: BoxMetric().update(MAPS, [[[0, 0, HUGE, 1]]]), 'boxes must be real numbers'),
    'large box': (lambda: box_iou([[0, 0, 1e300, 1e300]], [[0, 0, 1, 1]]), r'box \[0\.0, .* is not'),
    'complex box': (lambda: BoxMetric().update(MAPS, [[[0, 0, 1j, 1]]]), 'boxes must be real numbers'),
    'boxes as a number': (lambda: BoxMetric().update(MAPS, 0.5), 'boxes has the type float: give a list'),
    'box as text': (lambda: BoxMetric().update(MAPS, [['0']]), 'boxes must be real numbers'),
    'box that becomes too large': (lambda: resize_boxes([[0, 0, 1, 1]], (1e-200, 1), (9, 9)), 'is not 0 <= x0 <= x1'),
    'NaN size': (lambda: resize_boxes([[0, 0, 1, 1]], (float('nan'), 1), (9, 9)), 'sizes must be positive'),
    'three sizes': (lambda: resize_boxes([[0, 0, 1, 1]], (1, 1, 1), (9, 9)), 'sizes must be positive'),
    'huge size': (lambda: resize_boxes([[0, 0, 1, 1]], (HUGE, 1), (9, 9)), 'sizes must be real numbers'),
    'size as text': (lambda: resize_boxes([[0, 0, 1, 1]], ('a', 1), (9, 9)), 'sizes must be real numbers'),
    'huge IoU': (lambda: BoxMetric(iou=[HUGE]), 'iou must be real numbers'),
    'one IoU': (lambda: BoxMetric(iou=50), 'iou must be percentages'),
    'IoU as text': (lambda: BoxMetric(iou=['a']), 'iou must be real numbers'),
    'an IoU twice': (lambda: BoxMetric(iou=[50, 50.0000001]), 'iou must be different percentages'),
    'complex logits': (lambda: BoxMetric().update(MAPS, BOXES, [0], [[1j]]), 'logits must be real numbers'),
    'logits as objects': (lambda: BoxMetric().update(MAPS, BOXES, [0], [[None]]), 'logits must be real numbers'),
    'NaN in a mask': (lambda: PixelAP().update(MAPS, np.full((1, 4, 4), np.nan)), 'may only hold 0, 1 and 255'),
    'complex mask': (lambda: PixelAP().update(MAPS, np.full((1, 4, 4), 1j)), 'masks must be real numbers'),
    'huge mask': (lambda: PixelAP().update(MAPS, [[[HUGE] * 4] * 4]), 'masks must be real numbers'),
    'mask as text': (lambda: PixelAP().update(MAPS, np.full((1, 4, 4), 'a')), 'masks must be real numbers'),
    'histograms as text': (lambda: PixelAP().count(np.full((1, 2, 1002), 'a')), 'histograms must be real numbers'),
    'NaN in histograms': (lambda: PixelAP().count(np.full((1, 2, 1002), np.nan)), 'histograms must be whole numbers'),
    'overlaps as text': (lambda: BoxMetric().count('a'), 'best_iou must be real numbers'),
    'huge count': (lambda: BoxMetric().load_state_dict({'n': HUGE}), 'counts of n must be real numbers'),
    'counts of another metric': (lambda: BoxMetric().load_state_dict({'n': 1}), 'a metric with other options'),
    'NaN as a count': (
        lambda: PixelAP([0]).load_state_dict({'n': float('nan'), 'hist': np.zeros((2, 3), np.int64)}),
        'counts of n are not whole numbers from 0',
    ),
    'state of another type': (lambda: BoxMetric().load_state_dict(None), 'give what state_dict returned'),
    'another metric': (lambda: BoxMetric().merge(PixelAP()), 'a PixelAP cannot be merged into a BoxMetric'),
    'no metric': (lambda: PixelAP().merge(None), 'a NoneType cannot be merged into a PixelAP'),
}


@pytest.mark.parametrize(('call', 'message'), WRONG.values(), ids=WRONG)
def test_wrong_arguments_raise(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    'one kind as text': ({'maps': 'fcam'}, r"maps is 'fcam': give a list of kinds, such as \('cam', 'fcam'\)"),
    'kinds that are no names': ({'maps': [5]}, r'maps is \[5\]: give a list of kinds'),
    'no kinds': ({'maps': None}, 'maps is None: give a list of kinds'),
    'batch size as text': ({'batch_size': '3'}, "batch_size='3': give a whole number of 1 or more"),
    'batch size of NaN': ({'batch_size': float('nan')}, 'batch_size=nan: give a whole number'),
    'workers': ({'workers': 1.5}, 'workers=1.5: give a whole number of 0 or more'),
    'threshold as text': ({'threshold': '5'}, "threshold of fcam is '5': choose"),
    'threshold of a kind': ({'threshold': {'fcam': None}}, 'threshold of fcam is None: choose'),
    'limit': ({'limit': 'x'}, "limit='x': give a whole number of 1 or more"),
    'scalar': ({'source': np.array(0.5)}, '0 maps for 7 images: give one for each'),
    'no result': (
        {'source': lambda images, labels: None},
        r'fcam maps of 7 images have the shape \(\): give \(B,H,W\)',
    ),
    'text': ({'source': lambda images, labels: 'abc', 'maps': ['fcam', 'center']}, r'have the shape \(\)'),
    'three results': ({'source': lambda images, labels: (1, 2, 3)}, 'the function returns 3 values: return maps, or'),
    'too few maps': ({'source': lambda images, labels: MAPS}, r'of 7 images have the shape \(1, 4, 4\)'),
    'vectors': ({'source': lambda images, labels: np.zeros((7, 4))}, r'have the shape \(7, 4\): give'),
}


@pytest.mark.parametrize(('options', 'message'), OPTIONS.values(), ids=OPTIONS)
def test_wrong_options_of_an_evaluation_raise(options: dict[str, Any], message: str) -> None:
    options = {'source': np.zeros((7, SIDE, SIDE)), 'maps': ['fcam'], **options}
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate_many(dataset=Squares(), quiet=True, **options)


@pytest.mark.parametrize('index', [7, -1, 'a', None, 1.5])
def test_wrong_indices_of_maps_raise(index: Any) -> None:
    get = maps_of(np.zeros((7, SIDE, SIDE)), Squares(), ['fcam'])['fcam']
    with pytest.raises(ValueError, match='index='):
        get(index)


@pytest.mark.parametrize('iou', [50, 'a', [], ['50'], [HUGE], [None]])
def test_wrong_ious_of_curves_raise(iou: Any) -> None:
    report = evaluate(np.zeros((7, SIDE, SIDE)), Squares(), quiet=True)
    with pytest.raises(ValueError, match='iou'):
        curves({'a': report}, iou)
