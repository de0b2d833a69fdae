"""Measure how much faster the metrics are than plain loops that trace and count at every threshold.

Maps are synthetic and smooth, like those of networks: blobs, sigmoids of blobs, and class maps of 14 x 14 and 28 x 28
cells, resized bilinearly. Results must be equal. Prints the ratios of CPU times on one thread:

    python benchmarks/box_metric.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np

from fcam_zoo.benchmark import BoxMetric, PixelAP

SIDE, MAPS = 224, 5
THRESHOLDS = np.arange(0, 1, 0.001)


def blobs(rng: np.random.Generator, n: int) -> np.ndarray:
    """Sum n Gaussians."""
    y, x = np.mgrid[:SIDE, :SIDE]
    values = np.zeros((SIDE, SIDE))
    for _ in range(n):
        cx, cy = rng.uniform(40, SIDE - 40, 2)
        sx, sy = rng.uniform(12, 50, 2)
        values += rng.uniform(0.4, 1) * np.exp(-(((x - cx) / sx) ** 2) / 2 - ((y - cy) / sy) ** 2 / 2)
    return values


def class_map(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Make blobs with noise on a grid of cells, resized."""
    low = cv2.resize(blobs(rng, 2), (cells, cells), interpolation=cv2.INTER_AREA) + rng.normal(0, 0.06, (cells, cells))
    return cv2.resize((low - low.min()) / (low.max() - low.min()), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def make_maps() -> dict[str, np.ndarray]:
    """Make maps (MAPS,224,224) in [0,1] of each kind, float32 like those of networks."""
    rng = np.random.default_rng(0)
    kinds = {
        'blobs': [blobs(rng, 1 + i % 3) for i in range(MAPS)],
        'sigmoid': [1 / (1 + np.exp(-10 * (blobs(rng, 1 + i % 3) - 0.5))) for i in range(MAPS)],
        'class map 14': [class_map(rng, 14) for _ in range(MAPS)],
        'class map 28': [class_map(rng, 28) for _ in range(MAPS)],
    }
    return {name: np.stack([m / max(m.max(), 1) for m in maps]).astype(np.float32) for name, maps in kinds.items()}


def plain_boxes(image: np.ndarray, level: int, multi_contour: bool) -> list[list[int]]:
    """Find boxes with OpenCV at one level."""
    mask = cv2.threshold(image, level, 255, cv2.THRESH_BINARY)[1]
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not contours:
        return [[0, 0, 0, 0]]
    if not multi_contour:
        contours = [max(contours, key=cv2.contourArea)]
    rectangles = (cv2.boundingRect(c) for c in contours)
    return [[x, y, min(x + w, SIDE - 1), min(y + h, SIDE - 1)] for x, y, w, h in rectangles]


def plain_metric(maps: np.ndarray, truth: np.ndarray, multi_contour: bool) -> np.ndarray:
    """Compute the best IoU (N,T) by tracing at every threshold."""
    best = np.empty((len(maps), len(THRESHOLDS)))
    for i, (score_map, box) in enumerate(zip(maps.astype(float), truth)):
        image = (score_map * 255).astype(np.uint8)
        top = image.max()
        for j, threshold in enumerate(THRESHOLDS):
            boxes = np.array(plain_boxes(image, int(threshold * top), multi_contour))
            shared = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]) + 1
            shared = shared.clip(0).prod(1)
            areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1) + (box[2:] - box[:2] + 1).prod()
            best[i, j] = (shared / (areas - shared)).max()
    return best


def plain_histograms(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Compute histograms (N,2,bins) with NumPy."""
    edges = np.append(THRESHOLDS, [1.0, 2.0, 3.0])
    pairs = zip(maps.astype(float), masks)
    return np.stack([[np.histogram(m[k == value], edges)[0] for value in (1, 0)] for m, k in pairs])


def seconds(function: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    """Return the shortest CPU time of a call, and its result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def report(name: str, fast: Callable[[], np.ndarray], plain: Callable[[], np.ndarray]) -> np.ndarray:
    """Print the ratio of two implementations; return both times."""
    quick, result = seconds(fast, 5)
    slow, expected = seconds(plain, 2)
    if not np.array_equal(result, expected):
        raise SystemExit(f'{name}: the results differ')
    print(f'{name:30} {slow / quick:6.1f} x')
    return np.array([quick, slow])


def main() -> None:
    """Print the ratios."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(1)
    low = rng.integers(20, 90, (MAPS, 2))
    truth = np.concatenate([low, low + rng.integers(50, 120, (MAPS, 2))], 1)
    masks = rng.choice([0, 1, 255], (MAPS, SIDE, SIDE), p=[0.6, 0.3, 0.1]).astype(np.uint8)
    kinds = make_maps()
    for multi_contour, mode in ((False, 'single'), (True, 'multi')):
        metric = BoxMetric(multi_contour=multi_contour)
        times = [
            report(
                f'boxes, {mode}, {kind}',
                lambda maps=maps, metric=metric: metric.best_iou(maps, truth),
                lambda maps=maps, multi=multi_contour: plain_metric(maps, truth, multi),
            )
            for kind, maps in kinds.items()
        ]
        quick, slow = np.sum(times, 0)
        print(f'{f"boxes, {mode}, all":30} {slow / quick:6.1f} x')
    maps = np.concatenate(list(kinds.values()))
    masks = np.tile(masks, (len(kinds), 1, 1))
    report('PxAP', lambda: PixelAP().histograms(maps, masks), lambda: plain_histograms(maps, masks))


if __name__ == '__main__':
    main()
