"""Data sets whose labels and ground truth come from an annotation file or folder."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from pathlib import Path

from PIL import Image

from ..errors import DatasetError
from .annotations import Annotations, finish, noting
from .base import ImageDataset, Transform, reads_ground_truth

logger = logging.getLogger(__name__)


class AnnotatedDataset(ImageDataset):
    """Images with an annotation file; base of `CocoDataset`, `VocDataset`, `CsvDataset` and `MaskDataset`.

    Arguments are those of `open_dataset`; items, attributes and errors are those of `ImageDataset`. Images are in
    `<root>/<split>`, `<root>/images`, `<root>/JPEGImages` or `root`, the first that exists, and are not turned by their
    EXIF orientation. Images without annotation are left out, and their number is logged.

    The label of an image is the class of its largest object. It is the class folder of the image if the format has
    fewer than two classes, or names its classes like the folders. Without classes and class folders, all images have
    the class `object`.
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
        data = self.load(root, split, annotations, reads_ground_truth(split, ground_truth))
        super().__init__(data, transform)
        if len(data.ids) < len(data.listed):
            left = len(data.listed) - len(data.ids)
            logger.warning('%s: %d of %d images have no annotation and are left out', data.path, left, len(data.listed))

    @classmethod
    def load(
        cls, root: str | os.PathLike, split: str, annotations: str | os.PathLike, ground_truth: bool
    ) -> Annotations:
        """Read the annotations and collect their problems.

        Raises:
            DatasetError: If `root` is not a folder.
        """
        root = Path(root)
        if not root.is_dir():
            raise DatasetError(f'{root}: no such folder; give the folder of a data set')
        folders = (root / name for name in (split, 'images', 'JPEGImages') if name)
        images = next((folder for folder in folders if folder.is_dir()), root)
        data = Annotations(root, split, annotation_path(annotations, split), images, ground_truth)
        with noting(data.problems, data.path):
            cls._read(data)
        finish(data)
        return data

    @staticmethod
    @abstractmethod
    def _read(data: Annotations) -> None:
        """Fill in the content of the file and its problems; raise a `Problem` of the whole file."""

    def _open(self, index: int) -> Image.Image:
        image = super()._open(index)
        image_id = self.ids[index]
        if self.boxes is not None and image.size != self._annotations.sizes.get(image_id, image.size):
            raise DatasetError(self._annotations.size_problem(image_id, image.size))
        return image


def annotation_path(annotations: str | os.PathLike, split: str) -> Path:
    """Return the annotation file or folder of a split."""
    return Path(str(annotations).replace('{split}', split))
