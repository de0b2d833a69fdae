"""Arguments of the functions of `fcam_zoo.benchmark`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from fcam_zoo.benchmark import (
    BoxMetric,
    PixelAP,
    Report,
    box_iou,
    boxes_from_score_map,
    compare,
    evaluate,
    evaluate_many,
    maps_of,
    resize_boxes,
)
from fcam_zoo.benchmark.plots import activations, curves

from .data_surfaces import SIDE, _Boxes, arrays
from .mutations import leaves, trees
from .run_surfaces import _Masks
from .surface import Surface

HUGE = 10**400
NUMBERS = [0, 1, -1, 0.5, 1.5, 50, 100, 101, float('nan'), float('inf'), HUGE, None, 'a', '5', True, [], 1j]


def _numbers(*good: Any) -> st.SearchStrategy:
    """Mostly good values, sometimes others."""
    return st.sampled_from([*good] * 4 + NUMBERS)


MAPS = st.sampled_from([np.zeros((1, SIDE, SIDE)), torch.full((1, SIDE, SIDE), 0.5)]) | arrays() | trees
BOXES = (
    st.sampled_from([[[[1, 1, 9, 9]]], np.array([[[0, 0, 5, 5]]]), [[]], [[[9, 9, 1, 1]]], [[[0, 0, HUGE, 1]]]]) | trees
)
THRESHOLDS = st.sampled_from([None, [0, 0.5], np.array([0.0, 0.999]), [0.5], [1]]) | st.lists(_numbers(0, 0.5)) | leaves
IOU = st.sampled_from([(50,), (30, 50, 70)]) | st.lists(_numbers(50, 30.5), max_size=3) | leaves
SIZE = st.tuples(_numbers(9, 30), _numbers(9, 30)) | leaves
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[st.SearchStrategy]]] = {
    'boxes_from_score_map': (
        boxes_from_score_map,
        [arrays() | st.just(np.eye(9)) | trees, THRESHOLDS.filter(lambda t: t is not None), st.booleans()],
    ),
    'box_iou': (box_iou, [BOXES, BOXES]),
    'resize_boxes': (resize_boxes, [st.just([[1, 1, 9, 9]]) | trees, SIZE, SIZE]),
    'BoxMetric': (
        lambda *a: BoxMetric(*a[:3]).update(*a[3:]).compute(),
        [THRESHOLDS, IOU, st.booleans(), MAPS, BOXES, leaves | st.just([0]), leaves | st.just([[0.5, 1]])],
    ),
    'PixelAP': (lambda t, m, k: PixelAP(t).update(m, k).compute(), [THRESHOLDS, MAPS, MAPS]),
    'load_state': (
        lambda state: BoxMetric().load_state_dict(state),
        [trees | st.fixed_dictionaries(dict.fromkeys(BoxMetric().state_dict(), trees))],
    ),
}
OPTIONS = {
    'batch_size': _numbers(1, 2),
    'thresholds': THRESHOLDS,
    'multi_contour': st.booleans(),
    'iou': IOU,
    'convention': st.sampled_from(['bilinear', 'bicubic', 'x', None, []]),
    'labels': st.sampled_from(['true', 'predicted', 'x', None, {}]),
    'threshold': _numbers(0.5) | st.dictionaries(st.sampled_from(['fcam', 'x']), _numbers(0.5), max_size=2),
    'limit': _numbers(1, 2),
    'rows': st.booleans(),
    'device': st.sampled_from([None, 'cpu', 'meta', 'x', 'cuda:99', 5, -1, [], '']),
    'workers': st.sampled_from([0, -1, None, 'a', 1.5]),
}
OTHERS = [None, 5, 'no folder', [], {}, b'x', object(), np.zeros((2, SIDE, SIDE)), lambda x, labels: x[:, 0] / 255]
RESULTS = [None, 'a', [], (), (1, 2, 3), np.zeros((2, 9)), torch.zeros(2, 9, 9, device='meta'), [[1], [1, 2]]]


class Arguments(Surface):
    """Functions and metrics with arguments of any kind."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        maps = np.random.default_rng(0).random((2, SIDE, SIDE))
        self.reports: dict[str, Report] = {
            'a': evaluate(maps, _Boxes(), 'a', thresholds=[0, 0.5], quiet=True),
            'b': evaluate(maps, _Boxes(), 'b', thresholds=[0, 0.5], quiet=True),
        }
        sources = st.sampled_from(OTHERS) | arrays() | st.sampled_from(RESULTS).map(lambda r: lambda x, labels: r)
        kinds = st.sampled_from([['fcam'], ['fcam', 'center'], ['center'], 'fcam', [], None, [5], ['x', 'y'], 5])
        some = st.just({}) | st.fixed_dictionaries({}, optional=OPTIONS)
        calls = [st.tuples(st.just(name), st.tuples(*strategies)) for name, (_, strategies) in FUNCTIONS.items()]
        calls += [
            st.tuples(st.just('evaluate_many'), st.tuples(sources, st.booleans(), kinds, some)),
            st.tuples(st.just('maps_of'), st.tuples(sources, kinds, st.sampled_from([0, 1, 5, -1, None, 'a']))),
            st.tuples(st.just('compare'), st.tuples(leaves, _numbers(40, 50), _numbers(0, 7))),
            st.tuples(st.just('curves'), st.tuples(IOU | st.none())),
            st.tuples(st.just('activations'), st.tuples(_numbers(32, 2))),
        ]
        self.valid = [('evaluate_many', (np.zeros((2, SIDE, SIDE)), True, ['fcam'], {})), ('compare', (None, 40, 0))]
        self.inputs = st.one_of(calls)

    def try_input(self, value: tuple[str, tuple[Any, ...]]) -> None:
        name, arguments = value
        if name in FUNCTIONS:
            FUNCTIONS[name][0](*arguments)
        else:
            getattr(self, f'_{name}')(*arguments)

    def _evaluate_many(self, source: Any, boxes: bool, kinds: Any, options: dict[str, Any]) -> None:
        evaluate_many(source, _Boxes() if boxes else _Masks(), kinds, quiet=True, **options)

    def _maps_of(self, source: Any, kinds: Any, index: Any) -> None:
        for get in maps_of(source, _Boxes(), kinds).values():
            get(index)

    def _compare(self, baseline: Any, samples: Any, seed: Any) -> None:
        compare(self.reports, baseline, samples, seed)

    def _curves(self, iou: Any) -> None:
        curves(self.reports, iou)

    def _activations(self, bins: Any) -> None:
        activations(self.reports, bins)
