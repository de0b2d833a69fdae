"""Boxes and the box metric, compared with a plain implementation that traces contours at every threshold."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from fcam_zoo.benchmark import BoxMetric, box_iou, boxes_from_score_map, resize_boxes
from fcam_zoo.benchmark.boxes import best_overlap
from fcam_zoo.benchmark.contours import _level_boxes

THRESHOLDS = np.arange(0, 1, 0.001)


def plain_boxes(score_map: np.ndarray, threshold: float, multi_contour: bool) -> list[list[int]]:
    image = (score_map * 255).astype(np.uint8)
    height, width = image.shape
    mask = cv2.threshold(image, int(threshold * image.max()), 255, cv2.THRESH_BINARY)[1]
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not contours:
        return [[0, 0, 0, 0]]
    if not multi_contour:
        contours = [max(contours, key=cv2.contourArea)]
    return [[x, y, min(x + w, width - 1), min(y + h, height - 1)] for x, y, w, h in map(cv2.boundingRect, contours)]


def plain_iou(a: list[int], b: list[int]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0) * max(height, 0)
    area_a, area_b = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return shared / (area_a + area_b - shared)


def random_map(rng: np.random.Generator, kind: str) -> np.ndarray:
    height, width = rng.integers(1, 48, 2).tolist()
    if kind == 'noise':
        values = rng.random((height, width))
    elif kind == 'cells':
        cells = rng.random(rng.integers(1, 9, 2))
        values = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    elif kind == 'smooth':
        values = cv2.GaussianBlur(rng.random((height, width)), (0, 0), float(rng.uniform(0.5, 5)))
    elif kind == 'blobs':
        y, x = np.mgrid[:height, :width]
        values = np.zeros((height, width))
        for _ in range(rng.integers(1, 4)):
            spread = 2 * rng.uniform(1, 12) ** 2
            values += rng.random() * np.exp(
                -((x - rng.uniform(0, width)) ** 2 + (y - rng.uniform(0, height)) ** 2) / spread
            )
    elif kind == 'steps':
        values = np.round(rng.random((height, width)) * rng.integers(1, 6))
    else:  # rings, whose holes contain other rings
        values = np.zeros((height, width))
        for _ in range(rng.integers(1, 8)):
            center, axes = rng.integers(0, 40, 2).tolist(), rng.integers(1, 18, 2).tolist()
            cv2.ellipse(values, center, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.random()), 1)
    if rng.random() < 0.5:
        values = values - values.min()
    values = values / max(values.max(), 1e-9)
    if rng.random() < 0.3:
        values = 0.3 + 0.5 * values  # no pixel is 0
    if rng.random() < 0.3:
        values = 1 - values
    return values.astype(rng.choice(['float64', 'float32', 'float16'])).astype(float)


DEGENERATE = {
    'zeros': np.zeros((9, 7)),
    'ones': np.ones((9, 7)),
    'constant': np.full((9, 7), 0.4),
    'below one gray level': np.full((9, 7), 0.003),
    'one pixel map': np.full((1, 1), 0.7),
    'one row': np.linspace(0, 1, 30)[None],
    'one column': np.linspace(1, 0, 30)[:, None],
    'pixel': np.eye(1, 49, 24).reshape(7, 7),
    'corner pixel': np.eye(1, 49, 48).reshape(7, 7),
    'diagonal': np.eye(8),
    'checker': np.indices((8, 9)).sum(0) % 2 * 1.0,
    'two equal': np.pad(np.ones((2, 3)), ((1, 1), (1, 1)))[:, [0, 1, 2, 3, 0, 1, 2, 3, 0]] * 0.8,
    'frame': 1 - np.pad(np.ones((5, 5)), 1),
    'ring with core': np.pad(1 - np.pad(np.pad(np.ones((1, 1)) * 0.7, 2), 0), 2),
    'ramp': np.linspace(0, 1, 300).reshape(1, -1).repeat(3, 0),
}


def assert_same(score_map: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> None:
    for multi_contour in (False, True):
        found = boxes_from_score_map(score_map, thresholds, multi_contour)
        assert len(found) == len(thresholds)
        seen: dict[int, list[list[int]]] = {}
        top = (score_map * 255).astype(np.uint8).max()
        for threshold, boxes in zip(thresholds, found):
            level = int(threshold * top)
            if level not in seen:
                seen[level] = sorted(plain_boxes(score_map, threshold, multi_contour))
            assert boxes.dtype == np.int64
            assert sorted(boxes.tolist()) == seen[level]


@pytest.mark.parametrize('name', DEGENERATE)
def test_boxes_of_degenerate_maps(name: str) -> None:
    assert_same(DEGENERATE[name])


@pytest.mark.parametrize('kind', ['noise', 'cells', 'smooth', 'blobs', 'steps', 'rings'])
def test_boxes_of_random_maps(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_level_boxes, '_FEW_LEVELS', 1)
    rng = np.random.default_rng(7)
    for _ in range(20):
        assert_same(random_map(rng, kind))


def test_boxes_of_a_map_with_too_many_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_level_boxes, '_MANY_BRANCHES', 3)
    rng = np.random.default_rng(3)
    for kind in ('noise', 'rings'):
        assert_same(random_map(rng, kind))


def test_the_first_of_contours_with_equal_areas_is_used() -> None:
    score_map = np.zeros((30, 30))
    score_map[3:8, 3:8] = score_map[20:25, 12:17] = 0.9
    assert (
        boxes_from_score_map(score_map, [0.5])[0].tolist() == plain_boxes(score_map, 0.5, False) == [[12, 20, 17, 25]]
    )


def test_thresholds_in_any_order_and_inputs_of_any_kind() -> None:
    score_map = DEGENERATE['ramp'].astype(np.float32)
    thresholds = [0.9, 0.0, 0.5, 1.0]
    expected = [plain_boxes(score_map.astype(float), t, False) for t in thresholds]
    for given in (score_map, torch.from_numpy(score_map), score_map.tolist()):
        assert [b.tolist() for b in boxes_from_score_map(given, thresholds)] == expected


@pytest.mark.parametrize(
    ('score_map', 'thresholds', 'message'),
    [
        (np.zeros((2, 3, 3)), [0.5], r'\(H,W\)'),
        (np.full((3, 3), np.nan), [0.5], 'NaN'),
        (np.full((3, 3), 1.01), [0.5], r'from 1\.01'),
        (np.zeros((3, 3)), [], 'at least one'),
        (np.zeros((3, 3)), [1.5], r'\[0,1\]'),
        (np.zeros((3, 3)), [np.nan], r'\[0,1\]'),
    ],
)
def test_invalid_maps_and_thresholds_raise(score_map: np.ndarray, thresholds: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boxes_from_score_map(score_map, thresholds)


def test_rounding_beyond_the_range_is_clipped() -> None:
    score_map = np.linspace(-1e-7, 1 + 1e-7, 40)[None].repeat(4, 0)
    assert_same(score_map.clip(0, 1))
    a, b = (boxes_from_score_map(m, THRESHOLDS) for m in (score_map, score_map.clip(0, 1)))
    assert all(np.array_equal(x, y) for x, y in zip(a, b))


def test_box_iou() -> None:
    a, b = [[0, 0, 9, 9], [5, 5, 5, 5]], [[0, 0, 9, 9], [5, 0, 14, 9], [20, 20, 30, 30]]
    expected = [[plain_iou(x, y) for y in b] for x in a]
    assert np.array_equal(box_iou(a, b), expected)
    assert np.array_equal(box_iou(torch.tensor(a), np.array(b)), expected)
    assert expected[0][1] == 50 / 150
    for bad in ([[-1, 0, 2, 2]], [[3, 0, 2, 2]], [[0, 0, np.nan, 1]]):
        with pytest.raises(ValueError, match='is not 0 <= x0 <= x1'):
            box_iou(a, bad)
    with pytest.raises(ValueError, match=r'\(n,4\)'):
        box_iou(a, [[1, 2, 3]])


def test_resize_boxes() -> None:
    assert resize_boxes([[10, 20, 99, 199]], (100, 200), (224, 224)).tolist() == [[22, 22, 221, 222]]
    assert resize_boxes([[0, 0, 100, 200]], (100, 200), (224, 224)).tolist() == [[0, 0, 224, 224]]
    # Coordinates that scale to integers are exact.
    sizes = range(1, 400)
    assert all(resize_boxes([[0, 0, w, 1]], (w, 1), (224, 1)).tolist() == [[0, 0, 224, 1]] for w in sizes)
    with pytest.raises(ValueError, match='positive'):
        resize_boxes([[0, 0, 1, 1]], (0, 10), (224, 224))


def batch(n: int = 12, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = rng.random((n, 6, 6)).astype(np.float32)
    maps = np.stack([cv2.resize(c, (40, 32)) for c in cells])
    low = [rng.integers(0, 20, (rng.integers(1, 4), 2)) for _ in range(n)]
    boxes = [np.concatenate([b, b + rng.integers(1, 12, b.shape)], 1) for b in low]
    logits = np.round(rng.standard_normal((n, 9)), 1).astype(np.float32)  # with equal ones
    return maps, boxes, rng.integers(0, 9, n), logits


@pytest.mark.parametrize('multi_contour', [False, True])
def test_metric_equals_the_plain_loop(multi_contour: bool) -> None:
    maps, boxes, labels, logits = batch()
    thresholds, iou = np.arange(0, 1, 0.02), (10, 30, 50)
    result = BoxMetric(thresholds, iou, multi_contour).update(maps, boxes, labels, logits).compute()
    correct = np.zeros((3, len(iou), len(thresholds)))
    for score_map, truth, label, row in zip(maps.astype(float), boxes, labels, logits):
        order = sorted(range(len(row)), key=lambda k: -row[k])
        kinds = np.array([True, order[0] == label, label in order[:5]])
        for j, threshold in enumerate(thresholds):
            found = plain_boxes(score_map, threshold, multi_contour)
            best = max(plain_iou(a, b) for a in found for b in truth.tolist())
            for i, level in enumerate(iou):
                correct[:, i, j] += kinds & (best >= level / 100)
    assert correct.any()
    for counts, key in zip(correct, ('num_correct', 'num_correct_top1', 'num_correct_top5')):
        assert np.array_equal(result[key], counts)
    assert np.allclose(result['max_box_acc'], 100 * correct[0].max(1) / len(maps))
    assert np.allclose(result['top5'], 100 * correct[2].max(1) / len(maps))
    assert np.array_equal(result['best_threshold'], thresholds[correct[0].argmax(1)])
    assert result['mean'] == pytest.approx(result['max_box_acc'].mean())
    assert result['n'] == len(maps)
    assert result['cls'] == pytest.approx(
        100 * np.mean([max(range(9), key=lambda k: r[k]) == t for r, t in zip(logits, labels)])
    )


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_batches_merging_and_states_equal_one_pass() -> None:
    maps, boxes, labels, logits = batch()
    whole = BoxMetric().update(maps, boxes, labels, logits)
    each = BoxMetric()
    for i in range(len(maps)):
        each.update(maps[i : i + 1], boxes[i : i + 1], labels[i : i + 1], logits[i : i + 1])
    parts = [BoxMetric().update(maps[s], boxes[s], labels[s], logits[s]) for s in (slice(0, 5), slice(5, None))]
    summed = BoxMetric()
    summed.load_state_dict({k: sum(p.state_dict()[k] for p in parts) for k in parts[0].state_dict()})
    merged = BoxMetric().merge(parts[0]).merge(parts[1])
    for metric in (each, merged, summed):
        assert same(metric.compute(), whole.compute())
    known = BoxMetric()
    assert same(known.count(known.best_iou(maps, boxes), labels, logits).compute(), whole.compute())


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_metric_accepts_tensors(dtype: torch.dtype) -> None:
    maps, boxes, labels, logits = batch()
    tensor = torch.from_numpy(maps).to(dtype).requires_grad_()
    a = BoxMetric().update(
        tensor, [torch.from_numpy(b) for b in boxes], torch.from_numpy(labels), torch.from_numpy(logits)
    )
    b = BoxMetric().update(tensor.detach().double().numpy(), boxes, labels, logits)
    assert same(a.compute(), b.compute())


def test_invalid_batches_raise() -> None:
    maps, boxes, labels, logits = batch(3)
    bad = maps.copy()
    bad[1, 2, 3] = np.nan
    metric = BoxMetric()
    for arguments, message in (
        ((bad, boxes), r'score map 1 of the batch holds NaN'),
        ((maps * 2, boxes), r'score map 0 of the batch .* scores must lie in \[0,1\]'),
        ((maps - 1, boxes), r'\[0,1\]'),
        ((maps[0], boxes), r'\(N,H,W\)'),
        ((maps, boxes[:2]), 'boxes of 2 images'),
        ((maps, [boxes[0], boxes[1], np.zeros((0, 4))]), 'image 2 of the batch has no ground-truth box'),
        ((maps, [boxes[0], boxes[1], [[0, 0, 99, 9]]]), 'image 2 .* outside its map of 40 x 32'),
        ((maps, [boxes[0], boxes[1], [[9, 0, 2, 9]]]), 'is not 0 <= x0'),
        ((maps, boxes, labels), 'labels and logits go together'),
        ((maps, boxes, None, logits), 'labels and logits go together'),
        ((maps, boxes, labels[:2], logits), r'must match 3 score maps'),
        ((maps, boxes, labels + 9, logits), r'labels must lie in 0\.\.8'),
        ((maps, boxes, labels * 1.0, logits), 'whole numbers'),
        ((maps, boxes, labels, logits * np.nan), 'logits hold NaN'),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(*arguments)
    with pytest.raises(ValueError, match='no image has been counted'):
        metric.compute()  # nothing of an invalid batch was counted
    metric.update(maps, boxes, labels, logits)
    with pytest.raises(ValueError, match='for all images or for none'):
        metric.update(maps, boxes)
    with pytest.raises(ValueError, match='for all images or for none'):
        metric.merge(BoxMetric().update(maps, boxes))
    with pytest.raises(ValueError, match='are the same'):
        metric.merge(BoxMetric([0.1, 0.2]))
    with pytest.raises(ValueError, match='are the same'):
        metric.merge(BoxMetric(multi_contour=True))
    with pytest.raises(ValueError, match='other options'):
        metric.load_state_dict(BoxMetric([0.5]).state_dict())
    with pytest.raises(ValueError, match=r'best_iou must have the shape \(N,1000\)'):
        metric.count(np.zeros((3, 5)))
    assert metric.compute()['n'] == 3


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'thresholds': [0.5, 0.2]}, 'ascend'),
        ({'thresholds': [0.5, 0.5]}, 'ascend'),
        ({'thresholds': [-0.1, 0.5]}, r'\[0,1\]'),
        ({'thresholds': []}, 'at least one'),
        ({'iou': ()}, 'percentages'),
        ({'iou': (0.5, 150)}, 'percentages'),
    ],
)
def test_invalid_options_raise(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxMetric(**options)


def test_many_boxes_need_little_memory() -> None:
    """Noise has many contours, and annotations may have any number of boxes."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 100, (2, 3000, 2))
    boxes = [np.concatenate([c, c + rng.integers(0, 30, c.shape)], 1).astype(float) for c in corners]
    expected = np.concatenate([box_iou(boxes[0][i : i + 100], boxes[1]).max(1) for i in range(0, 3000, 100)])
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(best_overlap(*boxes), expected)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()
