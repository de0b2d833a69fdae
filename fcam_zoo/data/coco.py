"""COCO instances: one JSON file with images, annotations and categories."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from .annotated import AnnotatedDataset
from .annotations import Annotations, Box, Problem, shown

MAX_BYTES = 2 * 1024**3
"""Largest file that is parsed; the instances of COCO train2017 are a quarter of it."""

Content = dict[str, list[Any]]
Key = tuple[bool, Any]


class CocoDataset(AnnotatedDataset):
    """Boxes of a COCO instances file; arguments, attributes and errors are those of `AnnotatedDataset`.

    A `bbox` x, y, width, height is rounded to whole pixels. Crowd regions (`iscrowd`) and segmentations are not read.
    Labels number the categories by their ids, from 0.
    """

    @staticmethod
    def _read(data: Annotations, ground_truth: bool) -> None:
        content = _load(data.path)
        images = _read_images(data, content)
        labels = _read_categories(data, content)
        for place, entry in _entries(data, content, 'annotations'):
            if entry.get('iscrowd'):
                continue
            image_id = images.get(_key(entry.get('image_id')))
            if image_id is None:
                # A file that was reduced to some of its images often keeps their annotations.
                data.warnings.append(
                    f'{data.location(place)}: image_id {shown(entry.get("image_id"))} is not among its images; '
                    'remove the annotation'
                )
                continue
            with data.noting(place):
                _add_annotation(data, place, entry, image_id, labels, ground_truth)


def _add_annotation(
    data: Annotations,
    place: str,
    entry: dict[str, Any],
    image_id: str,
    labels: dict[Key | None, int],
    ground_truth: bool,
) -> None:
    category = entry.get('category_id')
    label = labels.get(_key(category))
    if label is None:
        raise Problem(f'category_id {shown(category)} is not among the categories; add it there')
    bbox = entry.get('bbox')
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(type(v) in (int, float) and abs(v) <= 1e9 for v in bbox):
        raise Problem(f'bbox of {image_id} is not four numbers; write x, y, width, height in pixels')
    x, y, width, height = map(float, bbox)
    data.label_by_area(image_id, label, width * height)
    if ground_truth:
        if width <= 0 or height <= 0:
            raise Problem(f'bbox of {image_id} is {width:g} wide and {height:g} high; correct or remove it')
        data.add_box(image_id, whole_pixels(x, y, width, height), place)


def whole_pixels(x: float, y: float, width: float, height: float) -> Box:
    """Round a box between pixel edges to its first and last pixels; a side below one pixel becomes one pixel."""
    (x0, x1), (y0, y1) = _span(x, x + width), _span(y, y + height)
    return x0, y0, x1, y1


def _span(start: float, end: float) -> tuple[int, int]:
    first, last = math.floor(start + 0.5), math.floor(end + 0.5) - 1
    if last < first:
        first = math.floor(start)
    return first, max(first, last)


def _load(path: Path) -> Content:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Problem(f'larger than {MAX_BYTES} bytes; split it')
        content = json.loads(path.read_text(encoding='utf-8-sig'), parse_constant=_refuse_constant)
    except Problem:
        raise
    except OSError as e:
        raise Problem(f'cannot be read ({e.strerror}); give a COCO instances file') from e
    except RecursionError:
        raise Problem('nested too deep for COCO instances; give another file') from None
    except ValueError as e:  # From JSON, from UTF-8, or a number with thousands of digits.
        raise Problem(f'is not JSON in UTF-8 ({e}); write it again') from e
    keys = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise Problem(f'is not a COCO instances file; it must be an object with the lists {", ".join(keys)}')
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f'{name} is not a number')


def _entries(data: Annotations, content: Content, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the entries of a list of the file with their places; entries that are not objects are noted."""
    for number, entry in enumerate(content[kind]):
        place = f'{kind}[{number}]'
        if isinstance(entry, dict):
            yield place if _key(entry.get('id')) is None else f'{place} (id {shown(entry["id"])})', entry
        else:
            data.note(place, 'is not an object')


def _read_images(data: Annotations, content: Content) -> dict[Key | None, str]:
    found: dict[Key | None, str] = {}
    names: set[str] = set()
    for place, entry in _entries(data, content, 'images'):
        with data.noting(place):
            key = _key(entry.get('id'))
            if key is None:
                raise Problem('has no id; give each image a number of its own')
            name = data.image_id(entry.get('file_name'), 'file_name')
            if key in found or name in names:
                raise Problem(f'{name} is listed twice, or another image has its id; remove one')
            width, height = entry.get('width'), entry.get('height')
            if type(width) is int and type(height) is int and 0 < min(width, height) <= max(width, height) < 10**9:
                data.sizes[name] = width, height
            elif (width, height) != (None, None):
                raise Problem(f'{shown((width, height))} is not a width and height; write both in pixels, or neither')
            found[key] = name
            names.add(name)
            data.listed.append(name)
    return found


def _read_categories(data: Annotations, content: Content) -> dict[Key | None, int]:
    names: dict[Key, str] = {}
    for place, entry in _entries(data, content, 'categories'):
        with data.noting(place):
            key, name = _key(entry.get('id')), entry.get('name')
            if key is None or not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise Problem('needs an id and a name; write both')
            if key in names:
                raise Problem(f'another category has the id {shown(entry["id"])}; remove one')
            names[key] = name.strip()
    order = sorted(names)
    data.classes = {label: names[key] for label, key in enumerate(order)}
    return {key: label for label, key in enumerate(order)}


def _key(value: object) -> Key | None:
    """Return an id in a form that can be sorted; None for a value that is neither a whole number nor text."""
    return (type(value) is str, value) if type(value) in (int, str) else None
