"""Boxes in a CSV file, one per line."""

from __future__ import annotations

import csv
import math
from typing import NamedTuple

from .annotated import AnnotatedDataset
from .annotations import NUMBER, Annotations, Box, Problem, number_classes, shown

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
    def _read(data: Annotations, ground_truth: bool) -> None:
        data.reach = 1
        rows = _read_rows(data)
        data.listed = list(dict.fromkeys(row.image_id for row in rows))
        names = {row.label for row in rows if row.label}
        if all(name.isascii() and name.isdigit() and len(name) < 7 for name in names):
            numbers = {name: int(name) for name in names}
            data.classes = {label: str(label) for label in sorted(numbers.values())}
        else:
            numbers = number_classes(data, names)
        for image_id, box, label, place in rows:
            if label in numbers:
                area = -1 if box is None else (box[2] - box[0]) * (box[3] - box[1])
                data.label_by_area(image_id, numbers[label], area)
            if ground_truth and box is not None:
                data.add_box(image_id, box, place)


class _Row(NamedTuple):
    image_id: str
    box: Box | None  # None for an image without object.
    label: str
    place: str


def _read_rows(data: Annotations) -> list[_Row]:
    rows = []
    try:
        with data.path.open(encoding='utf-8-sig', newline='') as file:
            lines = csv.reader(file)
            header = [column.strip() for column in next(lines, [])]
            if header not in (HEADER[:5], HEADER[:6], HEADER):
                data.note('line 1', f'the header must be {",".join(HEADER)} (the last two are optional); correct it')
                return []
            for fields in lines:
                place = f'line {lines.line_num}'
                if ''.join(fields).strip():
                    with data.noting(place):
                        rows.append(_parse_row(data, place, [f.strip() for f in fields], len(header)))
    except UnicodeDecodeError:
        raise Problem('is not UTF-8 text; save it as UTF-8') from None
    except OSError as e:
        raise Problem(f'cannot be read ({e.strerror}); give a CSV file of boxes') from e
    except csv.Error as e:
        data.note(f'line {lines.line_num}', f'is not CSV ({e}); write the file again')
        return []
    return rows


def _parse_row(data: Annotations, place: str, fields: list[str], count: int) -> _Row:
    if len(fields) != count:
        raise Problem(f'{len(fields)} fields; write {",".join(HEADER[:count])}')
    image_id, numbers = data.image_id(fields[0], 'image'), fields[1:5]
    label = fields[5] if count > 5 else ''
    if not label.isprintable():
        raise Problem(f'label {shown(label)} has characters that cannot be printed; remove them')
    if not any(numbers):
        return _Row(image_id, None, label, place)
    if not all(map(NUMBER.fullmatch, numbers)):
        raise Problem(f'{shown(",".join(numbers))} are not four numbers; write x0,y0,x1,y1 in pixels')
    x0, y0, x1, y1 = (math.floor(float(v) + 0.5) for v in numbers)
    if x1 < x0 or y1 < y0:
        raise Problem(f'box ({x0}, {y0}, {x1}, {y1}) is inverted; write x0 <= x1 and y0 <= y1')
    return _Row(image_id, (x0, y0, x1, y1), label, place)
