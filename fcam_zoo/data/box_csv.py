"""A CSV file of boxes, one a line."""

from __future__ import annotations

import csv
import math

from .annotated import AnnotatedDataset
from .annotations import NUMBER, Annotations, Box, number_classes, shown

HEADER = ['image', 'x0', 'y0', 'x1', 'y1', 'label', 'score']


class CsvDataset(AnnotatedDataset):
    """Boxes of a CSV file; arguments, attributes and errors are those of `AnnotatedDataset`.

    The header is `image,x0,y0,x1,y1`, after which may come `label`, and then `score`, which is not read; an image may
    have several lines, or one without numbers where it has no object. Numbers are those of the WSOL layout: pixels from
    0, x1 and y1 the last pixel inside; fractions are rounded, and as there an end one pixel beyond the image is let
    pass, since many write ends exclusive. Labels that are all whole numbers are taken as they are, names are numbered
    (see `number_classes`).
    """

    @staticmethod
    def _read(data: Annotations, ground_truth: bool) -> None:
        data.reach = 1
        listed: dict[str, None] = {}
        largest: dict[str, int] = {}
        names: dict[str, str] = {}
        try:
            with data.path.open(encoding='utf-8-sig', newline='') as file:
                lines = csv.reader(file)
                header = [column.strip() for column in next(lines, [])]
                if header not in (HEADER[:5], HEADER[:6], HEADER):
                    columns = ','.join(HEADER)
                    return data.note('line 1', f'the header must be {columns} (or end before); correct it')
                for fields in lines:
                    place = f'line {lines.line_num}'
                    if not ''.join(fields).strip():
                        continue
                    found = _line(data, place, [f.strip() for f in fields], len(header))
                    if found is None:
                        continue
                    image_id, box, name = found
                    listed[image_id] = None
                    area = -1 if box is None else (box[2] - box[0]) * (box[3] - box[1])
                    if name and area > largest.get(image_id, -2):
                        largest[image_id], names[image_id] = area, name
                    if ground_truth and box is not None:
                        data.boxes.setdefault(image_id, []).append((box, place))
        except UnicodeDecodeError:
            return data.note('', 'is not UTF-8 text; save it as UTF-8')
        except OSError as e:
            return data.note('', f'cannot be read ({e.strerror}); name a CSV file of boxes')
        except csv.Error as e:
            return data.note(f'line {lines.line_num}', f'is not CSV ({e}); write the file again')
        data.listed = list(listed)
        if not names:
            return None
        if all(name.isascii() and name.isdigit() and len(name) < 7 for name in names.values()):
            data.labels = {image_id: int(name) for image_id, name in names.items()}
            data.classes = {label: str(label) for label in sorted(set(data.labels.values()))}
        else:
            number = number_classes(data, names.values())
            data.labels = {image_id: number[name] for image_id, name in names.items() if name in number}
        return None


def _line(data: Annotations, place: str, fields: list[str], count: int) -> tuple[str, Box | None, str] | None:
    """Id, box or None for an image without object, and label or ''; None, and a fault noted, for a line in error."""
    if len(fields) != count:
        return data.note(place, f'{len(fields)} fields; write {",".join(HEADER[:count])}')
    image_id, numbers = data.safe_id(fields[0]), fields[1:5]
    name = fields[5] if count > 5 else ''
    if image_id is None:
        return data.note(place, f'{shown(fields[0])} is no path below {data.images}; write such a path')
    if not name.isprintable():
        return data.note(place, f'label {shown(name)} has characters that do not print; remove them')
    if not any(numbers):
        return image_id, None, name
    if not all(map(NUMBER.fullmatch, numbers)):
        return data.note(place, f'{shown(",".join(numbers))} are not four numbers; write x0,y0,x1,y1 in pixels')
    x0, y0, x1, y1 = (math.floor(float(v) + 0.5) for v in numbers)
    if x1 < x0 or y1 < y0:
        return data.note(place, f'box ({x0}, {y0}, {x1}, {y1}) is inverted; write x0 <= x1 and y0 <= y1')
    return image_id, (x0, y0, x1, y1), name
