"""Data sets in the WSOL metadata layout: CUB, ImageNet and OpenImages as in Choe et al. (CVPR 2020)."""

from __future__ import annotations

import os
from pathlib import Path

from .base import ImageDataset, Transform, reads_ground_truth
from .metadata import read_metadata


class WSOLDataset(ImageDataset):
    """One split of a data set with class labels, and with boxes or masks to evaluate localization.

    The layout is described in `fcam_zoo.data.metadata`, items and attributes in `ImageDataset`. Images are not turned
    by their EXIF orientation, since boxes and masks refer to the stored pixels.

    Args:
        root: Folder with `images`, `metadata` and, for masks, `masks`.
        split: Folder of `metadata`: 'train', 'val' or 'test'.
        transform: PIL image (RGB) -> item; None uses `EvalTransform()`.
        ground_truth: Whether to read `localization.txt`. None reads it in every split but 'train': weak supervision
            must not use the boxes of its training images.

    Raises:
        DatasetError: If metadata are missing, malformed or contradictory. The message has the first problem with file
            and line, and the number of the others; `check_dataset` lists them all.
    """

    exif = False

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        transform: Transform | None = None,
        ground_truth: bool | None = None,
    ) -> None:
        super().__init__(read_metadata(Path(root), split, reads_ground_truth(split, ground_truth)), transform)
