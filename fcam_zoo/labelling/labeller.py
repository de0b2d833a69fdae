"""From the network's output for an image to its objects, and to the record of them in the journal."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

import numpy as np
from PIL import Image

from .._schema import NotNegative, Share
from ..data.images import as_stored
from ..data.sources import ImageSource
from ..localization import Localization, Postprocessor, resize_map
from ..objects import Region
from .loading import LoadedImage


@dataclass(frozen=True)
class ObjectRecord:
    """An object.

    Attributes:
        box: x0, y0, x1, y1 in pixels, ends exclusive.
        score: Confidence in [0,1].
        area: Number of pixels of its mask.
        counts: Run lengths of its mask in the whole image, column by column, background first (COCO's RLE).
    """

    box: tuple[int, int, int, int]
    score: Share
    area: Annotated[int, NotNegative]
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
    label: Annotated[int, NotNegative]
    predicted: str
    predicted_index: int
    probability: Share
    size: tuple[int, int]
    objects: list[ObjectRecord]
    upright_size: tuple[int, int]
    upright_objects: list[ObjectRecord]

    def to_json(self) -> dict[str, Any]:
        """Convert like `dataclasses.asdict`, which copies each run length and took 4 % of the time of a run."""
        lists = {key: [vars(found) for found in getattr(self, key)] for key in ('objects', 'upright_objects')}
        return {**vars(self), **lists}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ImageRecord:
        """Invert `to_json`, except that tuples become lists; much faster than `build`, without checks."""
        lists = {key: [ObjectRecord(**found) for found in values[key]] for key in ('objects', 'upright_objects')}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class LabelledImage:
    """An image with its labels.

    Attributes:
        record: What the journal keeps.
        upright: The localization in pixels of the image rotated by its EXIF orientation; None without maps.
        image: The rotated image, for formats that draw it.
        file: The stored image, for formats that copy it, unless it is a file of this machine.
    """

    record: ImageRecord
    upright: Localization | None = None
    image: Image.Image | None = None
    file: BinaryIO | None = None


class Labeller:
    """Localizes objects at full resolution and chooses their class.

    Args:
        source: All images.
        postprocess: Threshold, class names and choice of objects.
        labels: 'predicted' or 'folder', as in `LabelOptions`.

    Attributes:
        classes: Class names of the run.

    Raises:
        ValueError: When an image is in no class folder, or annotation files cannot hold a class name.
    """

    def __init__(self, source: ImageSource, postprocess: Postprocessor, labels: str) -> None:
        self.source, self.postprocess, self.by_folder = source, postprocess, labels == 'folder'
        self.classes = _known_classes(source) if self.by_folder else postprocess.class_names
        for name in self.classes:
            if not name.isprintable() or name != name.strip() or not name:
                raise ValueError(f'the class name {name!r} cannot be written to annotation files: rename it')

    def for_source(self, source: ImageSource) -> Labeller:
        """Return the same labeller for other images, with the same classes."""
        other = copy(self)
        other.source = source
        return other

    def label(self, loaded: LoadedImage, score_map: np.ndarray, probs: np.ndarray) -> LabelledImage:
        """Label an image, given the F-CAM float32 (s,s) in [0,1] of the upright image and class probabilities (K,)."""
        rotated = loaded.orientation >= 5
        full = resize_map(score_map, loaded.size[::-1] if rotated else loaded.size)
        stored = upright = self.postprocess(full, probs)
        if loaded.orientation != 1:
            stored = self.postprocess(as_stored(full, loaded.orientation), probs)
        image_id = self.source.ids[loaded.index]
        certainty = 1.0 if self.by_folder else stored.score
        objects = _object_records(stored, certainty)
        record = ImageRecord(
            image=image_id,
            label=self._known_label(loaded.index) if self.by_folder else stored.class_index,
            predicted=stored.label,
            predicted_index=stored.class_index,
            probability=round(stored.score, 6),
            size=stored.size,
            objects=objects,
            upright_size=upright.size,
            upright_objects=objects if upright is stored else _object_records(upright, certainty),
        )
        return LabelledImage(record, upright)

    def _known_label(self, index: int) -> int:
        label = self.source.label(index)
        return self.classes.index(_folder(self.source, index)) if label is None else label


def _known_classes(source: ImageSource) -> tuple[str, ...]:
    """Return the classes of the source, if its images have labels, otherwise the class folders."""
    if source.label_problem:
        raise ValueError(f"labels='folder': {source.label_problem}")
    if source.class_names is not None:
        for index in range(len(source)):
            if source.label(index) is None:
                raise ValueError(f"labels='folder': {source.describe(index)} has no label; add it or remove the image")
        return source.class_names
    return tuple(sorted({_folder(source, index) for index in range(len(source))}))


def _folder(source: ImageSource, index: int) -> str:
    """Return the class folder of an image."""
    folder, slash, _ = source.inner_name(index).partition('/')
    if not slash:
        where = source.describe(index)
        raise ValueError(f"labels='folder': {where} is not in a class folder; move it into one, or give shards labels")
    return folder


def _object_records(found: Localization, certainty: float) -> list[ObjectRecord]:
    """Convert the objects of a localization; their confidence is `certainty` times the mean of the map inside."""
    return [
        ObjectRecord(region.box, round(certainty * region.strength, 6), region.area, run_lengths(region, found.size))
        for region in found.objects
    ]


def run_lengths(region: Region, size: tuple[int, int]) -> list[int]:
    """Compute the run lengths of a region's mask in an image of (width, height), column by column, background first."""
    x0, y0, x1, y1 = region.box
    width, height = size
    columns = np.zeros((x1 - x0, height), bool)
    columns[:, y0:y1] = region.mask.T
    edges = x0 * height + np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    counts: list[int] = np.diff(edges, prepend=0, append=width * height).tolist()
    return counts if counts[-1] else counts[:-1]


def object_mask(record: ImageRecord) -> np.ndarray:
    """Return the pixels of all objects of an image, bool (H,W), in stored pixels."""
    width, height = record.size
    mask = np.zeros(width * height, bool)
    for found in record.objects:
        mask |= np.repeat(np.arange(len(found.counts)) % 2 == 1, found.counts)
    return mask.reshape(width, height).T
