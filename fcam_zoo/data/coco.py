"""COCO instances: one JSON file with images, annotations and categories."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._schema import DamagedText, parse_json, show
from .annotations import Annotations
from .base import AnnotatedDataset
from .values import Box, Problem, check_image_size, class_name, collect_problem, plain, read_text

Entry = dict[str, Any]
Key = tuple[bool, Any]


class CocoDataset(AnnotatedDataset):
    """Boxes of a COCO instances file; arguments, attributes and errors are those of `AnnotatedDataset`.

    A `bbox` x, y, width, height is rounded to whole pixels. Crowd regions (`iscrowd`) and segmentations are not read.
    Labels number the categories by their ids, from 0.
    """

    @staticmethod
    def _read(data: Annotations) -> None:
        content = _load(data.path)
        images = _read_images(data, content['images'])
        labels = _read_categories(data, content['categories'])
        for where, entry in _entries(data, 'annotations', content['annotations']):
            if entry.get('iscrowd'):
                continue
            image, category = entry.get('image_id'), entry.get('category_id')
            image_id, label = images.get(_key(image)), labels.get(_key(category))
            if image_id is None:
                # A file that was reduced to some of its images often keeps the annotations of the others.
                data.warnings.append(f'{where}: image_id {show(image)} is not among its images; remove the annotation')
                continue
            with collect_problem(data.problems, where):
                if label is None:
                    raise Problem(f'category_id {show(category)} is not among the categories; add it there')
                x, y, width, height = parse_bbox(entry.get('bbox'), image_id, data.ground_truth)
                data.add_object(image_id, label, width * height, whole_pixels(x, y, width, height), where)


def parse_bbox(bbox: object, image_id: str, positive: bool) -> tuple[float, float, float, float]:
    """Check that a value is x, y, width, height, with positive sides if wanted, and return them."""
    numbers = bbox if isinstance(bbox, list) else []
    if len(numbers) != 4 or not all(type(v) in (int, float) and abs(v) <= 1e9 for v in numbers):
        raise Problem(f'bbox of {plain(image_id)} is not four numbers; write x, y, width, height in pixels')
    x, y, width, height = map(float, numbers)
    if positive and (width <= 0 or height <= 0):
        raise Problem(f'bbox of {plain(image_id)} is {width:g} wide and {height:g} high; correct or remove it')
    return x, y, width, height


def whole_pixels(x: float, y: float, width: float, height: float) -> Box:
    """Round a box between pixel edges to its first and last pixels; a side below one pixel becomes one pixel."""
    (x0, x1), (y0, y1) = _span(x, x + width), _span(y, y + height)
    return x0, y0, x1, y1


def _span(start: float, end: float) -> tuple[int, int]:
    first, last = math.floor(start + 0.5), math.floor(end + 0.5) - 1
    if last < first:
        first = math.floor(start)
    return first, max(first, last)


def _load(path: Path) -> dict[str, list]:
    text = read_text(path, 'give a COCO instances file')
    try:
        content = parse_json(text)
    except DamagedText as e:
        raise Problem(f'is {e}; write the file again') from e
    keys = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise Problem(f'is not a COCO instances file; it must be an object with the lists {", ".join(keys)}')
    return content


def _entries(data: Annotations, kind: str, entries: list) -> Iterator[tuple[str, Entry]]:
    """Yield the place and the content of each entry of a list; add a problem for those that are not objects."""
    for number, entry in enumerate(entries):
        where = f'{data.path}, {kind}[{number}]'
        if isinstance(entry, dict):
            yield where if _key(entry.get('id')) is None else f'{where} (id {show(entry["id"])})', entry
        else:
            data.problems.append(f'{where}: is not an object')


def _read_images(data: Annotations, entries: list) -> dict[Key | None, str]:
    found: dict[Key | None, str] = {}
    names: set[str] = set()
    for where, entry in _entries(data, 'images', entries):
        with collect_problem(data.problems, where):
            key = _key(entry.get('id'))
            if key is None:
                raise Problem('has no id; give each image its own id')
            name = data.image_id(entry.get('file_name'), 'file_name')
            if key in found or name in names:
                raise Problem(f'{plain(name)} is listed twice, or another image has its id; remove one')
            width, height = entry.get('width'), entry.get('height')
            if type(width) is int and type(height) is int and max(width, height) < 10**9:
                data.sizes[name] = check_image_size(width, height)
            elif (width, height) != (None, None):
                raise Problem(f'{show((width, height))} is not a width and height; write both in pixels, or neither')
            found[key] = name
            names.add(name)
            data.listed.append(name)
    return found


def _read_categories(data: Annotations, entries: list) -> dict[Key | None, int]:
    names: dict[Key, str] = {}
    for where, entry in _entries(data, 'categories', entries):
        with collect_problem(data.problems, where):
            key = _key(entry.get('id'))
            if key is None:
                raise Problem('has no id; give each category its own id')
            if key in names:
                raise Problem(f'another category has the id {show(entry["id"])}; remove one')
            names[key] = class_name(entry.get('name'), 'write the name of the category')
    order = sorted(names)
    data.classes = {label: names[key] for label, key in enumerate(order)}
    return {key: label for label, key in enumerate(order)}


def _key(value: object) -> Key | None:
    """Return an id in a form that can be sorted; None for a value that is neither a whole number nor text."""
    return (type(value) is str, value) if type(value) in (int, str) else None
