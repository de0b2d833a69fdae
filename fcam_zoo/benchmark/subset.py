"""Some images of a data set, spread over its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .inputs import ArrayLike, check_whole


class Subset(Dataset):
    """Some images of a data set, as a data set with their own indices.

    Args:
        dataset: As for `evaluate_many`.
        indices: Indices of the images, ascending.
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, list(indices)
        self.name, self.split = getattr(dataset, 'name', None), getattr(dataset, 'split', None)
        self.class_names = getattr(dataset, 'class_names', {})
        self.ids = [dataset.ids[i] for i in self.indices]
        self.labels = np.asarray(dataset.labels)[self.indices]
        self.boxes, self.masks = self._of_images('boxes'), self._of_images('masks')

    def _of_images(self, name: str) -> list[Any] | None:
        values = getattr(self.dataset, name, None)
        return values and [values[i] for i in self.indices]

    @property
    def sizes(self) -> np.ndarray:
        """(N,2), width and height of the stored images."""
        return np.asarray(self.dataset.sizes)[self.indices]

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Read the mask of an image at a size (width, height)."""
        return self.dataset.mask(self.indices[index], size)

    def path(self, index: int) -> Any:
        """Return the file of an image."""
        return self.dataset.path(self.indices[index])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        image, label, found = self.dataset[self.indices[index]]
        return image, label, index if found == self.indices[index] else -1


def limit_images(dataset: Any, limit: int | None) -> Any:
    """Return at most `limit` images of a data set, spread over its classes; always the same ones.

    Raises:
        ValueError: When the limit is not a whole number of 1 or more.
    """
    if limit is None:
        return dataset
    check_whole('limit', limit, 1)
    return Subset(dataset, spread_over_classes(dataset.labels, limit)) if limit < len(dataset) else dataset


def spread_over_classes(labels: ArrayLike, count: int) -> list[int]:
    """Choose images: as many of each class as possible, evenly spread over the images of the class.

    Args:
        labels: (N).
        count: Number of images, at most N.

    Returns:
        Their indices, ascending.
    """
    values = np.asarray(labels)
    order = np.argsort(values, kind='stable')
    classes = np.split(order, np.flatnonzero(np.diff(values[order])) + 1)
    sizes = np.array([len(images) for images in classes])
    chosen = np.zeros_like(sizes)
    while rest := count - int(chosen.sum()):
        incomplete = np.flatnonzero(chosen < sizes)
        if rest < len(incomplete):
            chosen[incomplete[_spread(len(incomplete), rest)]] += 1
        else:
            chosen[incomplete] = np.minimum(sizes[incomplete], chosen[incomplete] + rest // len(incomplete))
    return sorted(int(i) for images, n in zip(classes, chosen) for i in images[_spread(len(images), n)])


def _spread(total: int, count: int) -> np.ndarray:
    """Return `count` different numbers below `total`, evenly spread."""
    return np.linspace(0, total - 1, count).round().astype(int)
