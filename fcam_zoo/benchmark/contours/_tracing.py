"""Contours of one level of an image, by OpenCV."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Outlines(NamedTuple):
    """Outer contours of a level, their areas, and the box of the largest."""

    contours: list[np.ndarray]
    areas: list[float]
    box: tuple[int, int, int, int]


def trace_outlines(image: np.ndarray, level: int, x: int = 0, y: int = 0) -> Outlines:
    """Outer contours around `image > level`, of which there must be one.

    The largest contour is among them. Where that of a hole has the same area, it is the same polygon.

    Args:
        image: (H,W) uint8.
        level: At least -1.
        x: Column of the image in a larger one whose coordinates are wanted.
        y: Row.
    """
    mask = cv2.threshold(image, level, 255, cv2.THRESH_BINARY)[1]
    contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))[0]
    areas = [cv2.contourArea(c) for c in contours]
    return Outlines(contours, areas, _edges(contours[areas.index(max(areas))]))


def trace_boxes(image: np.ndarray, level: int, multi_contour: bool) -> np.ndarray:
    """Boxes (n,4) of the contours around `image > level`, or of the one with the largest area."""
    if not multi_contour:
        return np.array([trace_outlines(image, level).box])
    mask = cv2.threshold(image, level, 255, cv2.THRESH_BINARY)[1]
    return np.array([_edges(c) for c in cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]])


def _edges(contour: np.ndarray) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(contour)
    return x, y, x + width, y + height
