"""What every data set of the package offers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..errors import DatasetError
from .images import open_image
from .transforms import EvalTransform

Transform = Callable[[Image.Image], Any]


class ImageDataset(Dataset[tuple[Any, int, int]]):
    """Images with one class label each; base of all data sets here.

    `dataset[i]` is (image as the transform gives it, by default uint8 (3,224,224); label; i).

    Attributes:
        name: Name of the root folder.
        root: Root folder.
        split: Name of the split, '' for a folder without splits.
        ids: Path of each image relative to `images_root`, with forward slashes; this is the order of evaluation.
        labels: int64 (N,), from 0.
        class_names: Label -> name.
        boxes: For each image an int64 array (n,4) of x0, y0, x1, y1 in its stored pixels, n >= 1; or None. Pixels count
            from 0 and x1, y1 is the last pixel inside, as in the metadata of CUB and ILSVRC.
        masks: For each image its mask files (one an instance) and its ignore file or None; or None.
        sizes: int64 (N,2), stored width and height in pixels; None where no ground truth needs them.
        transform: PIL image (RGB) -> item.
    """

    boxes: list[np.ndarray] | None = None
    masks: list[tuple[tuple[Path, ...], Path | None]] | None = None
    sizes: np.ndarray | None = None
    exif = True  # Whether pictures are turned upright.

    def __init__(
        self,
        root: Path,
        images_root: Path,
        split: str,
        ids: list[str],
        labels: list[int],
        class_names: dict[int, str],
        transform: Transform | None,
    ) -> None:
        self.name = root.absolute().name
        self.root, self.images_root, self.split = root, images_root, split
        self.ids, self.labels, self.class_names = ids, np.array(labels, np.int64), class_names
        self.transform = transform or EvalTransform()

    @property
    def num_classes(self) -> int:
        """Largest label + 1: the width of a classifier of these labels."""
        return max(self.class_names) + 1

    def path(self, index: int) -> Path:
        """File of an image."""
        return self.images_root / self.ids[index]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        index = range(len(self))[index]  # Negative indices count from the end; outside, IndexError.
        return self.transform(open_image(self.path(index), exif=self.exif)), int(self.labels[index]), index

    def __repr__(self) -> str:
        truth = 'boxes' if self.boxes is not None else 'masks' if self.masks is not None else 'no localization'
        split = f', {self.split}' if self.split else ''
        return (
            f'{type(self).__name__}({self.name}{split}: {len(self)} images, {len(self.class_names)} classes, {truth})'
        )


def refuse(problems: list[str]) -> None:
    """Raise `DatasetError` for the first problem, with the number of those that follow; nothing when there is none."""
    if problems:
        more = f' ({len(problems) - 1} more; check_dataset lists all)' if len(problems) > 1 else ''
        raise DatasetError(problems[0] + more)
