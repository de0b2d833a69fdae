"""From a full-resolution map to objects: threshold, connected regions, boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch

from .sampling import otsu_threshold

Threshold = float | Literal['otsu']


@dataclass(frozen=True)
class Region:
    """A connected region of an image.

    Attributes:
        box: x0, y0, x1, y1 in pixels; x1 and y1 are one past the last pixel.
        mask: bool (y1 - y0, x1 - x0), which pixels of the box belong to it.
        strength: Mean of the map over these pixels, in [0,1].
    """

    box: tuple[int, int, int, int]
    mask: np.ndarray
    strength: float

    @property
    def area(self) -> int:
        """Number of its pixels."""
        return int(self.mask.sum())


def check_threshold(threshold: Threshold) -> None:
    """Raises ValueError for what is neither 'otsu' nor a number in [0,1)."""
    if threshold != 'otsu' and (isinstance(threshold, str) or not 0 <= threshold < 1):
        raise ValueError(f"threshold is {threshold!r}: choose a value in [0,1), or 'otsu'")


def check_min_area(min_area: float) -> None:
    """Raises ValueError for a share of an image outside [0,1)."""
    if not 0 <= min_area < 1:
        raise ValueError(f'min_area is {min_area}: choose a share of the image in [0,1)')


def foreground(score_map: np.ndarray, threshold: Threshold) -> np.ndarray:
    """What a threshold leaves of a map.

    Args:
        score_map: float32 (H,W) in [0,1].
        threshold: tau in [0,1): grey levels above int(tau * largest level) are left. 'otsu': those above Otsu's
            threshold of the map.

    Returns:
        bool (H,W).
    """
    grey = (score_map * 255).astype(np.uint8)
    if threshold == 'otsu':
        return grey > int(otsu_threshold(torch.from_numpy(score_map)[None]))
    return grey > int(threshold * float(grey.max()))


def find_regions(mask: np.ndarray, score_map: np.ndarray, multi: bool, min_area: float) -> tuple[Region, ...]:
    """Connected regions (8 neighbours) of a mask, by the area that their outline encloses, largest first.

    Args:
        mask: bool (H,W).
        score_map: float32 (H,W) in [0,1].
        multi: All regions; otherwise the largest alone.
        min_area: Smallest share of the image's pixels that further regions have; the largest is always kept.

    Returns:
        None, one or several regions.
    """
    outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not outlines:
        return ()
    areas = np.array([cv2.contourArea(outline) for outline in outlines])
    order = np.argsort(-areas, kind='stable')[: None if multi else 1]
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    found = [_region(outlines[i], labels, score_map) for i in order]
    smallest = math.ceil(min_area * mask.size)
    return (found[0], *(region for region in found[1:] if region.area >= smallest))


def _region(outline: np.ndarray, labels: np.ndarray, score_map: np.ndarray) -> Region:
    x, y, width, height = cv2.boundingRect(outline)
    inside = (slice(y, y + height), slice(x, x + width))
    column, row = outline[0, 0]
    mask = labels[inside] == labels[row, column]
    return Region((x, y, x + width, y + height), mask, float(score_map[inside][mask].mean(dtype=np.float64)))
