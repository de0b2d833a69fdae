"""The WSOL metadata layout of CUB, ImageNet and OpenImages (Choe et al., CVPR 2020).

Plain text without header, comma separated, one folder per split:

    <root>/images/<id>
    <root>/masks/<mask>
    <root>/metadata/<split>/image_ids.txt       <id>                         the order of evaluation
                            class_labels.txt    <id>,<label>                 from 0
                            image_sizes.txt     <id>,<width>,<height>        may be empty
                            localization.txt    <id>,<x0>,<y0>,<x1>,<y1>     any number of lines per image, or
                                                <id>,<mask>,<ignore mask>    the ignore mask on the first line only
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path, PurePosixPath

from .._io import is_folder, short_path
from .annotations import Annotations, MaskFiles, check_classes
from .base import ImageDataset, Transform, reads_ground_truth
from .values import (
    Problem,
    check_image_size,
    check_label,
    collect_problem,
    parse_box,
    plain,
    read_text,
    relative_path,
)

IDS, LABELS, SIZES, LOCALIZATION = 'image_ids.txt', 'class_labels.txt', 'image_sizes.txt', 'localization.txt'

_WHOLE = re.compile(r'-?[0-9]{1,9}')
_Lines = list[tuple[str, list[str]]]  # File and line, and fields.


class WSOLDataset(ImageDataset):
    """One split of a data set with class labels, and with boxes or masks to evaluate localization.

    The layout is described in `fcam_zoo.data.wsol`. Arguments are those of `open_dataset`, where `split` is a folder of
    `<root>/metadata`; items, attributes and errors are those of `ImageDataset`. Images are not turned by their EXIF
    orientation, since boxes and masks refer to the stored pixels. Each label is named after the folder of its images if
    folders and labels match one to one, else by its number.
    """

    def __init__(
        self, root: str | os.PathLike, split: str, transform: Transform | None = None, ground_truth: bool | None = None
    ) -> None:
        super().__init__(read_metadata(Path(root), split, reads_ground_truth(split, ground_truth)), transform)


def read_metadata(root: Path, split: str, ground_truth: bool) -> Annotations:
    """Read the metadata of a split and collect their problems; `localization.txt` only with `ground_truth`."""
    data = Annotations(root, split, root / 'metadata' / split, root / 'images', ground_truth, tolerance=1)
    if not is_folder(data.path):
        data.problems.append(f'{short_path(data.path)}: no such split; the WSOL layout has its metadata in this folder')
        return data
    readers = {IDS: _read_ids, LABELS: _read_labels, SIZES: _read_sizes}
    if ground_truth:
        readers[LOCALIZATION] = _read_localization
    for name, read in readers.items():
        file = data.path / name
        with collect_problem(data.problems, file):
            read(data, _read_lines(file))
    ids = set(data.ids)
    for name, table in ((LABELS, data.labels), (SIZES, data.sizes), (LOCALIZATION, {**data.boxes, **data.masks})):
        extra = (image_id for image_id in table if image_id not in ids)
        data.warnings += [
            f'{data.path / name}: {plain(i)} is not in {IDS}; add it there or remove its lines here' for i in extra
        ]
    data.listed = data.ids
    pairs = {(data.labels[i], PurePosixPath(i).parent.name) for i in data.ids if i in data.labels}
    folders, owners = Counter(label for label, _ in pairs), Counter(folder for _, folder in pairs)
    for label, folder in sorted(pairs):
        data.classes[label] = folder if folder and folders[label] == owners[folder] == 1 else str(label)
    check_classes(data)
    return data


def _read_lines(file: Path) -> _Lines:
    lines = enumerate(read_text(file, 'add it, since the WSOL layout needs this file').splitlines(), 1)
    return [(f'{file}, line {n}', [f.strip() for f in line.split(',')]) for n, line in lines if line.strip()]


def _whole_numbers(values: list[str], names: str, minimum: float = -math.inf) -> list[int]:
    if len(values) != names.count(',') + 1:
        raise Problem(f'{len(values) + 1} fields; write <id>,{names}')
    if not all(_WHOLE.fullmatch(value) and int(value) >= minimum for value in values):
        at_least = '' if minimum == -math.inf else f' >= {minimum}'
        raise Problem(f'{plain(",".join(values))} are not whole numbers{at_least}; write <id>,{names}')
    return list(map(int, values))


def _read_table(
    data: Annotations, lines: _Lines, names: str, minimum: int, check: Callable[..., object]
) -> dict[str, list[int]]:
    """Read the whole numbers of each image, one line per image; `check` raises a `Problem` for invalid ones."""
    table: dict[str, list[int]] = {}
    for where, (image_id, *values) in lines:
        with collect_problem(data.problems, where):
            numbers = _whole_numbers(values, names, minimum)
            if image_id in table:
                raise Problem(f'{plain(image_id)} is listed twice; remove one of the lines')
            check(*numbers)
            table[image_id] = numbers
    return table


def _report_missing(data: Annotations, file: str, known: Container[str], problem: str) -> None:
    """Add a problem for each id that is not known from a file; `{}` in the problem stands for the id."""
    data.problems += [f'{data.path / file}: {plain(i)} {problem.format(plain(i))}' for i in data.ids if i not in known]


def _read_ids(data: Annotations, lines: _Lines) -> None:
    seen: set[str] = set()
    for where, (image_id, *rest) in lines:
        with collect_problem(data.problems, where):
            if rest:
                raise Problem('an id cannot contain a comma; rename the file')
            relative_path(data.images, image_id, 'id')
            if image_id in seen:
                raise Problem(f'{plain(image_id)} is listed twice; remove one of the lines')
            seen.add(image_id)
            data.ids.append(image_id)
    if not data.ids:
        raise Problem('lists no images; write one id per line')


def _read_labels(data: Annotations, lines: _Lines) -> None:
    table = _read_table(data, lines, '<label>', 0, lambda label: check_label(label, data.split, len(data.ids)))
    data.labels = {i: label for i, (label,) in table.items()}
    _report_missing(data, LABELS, {fields[0] for _, fields in lines}, 'has no label; add the line {},<label>')


def _read_sizes(data: Annotations, lines: _Lines) -> None:
    table = _read_table(data, lines, '<width>,<height>', 1, check_image_size)
    data.sizes = {i: (width, height) for i, (width, height) in table.items()}


def _read_localization(data: Annotations, lines: _Lines) -> None:
    if not lines:
        raise Problem('is empty; write boxes or masks, or open the split with ground_truth=False')
    masks = len(lines[0][1]) == 3
    if data.sizes and not masks:
        problem = 'has no size, which its boxes need; add {},<width>,<height>'
        _report_missing(data, SIZES, data.sizes, problem)
    for where, (image_id, *values) in lines:
        with collect_problem(data.problems, where):
            if masks:
                _add_mask(data, image_id, values)
            else:
                _whole_numbers(values, '<x0>,<y0>,<x1>,<y1>')
                data.add_box(image_id, parse_box(values), where)
    _report_missing(
        data, LOCALIZATION, {fields[0] for _, fields in lines}, 'has no box or mask; add a line, or remove the image'
    )


def _add_mask(data: Annotations, image_id: str, values: list[str]) -> None:
    if len(values) != 2:
        raise Problem(f'{len(values) + 1} fields; write <id>,<mask>,<ignore mask or nothing>')
    mask, ignore = values
    folder = data.root / 'masks'
    for name in (mask, ignore or mask):
        relative_path(folder, name, 'mask')
    files = data.masks.get(image_id)
    if files is None:
        data.masks[image_id] = MaskFiles((folder / mask,), folder / ignore if ignore else None)
    elif ignore:
        raise Problem(f'{plain(image_id)} already has a line; write the ignore mask on its first line only')
    else:
        data.masks[image_id] = files._replace(objects=(*files.objects, folder / mask))
