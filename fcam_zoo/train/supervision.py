"""Supervised training of the decoder: the boxes or masks of a few training images are the maps of the teacher.

This is the upper bound of weak supervision, like the few-shot baseline FSL of Choe et al. (CVPR 2020), but with the
decoder of F-CAM.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data import open_dataset
from ..data.base import ImageDataset
from ..data.formats import train_split
from ..errors import TrainingError
from .config import TrainConfig

# Value of a pixel that masks mark as not scored; it gets no label.
IGNORED = 0.5


@dataclass
class AnnotationTeacher:
    """Filled boxes, or masks, as maps.

    Attributes:
        images: The chosen training images, with boxes or masks.
        config: All settings.
    """

    images: ImageDataset
    config: TrainConfig

    def read(self, index: int) -> torch.Tensor:
        """Return the map of an image, (1,S,S): 1 object, 0 background, 0.5 not scored; S is image_size."""
        side = self.config.image_size
        if self.images.boxes is None:
            mask = torch.from_numpy(self.images.mask(index, (side, side)))
            return torch.where(mask == 255, IGNORED, (mask == 1).float())[None]
        found, (width, height) = torch.zeros(1, side, side), self.images.sizes[index].tolist()
        for x0, y0, x1, y1 in self.images.boxes[index].tolist():
            (left, right), (top, bottom) = _span(x0, x1, width, side), _span(y0, y1, height, side)
            found[:, top:bottom, left:right] = 1
        return found

    def source(self) -> dict[str, Any]:
        """Describe what the maps depend on: the boxes, or the mask files."""
        if self.images.boxes is not None:
            return {'annotations': [boxes.tolist() for boxes in self.images.boxes]}
        files = [[file.stat() for file in masks.files] for masks in self.images.masks or ()]
        return {'annotations': [[(file.st_size, file.st_mtime_ns) for file in each] for each in files]}


def _span(first: int, last: int, length: int, side: int) -> tuple[int, int]:
    """Scale the pixels from first to last of `length` to `side`: start and exclusive end, at least one pixel."""
    start = min(round(first * side / length), side - 1)
    return start, max(round((last + 1) * side / length), start + 1)


def open_supervision(config: TrainConfig) -> AnnotationTeacher:
    """Choose `teacher.supervision` random images of each class of train, by the seed, and open their annotations.

    Raises:
        DatasetError: When the annotations are missing or invalid.
        TrainingError: When the layout of the data set has none for train.
    """
    images = open_dataset(config.data, train_split(config.data), ground_truth=True)
    if images.boxes is None and images.masks is None:
        raise TrainingError(
            f'teacher.supervision needs boxes or masks of train, and {config.data} has none: use the WSOL layout with '
            'metadata/train/localization.txt, or a CSV file with the columns x0,y0,x1,y1'
        )
    return AnnotationTeacher(chosen(images, config.teacher.supervision, config.seed), config)


def chosen(images: ImageDataset, per_class: int, seed: int) -> ImageDataset:
    """Return a data set with at most so many random images of each class, in the order of the data set."""
    rng, kept = np.random.default_rng(seed), []
    for label in np.unique(images.labels):
        own = np.flatnonzero(images.labels == label)
        kept += rng.permutation(own)[:per_class].tolist()
    part, kept = copy.copy(images), sorted(kept)
    part.__dict__.pop('sizes', None)
    part.ids, part.labels = [images.ids[i] for i in kept], images.labels[kept]
    part.boxes = None if images.boxes is None else [images.boxes[i] for i in kept]
    part.masks = None if images.masks is None else [images.masks[i] for i in kept]
    return part
