"""Small pictures of images with a score map, what is found in it, and the ground truth."""

from __future__ import annotations

import io
import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from .. import viz
from ._inputs import as_array, as_score_maps
from ._sources import Convention, MapFolder, Source, center_map, is_array, score, scoring_mode
from .boxes import box_iou, boxes_from_score_map, resize_boxes
from .report import Report

FOUND_COLOR, TRUTH_COLOR = (255, 64, 255), (255, 255, 255)
# Largest width and height of a picture in pixels; pages show them smaller.
_FRAME = (300, 210)
_OPACITY = 0.45

MapOf = Callable[[int], Any]


def maps_of(
    source: Source,
    dataset: Any,
    maps: Sequence[str],
    *,
    convention: Convention = 'bilinear',
    device: str | torch.device | None = None,
) -> dict[str, MapOf]:
    """Functions that give a kind of map (H,W) of an image by its index, made as in `evaluate_many`.

    Args:
        source: As in `evaluate_many`; a function must not depend on the order of the images.
        dataset: As there.
        maps: Kinds of map.
        convention: As there.
        device: As there.
    """
    if isinstance(source, (str, os.PathLike)):
        source = MapFolder(source, dataset.ids)
    made = [name for name in maps if name != 'center']

    @lru_cache(maxsize=32)
    def find(index: int) -> dict[str, Any]:
        if is_array(source):
            return dict.fromkeys(made, source[index : index + 1][0])
        image, label, _ = dataset[index]
        with scoring_mode(source, device):
            found, _ = score(source, made, image[None], torch.tensor([label]), device, convention)
        return {name: as_array(batch)[0] for name, batch in found.items()}

    def get(name: str, index: int) -> np.ndarray:
        return find(index)[name]

    def center(index: int) -> np.ndarray:
        return center_map(tuple((find(index)[made[0]] if made else dataset[index][0]).shape[-2:]))

    return {name: center if name == 'center' else partial(get, name) for name in maps}


def picture(dataset: Any, index: int) -> Image.Image:
    """An image of the data set in the proportions that it is stored in."""
    image = Image.fromarray(np.ascontiguousarray(as_array(dataset[index][0]).transpose(1, 2, 0)))
    sizes = getattr(dataset, 'sizes', None)
    width, height = image.size if sizes is None else sizes[index].tolist()
    scale = min(_FRAME[0] / width, _FRAME[1] / height)
    return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)


def show(image: Image.Image, score_map: Any, report: Report, level: str, dataset: Any, index: int) -> Image.Image:
    """The picture with the map over it, and boxes or outlines: what is found at the best threshold, and the truth.

    Args:
        image: From `picture`.
        score_map: (H,W) in [0,1].
        report: Which the map belongs to.
        level: IoU whose best threshold to take, with boxes.
        dataset: The data set.
        index: Index of the image.

    Raises:
        ValueError: When the map is not (H,W) in [0,1].
    """
    score_map = as_score_maps(as_array(score_map)[None])[0]
    size = score_map.shape[::-1]
    canvas = np.array(viz.blend(image, score_map, _OPACITY))
    if dataset.boxes is not None:
        truth = resize_boxes(dataset.boxes[index], dataset.sizes[index], size)
        threshold = report.metrics[f'best_threshold_{level}']
        found = boxes_from_score_map(score_map, [threshold], report.meta['multi_contour'])[0]
        found = found[[box_iou(found, truth).max(1).argmax()]]  # the one that counts
        shapes = ((_outline_boxes(truth, size, image.size), TRUTH_COLOR),)
        shapes += ((_outline_boxes(found, size, image.size), FOUND_COLOR),)
    else:
        truth = dataset.mask(index, size) == 1
        found = score_map >= report.metrics['best_threshold']
        shapes = ((_outlines(truth, image.size), TRUTH_COLOR), (_outlines(found, image.size), FOUND_COLOR))
    for width, dark in ((4, True), (2, False)):  # a dark rim first, so that lines show on any colour
        for outlines, color in shapes:
            cv2.polylines(canvas, outlines, True, (0, 0, 0) if dark else color, width, cv2.LINE_AA)
    return Image.fromarray(canvas)


def _outline_boxes(boxes: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> list[np.ndarray]:
    scale = np.array([*new_size, *new_size]) / np.array([*size, *size])
    inside = np.array([*new_size, *new_size]) - 2
    corners = np.minimum(np.round(boxes * scale), inside).clip(1).astype(np.int32)
    return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) for x0, y0, x1, y1 in corners[boxes.any(1)]]


def _outlines(mask: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    large = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return list(cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0])


def data_url(image: Image.Image) -> str:
    """A JPEG in a data URL."""
    with io.BytesIO() as buffer:
        image.save(buffer, 'JPEG', quality=82, optimize=True)
        return 'data:image/jpeg;base64,' + b64encode(buffer.getvalue()).decode()
