"""Contours of an image at one level, by OpenCV."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Box = tuple[int, int, int, int]


def trace_largest(image: np.ndarray, level: int, x: int = 0, y: int = 0) -> tuple[float, Box]:
    """Trace the outer contours around `image > level`, of which there must be at least one.

    Contours of holes are not needed: one that is as large as the largest outer contour is the same polygon.

    Args:
        image: (H,W) uint8.
        level: At least -1.
        x: Column of the image in a larger one, to whose coordinates the box is shifted.
        y: Row.

    Returns:
        Area and box of the largest contour, the first of equal ones in OpenCV's order.
    """
    contours = _find(image, level, cv2.RETR_EXTERNAL, (x, y))
    areas = [cv2.contourArea(contour) for contour in contours]
    return max(areas), _edges(contours[areas.index(max(areas))])


def trace_boxes(image: np.ndarray, level: int, multi_contour: bool) -> np.ndarray:
    """Return the boxes (n,4) of all contours around `image > level`, or of the one with the largest area."""
    if not multi_contour:
        return np.array([trace_largest(image, level)[1]])
    return np.array([_edges(contour) for contour in _find(image, level, cv2.RETR_TREE)])


def _find(image: np.ndarray, level: int, mode: int, offset: tuple[int, int] = (0, 0)) -> Sequence[np.ndarray]:
    mask = cv2.threshold(image, level, 255, cv2.THRESH_BINARY)[1]
    return cv2.findContours(mask, mode, cv2.CHAIN_APPROX_SIMPLE, offset=offset)[0]


def _edges(contour: np.ndarray) -> Box:
    x, y, width, height = cv2.boundingRect(contour)
    return x, y, x + width, y + height
