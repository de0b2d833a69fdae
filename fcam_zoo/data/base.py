"""The interface and the shared code of all data sets."""

from __future__ import annotations

import dataclasses
import logging
import os
from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from .._io import is_folder, short_path
from ..errors import DatasetError, ImageError
from .annotations import Annotations, MaskFiles, finish
from .images import image_size, open_image, open_mask, resize_mask
from .splits import leave_out_other_splits
from .transforms import EvalTransform
from .values import collect_problem

logger = logging.getLogger(__name__)

Transform = Callable[[Image.Image], Any]


class ImageDataset(Dataset[tuple[Any, int, int]]):
    """Images with one class label each; base of all data sets here.

    `dataset[i]` is (the result of the transform, by default uint8 (3,224,224); label; i).

    Attributes:
        name: Name of the root folder.
        root: Root folder.
        images_root: Folder that ids are relative to.
        split: Name of the split, '' for a folder without splits.
        ids: Path of each image relative to `images_root`, with forward slashes; this is the order of evaluation.
        labels: int64 (N,), from 0.
        class_names: Label -> name.
        boxes: For each image an int64 array (n,4) of x0, y0, x1, y1 in its stored pixels, n >= 1; or None. Pixels count
            from 0 and x1, y1 is the last pixel inside, as in the metadata of CUB and ILSVRC.
        masks: For each image its mask files; or None.
        transform: PIL image (RGB) -> item.

    Args:
        data: Content of the split.
        transform: PIL image (RGB) -> item; None uses `EvalTransform()`.

    Raises:
        DatasetError: If files are missing, malformed or contradictory, or a box is outside its image. The message has
            the first problem and the number of the others; `check_dataset` lists them all.
    """

    boxes: list[np.ndarray] | None = None
    masks: list[MaskFiles] | None = None
    in_files = True  # Whether each image is a file.
    exif = False  # Whether images are turned upright by their EXIF orientation; boxes and masks need stored pixels.

    def __init__(self, data: Annotations, transform: Transform | None) -> None:
        outside = (p for i in data.ids if i in data.sizes for p in data.boxes_outside(i, data.sizes[i]))
        check_problems([*data.problems, *outside])
        self.name = data.root.absolute().name
        self.root, self.images_root, self.split = data.root, data.images, data.split
        self.ids, self.class_names = data.ids, data.classes
        self.labels = np.array([data.labels[i] for i in data.ids], np.int64)
        self.transform = transform or EvalTransform()
        if data.boxes:
            self.boxes = [np.array([box for box, _ in data.boxes[i]], np.int64) for i in data.ids]
        if data.masks:
            self.masks = [data.masks[i] for i in data.ids]
        # Every process that loads images gets a copy, so this keeps only sizes and the boxes that are still unchecked.
        unchecked = {i: boxes for i, boxes in data.boxes.items() if i not in data.sizes}
        self._annotations = dataclasses.replace(data, listed=[], labels={}, boxes=unchecked, masks={}, _areas={})

    @property
    def num_classes(self) -> int:
        """Return the largest label + 1, the number of outputs of a classifier of these labels."""
        return max(self.class_names) + 1

    @cached_property
    def sizes(self) -> np.ndarray:
        """int64 (N,2), stored width and height in pixels; sizes that are not annotated are read from the image headers.

        Raises:
            FileNotFoundError, ImageError: If an image without annotated size is missing or unreadable.
            DatasetError: If a box is outside such an image.
        """
        known, boxes_outside = self._annotations.sizes, self._annotations.boxes_outside
        sizes = [known.get(i) or self._stored_size(index) for index, i in enumerate(self.ids)]
        check_problems([p for i, size in zip(self.ids, sizes) for p in boxes_outside(i, size)])
        return np.array(sizes, np.int64).reshape(-1, 2)

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self.images_root / self.ids[index]

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Read the ground-truth mask of an image, resized by nearest neighbor.

        Args:
            index: Index of the image.
            size: (width, height) of the result in pixels.

        Returns:
            uint8 (height,width): 0 background, 1 object, 255 not scored.

        Raises:
            DatasetError: If the split has no masks or was opened without them.
            FileNotFoundError, ImageError: If a file is missing or unreadable.
        """
        if self.masks is None:
            raise DatasetError(
                f'{self.name}, {self.split}: opened without masks; open a data set that has masks, with '
                'ground_truth=True for the split train'
            )
        return self._read_mask(index, self.masks[index], size)

    def _read_mask(self, index: int, files: MaskFiles, size: tuple[int, int]) -> np.ndarray:
        """Unite the instances; a pixel that is both object and ignored is object (Choe et al., CVPR 2020)."""
        # The protocol resizes, then thresholds at gray level 0.5. Nearest neighbor commutes with the threshold.
        objects = np.logical_or.reduce([resize_mask(open_mask(file), size) > 0 for file in files.objects])
        mask = objects.astype(np.uint8)
        if files.ignore is not None:
            mask[(resize_mask(open_mask(files.ignore), size) > 0) & ~objects] = 255
        return mask

    def check_files(self) -> None:
        """Check that the images and masks exist and have the annotated sizes; only their headers are read.

        Raises:
            DatasetError: For the first problem, with the number of the others.
        """
        problems: list[str] = []
        for index in range(len(self)):
            try:
                size = self._stored_size(index)
                problems += self._size_problems(index, size)
                for file in self.masks[index].files if self.masks else ():
                    problems += self._mask_problems(file, image_size(file), size)
            except (ImageError, OSError) as e:
                problems.append(str(e))
        check_problems(problems)
        if self.boxes is not None:
            _ = self.sizes  # Checks the boxes of images without annotated size.

    def _size_problems(self, index: int, size: tuple[int, int]) -> list[str]:
        """Describe an image whose stored (width, height) contradicts its annotation, in formats that forbid it."""
        return []

    def _mask_problems(self, file: Path, size: tuple[int, int], image: tuple[int, int]) -> list[str]:
        """Describe a mask file that has another (width, height) than its image, in formats that forbid it."""
        return []

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        index = range(len(self))[index]  # Negative indices count from the end; IndexError outside the range.
        return self.transform(self._open(index)), int(self.labels[index]), index

    def _stored_size(self, index: int) -> tuple[int, int]:
        return image_size(self.path(index))

    def _open(self, index: int) -> Image.Image:
        return open_image(self.path(index), exif=self.exif)

    def __repr__(self) -> str:
        truth = 'boxes' if self.boxes is not None else 'masks' if self.masks is not None else 'no localization'
        split = f', {self.split}' if self.split else ''
        return (
            f'{type(self).__name__}({self.name}{split}: {len(self)} images, {len(self.class_names)} classes, {truth})'
        )


class AnnotatedDataset(ImageDataset):
    """Images with an annotation file; base of `CocoDataset`, `VocDataset`, `CsvDataset` and `MaskDataset`.

    Arguments are those of `open_dataset`; items, attributes and errors are those of `ImageDataset`. Images are in
    `<root>/<split>`, `<root>/images`, `<root>/JPEGImages` or `root`, the first that exists, and are not turned by their
    EXIF orientation. Images without annotation are left out, and their number is logged.

    The label of an image is the class of its largest object. If all images are in class folders, the folder is the
    label when the format has fewer than two classes, or when every folder is one of its classes. Without classes and
    class folders, all images have the class `object`.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        annotations: str | os.PathLike,
        transform: Transform | None = None,
        ground_truth: bool | None = None,
    ) -> None:
        data = self.load(root, split, annotations, reads_ground_truth(split, ground_truth))
        super().__init__(data, transform)
        if len(data.ids) < len(data.listed):
            left = len(data.listed) - len(data.ids)
            logger.warning('%s: %d of %d images have no annotation and are left out', data.path, left, len(data.listed))

    @classmethod
    def load(
        cls, root: str | os.PathLike, split: str, annotations: str | os.PathLike, ground_truth: bool
    ) -> Annotations:
        """Read the annotations and collect their problems; raise `DatasetError` if `root` is not a folder."""
        root = Path(root)
        if not is_folder(root):
            raise DatasetError(f'{short_path(root)}: no such folder; give the folder of a data set')
        folders = (root / name for name in (split, 'images', 'JPEGImages') if name)
        images = next((folder for folder in folders if is_folder(folder)), root)
        data = Annotations(root, split, annotation_path(annotations, split), images, ground_truth)
        with collect_problem(data.problems, data.path):
            cls._read(data)
            if '{split}' not in str(annotations):
                leave_out_other_splits(data)
        finish(data)
        return data

    @staticmethod
    @abstractmethod
    def _read(data: Annotations) -> None:
        """Fill in the content of the file and its problems; raise a `Problem` of the whole file."""

    def _open(self, index: int) -> Image.Image:
        image = super()._open(index)
        check_problems(self._size_problems(index, image.size))
        return image

    def _size_problems(self, index: int, size: tuple[int, int]) -> list[str]:
        image_id = self.ids[index]
        if self.boxes is None or size == self._annotations.sizes.get(image_id, size):
            return []
        return [self._annotations.size_problem(image_id, size)]


def check_problems(problems: list[str]) -> None:
    """Raise `DatasetError` with the first problem and the number of the others, if there are any."""
    if problems:
        more = f' ({len(problems) - 1} more; check_dataset lists all)' if len(problems) > 1 else ''
        raise DatasetError(problems[0] + more)


def reads_ground_truth(split: str, ground_truth: bool | None) -> bool:
    """Return whether boxes or masks are read; by default in every split but 'train'."""
    return split != 'train' if ground_truth is None else ground_truth


def annotation_path(annotations: str | os.PathLike, split: str) -> Path:
    """Return the annotation file or folder of a split."""
    return Path(str(annotations).replace('{split}', split))
