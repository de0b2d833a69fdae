"""The results kept per image, small enough for the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..localization import Localization
from ..objects import Region


@dataclass(frozen=True)
class ObjectRecord:
    """An object.

    Attributes:
        box: x0, y0, x1, y1 in pixels, ends exclusive.
        score: Confidence in [0,1].
        area: Number of pixels of its mask.
        counts: Run lengths of its mask in the whole image, column by column, background first (COCO's RLE).
    """

    box: Sequence[int]
    score: float
    area: int
    counts: list[int]


@dataclass(frozen=True)
class ImageRecord:
    """An image and its objects.

    Attributes:
        image: Id.
        label: Index among the classes of the run.
        predicted: Name of the class that the model predicts.
        predicted_index: Index of this class in the model.
        probability: Probability of this class.
        size: Stored width and height.
        objects: Objects in stored pixels.
        upright_size: Width and height of the image rotated by its EXIF orientation.
        upright_objects: Objects in pixels of the rotated image.
    """

    image: str
    label: int
    predicted: str
    predicted_index: int
    probability: float
    size: Sequence[int]
    objects: list[ObjectRecord]
    upright_size: Sequence[int]
    upright_objects: list[ObjectRecord]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ImageRecord:
        """Invert `dataclasses.asdict`, except that tuples become lists."""
        lists = {key: [ObjectRecord(**found) for found in values[key]] for key in ('objects', 'upright_objects')}
        return cls(**{**values, **lists})


def object_records(found: Localization, certainty: float) -> list[ObjectRecord]:
    """Convert the objects of a localization; their confidence is `certainty` times the mean of the map inside."""
    return [
        ObjectRecord(region.box, round(certainty * region.strength, 6), region.area, run_lengths(region, found.size))
        for region in found.objects
    ]


def run_lengths(region: Region, size: tuple[int, int]) -> list[int]:
    """Run lengths of a region's mask in an image of (width, height), column by column, background first."""
    x0, y0, x1, y1 = region.box
    width, height = size
    columns = np.zeros((x1 - x0, height), bool)
    columns[:, y0:y1] = region.mask.T
    edges = x0 * height + np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    counts: list[int] = np.diff(edges, prepend=0, append=width * height).tolist()
    return counts if counts[-1] else counts[:-1]
