"""Options of `label_images`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .._catalog import MIN_AREA
from .._checks import MAX_WORKERS
from .._io import printable
from .._schema import as_whole, convert, show
from ..inference import check_batch_size
from ..objects import Threshold
from .formats import FORMATS


@dataclass(frozen=True)
class LabelOptions:
    """Options of `label_images`. Those not listed here are documented in `fcam_zoo.localize`.

    Attributes:
        formats: One or more of 'coco', 'voc', 'yolo', 'csv', 'masks', 'overlays'. Boxes and masks are in stored pixels;
            in 'yolo' and 'overlays' in pixels of the image rotated by its EXIF orientation.
        labels: Class of the objects: 'predicted', or 'folder' for the label of the image in shards that have labels,
            otherwise its class folder (first part of its id). The confidence is the mean of the map inside the object,
            times the probability of a predicted class.
        workers: Threads that read images; 0 reads them between the batches.
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
        convert(Sequence[str], self.formats, 'formats')
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise ValueError(f'formats is {show(list(self.formats))}: choose from {", ".join(FORMATS)}')
        if self.labels not in ('predicted', 'folder'):
            raise ValueError(f"labels is {show(self.labels)}: choose 'predicted' or 'folder'")
        check_batch_size(self.batch_size)
        if as_whole(self.workers, 0, MAX_WORKERS) is None:
            raise ValueError(f'workers is {show(self.workers)}: give 0 or more threads, at most {MAX_WORKERS}')
        if not isinstance(self.model_name, str) or printable(self.model_name) != self.model_name:
            raise ValueError(f'model_name is {show(self.model_name)}: give a name without control characters')
        if self.overwrite and self.resume:
            raise ValueError('overwrite and resume exclude each other: choose one')
