"""Further contents of a report: robustness, activations, tables by class and by size of objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .boxes import as_boxes
from .inputs import ArrayLike, as_array

# A power of two, so that score * bins is exact and each bin has the same number of the 256 gray values.
ACTIVATION_BINS = 128
# Values within this many points of the best one count as close to it.
_MARGIN = 5
# Limits of the groups of object sizes, in percent of the image.
_SIZE_EDGES = (0, 10, 25, 50, 75, 100)

Score = Callable[[np.ndarray], dict[str, Any]]  # indices of images -> their score


def object_masks(truth: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Convert boxes to masks (N,H,W) with 1 inside objects; box edges belong to the object, as in `box_iou`.

    Args:
        truth: N arrays (n,4) of boxes in pixels of the maps, or masks (N,H,W), which are returned unchanged.
        shape: (N,H,W).
    """
    if not isinstance(truth, Sequence):
        return as_array(truth).astype(np.uint8, copy=False)
    masks = np.zeros(shape, np.uint8)
    for mask, boxes in zip(masks, truth):
        corners: np.ndarray = as_boxes(boxes).astype(np.int64)
        for x0, y0, x1, y1 in corners:
            mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    return masks


def activations(score_maps: ArrayLike, masks: np.ndarray) -> np.ndarray:
    """Count pixels by score, int64 (3,ACTIVATION_BINS): outside objects, inside, and ignored (mask 255).

    Args:
        score_maps: (N,H,W) in [0,1].
        masks: (N,H,W): 0, 1, 255.
    """
    counts = np.zeros((3, ACTIVATION_BINS), np.int64)
    row = np.zeros(256, np.intp)
    row[1], row[255] = ACTIVATION_BINS, 2 * ACTIVATION_BINS
    for score_map, mask in zip(as_array(score_maps), masks):
        index = (score_map.astype(np.float32) * ACTIVATION_BINS).astype(np.intp)
        np.clip(index, 0, ACTIVATION_BINS - 1, out=index)
        index += row.take(mask)
        counts += np.bincount(index.ravel(), minlength=counts.size).reshape(counts.shape)
    return counts


def activation_shares(counts: np.ndarray) -> dict[str, list[float]]:
    """Convert counts (3,bins) to percentages of all pixels, and of those inside and outside objects, in each bin."""
    outside, inside, _ = counts
    scores = np.arange(ACTIVATION_BINS) / ACTIVATION_BINS
    found = {'all': counts.sum(0), 'inside': inside, 'outside': outside}
    shares = {key: (100 * pixels / max(pixels.sum(), 1)).tolist() for key, pixels in found.items()}
    return {'score': scores.tolist(), **shares}


def robustness(values: np.ndarray) -> float:
    """Return the percentage of thresholds at which a metric (T) in percent is within 5 points of its best value."""
    # The tolerance keeps values that are exactly 5 points below.
    return float(100 * (values >= values.max() - _MARGIN - 1e-9).mean())


def f1_scores(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return F1 in percent, 2 precision recall / (precision + recall); 0 where precision is NaN (no pixel reached)."""
    precision = np.nan_to_num(precision)
    return 100 * 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def class_table(rows: Sequence[dict[str, Any]], names: Mapping[int, str] | None, score: Score) -> list[dict[str, Any]]:
    """Score the images of each class, in the order of labels.

    Args:
        rows: `Report.rows`.
        names: Label -> name.
        score: Scores images by their indices.
    """
    labels = np.array([row['label'] for row in rows])
    table = []
    for label in np.unique(labels).tolist():
        index = np.flatnonzero(labels == label)
        name = str((names or {}).get(label, label))
        table.append({'label': label, 'class': name, 'n': len(index), **score(index)})
    return table


def size_table(rows: Sequence[dict[str, Any]], score: Score) -> list[dict[str, Any]]:
    """Score images in groups by the share that their objects cover: above one limit, up to the next."""
    shares = np.array([row['object_share'] for row in rows])
    table = []
    for low, high in pairwise(_SIZE_EDGES):
        index = np.flatnonzero((shares > low) & (shares <= high))
        if len(index):
            table.append({'above': low, 'up_to': high, 'n': len(index), **score(index)})
    return table
