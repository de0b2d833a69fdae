"""The record that every reader of a data set fills: images, labels, ground truth, and the list of all problems."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .._io import is_file, is_folder
from .._schema import show
from .paths import subfolders
from .values import Box, Problem, check_label, class_name, collect_problem, plain, read_text, relative_path

LocatedBox = tuple[Box, str]
"""A box, and where it was read: the file and its line or id."""


class MaskFiles(NamedTuple):
    """The mask files of an image, one per instance, and the file of the pixels that are not scored."""

    objects: tuple[Path, ...]
    ignore: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files."""
        return self.objects if self.ignore is None else (*self.objects, self.ignore)


@dataclass
class Annotations:
    """Content of one split of a data set, with all its problems.

    An id is the path of an image relative to `images`. Problems and warnings are one line each, with the file, its line
    or id, and the fix.
    """

    root: Path  # Folder of the data set.
    split: str  # '' for a data set without splits.
    path: Path  # The annotation file or folder.
    images: Path  # Folder of the images.
    ground_truth: bool = False  # Whether boxes or masks are read.
    tolerance: int = 0  # Pixels by which a box may exceed its image: 1 for formats that often have exclusive ends.
    listed: list[str] = field(default_factory=list)  # Ids of all images, in the order of the annotations.
    ids: list[str] = field(default_factory=list)  # Those with a label and, if ground truth is read, a box or mask.
    classes: dict[int, str] = field(default_factory=dict)  # Label -> name; empty if the format has no classes.
    labels: dict[str, int] = field(default_factory=dict)  # Id -> label.
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # Id -> (width, height), if annotated.
    boxes: dict[str, list[LocatedBox]] = field(default_factory=dict)  # Id -> its boxes.
    masks: dict[str, MaskFiles] = field(default_factory=dict)  # Id -> its mask files.
    sources: dict[str, Path] = field(default_factory=dict)  # Id -> the file that describes it, if it is not `path`.
    problems: list[str] = field(default_factory=list)  # Reasons not to open the data set.
    warnings: list[str] = field(default_factory=list)  # Harmless problems; only `check_dataset` reports them.
    unused: dict[str, Path] = field(default_factory=dict)  # Masks without image: path without suffix -> file.
    _areas: dict[str, float] = field(default_factory=dict)  # Id -> area of its largest object.

    def image_id(self, name: object, field_name: str) -> str:
        """Convert the value of a field to the id of an image; raise a `Problem` if it leaves the image folder."""
        return relative_path(self.images, name, field_name)

    def add_object(self, image_id: str, label: int | None, area: float, box: Box | None, where: str) -> None:
        """Add an object to an image. The label of the image is that of its largest object; on a tie, the first."""
        if label is not None and area > self._areas.get(image_id, -math.inf):
            self._areas[image_id], self.labels[image_id] = area, label
        self.add_box(image_id, box, where)

    def add_box(self, image_id: str, box: Box | None, where: str) -> None:
        """Add a box to an image, if ground truth is read."""
        if self.ground_truth and box is not None:
            self.boxes.setdefault(image_id, []).append((box, where))

    def boxes_outside(self, image_id: str, size: tuple[int, int]) -> Iterator[str]:
        """Report the boxes of an image that are not inside its (width, height)."""
        width, height = size[0] + self.tolerance, size[1] + self.tolerance
        for (x0, y0, x1, y1), where in self.boxes.get(image_id, ()):
            if not (0 <= x0 < size[0] and 0 <= y0 < size[1] and x1 < width and y1 < height):
                yield (
                    f'{where}: box ({x0}, {y0}, {x1}, {y1}), in pixels from 0, is outside its image {plain(image_id)} '
                    f'of {size[0]}x{size[1]}; correct the box or the size'
                )

    def size_problem(self, image_id: str, size: tuple[int, int]) -> str:
        """Describe an image file whose (width, height) is not that of its annotation."""
        width, height = self.sizes[image_id]
        source = self.sources.get(image_id, self.path)
        return (
            f'{self.images / image_id}: {size[0]}x{size[1]} pixels, but {source} says {width}x{height}; correct it, '
            'and the boxes if the image was resized'
        )


def number_classes(data: Annotations, names: Iterable[str]) -> dict[str, int]:
    """Number class names and set `data.classes`.

    The order is that of `<root>/classes.txt`, else that of the class folders of `<root>/train` if they have all the
    names, else sorted.
    """
    names = set(names)
    file, train = data.root / 'classes.txt', data.root / 'train'
    order = subfolders(train) if is_folder(train) else []
    if not names <= set(order):
        order = sorted(names)
    if is_file(file):
        with collect_problem(data.problems, file):
            order = [line.strip() for line in read_text(file, 'check its permissions').rstrip().splitlines()]
            if not all(order) or len(set(order)) < len(order):
                raise Problem('has an empty or repeated line; write one class name per line, label 0 first')
            for name in sorted(names - set(order)):
                data.problems.append(f'{file}: the class {show(name)} of {data.path} is missing; add it as a line')
    data.classes = dict(enumerate(order))
    return {name: label for label, name in data.classes.items()}


def finish(data: Annotations) -> None:
    """Remove images without annotation, and set the labels of the others."""
    if not data.listed:
        if not data.problems:
            data.problems.append(f'{data.path}: lists no images of {data.images}; check both paths')
        return
    data.ids = [i for i in data.listed if not data.ground_truth or i in data.boxes or i in data.masks]
    if not data.ids and not data.problems:
        data.problems.append(
            f'{data.path}: no image has a box or mask; annotate some, or open the split with ground_truth=False'
        )
    _label_by_folder(data)
    if not data.classes:
        data.classes, data.labels = {0: 'object'}, dict.fromkeys(data.ids, 0)
    if data.ground_truth and not data.problems:  # A reported entry may be the reason for a missing label.
        missing = (i for i in data.ids if i not in data.labels)
        data.problems += [f'{data.path}: {plain(i)} has no label; add one, or remove the image' for i in missing]
    data.ids = [i for i in data.ids if i in data.labels]
    check_classes(data)


def check_classes(data: Annotations) -> None:
    """Add a problem for too many classes, and for names that cannot be printed."""
    with collect_problem(data.problems, data.path):
        check_label(max(data.classes, default=0), data.split, len(data.listed))
        for name in data.classes.values():
            class_name(name, 'give each class a name')


def _label_by_folder(data: Annotations) -> None:
    """Use class folders as labels, numbered as in `FolderDataset`, if they contain all images and fit the format.

    They fit if the format has fewer than two classes, or if each folder is one of its classes.
    """
    folder = {i: i.split('/', 1)[0] for i in data.ids if '/' in i}
    names = set(folder.values())
    if not names or len(folder) < len(data.ids) or not (len(data.classes) < 2 or names <= set(data.classes.values())):
        return
    train = data.root / 'train'
    source = train if is_folder(train) and data.images == data.root / data.split else data.images
    order = [name for name in subfolders(source) if source / name != data.path] if is_folder(source) else []
    for name in sorted(names - set(order)):
        data.problems.append(
            f'{data.path}: images are in the class folder {plain(name)}, which {source} does not have; add the folder '
            'or correct the path'
        )
    data.classes = dict(enumerate(order))
    label = {name: k for k, name in data.classes.items()}
    data.labels = {i: label[name] for i, name in folder.items() if name in label}
