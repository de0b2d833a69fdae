"""The record that every reader of a data set fills: images, labels, ground truth, and the list of all problems."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .paths import leaves_folder, subfolders

NUMBER = re.compile(r'-?[0-9]{1,9}(\.[0-9]{0,20})?')
"""A coordinate as text; longer numbers, 'nan' and exponents are refused."""

CLASSES = 'classes.txt'

Box = tuple[int, int, int, int]


class Problem(ValueError):
    """What is wrong with an entry of an annotation file, and how to fix it."""


class LocatedBox(NamedTuple):
    """A box x0, y0, x1, y1 in pixels from 0 (the last pixel inside), and its place in the annotation file."""

    box: Box
    place: str


class MaskFiles(NamedTuple):
    """The mask files of an image, one per instance, and the file of the pixels that are not scored."""

    objects: tuple[Path, ...]
    ignore: Path | None = None


@dataclass
class Annotations:
    """Content of one split of a data set, with all its problems.

    Attributes:
        root: Folder of the data set.
        split: Name of the split; '' for a data set without splits.
        path: The annotation file or folder.
        images: The folder that ids are relative to.
        listed: Ids of all images, in the order of the annotations.
        ids: Those that have a label and, if ground truth is read, a box or mask.
        classes: Label -> name; empty if the format has no classes.
        labels: Id -> label.
        sizes: Id -> (width, height), if the annotations contain it.
        boxes: Id -> its boxes.
        masks: Id -> its mask files.
        sources: Id -> the file that describes it, if it is not `path`.
        reach: Pixels by which a box may end beyond the image: 1 for formats whose ends are often written as exclusive.
        problems: Reasons not to open the data set: one line each, with the file, its line or id, and the fix.
        warnings: Problems that do no harm, reported by `check_dataset` only.
        unused: Mask files without image: path without suffix -> file.
    """

    root: Path
    split: str
    path: Path
    images: Path
    listed: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    classes: dict[int, str] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    boxes: dict[str, list[LocatedBox]] = field(default_factory=dict)
    masks: dict[str, MaskFiles] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)
    reach: int = 0
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unused: dict[str, Path] = field(default_factory=dict)
    _areas: dict[str, float] = field(default_factory=dict)

    def source(self, image_id: str) -> Path:
        """Return the file or folder that describes an image."""
        return self.sources.get(image_id, self.path)

    def location(self, place: str, image_id: str = '') -> str:
        """Return the file and a place in it ('' for the whole file) as text."""
        return f'{self.source(image_id)}{place and ", "}{place}'

    def note(self, place: str, problem: str) -> None:
        """Add a problem at a place of the annotation file ('' for the whole file)."""
        self.problems.append(f'{self.location(place)}: {problem}')

    @contextmanager
    def noting(self, place: str) -> Iterator[None]:
        """Note the `Problem` that is raised in the block, and continue after the block."""
        try:
            yield
        except Problem as problem:
            self.note(place, str(problem))

    def image_id(self, name: object, what: str) -> str:
        """Return the path of an image below the image folder in one spelling.

        Args:
            name: Value from the file.
            what: Name of the field, for the message.

        Raises:
            Problem: If it is not a path below the image folder.
        """
        if not isinstance(name, str) or not name.isprintable() or len(name) > 1000 or leaves_folder(name):
            raise Problem(
                f'{what} {shown(name)} is not a path below {self.images}; write a relative path in that folder'
            )
        return PurePosixPath(name.replace('\\', '/')).as_posix()

    def label_by_area(self, image_id: str, label: int, area: float) -> None:
        """Set the label of an image if this object is the largest so far; the first of equal ones wins."""
        if area > self._areas.get(image_id, -math.inf):
            self._areas[image_id], self.labels[image_id] = area, label

    def add_box(self, image_id: str, box: Box, place: str) -> None:
        """Add a box of an image."""
        self.boxes.setdefault(image_id, []).append(LocatedBox(box, place))

    def boxes_outside(self, image_id: str, size: tuple[int, int]) -> Iterator[str]:
        """Report the boxes of an image that are not inside its (width, height)."""
        width, height = size[0] + self.reach, size[1] + self.reach
        for (x0, y0, x1, y1), place in self.boxes.get(image_id, ()):
            if not (0 <= x0 < size[0] and 0 <= y0 < size[1] and x1 < width and y1 < height):
                yield (
                    f'{self.location(place, image_id)}: box ({x0}, {y0}, {x1}, {y1}), in pixels from 0, is outside its '
                    f'image {image_id} of {size[0]}x{size[1]}; correct the box or the size'
                )

    def repeated_boxes(self) -> Iterator[str]:
        """Report the boxes that an image has twice."""
        for image_id, boxes in self.boxes.items():
            first: dict[Box, str] = {}
            for box, place in boxes:
                if first.setdefault(box, place) != place:
                    yield (
                        f'{self.location(place, image_id)}: the box {box} of {image_id} is already at {first[box]}; '
                        'remove one'
                    )

    def size_problem(self, image_id: str, size: tuple[int, int]) -> str:
        """Describe an image file whose (width, height) is not that of its annotation."""
        width, height = self.sizes[image_id]
        return (
            f'{self.images / image_id}: {size[0]}x{size[1]} pixels, but {self.source(image_id)} says {width}x{height}; '
            'correct it, and the boxes if the image was resized'
        )


def shown(value: object) -> str:
    """Format a value of an untrusted file for a message, on one line and at most about 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:100]}...'


def number_classes(data: Annotations, names: Iterable[str]) -> dict[str, int]:
    """Number class names and set `data.classes`.

    The order is that of `<root>/classes.txt`, else that of the class folders of `<root>/train` if they have all the
    names, else sorted.
    """
    names = set(names)
    order = _listed_classes(data)
    if order is None:
        train = subfolders(data.root / 'train') if (data.root / 'train').is_dir() else []
        order = train if names <= set(train) else sorted(names)
    for name in sorted(names - set(order)):
        data.problems.append(f'{data.root / CLASSES}: the class {name!r} of {data.path} is missing; add it as a line')
    data.classes = dict(enumerate(order))
    return {name: label for label, name in data.classes.items()}


def _listed_classes(data: Annotations) -> list[str] | None:
    """Read classes.txt; None if it does not exist or cannot be read."""
    file = data.root / CLASSES
    if not file.is_file():
        return None
    try:
        lines = [line.strip() for line in file.read_text(encoding='utf-8-sig').splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        data.problems.append(f'{file}: cannot be read ({e}); write one class name per line, as UTF-8')
        return None
    while lines and not lines[-1]:
        lines.pop()
    if not all(lines) or len(set(lines)) < len(lines):
        data.problems.append(f'{file}: has an empty or repeated line; write one class name per line, label 0 first')
    return lines


def finish(data: Annotations, ground_truth: bool) -> None:
    """Leave out images without annotation, and set the labels of the others."""
    if not data.listed:
        if not data.problems:
            data.note('', f'lists no images of {data.images}; check both paths')
        return
    data.ids = [i for i in data.listed if i in data.boxes or i in data.masks] if ground_truth else list(data.listed)
    if not data.ids and not data.problems:
        data.note('', 'no image has a box or mask; annotate some, or open the split with ground_truth=False')
    _label_by_folder(data)
    if not data.classes:
        data.classes, data.labels = {0: 'object'}, dict.fromkeys(data.ids, 0)
    if ground_truth and not data.problems:  # A reported entry may be the reason for a missing label.
        missing = (i for i in data.ids if i not in data.labels)
        data.problems += [f'{data.path}: {i} has no label; add one, or remove the image' for i in missing]
    data.ids = [i for i in data.ids if i in data.labels]


def _label_by_folder(data: Annotations) -> None:
    """Use class folders as labels, numbered as in `FolderDataset`, if they say more than the format.

    That is the case if every image is in a folder, and the format has fewer than two classes or each folder is one of
    its classes.
    """
    folder = {i: i.split('/', 1)[0] for i in data.ids if '/' in i}
    names = set(folder.values())
    if not names or len(folder) < len(data.ids) or not (len(data.classes) < 2 or names <= set(data.classes.values())):
        return
    train = data.root / 'train'
    source = train if train.is_dir() and data.images == data.root / data.split else data.images
    order = [name for name in subfolders(source) if source / name != data.path] if source.is_dir() else []
    for name in sorted(names - set(order)):
        data.note(
            '', f'has images in the class folder {name}, which {source} does not have; add the folder or fix the path'
        )
    data.classes = dict(enumerate(order))
    label = {name: k for k, name in data.classes.items()}
    data.labels = {i: label[name] for i, name in folder.items() if name in label}
