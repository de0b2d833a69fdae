"""Small pictures of images with a score map, the objects found, and the ground truth."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from PIL import Image

from .. import _drawing
from ..objects import find_regions, foreground, resize_map
from .boxes import as_boxes, best_overlap, boxes_from_score_map, resize_boxes
from .inputs import as_array, as_score_maps
from .report import Report

FOUND_COLOR, TRUTH_COLOR = (255, 64, 255), (255, 255, 255)
Outlines = list[np.ndarray]
# Largest width and height of a picture in pixels; pages show them smaller.
_FRAME = (300, 210)
_OPACITY = 0.45


def picture(dataset: Any, index: int) -> Image.Image:
    """Return an image of the data set in its original proportions."""
    image = Image.fromarray(np.ascontiguousarray(as_array(dataset[index][0]).transpose(1, 2, 0)))
    sizes = getattr(dataset, 'sizes', None)
    width, height = image.size if sizes is None else sizes[index].tolist()
    scale = min(_FRAME[0] / width, _FRAME[1] / height)
    return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)


def show(image: Image.Image, score_map: Any, report: Report, dataset: Any, index: int) -> Image.Image:
    """Draw the map over the picture, with outlines of the object found at the best threshold and of the ground truth.

    Args:
        image: From `picture`.
        score_map: (H,W) in [0,1].
        report: Report of the map.
        dataset: The data set.
        index: Index of the image.

    Raises:
        ValueError: When the map is not (H,W) in [0,1].
    """
    score_map = as_score_maps(as_array(score_map)[None])[0]
    canvas = np.array(_drawing.blend(image, score_map, _OPACITY))
    truth, found = _OUTLINES[report.description.kind](score_map, report, dataset, index, image.size)
    for width, dark in ((4, True), (2, False)):  # a dark rim first, so that lines are visible on any color
        for outlines, color in ((truth, TRUTH_COLOR), (found, FOUND_COLOR)):
            cv2.polylines(canvas, outlines, True, (0, 0, 0) if dark else color, width, cv2.LINE_AA)
    return Image.fromarray(canvas)


def _boxes(
    score_map: np.ndarray, report: Report, dataset: Any, index: int, new_size: tuple[int, int]
) -> tuple[Outlines, Outlines]:
    """Return true boxes, and of those found at the best threshold the one that overlaps a true box most."""
    size = score_map.shape[::-1]
    truth = resize_boxes(dataset.boxes[index], dataset.sizes[index], size)
    threshold = report.metrics[report.description.best_threshold]
    found = boxes_from_score_map(score_map, [threshold], bool(report.meta.multi_contour))[0]
    best = found[[best_overlap(as_boxes(found), as_boxes(truth)).argmax()]]
    return _outline_boxes(truth, size, new_size), _outline_boxes(best, size, new_size)


def _objects(
    score_map: np.ndarray, report: Report, dataset: Any, index: int, new_size: tuple[int, int]
) -> tuple[Outlines, Outlines]:
    """Return all true boxes, and those found at the threshold of the report's metrics."""
    size = (int(dataset.sizes[index][0]), int(dataset.sizes[index][1]))
    threshold = report.metrics.get('threshold', report.metrics[report.description.best_threshold])
    full = resize_map(score_map.astype(np.float32), size)
    regions = find_regions(foreground(full, threshold), full, True, cast(float, report.meta.min_area))
    found = np.array([region.box for region in regions], np.int64).reshape(-1, 4)
    truth = np.array(dataset.boxes[index], np.int64).reshape(-1, 4)
    return _outline_boxes(truth, size, new_size), _outline_boxes(found, size, new_size)


def _masks(
    score_map: np.ndarray, report: Report, dataset: Any, index: int, new_size: tuple[int, int]
) -> tuple[Outlines, Outlines]:
    """Return the true mask, and the pixels above the threshold of the best F1."""
    truth = dataset.mask(index, score_map.shape[::-1]) == 1
    return _outlines(truth, new_size), _outlines(
        score_map >= report.metrics[report.description.best_threshold], new_size
    )


_OUTLINES = {'objects': _objects, 'boxes': _boxes, 'masks': _masks}


def _outline_boxes(boxes: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> Outlines:
    scale = np.array([*new_size, *new_size]) / np.array([*size, *size])
    inside = np.array([*new_size, *new_size]) - 2
    corners = np.minimum(np.round(boxes * scale), inside).clip(1).astype(np.int32)
    return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) for x0, y0, x1, y1 in corners[boxes.any(1)]]


def _outlines(mask: np.ndarray, size: tuple[int, int]) -> Outlines:
    large = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return list(cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0])
