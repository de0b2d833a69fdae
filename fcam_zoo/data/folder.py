"""One folder a class: `<root>/<class>/*.jpg`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import DatasetError
from .images import SUFFIXES, open_image
from .transforms import EvalTransform
from .wsol import Transform, WSOLDataset


class FolderDataset(Dataset):
    """Images and labels of a folder with a subfolder for each class; no ground truth of location.

    Items and attributes are those of `WSOLDataset`; `boxes`, `masks` and `sizes` are None.

    Args:
        root: Folder of class folders.
        transform: PIL image -> uint8 tensor; default: direct resize to 224 x 224.

    Raises:
        FileNotFoundError: When the folder is missing.
        DatasetError: With fewer than two class folders, or an empty one.
    """

    boxes = masks = sizes = None

    def __init__(self, root: str | os.PathLike, transform: Transform | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f'folder {self.root} does not exist')
        self.name, self.split = self.root.resolve().parent.name, self.root.name
        self.transform = transform or EvalTransform()
        classes = sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith('.'))
        if len(classes) < 2:
            raise DatasetError(f'{self.root} has {len(classes)} class folders: at least two are needed, one a class')
        self.class_names = {i: p.name for i, p in enumerate(classes)}
        self.num_classes = len(classes)
        self.ids, labels = [], []
        for label, folder in enumerate(classes):
            files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in SUFFIXES and p.is_file())
            if not files:
                raise DatasetError(f'class folder {folder} holds no images: fill it or remove it')
            self.ids += [p.relative_to(self.root).as_posix() for p in files]
            labels += [label] * len(files)
        self.labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        return self.transform(open_image(self.path(index))), int(self.labels[index]), index

    def path(self, index: int) -> Path:
        """File of an image."""
        return self.root / self.ids[index]


def open_dataset(
    root: str | os.PathLike, split: str, transform: Transform | None = None, ground_truth: bool = True
) -> WSOLDataset | FolderDataset:
    """Open a split of a data set in the WSOL layout or with one folder a class.

    Raises:
        DatasetError: When the root is laid out in neither way.
    """
    root = Path(root)
    if (root / 'metadata' / split).is_dir():
        return WSOLDataset(root, split, transform, ground_truth)
    if (root / split).is_dir():
        return FolderDataset(root / split, transform)
    raise DatasetError(
        f'{root} has no split {split!r}: expected {root / split}/<class>/*.jpg (one folder a class), or '
        f'{root / "metadata" / split}/image_ids.txt with {root / "images"} (WSOL layout)'
    )
