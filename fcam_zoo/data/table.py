"""A CSV file of paths and labels as a data set."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from .._schema import show
from .annotations import Annotations, check_classes, number_classes
from .base import ImageDataset, Transform, reads_ground_truth
from .csv_lines import parse_lines, read_csv
from .values import Box, Problem, class_name, collect_problem, parse_box, plain

logger = logging.getLogger(__name__)

_REQUIRED, _BOX = ('image', 'label'), ('x0', 'y0', 'x1', 'y1')


class TableDataset(ImageDataset):
    """Images and labels of a CSV file; items, attributes and errors are those of `ImageDataset`.

    The header has `image` and `label` and, in any order, may have `split` and `x0,y0,x1,y1`; other columns are not
    read. Paths of images are relative to the folder of the file. Without `split`, all images are in the split train.
    Labels and boxes are those of `CsvDataset`: an image with several boxes has several lines. With boxes, images are
    not turned by their EXIF orientation.
    """

    def __init__(
        self, path: str | os.PathLike, split: str, transform: Transform | None = None, ground_truth: bool | None = None
    ) -> None:
        path = Path(path)
        data = read_table(path, split, reads_ground_truth(split, ground_truth))
        super().__init__(data, transform)
        self.name, self.exif = path.stem, self.boxes is None
        if len(data.ids) < len(data.listed):
            left = len(data.listed) - len(data.ids)
            logger.warning('%s: %d of %d images have no box and are left out', path, left, len(data.listed))


def table_splits(path: Path) -> list[str]:
    """Return the splits of a CSV file; empty if it cannot be read."""
    data = Annotations(path.parent, '', path, path.parent)
    with collect_problem(data.problems, path):
        return sorted({row.split for row in _read_rows(data)})
    return []


def read_table(path: Path, split: str, ground_truth: bool) -> Annotations:
    """Read the images of a split and collect the problems; boxes only with `ground_truth`."""
    data = Annotations(path.parent, split, path, path.parent, ground_truth, tolerance=1)
    with collect_problem(data.problems, path):
        _fill(data, _read_rows(data))
    return data


class _Row(NamedTuple):
    image: str
    label: str
    split: str
    box: Box | None
    where: str  # File and line.


def _fill(data: Annotations, rows: list[_Row]) -> None:
    # Over all rows, so that every split numbers its classes in the same way.
    names = {row.label for row in rows}
    if all(name.isascii() and name.isdigit() and len(name) < 7 for name in names):
        numbers = {name: int(name) for name in names}
        data.classes = {label: str(label) for label in sorted(numbers.values())}
    else:
        numbers = number_classes(data, names)
    own = [row for row in rows if row.split == data.split]
    for row in own:
        label = numbers.get(row.label)
        if row.box is None and data.labels.get(row.image, label) != label:
            data.problems.append(f'{row.where}: {plain(row.image)} already has another label; remove one of the lines')
        area = -1 if row.box is None else (row.box[2] - row.box[0]) * (row.box[3] - row.box[1])
        data.add_object(row.image, label, area, row.box, row.where)
    data.listed = list(dict.fromkeys(row.image for row in own))
    data.ids = [i for i in data.listed if not data.boxes or i in data.boxes]
    if not own and not data.problems:
        found = ', '.join(map(plain, sorted({row.split for row in rows}))) or 'none'
        raise Problem(f'has no image of the split {show(data.split)} (found: {found}); write it in a column split')
    check_classes(data)


def _read_rows(data: Annotations) -> list[_Row]:
    columns, lines = read_csv(data.path, 'give a CSV file of images and labels')
    has_boxes = set(_BOX) <= set(columns)
    if not set(_REQUIRED) <= set(columns) or len(set(columns)) < len(columns):
        raise Problem(
            'the header must have the columns image and label, each once, and may have split and x0,y0,x1,y1; correct '
            'the first line'
        )

    def parse(fields: list[str], where: str) -> _Row:
        values = dict(zip(columns, fields))
        image_id = data.image_id(values['image'], 'image')
        corners = [values[name] for name in _BOX] if has_boxes else []
        box = parse_box(corners) if any(corners) else None
        name = class_name(values['label'], 'write its class')
        if not (split := values.get('split', 'train')):
            raise Problem('has no split; write train, val or test')
        return _Row(image_id, name, split, box, where)

    return parse_lines(data, columns, lines, parse)
