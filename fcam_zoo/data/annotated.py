"""The data sets whose labels and ground truth come from an annotation file or folder."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from .annotations import Annotations, finish
from .base import ImageDataset, Transform, refuse
from .images import image_size, open_image

logger = logging.getLogger(__name__)


class AnnotatedDataset(ImageDataset):
    """Images with annotations in a format of its own; base of `CocoDataset`, `VocDataset`, `CsvDataset`, `MaskDataset`.

    Items and attributes are those of `ImageDataset`. Images lie in `<root>/<split>`, `<root>/images`,
    `<root>/JPEGImages` or `root`, the first that exists, and are not turned by their EXIF orientation. Those without
    annotation are left out, and their number is logged. The label of an image is the class of its largest object, or
    its class folder where the format tells no two classes apart or names its classes after the folders; without
    either, all images are of one class.

    Args:
        root: Folder of the data set.
        split: Name of the split; '' for a data set without splits.
        annotations: Annotation file or folder; `{split}` in it stands for the split.
        transform: PIL image (RGB) -> item; None takes `EvalTransform()`.
        ground_truth: Whether boxes or masks are read. None reads them in every split but 'train': weak supervision
            must not see the boxes of its training images.

    Raises:
        DatasetError: When the annotations are missing, malformed, or contradict each other; the message names the first
            problem with file and line or id, and how many follow. `check_dataset` lists them all.
    """

    exif = False

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        annotations: str | os.PathLike,
        transform: Transform | None = None,
        ground_truth: bool | None = None,
    ) -> None:
        data = self.load(root, split, annotations, split != 'train' if ground_truth is None else ground_truth)
        for image_id in data.ids:
            if image_id in data.sizes:
                data.problems += data.faults_of_boxes(image_id, data.sizes[image_id])
        refuse(data.problems)
        if len(data.ids) < len(data.listed):
            left = len(data.listed) - len(data.ids)
            logger.warning('%s: %d of %d images have no annotation and are left out', data.path, left, len(data.listed))
        labels = [data.labels[i] for i in data.ids]
        super().__init__(Path(root), data.images, split, data.ids, labels, data.classes, transform)
        self._annotations = data
        if data.boxes:
            self.boxes = [np.array([box for box, _ in data.boxes[i]], np.int64) for i in data.ids]
            # What was checked already need not go to the processes that load images.
            data.boxes = {i: boxes for i, boxes in data.boxes.items() if i not in data.sizes}
        if data.masks:
            self.masks = [((data.masks[i],), None) for i in data.ids]

    @classmethod
    def load(
        cls, root: str | os.PathLike, split: str, annotations: str | os.PathLike, ground_truth: bool
    ) -> Annotations:
        """Read the annotations with all their faults; raises DatasetError only when `root` is not a folder."""
        root = Path(root)
        data = Annotations(root, split, annotation_path(annotations, split), images_root(root, split))
        cls._read(data, ground_truth)
        finish(data, ground_truth)
        return data

    @staticmethod
    @abstractmethod
    def _read(data: Annotations, ground_truth: bool) -> None:
        """Fill in what the format tells; faults go to `data.problems`."""

    @cached_property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        """int64 (N,2), stored width and height in pixels; what the annotations lack is read from the images' headers.

        Raises:
            FileNotFoundError, ImageError: When an image whose size is not annotated is missing or unreadable.
            DatasetError: When a box is outside such an image.
        """
        data, problems, sizes = self._annotations, [], []
        for index, image_id in enumerate(self.ids):
            size = data.sizes.get(image_id)
            if size is None:
                size = image_size(self.path(index))
                problems += data.faults_of_boxes(image_id, size)
            sizes.append(size)
        refuse(problems)
        return np.array(sizes, np.int64)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        index = range(len(self))[index]
        image = open_image(self.path(index), exif=self.exif)
        known = self._annotations.sizes.get(self.ids[index])
        if self.boxes is not None and known is not None and image.size != known:
            raise DatasetError(size_fault(self._annotations, self.ids[index], image.size))
        return self.transform(image), int(self.labels[index]), index


def size_fault(data: Annotations, image_id: str, size: tuple[int, int]) -> str:
    """What to say of an image whose file is of another (width, height) than its annotation."""
    width, height = data.sizes[image_id]
    return (
        f'{data.images / image_id}: {size[0]}x{size[1]} pixels, but {data.sources.get(image_id, data.path)} says '
        f'{width}x{height}; correct it, and the boxes if the image was resized'
    )


def annotation_path(annotations: str | os.PathLike, split: str) -> Path:
    """The annotation file or folder of a split."""
    return Path(str(annotations).replace('{split}', split))


def images_root(root: Path, split: str) -> Path:
    """The folder that the ids of annotations are relative to.

    Raises:
        DatasetError: When `root` is not a folder.
    """
    if not root.is_dir():
        raise DatasetError(f'{root}: no such folder; name the folder of a data set')
    found = (root / name for name in (split, 'images', 'JPEGImages') if name)
    return next((folder for folder in found if folder.is_dir()), root)
