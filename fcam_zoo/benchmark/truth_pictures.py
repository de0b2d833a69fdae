"""Pictures of images with their ground truth, and with what a score map finds of it (Figs. 3 and 4 of the paper)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from .. import _drawing
from ..objects import Threshold
from ..sampling import otsu_threshold
from .boxes import as_boxes, best_overlap, boxes_from_score_map, resize_boxes
from .inputs import as_array, as_score_maps

# The colors of the paper. Boxes: true, found. Pixels: object and found, object and not found, found outside objects.
TRUE_BOX, FOUND_BOX = (0, 220, 0), (255, 40, 40)
FOUND, MISSED, WRONG = (235, 30, 30), (20, 200, 20), (40, 80, 255)
_OPACITY = 0.55
Colors = dict[tuple[int, int, int], np.ndarray]


def photograph(dataset: Any, index: int, height: int) -> Image.Image:
    """Return an image of the data set with a height in pixels, in its original proportions.

    Args:
        dataset: As for `evaluate_many`.
        index: Index of the image.
        height: Pixels.
    """
    image = Image.fromarray(np.ascontiguousarray(as_array(dataset[index][0]).transpose(1, 2, 0)))
    sizes = getattr(dataset, 'sizes', None)
    width, old_height = image.size if sizes is None else sizes[index].tolist()
    return image.resize((max(1, round(width * height / old_height)), height), Image.Resampling.LANCZOS)


def show_truth(image: Image.Image, dataset: Any, index: int) -> Image.Image:
    """Draw the true boxes, or color the pixels of the true mask, both in green.

    Args:
        image: From `photograph`.
        dataset: With boxes or masks.
        index: Index of the image.
    """
    if dataset.boxes is None:
        return _tint(image, {MISSED: dataset.mask(index, image.size) == 1})
    return _boxes(image, dataset.boxes[index], tuple(dataset.sizes[index]), TRUE_BOX)


def show_found(
    image: Image.Image, score_map: Any, threshold: Threshold, dataset: Any, index: int
) -> tuple[Image.Image, float]:
    """Draw what a map finds at a threshold, beside the ground truth.

    With boxes: pixels above the threshold, relative to the maximum of the map, and the box of their largest region in
    red, true boxes in green. With masks: pixels of objects that reach the threshold, which is absolute, in red (true
    positive), those that do not in green (false negative), others that do in blue (false positive); ignored pixels are
    not colored.

    Args:
        image: From `photograph`.
        score_map: (H,W) in [0,1].
        threshold: In [0,1), or 'otsu'.
        dataset: With boxes or masks.
        index: Index of the image.

    Returns:
        The picture, and the IoU in percent: of the box as in MaxBoxAcc, or of the pixels.

    Raises:
        ValueError: When the map is not (H,W) in [0,1].
    """
    score_map = as_score_maps(as_array(score_map)[None])[0]
    if dataset.boxes is None:
        return _show_pixels(image, score_map, threshold, dataset.mask(index, score_map.shape[::-1]))
    size = score_map.shape[::-1]
    gray = (255 * score_map).astype(np.uint8)
    level = _otsu(score_map) if threshold == 'otsu' else int(threshold * int(gray.max()))
    # A threshold between this gray level and the next, relative to the maximum as the protocol has it.
    (found,) = boxes_from_score_map(score_map, [min(1, (level + 0.5) / max(1, int(gray.max())))])
    truth = resize_boxes(dataset.boxes[index], dataset.sizes[index], size)
    iou = 100 * float(best_overlap(as_boxes(found), as_boxes(truth)).max())
    picture = _tint(image, {FOUND: _enlarge(gray > level, image.size)})
    picture = _boxes(picture, dataset.boxes[index], tuple(dataset.sizes[index]), TRUE_BOX)
    return _boxes(picture, found, size, FOUND_BOX), iou


def _show_pixels(
    image: Image.Image, score_map: np.ndarray, threshold: Threshold, mask: np.ndarray
) -> tuple[Image.Image, float]:
    found = (255 * score_map).astype(np.uint8) > _otsu(score_map) if threshold == 'otsu' else score_map >= threshold
    pixels = {FOUND: found & (mask == 1), MISSED: ~found & (mask == 1), WRONG: found & (mask == 0)}
    hits, total = pixels[FOUND].sum(), sum(each.sum() for each in pixels.values())
    picture = _tint(image, {color: _enlarge(where, image.size) for color, where in pixels.items()})
    return picture, 100 * float(hits / max(1, total))


def _otsu(score_map: np.ndarray) -> int:
    return int(otsu_threshold(torch.from_numpy(score_map.astype(np.float32))[None]))


def _enlarge(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _tint(image: Image.Image, pixels: Colors) -> Image.Image:
    """Blend pixels (H,W) of the image with colors."""
    canvas = np.asarray(image.convert('RGB'), np.float32).copy()
    for color, where in pixels.items():
        canvas[where] = (1 - _OPACITY) * canvas[where] + _OPACITY * np.array(color, np.float32)
    return Image.fromarray(canvas.round().astype(np.uint8))


def _boxes(image: Image.Image, boxes: Any, size: tuple[int, ...], color: tuple[int, int, int]) -> Image.Image:
    """Draw boxes, given in pixels of an image of another size."""
    scale = np.array([*image.size, *image.size]) / np.array([*size, *size])
    for box in as_boxes(boxes):
        image = _drawing.draw_box(image, (box * scale).round().astype(int).tolist(), color=color)
    return image
