"""What the readers of annotation files share: safe ids, boxes in whole pixels, labels, and a list of all faults."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .folder import subfolders
from .metadata import leads_out

NUMBER = re.compile(r'-?[0-9]{1,9}(\.[0-9]{0,20})?')
"""A coordinate as text; longer ones, 'nan' and the like are none."""

CLASSES = 'classes.txt'

Box = tuple[int, int, int, int]


@dataclass
class Annotations:
    """What an annotation file or folder says of one split, and all that is wrong with it.

    Attributes:
        root: Folder of the data set.
        split: Name of the split.
        path: The annotation file or folder.
        images: The folder that ids are relative to.
        listed: Ids of all images, in the order of the annotations.
        ids: Those that are labelled and, where ground truth is asked for, located.
        classes: Label -> name, of the format alone; empty where it has none.
        labels: Id -> label.
        sizes: Id -> (width, height), as far as the annotations tell.
        boxes: Id -> boxes x0, y0, x1, y1 (last pixel inside) and where each stands.
        masks: Id -> mask file.
        sources: Id -> the file that describes it, where that is not `path`.
        reach: How far beyond the last pixel a box may end: 1 where ends are often written exclusive.
        problems: Faults that forbid to open the data set: one line each, with the file, its line or id, and the mend.
        strays: Faults that do no harm, for `check_dataset` alone.
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
    boxes: dict[str, list[tuple[Box, str]]] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)
    reach: int = 0
    problems: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    unused: dict[str, Path] = field(default_factory=dict)

    def note(self, place: str, problem: str) -> None:
        """Add a fault of the annotation file at a place in it ('' for the whole)."""
        self.problems.append(f'{self.path}{place and ", "}{place}: {problem}')

    def safe_id(self, name: object) -> str | None:
        """An image's path below the image folder, in one spelling; None when it is no such path."""
        if not isinstance(name, str) or not name.isprintable() or len(name) > 1000 or leads_out(name):
            return None
        return PurePosixPath(name.replace('\\', '/')).as_posix()

    def faults_of_boxes(self, image_id: str, size: tuple[int, int]) -> Iterator[str]:
        """The boxes of an image that are not inside its (width, height)."""
        width, height = size[0] + self.reach, size[1] + self.reach
        for (x0, y0, x1, y1), place in self.boxes.get(image_id, ()):
            if not (0 <= x0 < size[0] and 0 <= y0 < size[1] and x1 < width and y1 < height):
                file = self.sources.get(image_id, self.path)
                yield (
                    f'{file}, {place}: box ({x0}, {y0}, {x1}, {y1}), in pixels from 0, is outside its image {image_id} '
                    f'of {size[0]}x{size[1]}; correct either'
                )

    def repeated_boxes(self) -> Iterator[str]:
        """Boxes that an image has twice."""
        for image_id, boxes in self.boxes.items():
            first: dict[Box, str] = {}
            for box, place in boxes:
                if first.setdefault(box, place) != place:
                    file = self.sources.get(image_id, self.path)
                    yield f'{file}, {place}: the box {box} of {image_id} is at {first[box]} already; remove one'


def shown(value: object) -> str:
    """A value of an untrusted file for a message: on one line, and not endless."""
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:100]}...'


def files_within(folder: Path, suffix: str) -> list[Path]:
    """Files of a suffix (either case) in a folder and its subfolders, sorted, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() == suffix
        and not any(part.startswith('.') for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def spans(start: float, end: float) -> tuple[int, int]:
    """First and last pixel of an interval between edges; one narrower than a pixel is the pixel where it begins."""
    first, last = math.floor(start + 0.5), math.floor(end + 0.5) - 1
    if last < first:
        first = math.floor(start)
    return first, max(first, last)


def number_classes(data: Annotations, names: Iterable[str]) -> dict[str, int]:
    """Number class names, and set `data.classes`: in the order of `<root>/classes.txt`, of the class folders of
    `<root>/train` where they have all the names, or sorted.
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
    file = data.root / CLASSES
    if not file.is_file():
        return None
    try:
        lines = [line.strip() for line in file.read_text(encoding='utf-8-sig').splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        data.problems.append(f'{file}: cannot be read ({e}); write one class name a line, as UTF-8')
        return None
    while lines and not lines[-1]:
        lines.pop()
    if not all(lines) or len(set(lines)) < len(lines):
        data.problems.append(f'{file}: has an empty or repeated line; write one class name a line, label 0 first')
    return lines


def finish(data: Annotations, ground_truth: bool) -> None:
    """Leave out images without annotation, and settle the labels of the others."""
    if not data.listed:
        if not data.problems:
            data.note('', f'names no image of {data.images}; check both paths')
        return
    data.ids = [i for i in data.listed if i in data.boxes or i in data.masks] if ground_truth else list(data.listed)
    if not data.ids and not data.problems:
        data.note('', 'no image has a box or mask; annotate some, or open the split with ground_truth=False')
    _label_by_folder(data)
    if not data.classes:
        data.classes, data.labels = {0: 'object'}, dict.fromkeys(data.ids, 0)
    unlabelled = [i for i in data.ids if i not in data.labels]
    if ground_truth and not data.problems:  # Otherwise what was left out would be reported again.
        data.problems += [f'{data.path}: {i} has no label; add one, or remove the image' for i in unlabelled]
    data.ids = [i for i in data.ids if i in data.labels]


def _label_by_folder(data: Annotations) -> None:
    """Labels from class folders, numbered as `FolderDataset` does, where they say more than the format.

    That is where every image lies in a folder, and the format tells no two classes apart or each folder is one of them.
    """
    folder = {i: i.split('/', 1)[0] for i in data.ids if '/' in i}
    names = set(folder.values())
    if not names or len(folder) < len(data.ids) or not (len(data.classes) < 2 or names <= set(data.classes.values())):
        return
    train = data.root / 'train'
    source = train if train.is_dir() and data.images == data.root / data.split else data.images
    order = [name for name in subfolders(source) if source / name != data.path] if source.is_dir() else []
    for name in sorted(names - set(order)):
        data.note('', f'images in the class folder {name}, which {source} does not have; add it there or correct them')
    data.classes = dict(enumerate(order))
    label = {name: k for k, name in data.classes.items()}
    data.labels = {i: label[name] for i, name in folder.items() if name in label}
