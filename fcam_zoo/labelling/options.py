"""Options of `label_images`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..localization import MIN_AREA
from ..objects import Threshold
from .formats import FORMATS


@dataclass(frozen=True)
class LabelOptions:
    """Options of `label_images`. Those not listed here are documented in `fcam_zoo.localize`.

    Attributes:
        formats: One or more of 'coco', 'voc', 'yolo', 'csv', 'masks', 'overlays'. Boxes and masks are in stored pixels;
            in 'yolo' and 'overlays' in pixels of the image rotated by its EXIF orientation.
        labels: Class of the objects: 'predicted', or 'folder' for the class folder of the image (first part of its
            id). The confidence is the mean of the map inside the object, times the probability of a predicted class.
        workers: Processes that read images; 0 reads in the main process.
        model_name: Name of the model in the annotation files.
        progress: Show a progress bar on stderr.
        overwrite: Replace earlier results of `formats`, and discard an unfinished run.
        resume: Continue an unfinished run. Without one, start from the first image.

    Raises:
        ValueError: For a value out of range, an unknown format, or both `overwrite` and `resume`.
    """

    formats: Sequence[str] = ('coco',)
    threshold: Threshold | None = None
    class_names: Sequence[str] | None = None
    labels: Literal['predicted', 'folder'] = 'predicted'
    multi: bool = False
    min_area: float = MIN_AREA
    sizes: Sequence[int] | None = None
    flip: bool = False
    batch_size: int = 8
    workers: int = 0
    model_name: str = 'fcam'
    progress: bool = False
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise ValueError(f'formats is {list(self.formats)}: choose from {", ".join(FORMATS)}')
        if self.labels not in ('predicted', 'folder'):
            raise ValueError(f"labels is {self.labels!r}: choose 'predicted' or 'folder'")
        if self.batch_size < 1:
            raise ValueError(f'batch_size is {self.batch_size}: give at least one image per forward pass')
        if self.workers < 0:
            raise ValueError(f'workers is {self.workers}: give 0 or more processes')
        if self.overwrite and self.resume:
            raise ValueError('overwrite and resume exclude each other: choose one')
