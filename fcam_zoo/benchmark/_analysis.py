"""What a report says beyond the figures of the protocol: robustness, activations, classes, sizes of objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .boxes import as_boxes
from .inputs import ArrayLike, as_array

# A power of two, so that score * bins is exact and a bin holds equally many of 256 grey values.
ACTIVATION_BINS = 128
# Points below the best that still count as near it.
MARGIN = 5
# Shares of the image, in percent, between which objects are of one size.
SIZE_EDGES = (0, 10, 25, 50, 75, 100)


def object_masks(truth: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Masks (N,H,W), 1 within an object, of boxes, whose edges belong to them as in `box_iou`; masks stay as they are.

    Args:
        truth: N arrays (n,4) of boxes in pixels of the maps, or masks (N,H,W).
        shape: (N,H,W).
    """
    if not isinstance(truth, Sequence):
        return as_array(truth).astype(np.uint8, copy=False)
    masks = np.zeros(shape, np.uint8)
    for mask, boxes in zip(masks, truth):
        for x0, y0, x1, y1 in as_boxes(boxes).astype(np.int64).tolist():
            mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    return masks


def activations(score_maps: ArrayLike, masks: np.ndarray) -> np.ndarray:
    """Pixels by score, int64 (3,ACTIVATION_BINS): outside objects, inside, and not scored (mask 255).

    Args:
        score_maps: (N,H,W) in [0,1].
        masks: (N,H,W): 0, 1, 255.
    """
    counts = np.zeros((3, ACTIVATION_BINS), np.int64)
    kind = np.zeros(256, np.intp)
    kind[1], kind[255] = ACTIVATION_BINS, 2 * ACTIVATION_BINS
    for score_map, mask in zip(as_array(score_maps), masks):
        index = (score_map.astype(np.float32) * ACTIVATION_BINS).astype(np.intp)
        np.clip(index, 0, ACTIVATION_BINS - 1, out=index)
        index += kind.take(mask)
        counts += np.bincount(index.ravel(), minlength=counts.size).reshape(counts.shape)
    return counts


def activation_shares(counts: np.ndarray) -> dict[str, list[float]]:
    """Percent of the pixels of all images, and of those inside and outside objects, from each score to the next one."""
    outside, inside, _ = counts
    scores = np.arange(ACTIVATION_BINS) / ACTIVATION_BINS
    found = {'all': counts.sum(0), 'inside': inside, 'outside': outside}
    shares = {key: (100 * pixels / max(pixels.sum(), 1)).tolist() for key, pixels in found.items()}
    return {'score': scores.tolist(), **shares}


def robustness(values: np.ndarray) -> float:
    """Percent of thresholds at which a figure in percent (T) is within 5 points of its best."""
    # Rounding must not cut off what is exactly 5 points below.
    return float(100 * (values >= values.max() - MARGIN - 1e-9).mean())


def f1_scores(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """F1 of pixels in percent; 0 where no pixel is reached, whose precision is NaN."""
    precision = np.nan_to_num(precision)
    return 100 * 2 * precision * recall / np.maximum(precision + recall, 1e-12)


Score = Callable[[np.ndarray], dict[str, Any]]


def class_table(rows: Sequence[dict[str, Any]], names: Mapping[int, str] | None, score: Score) -> list[dict[str, Any]]:
    """Figures of the images of each class, in the order of labels.

    Args:
        rows: Of a report.
        names: Label -> name.
        score: Indices of images -> figures.
    """
    labels = np.array([row['label'] for row in rows])
    table = []
    for label in np.unique(labels).tolist():
        index = np.flatnonzero(labels == label)
        name = str((names or {}).get(label, label))
        table.append({'label': label, 'class': name, 'n': len(index), **score(index)})
    return table


def size_table(rows: Sequence[dict[str, Any]], score: Score) -> list[dict[str, Any]]:
    """Figures of the images whose objects cover a share of the image above one edge and up to the next; as before."""
    shares = np.array([row['object_share'] for row in rows])
    table = []
    for low, high in pairwise(SIZE_EDGES):
        index = np.flatnonzero((shares > low) & (shares <= high))
        if len(index):
            table.append({'above': low, 'up_to': high, 'n': len(index), **score(index)})
    return table
