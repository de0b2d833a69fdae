"""Boxes in a CSV file, one per line."""

from __future__ import annotations

from .annotations import Annotations, number_classes
from .base import AnnotatedDataset
from .csv_lines import parse_lines, read_csv
from .values import Box, Problem, class_name, parse_box

HEADER = ['image', 'x0', 'y0', 'x1', 'y1', 'label', 'score']


class CsvDataset(AnnotatedDataset):
    """Boxes of a CSV file; arguments, attributes and errors are those of `AnnotatedDataset`.

    The header is `image,x0,y0,x1,y1`, optionally followed by `label`, and then by `score`, which is not read. An image
    may have several lines, or one without numbers if it has no object. Numbers are those of the WSOL layout: pixels
    from 0, x1 and y1 the last pixel inside. Fractions are rounded, and a box may end one pixel beyond the image, since
    many tools write exclusive ends. An apostrophe before a formula character is not part of a name (see `CsvWriter`).
    Labels that are all whole numbers are used unchanged, names are numbered (see
    `number_classes`).
    """

    @staticmethod
    def _read(data: Annotations) -> None:
        data.tolerance = 1
        rows = _read_rows(data)
        data.listed = list(dict.fromkeys(image_id for image_id, *_ in rows))
        names = {label for _, _, label, _ in rows if label}
        if all(name.isascii() and name.isdigit() and len(name) < 7 for name in names):
            numbers = {name: int(name) for name in names}
            data.classes = {label: str(label) for label in sorted(numbers.values())}
        else:
            numbers = number_classes(data, names)
        for image_id, box, label, where in rows:
            area = -1 if box is None else (box[2] - box[0]) * (box[3] - box[1])
            data.add_object(image_id, numbers.get(label), area, box, where)


_Row = tuple[str, Box | None, str, str]
"""Image id, box (None: no object in the image), label ('': none), and the file and line."""


def _read_rows(data: Annotations) -> list[_Row]:
    columns, lines = read_csv(data.path, 'give a CSV file of boxes')
    if columns not in (HEADER[:5], HEADER[:6], HEADER):
        raise Problem(f'the header must be {",".join(HEADER)} (the last two are optional); correct the first line')

    def parse(fields: list[str], where: str) -> _Row:
        image_id, label = data.image_id(fields[0], 'image'), ''.join(fields[5:6])
        if label:
            class_name(label, 'write its class')
        return image_id, parse_box(fields[1:5]) if any(fields[1:5]) else None, label, where

    return parse_lines(data, columns, lines, parse)
