"""Box of the largest contour at many levels of an image with few local maxima, without tracing at each.

Two facts spare most of the tracing:

* Components of `image > level` only split, shrink or vanish as the level rises, and the areas of their outlines with
  them. A component whose area at level `a` is below the largest at level `b > a` is never the largest in between.
* A component that is there at a level and gone at a higher one has a local maximum in between. Where there is none,
  and one component at level `b`, each level from `a` to `b` has one component: the extremes of rows and columns give
  its box at all of them at once.

So intervals of levels are halved, each time without what can no longer win, until the second fact holds.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ._tracing import Outlines, trace_outlines

_SQUARE = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
# A single level is traced sooner than erasing some components and projecting the rest is done.
_SOME = 4


def mark_peaks(scores: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The image (H,W) uint8 where it has a local maximum, and 0 elsewhere.

    Args:
        scores: (H,W) the map behind the image. Its finer steps tell a slope, which is flat in the image, from a top.
        image: (H,W) uint8.
    """
    scores = scores.astype(np.float32)
    return cv2.bitwise_and(image, cv2.compare(scores, cv2.dilate(scores, _SQUARE), cv2.CMP_EQ))


def largest_boxes(image: np.ndarray, peaks: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Boxes (n,4) of the largest contour at each level, right and lower edges one past the last pixel.

    Args:
        image: (H,W) uint8.
        peaks: (H,W) from `mark_peaks`.
        levels: (n) int64, ascending, distinct, at least -1; the last leaves pixels above it.
    """
    boxes = np.zeros((len(levels), 4), np.int64)
    region = _Region(image, peaks, 0, 0)
    ends = [_Level(k, int(levels[k]), region.trace(int(levels[k]))) for k in (0, len(levels) - 1)]
    for end in ends:
        boxes[end.index] = end.found.box
    _fill(boxes, levels, region, *ends)
    return boxes


class _Region(NamedTuple):
    """Rectangle of the image that holds whatever can still win, and its place."""

    image: np.ndarray
    peaks: np.ndarray
    x: int
    y: int

    def trace(self, level: int) -> Outlines:
        return trace_outlines(self.image, level, self.x, self.y)

    def keep(self, contours: list[np.ndarray]) -> _Region:
        """Cut to the contours, and erase what lies outside them."""
        x, y, width, height = cv2.boundingRect(contours[0] if len(contours) == 1 else np.concatenate(contours))
        mask = np.zeros((height, width), np.uint8)
        cv2.drawContours(mask, contours, -1, 255, cv2.FILLED, offset=(-x, -y))
        part = np.s_[y - self.y : y - self.y + height, x - self.x : x - self.x + width]
        return _Region(cv2.bitwise_and(self.image[part], mask), cv2.bitwise_and(self.peaks[part], mask), x, y)

    def holds(self, contour: np.ndarray) -> bool:
        x, y = contour[0, 0].tolist()
        x, y = x - self.x, y - self.y
        height, width = self.image.shape
        return 0 <= x < width and 0 <= y < height and self.image[y, x] > 0


class _Level(NamedTuple):
    index: int
    level: int
    found: Outlines


def _fill(boxes: np.ndarray, levels: np.ndarray, region: _Region, low: _Level, high: _Level) -> None:
    """Enter the boxes of the levels between two traced ones."""
    between = high.index - low.index - 1
    if between < 1:
        return
    least = max(high.found.areas)
    kept = [c for c, area in zip(low.found.contours, low.found.areas) if area >= least]
    if between > 1 or len(low.found.contours) - len(kept) > _SOME:
        region = region.keep(kept)
    if between > 1:
        inside = [c for c in high.found.contours if region.holds(c)]
        # What appears in between, going down from the upper level, has its top there.
        if len(inside) == 1 and not cv2.hasNonZero(cv2.inRange(region.peaks, low.level + 2, high.level)):
            _project(boxes, levels, region, low.index + 1, high.index)
            return
    k = (low.index + high.index) // 2
    middle = _Level(k, int(levels[k]), region.trace(int(levels[k])))
    boxes[k] = middle.found.box
    _fill(boxes, levels, region, low, middle)
    _fill(boxes, levels, region, middle, high)


def _project(boxes: np.ndarray, levels: np.ndarray, region: _Region, start: int, stop: int) -> None:
    """Enter the boxes of levels at which the region holds one component."""
    between = levels[start:stop].astype(np.uint8)
    for axis, origin in enumerate((region.x, region.y)):
        top = region.image.max(axis)
        first = np.maximum.accumulate(top).searchsorted(between, side='right')
        last = np.maximum.accumulate(top[::-1]).searchsorted(between, side='right')
        boxes[start:stop, axis] = origin + first
        boxes[start:stop, axis + 2] = origin + len(top) - last
