"""From score maps to boxes, as the WSOL protocol draws them (Choe et al., CVPR 2020; F-CAM, WACV 2022, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

NO_BOX = np.zeros((1, 4), np.int64)


def grey_levels(score_map: np.ndarray) -> np.ndarray:
    """Score map in [0,1] -> uint8, truncated as the protocol does.

    Raises:
        ValueError: When it is not two-dimensional or holds NaN or values outside [0,1].
    """
    if score_map.ndim != 2:
        raise ValueError(f'score map has shape {score_map.shape}: expected (H,W)')
    if not ((score_map >= 0) & (score_map <= 1)).all():
        raise ValueError('score map holds NaN or values outside [0,1]: normalise it first')
    return (np.asarray(score_map, np.float64) * 255).astype(np.uint8)


def boxes_from_score_map(
    score_map: np.ndarray, thresholds: Sequence[float], multi_contour: bool = False
) -> list[np.ndarray]:
    """Boxes around the contours of a score map at each threshold.

    The map becomes 8 bits; a pixel is object where its grey level is above int(tau * max), so tau is relative to the
    map's own maximum. Contours are OpenCV's (RETR_TREE), and x1, y1 are one past the last pixel except at the border.

    Args:
        score_map: (H,W) in [0,1].
        thresholds: tau in [0,1), any order.
        multi_contour: A box for every contour, holes included (MaxBoxAccV2), instead of that with the largest area.

    Returns:
        For each threshold an int64 array (n,4) of x0, y0, x1, y1; [[0,0,0,0]] where nothing is above it.

    Raises:
        ValueError: On NaN, values outside [0,1] or a wrong shape.
    """
    grey = grey_levels(score_map)
    boxes, index = distinct_boxes(grey, np.asarray(thresholds, np.float64), multi_contour)
    return [boxes[i] for i in index]


def distinct_boxes(
    grey: np.ndarray, thresholds: np.ndarray, multi_contour: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Boxes of each distinct binarization, and for each threshold the index of its own.

    A map of 8 bits has at most 256 binarizations, however many thresholds there are.
    """
    levels = (thresholds * float(grey.max())).astype(np.int64)
    # Levels with no grey value between them cut the map alike: replace each by the highest grey value up to it.
    occupied = np.union1d(0, np.flatnonzero(np.bincount(grey.ravel(), minlength=256)))
    levels, index = np.unique(occupied[np.searchsorted(occupied, levels, side='right') - 1], return_inverse=True)
    return list(_boxes_by_level(grey, levels, multi_contour)), index


def _boxes_by_level(grey: np.ndarray, levels: np.ndarray, multi_contour: bool) -> Iterator[np.ndarray]:
    """Boxes at ascending levels; the object only shrinks, so each search is confined to the last one's extent."""
    height, width = grey.shape
    limit = np.array([width - 1, height - 1])
    left, top, view = 0, 0, grey
    for level in levels:
        binary = cv2.threshold(view, float(level), 255, cv2.THRESH_BINARY)[1]
        x, y, w, h = cv2.boundingRect(binary)
        if w == 0:
            yield NO_BOX
            continue
        view, binary = view[y : y + h, x : x + w], np.ascontiguousarray(binary[y : y + h, x : x + w])
        left, top = left + x, top + y
        contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if not multi_contour:
            # max() keeps the first of equal areas, in OpenCV's order.
            contours = [max(contours, key=cv2.contourArea)] if len(contours) > 1 else contours
        rects = np.array([cv2.boundingRect(c) for c in contours], np.int64)
        first = rects[:, :2] + (left, top)
        yield np.concatenate([first, np.minimum(first + rects[:, 2:], limit)], 1)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union with inclusive corners: a box covers x1 - x0 + 1 columns.

    Args:
        a: (n,4) of x0, y0, x1, y1.
        b: (m,4).

    Returns:
        (n,m) float64.

    Raises:
        ValueError: When a box is negative or inverted.
    """
    a, b = (np.asarray(v, np.float64).reshape(-1, 4) for v in (a, b))
    for name, v in (('a', a), ('b', b)):
        if (v < 0).any() or (v[:, 2:] < v[:, :2]).any():
            raise ValueError(f'boxes {name} are negative or inverted: expected 0 <= x0 <= x1, 0 <= y0 <= y1')
    overlap = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2]) + 1
    inter = overlap.clip(0).prod(-1)
    area_a, area_b = ((v[:, 2:] - v[:, :2] + 1).prod(-1) for v in (a, b))
    return inter / (area_a[:, None] + area_b[None] - inter)


def resize_boxes(boxes: np.ndarray, from_size: tuple[int, int], to_size: tuple[int, int]) -> np.ndarray:
    """Scale boxes between image sizes, each coordinate truncated to an integer.

    Args:
        boxes: (n,4) of x0, y0, x1, y1.
        from_size: (width, height) to which they refer.
        to_size: (width, height) wanted.

    Returns:
        (n,4) int64.
    """
    scale = np.array([to_size[0] / from_size[0], to_size[1] / from_size[1]] * 2)
    return (np.asarray(boxes, np.float64).reshape(-1, 4) * scale).astype(np.int64)
