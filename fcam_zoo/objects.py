"""From a map to objects: full resolution, threshold, connected regions, boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch

from ._checks import as_number
from ._schema import show
from .sampling import otsu_threshold

Threshold = float | Literal['otsu']


@dataclass(frozen=True, eq=False, repr=False)
class Region:
    """A connected region of an image. Two regions are equal only if they are the same object.

    Attributes:
        box: x0, y0, x1, y1 in pixels; x1 and y1 are exclusive.
        mask: bool (y1 - y0, x1 - x0), the pixels of the box that belong to the region.
        strength: Mean of the map over these pixels, in [0,1].
    """

    box: tuple[int, int, int, int]
    mask: np.ndarray
    strength: float

    def __repr__(self) -> str:
        return f'Region(box={self.box}, area={self.area}, strength={self.strength:.3f})'

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())


def as_threshold(value: Any, name: str = 'threshold') -> Threshold:
    """Return a threshold as 'otsu' or a Python number in [0,1); raise ValueError for another value."""
    if isinstance(value, str) and value == 'otsu':
        return 'otsu'
    try:
        return as_share(value, name)
    except ValueError as e:
        raise ValueError(f"{name} is {show(value)}: choose a value in [0,1), or 'otsu'") from e


def as_share(value: Any, name: str) -> float:
    """Return a number in [0,1) of any numeric type as a Python number; raise ValueError for another value."""
    try:
        number = math.nan if isinstance(value, bool) else as_number(value, name)
    except ValueError:
        number = math.nan
    if not 0 <= number < 1:
        raise ValueError(f'{name} is {show(value)}: choose a share of the image in [0,1)')
    return number


def resize_map(score_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map (h,w) of the network to the (width, height) of the image: float32 (H,W) in [0,1]."""
    resized = cv2.resize(score_map, size, interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0, 1, out=resized)


def foreground(score_map: np.ndarray, threshold: Threshold) -> np.ndarray:
    """Threshold a map in 8-bit gray levels.

    Args:
        score_map: float32 (H,W) in [0,1].
        threshold: tau in [0,1): foreground is every gray level above int(tau * largest level). 'otsu': every level
            above Otsu's threshold of the map.

    Returns:
        bool (H,W).
    """
    gray = np.empty(score_map.shape, np.uint8)
    np.multiply(score_map, np.float32(255), out=gray, casting='unsafe')  # Rounds down, without a copy in float32.
    if threshold == 'otsu':
        return gray > int(otsu_threshold(torch.from_numpy(score_map)[None]))
    return gray > int(threshold * float(gray.max()))


def find_regions(mask: np.ndarray, score_map: np.ndarray, multi: bool, min_area: float) -> tuple[Region, ...]:
    """Find the connected regions (8 neighbors) of a mask, sorted by the area inside their outline, largest first.

    Args:
        mask: bool (H,W).
        score_map: float32 (H,W) in [0,1].
        multi: Return all regions; otherwise only the largest.
        min_area: Smallest area of a further region as a share of the image; the largest region is always returned.

    Returns:
        The regions; none when the mask is empty.
    """
    outlines = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not outlines:
        return ()
    areas = np.array([cv2.contourArea(outline) for outline in outlines])
    chosen = [outlines[i] for i in np.argsort(-areas, kind='stable')[: None if multi else 1]]
    # In the box around them: other regions in it are not connected to these there either.
    x, y, width, height = cv2.boundingRect(np.concatenate(chosen))
    _, labels = cv2.connectedComponents(mask[y : y + height, x : x + width].view(np.uint8), connectivity=8)
    found = [_region(outline, labels, (x, y), score_map) for outline in chosen]
    smallest = math.ceil(min_area * mask.size)
    return (found[0], *(region for region in found[1:] if region.area >= smallest))


def _region(outline: np.ndarray, labels: np.ndarray, corner: tuple[int, int], score_map: np.ndarray) -> Region:
    """Return the region of an outline, given labels of the image from a corner (x, y) on."""
    x, y, width, height = cv2.boundingRect(outline)
    left, top = x - corner[0], y - corner[1]
    column, row = outline[0, 0]
    mask = labels[top : top + height, left : left + width] == labels[row - corner[1], column - corner[0]]
    inside = score_map[y : y + height, x : x + width]
    return Region((x, y, x + width, y + height), mask, float(inside[mask].mean(dtype=np.float64)))
