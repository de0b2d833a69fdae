"""Boxes of OpenCV's contours at many levels of one image: exactly equal, found in the fastest way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from ._component_tree import LEVELS, Tree, areas, ascend, count_holes, extents, grow, ranks
from ._tracing import Box, trace_boxes, trace_largest

Boxes = tuple[np.ndarray, np.ndarray]  # (m,4), and the indices (m) of their levels

# Up to this many levels are traced one by one.
_FEW_LEVELS = 12
# An image with more local maxima, such as noise, is traced too.
_MANY_BRANCHES = 4096


def level_boxes(scores: np.ndarray, image: np.ndarray, levels: np.ndarray, multi_contour: bool) -> Boxes:
    """Find the boxes at each level.

    Args:
        scores: (H,W) float64 in 0..255.
        image: (H,W) uint8, their whole parts.
        levels: (n) int64, ascending, distinct, at least -1; some pixels are above the last one.
        multi_contour: Boxes of all contours, including those around holes; otherwise only of the one with the largest
            area.

    Returns:
        Boxes (m,4) int64, and the ascending indices (m) of their levels. Right and lower edges are one past the last
        pixel, except at the image border.
    """
    found = None
    if len(levels) > _FEW_LEVELS:
        found = _tree_boxes(scores, image, levels, multi_contour)
    if found is None:
        each = [trace_boxes(image, int(level), multi_contour) for level in levels]
        found = np.concatenate(each), np.repeat(np.arange(len(levels)), [len(b) for b in each])
    boxes, owners = found
    height, width = image.shape
    return np.minimum(boxes, (width, height, width - 1, height - 1)), owners


def _tree_boxes(scores: np.ndarray, image: np.ndarray, levels: np.ndarray, multi_contour: bool) -> Boxes | None:
    """Find the boxes from the component tree; None for an image with too many local maxima."""
    # Pixels that are not above the lowest level are outside of all boxes, or in a hole.
    x, y, width, height = cv2.boundingRect(cv2.threshold(image, int(levels[0]), 255, cv2.THRESH_BINARY)[1])
    part = np.s_[y : y + height, x : x + width]
    scores, image = scores[part], np.ascontiguousarray(image[part])
    origin = (x, y, x, y)
    levels, gray, order = levels + 1, image.astype(np.int16) + 1, ranks(scores)
    up, tops = ascend(order, corners=True)
    if len(tops) > _MANY_BRANCHES:
        return None
    tree = grow(gray, up, tops, corners=True)
    table, has_holes = extents(tree, gray), count_holes(tree, image)[levels] > 0
    if not multi_contour:
        holes = partial(_hole_boxes, gray, order, levels)
        return _largest(tree, table, image, levels, has_holes, holes) + origin, np.arange(len(levels))
    owners, branches = np.nonzero(tree.alive(levels).T)
    boxes = _boxes(table[branches, :, levels[owners]])
    if has_holes.any():
        found = _hole_boxes(gray, order, levels)
        if found is None:
            return None
        boxes, owners = np.concatenate([boxes, found[0]]), np.concatenate([owners, found[1]])
        by_level = owners.argsort(kind='stable')
        boxes, owners = boxes[by_level], owners[by_level]
    return boxes + origin, owners


def _boxes(table: np.ndarray) -> np.ndarray:
    """Convert extents (n,4) to left, upper, right, lower edges."""
    return table * np.array([1, 1, -1, -1]) + np.array([0, 0, 1, 1])


def _hole_boxes(gray: np.ndarray, order: np.ndarray, levels: np.ndarray) -> Boxes | None:
    """Find the boxes around the holes at each level: components of low pixels, with 4 neighbors."""
    up, tops = ascend(-order, corners=False)
    if len(tops) > _MANY_BRANCHES:
        return None
    depth, depths = LEVELS + 1 - gray, LEVELS - levels
    tree = grow(depth, up, tops, corners=False, outside=True)
    alive = tree.alive(depths)
    alive[-1] = False  # the surroundings
    branches, owners = np.nonzero(alive)
    # The contour runs through the pixels around the hole.
    return _boxes(extents(tree, depth)[branches, :, depths[owners]]) + np.array([-1, -1, 1, 1]), owners


def _largest(
    tree: Tree,
    table: np.ndarray,
    image: np.ndarray,
    levels: np.ndarray,
    has_holes: np.ndarray,
    hole_boxes: Callable[[], Boxes | None],
) -> np.ndarray:
    """Find the box of the largest contour at each level from bounds of the areas; trace where they do not decide."""
    alive, spans = tree.alive(levels), table[:, :, levels]
    # The outline of a component encloses at least what it covers, and at most its box if it has holes.
    least = np.where(alive, areas(tree, image)[:, levels], -1)
    most = np.where(alive & has_holes, 2 * (spans[:, 0] + spans[:, 2]) * (spans[:, 1] + spans[:, 3]), least)
    rivals = most >= least.max(0)
    if np.count_nonzero(rivals.sum(0) > 1) > _FEW_LEVELS and (holes := hole_boxes()):
        width, height = (holes[0][:, 2:] - holes[0][:, :2] - 1).T
        most = np.minimum(most, least + np.bincount(holes[1], 2 * width * height, minlength=len(levels)))
        rivals = alive & (most >= least.max(0))
    boxes = _boxes(spans[least.argmax(0), :, np.arange(len(levels))])
    for k in np.flatnonzero(rivals.sum(0) > 1):
        boxes[k] = _largest_within(image, int(levels[k]) - 1, _boxes(spans[rivals[:, k], :, k]))
    return boxes


def _largest_within(image: np.ndarray, level: int, candidates: np.ndarray) -> Box:
    """Find the box of the largest contour at a level, given the boxes (n,4) of the components that may have it."""
    found = [trace_largest(image[y0:y1, x0:x1], level, x0, y0) for x0, y0, x1, y1 in candidates.tolist()]
    largest = [box for area, box in found if area == max(area for area, _ in found)]
    if len(largest) == 1:
        return largest[0]
    (x0, y0), (x1, y1) = candidates[:, :2].min(0).tolist(), candidates[:, 2:].max(0).tolist()
    return trace_largest(image[y0:y1, x0:x1], level, x0, y0)[1]  # OpenCV's order decides
