"""Data sets of the `datasets` library: those of the Hugging Face Hub, and local files that it reads."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from .._schema import show
from ..errors import DatasetError, ImageError, install_hint
from .annotations import Annotations, check_classes
from .base import ImageDataset, Transform
from .images import decode

PREFIX = 'hf-dataset:'
"""Before the name of such a data set, where a folder is expected."""

# Names of the split val on the Hub.
_VAL = ('val', 'validation', 'valid')


class HubDataset(ImageDataset):
    """Images with class labels of the `datasets` library (extra `datasets`); boxes and masks are not read.

    The first column of images is used and, as label, the column `label` or else the first of class labels. Images are
    decoded by the library, upright. An id is the number of the row; items, attributes and errors are those of
    `ImageDataset`.

    Args:
        name: `org/name` on the Hub, `org/name:configuration`, or a local folder that `datasets.load_dataset` reads.
        split: 'train', 'val' (also called validation or valid on the Hub), 'test', or another split.
        transform: As for `open_dataset`.

    Raises:
        ImportError: Without the library.
        DatasetError: If the data set or its split cannot be loaded, or lacks images or class labels.
    """

    exif = True

    def __init__(self, name: str, split: str, transform: Transform | None = None) -> None:
        library = _library()
        found = find_split(name, split)
        if found is None:
            known = ', '.join(_split_names(name)) or 'none'
            raise DatasetError(f'{PREFIX}{name}: no split {show(split)} (found: {known}); give one of these')
        rows = _load(name, lambda *place: library.load_dataset(*place, split=found))
        self._column, labels = _columns(rows, library, name)
        values = np.asarray(rows[labels][:], np.int64)
        if values.size and values.min() < 0:
            raise DatasetError(f'{PREFIX}{name}: images of {found} have no label; give another split')
        root = Path(PREFIX + name)
        ids = [f'{i:06d}' for i in range(len(values))]
        data = Annotations(root, split, root / found, root / found, listed=ids, ids=ids)
        data.labels = dict(zip(ids, values.tolist()))
        data.classes = dict(enumerate(rows.features[labels].names))
        if not ids:
            data.problems.append(f'{PREFIX}{name}: {found} has no images; give another split')
        check_classes(data)
        super().__init__(data, transform)
        self._rows = rows

    def _open(self, index: int) -> Image.Image:
        try:
            image = self._rows[index][self._column]
        except Exception as e:  # The library passes on every kind of error of decoders.
            raise ImageError(f'{self.path(index)}: cannot be read as an image ({e}); remove the row') from e
        return decode(image)


def find_split(name: str, split: str) -> str | None:
    """Return the name that a data set has for a split; None if it has no such split. Errors are those of the class."""
    known = _split_names(name)
    return next((s for s in (_VAL if split == 'val' else (split,)) if s in known), None)


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError as e:
        raise ImportError(f'{PREFIX} needs the datasets library: {install_hint("datasets")}') from e
    return datasets


def _split_names(name: str) -> list[str]:
    return list(_load(name, _library().get_dataset_split_names))


def _load(name: str, function: Any) -> Any:
    """Call a function of the library with the place of a data set and its configuration, if there is one."""
    match = re.fullmatch(r'([\w.-]+(?:/[\w.-]+)?):([\w.-]+)', name)
    try:
        return function(*(match.groups() if match else (name,)))
    except Exception as e:  # Network, file and format errors of several libraries.
        problem = (str(e).splitlines() or [''])[0][:300] or type(e).__name__
        raise DatasetError(
            f'{PREFIX}{name}: cannot be loaded ({problem}); check the name (org/name or org/name:configuration), and '
            'your connection and login for the Hub'
        ) from e


def _columns(rows: Any, library: ModuleType, name: str) -> tuple[str, str]:
    """Return the columns of images and of labels."""
    images = [column for column, kind in rows.features.items() if isinstance(kind, library.Image)]
    labels = [column for column, kind in rows.features.items() if isinstance(kind, library.ClassLabel)]
    if not images or not labels:
        missing = 'images (datasets.Image)' if not images else 'class labels (datasets.ClassLabel)'
        raise DatasetError(
            f'{PREFIX}{name}: no column of {missing} among {", ".join(map(show, rows.features))}; convert it with '
            'cast_column, or save the images in one folder per class'
        )
    return images[0], 'label' if 'label' in labels else labels[0]
