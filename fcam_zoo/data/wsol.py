"""Data sets of the WSOL metadata layout: CUB, ImageNet and OpenImages as Choe et al. (CVPR 2020) lay them out."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from ..errors import DatasetError
from .base import ImageDataset, Transform, refuse
from .images import image_size, open_mask
from .metadata import read_metadata


class WSOLDataset(ImageDataset):
    """One split of a data set with class labels, and with boxes or masks to evaluate localization.

    The layout is described in `fcam_zoo.data.metadata`, items and attributes in `ImageDataset`. Pictures are not turned
    by their EXIF orientation, since boxes and masks refer to the stored pixels.

    Args:
        root: Folder with `images`, `metadata` and, for masks, `masks`.
        split: Folder of `metadata`: 'train', 'val' or 'test'.
        transform: PIL image (RGB) -> item; None takes `EvalTransform()`.
        ground_truth: Whether to read `localization.txt`. None reads it in every split but 'train': weak supervision
            must not see the boxes of its training images.

    Raises:
        DatasetError: When metadata are missing, malformed, or contradict each other; the message names the first
            problem with file and line, and how many follow. `check_dataset` lists them all.
    """

    exif = False

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        transform: Transform | None = None,
        ground_truth: bool | None = None,
    ) -> None:
        root = Path(root)
        data = read_metadata(root, split, split != 'train' if ground_truth is None else ground_truth)
        refuse(data.problems)
        labels = [data.labels[i] for i in data.ids]
        super().__init__(root, root / 'images', split, data.ids, labels, _class_names(data.ids, labels), transform)
        self._known_sizes = data.sizes
        if data.boxes:
            self.boxes = [np.array(data.boxes[i], np.int64) for i in data.ids]
        if data.masks:
            folder = root / 'masks'
            found = (data.masks[i] for i in data.ids)
            self.masks = [(tuple(folder / m for m in masks), folder / ign if ign else None) for masks, ign in found]

    @cached_property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        """int64 (N,2), stored width and height in pixels; what the metadata lack is read from the images' headers.

        Raises:
            FileNotFoundError, ImageError: When an image without a size in the metadata is missing or unreadable.
        """
        sizes = [self._known_sizes.get(i) or image_size(self.images_root / i) for i in self.ids]
        return np.array(sizes, np.int64)

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Ground-truth mask of an image.

        Each file is resized by nearest neighbour and cut at grey level 0.5; instances are united; what is both object
        and ignored counts as object (the protocol of Choe et al., CVPR 2020).

        Args:
            index: Index of the image.
            size: (w,h) of the result in pixels.

        Returns:
            uint8 (h,w): 0 background, 1 object, 255 not scored.

        Raises:
            DatasetError: When the split was opened without masks.
            FileNotFoundError, ImageError: When a mask file is missing or unreadable.
        """
        if self.masks is None:
            raise DatasetError(
                f'{self.name}, {self.split}: opened without masks; use a set whose localization has masks'
            )
        files, ignore = self.masks[index]
        objects = np.logical_or.reduce([_nonzero(file, size) for file in files])
        mask = objects.astype(np.uint8)
        if ignore is not None:
            mask[_nonzero(ignore, size) & ~objects] = 255
        return mask


def _nonzero(path: Path, size: tuple[int, int]) -> np.ndarray:
    # Nearest neighbour commutes with the cut of the protocol (grey > 0.5), so 8 bits do.
    return cv2.resize(open_mask(path), size, interpolation=cv2.INTER_NEAREST) > 0


def _class_names(ids: list[str], labels: list[int]) -> dict[int, str]:
    """Label -> folder of its images where folders and labels match one to one, otherwise the label as text."""
    folders: dict[int, set[str]] = {}
    owners: dict[str, set[int]] = {}
    for image_id, label in zip(ids, labels):
        folder = PurePosixPath(image_id).parent.name
        folders.setdefault(label, set()).add(folder)
        owners.setdefault(folder, set()).add(label)
    names = {}
    for label in sorted(folders):
        folder = next(iter(folders[label]))
        is_name = folder and len(folders[label]) == 1 and len(owners[folder]) == 1
        names[label] = folder if is_name else str(label)
    return names
