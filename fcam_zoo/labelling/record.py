"""What a run keeps of each image: small, and as JSON on one line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..localization import Localization
from ..objects import Region


@dataclass(frozen=True)
class Item:
    """An object.

    Attributes:
        box: x0, y0, x1, y1 in pixels, ends exclusive.
        score: Confidence in [0,1].
        area: Pixels of its mask.
        counts: Run lengths of its mask in the whole image, column by column, background first (COCO's RLE).
    """

    box: tuple[int, int, int, int]
    score: float
    area: int
    counts: list[int]


@dataclass(frozen=True)
class Record:
    """An image.

    Attributes:
        image: Id.
        label: Index among the run's classes.
        predicted: Name of the class that the model predicts.
        predicted_index: Its index among the model's classes.
        probability: Its probability.
        size: Stored width and height.
        items: Objects in stored pixels.
        upright_size: Width and height of the picture turned upright by its EXIF orientation.
        upright_items: Objects in its pixels.
    """

    image: str
    label: int
    predicted: str
    predicted_index: int
    probability: float
    size: tuple[int, int]
    items: list[Item]
    upright_size: tuple[int, int]
    upright_items: list[Item]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is the same upright and stored is there once."""
        values = asdict(self)
        if self.upright_items == self.items and self.upright_size == self.size:
            del values['upright_items'], values['upright_size']
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Record:
        """The inverse of `to_json`."""
        values = {'upright_items': values['items'], 'upright_size': values['size'], **values}
        for key in ('items', 'upright_items'):
            values[key] = [Item(**{**item, 'box': tuple(item['box'])}) for item in values[key]]
        for key in ('size', 'upright_size'):
            values[key] = tuple(values[key])
        return cls(**values)


def items_of(found: Localization, certainty: float) -> list[Item]:
    """Objects of a localization; their confidence is `certainty` times the mean of the map inside."""
    return [
        Item(region.box, round(certainty * region.strength, 6), region.area, run_lengths(region, found.size))
        for region in found.objects
    ]


def run_lengths(region: Region, size: tuple[int, int]) -> list[int]:
    """Run lengths of a region's mask in an image of (width, height), column by column, background first."""
    x0, y0, x1, y1 = region.box
    columns = np.zeros((x1 - x0, size[1]), bool)
    columns[:, y0:y1] = region.mask.T
    flat = columns.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=flat.size).tolist()
    if flat[0]:
        counts.insert(0, 0)
    counts[0] += x0 * size[1]
    after = (size[0] - x1) * size[1]
    if len(counts) % 2:
        counts[-1] += after
    elif after:
        counts.append(after)
    return counts
