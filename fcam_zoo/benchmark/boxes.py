"""Boxes of score maps, and their overlap, as in Choe et al. (CVPR 2020)."""

from __future__ import annotations

import numpy as np

from .contours import histogram, level_boxes
from .inputs import ArrayLike, as_array, as_numbers, as_score_maps, as_thresholds

# Areas of such boxes, in pixels, are exact in float64.
_MAX_COORDINATE = 2**26
# Pairs of boxes that are compared at a time.
_PAIRS = 2**20


def boxes_from_score_map(score_map: ArrayLike, thresholds: ArrayLike, multi_contour: bool = False) -> list[np.ndarray]:
    """Find the boxes around the pixels above each threshold of a score map.

    The map is converted to 8 bits, `trunc(255 * map)`, and compared with `trunc(threshold * its largest value)`:
    thresholds are relative to the maximum of the map. Boxes enclose OpenCV's contours (RETR_TREE) of the pixels above
    the threshold. Their right and lower edges are one past the last pixel, except at the border of the map. So they
    are one pixel wider and higher than the contours, as in published results (Choe et al., CVPR 2020, and the code of
    F-CAM, WACV 2022).

    Args:
        score_map: (H,W), values in [0,1].
        thresholds: (T) numbers in [0,1].
        multi_contour: Return the boxes of all contours, including those around holes, in no particular order. Otherwise
            only that of the contour with the largest area, the first of equal ones in OpenCV's order.

    Returns:
        For each threshold an int64 array (n,4) of x0, y0, x1, y1; [[0, 0, 0, 0]] if no pixel is above it.

    Raises:
        ValueError: When the map is not 2-D, or holds NaN or values outside [0,1]; when thresholds are outside [0,1].
    """
    score_map = as_array(score_map)
    if score_map.ndim != 2:
        raise ValueError(f'score_map must have the shape (H,W), got {score_map.shape}')
    boxes, starts, which = distinct_boxes(as_score_maps(score_map[None])[0], as_thresholds(thresholds), multi_contour)
    stops = [*starts[1:], len(boxes)]
    return [boxes[starts[k] : stops[k]].copy() for k in which]


def distinct_boxes(
    score_map: np.ndarray, thresholds: np.ndarray, multi_contour: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the boxes of `boxes_from_score_map`, only once for thresholds with the same boxes.

    Args:
        score_map: (H,W) float64 in [0,1].
        thresholds: (T) float64 in [0,1].
        multi_contour: As in `boxes_from_score_map`.

    Returns:
        Boxes (m,4) in groups, the start of each group (U), and the group of each threshold (T).
    """
    scores = score_map * 255
    image = scores.astype(np.uint8)
    occupied = np.flatnonzero(histogram(image))
    levels = (thresholds * occupied[-1]).astype(np.int64)
    # Levels between the same two gray values of the image are equivalent.
    groups, which = np.unique(occupied.searchsorted(levels, side='right'), return_inverse=True)
    levels = np.append(-1, occupied)[groups[groups < len(occupied)]]
    boxes: np.ndarray = np.zeros((0, 4), np.int64)
    owners: np.ndarray = np.zeros(0, np.int64)
    if len(levels):
        boxes, owners = level_boxes(scores, image, levels, multi_contour)
    if len(levels) < len(groups):  # the last group has no pixel
        boxes, owners = np.append(boxes, [[0, 0, 0, 0]], axis=0), np.append(owners, len(levels))
    return boxes, owners.searchsorted(np.arange(len(groups))), which


def box_iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Compute the intersection over union of boxes that include their edges: the width is x1 - x0 + 1.

    Args:
        a: (n,4) boxes x0, y0, x1, y1.
        b: (m,4) boxes.

    Returns:
        (n,m) float64.

    Raises:
        ValueError: When a box is inverted or has a negative coordinate.
    """
    return overlap(as_boxes(a), as_boxes(b))


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute `box_iou` of valid boxes."""
    a, b = a.T[:, :, None], b.T[:, None]
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]) + 1
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]) + 1
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area_a, area_b = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return shared / (area_a + area_b - shared)


def best_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the largest `overlap` of each box (n) with any of `b`, in parts, so that memory does not depend on n."""
    step = max(1, _PAIRS // len(b))
    return np.concatenate([overlap(a[start : start + step], b).max(1) for start in range(0, len(a), step)])


def resize_boxes(boxes: ArrayLike, from_size: tuple[int, int], to_size: tuple[int, int]) -> np.ndarray:
    """Scale boxes to a new size of their image; coordinates are truncated to integers.

    Args:
        boxes: (n,4) boxes x0, y0, x1, y1.
        from_size: (width, height) before resizing.
        to_size: (width, height) after resizing.

    Returns:
        (n,4) int64.

    Raises:
        ValueError: When a box is inverted or has a negative coordinate, or a size is not positive.
    """
    old, new = as_numbers(from_size, 'sizes'), as_numbers(to_size, 'sizes')
    if not (old.shape == new.shape == (2,) and (old > 0).all() and (new > 0).all()):
        raise ValueError(f'sizes must be positive (width, height), got {old.tolist()} and {new.tolist()}')
    scaled = as_boxes(boxes) * np.tile(new.astype(np.float64), 2) / np.tile(old, 2)
    return as_boxes(scaled).astype(np.int64)


def as_boxes(boxes: ArrayLike) -> np.ndarray:
    """Convert boxes (n,4), or one box (4), to float64 (n,4).

    Raises:
        ValueError: For another shape, or a box that is inverted or has a coordinate that is negative or huge.
    """
    boxes = np.atleast_2d(as_numbers(boxes, 'boxes')).astype(np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f'boxes must have the shape (n,4), got {boxes.shape}')
    good = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1) & (boxes < _MAX_COORDINATE).all(1)
    if not good.all():
        raise ValueError(f'box {boxes[good.argmin()].tolist()} is not 0 <= x0 <= x1, 0 <= y0 <= y1, in pixels')
    return boxes
