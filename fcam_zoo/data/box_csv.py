"""Boxes in a CSV file, one per line."""

from __future__ import annotations

import csv
import io
from typing import NamedTuple

from .annotated import AnnotatedDataset
from .annotations import Annotations, Box, Problem, noting, number_classes, parse_box, read_text, shown

HEADER = ['image', 'x0', 'y0', 'x1', 'y1', 'label', 'score']


class CsvDataset(AnnotatedDataset):
    """Boxes of a CSV file; arguments, attributes and errors are those of `AnnotatedDataset`.

    The header is `image,x0,y0,x1,y1`, optionally followed by `label`, and then by `score`, which is not read. An image
    may have several lines, or one without numbers if it has no object. Numbers are those of the WSOL layout: pixels
    from 0, x1 and y1 the last pixel inside. Fractions are rounded, and a box may end one pixel beyond the image, since
    many tools write exclusive ends. Labels that are all whole numbers are used unchanged, names are numbered (see
    `number_classes`).
    """

    @staticmethod
    def _read(data: Annotations) -> None:
        data.tolerance = 1
        rows = _read_rows(data)
        data.listed = list(dict.fromkeys(row.image_id for row in rows))
        names = {row.label for row in rows if row.label}
        if all(name.isascii() and name.isdigit() and len(name) < 7 for name in names):
            numbers = {name: int(name) for name in names}
            data.classes = {label: str(label) for label in sorted(numbers.values())}
        else:
            numbers = number_classes(data, names)
        for image_id, box, label, where in rows:
            if label in numbers:
                area = -1 if box is None else (box[2] - box[0]) * (box[3] - box[1])
                data.add_object(image_id, numbers[label], area, box, where)
            else:
                data.add_box(image_id, box, where)


class _Row(NamedTuple):
    image_id: str
    box: Box | None  # None for an image without object.
    label: str
    where: str


def _read_rows(data: Annotations) -> list[_Row]:
    lines = csv.reader(io.StringIO(read_text(data.path, 'give a CSV file of boxes')))
    rows: list[_Row] = []
    try:
        header = [column.strip() for column in next(lines, [])]
        if header not in (HEADER[:5], HEADER[:6], HEADER):
            problem = f'the header must be {",".join(HEADER)} (the last two are optional); correct it'
            data.problems.append(f'{data.path}, line 1: {problem}')
            return []
        for fields in lines:
            where = f'{data.path}, line {lines.line_num}'
            if ''.join(fields).strip():
                with noting(data.problems, where):
                    rows.append(_parse_row(data, where, [f.strip() for f in fields], len(header)))
    except csv.Error as e:
        data.problems.append(f'{data.path}, line {lines.line_num}: is not CSV ({e}); write the file again')
        return []
    return rows


def _parse_row(data: Annotations, where: str, fields: list[str], count: int) -> _Row:
    if len(fields) != count:
        raise Problem(f'{len(fields)} fields; write {",".join(HEADER[:count])}')
    image_id, label = data.image_id(fields[0], 'image'), fields[5] if count > 5 else ''
    if not label.isprintable():
        raise Problem(f'label {shown(label)} has characters that cannot be printed; remove them')
    return _Row(image_id, parse_box(fields[1:5]) if any(fields[1:5]) else None, label, where)
