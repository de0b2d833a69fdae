"""COCO instances: one JSON file with images, annotations and categories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .annotated import AnnotatedDataset
from .annotations import Annotations, shown, spans

MAX_BYTES = 2 * 1024**3
"""Largest file that is parsed; the instances of COCO train2017 are a quarter of it."""


class CocoDataset(AnnotatedDataset):
    """Boxes of a COCO instances file; arguments, attributes and errors are those of `AnnotatedDataset`.

    A `bbox` x, y, width, height is rounded to whole pixels. Crowd regions (`iscrowd`) are no objects, segmentations are
    not read. Labels number the categories by their ids, from 0.
    """

    @staticmethod
    def _read(data: Annotations, ground_truth: bool) -> None:
        content = _load(data)
        if content is None:
            return
        images = _images(data, content)
        labels = _categories(data, content)
        largest: dict[str, float] = {}
        for place, entry in _entries(data, content, 'annotations'):
            if entry.get('iscrowd'):
                continue
            image, category = entry.get('image_id'), entry.get('category_id')
            image_id, label = images.get(_key(image)), labels.get(_key(category))
            box = _numbers(entry.get('bbox'))
            if image_id is None:
                # A file that was cut to some of its images often keeps their annotations: listed, but no obstacle.
                data.strays.append(f'{data.path}, {place}: image_id {shown(image)} is not among its images; remove it')
            elif label is None:
                data.note(place, f'category_id {shown(category)} is not among the categories; add it there')
            elif box is None:
                data.note(place, f'bbox of {image_id} is not four numbers; write x, y, width, height in pixels')
            else:
                x, y, width, height = box
                if width * height > largest.get(image_id, -1):
                    largest[image_id], data.labels[image_id] = width * height, label
                if ground_truth and (width <= 0 or height <= 0):
                    data.note(place, f'bbox of {image_id} is {width:g} wide and {height:g} high; correct or remove it')
                elif ground_truth:
                    (x0, x1), (y0, y1) = spans(x, x + width), spans(y, y + height)
                    data.boxes.setdefault(image_id, []).append(((x0, y0, x1, y1), place))


def _load(data: Annotations) -> dict[str, Any] | None:
    try:
        if data.path.stat().st_size > MAX_BYTES:
            return data.note('', f'larger than {MAX_BYTES} bytes; split it')
        content = json.loads(data.path.read_text(encoding='utf-8-sig'), parse_constant=_no_constant)
    except OSError as e:
        return data.note('', f'cannot be read ({e.strerror}); name a COCO instances file')
    except RecursionError:
        return data.note('', 'nested too deep for COCO instances; name another file')
    except ValueError as e:  # Of JSON, of UTF-8, or a number of thousands of digits.
        return data.note('', f'is not JSON in UTF-8 ({e}); write it again')
    keys = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        return data.note('', 'is not of COCO instances; it must be an object with the lists ' + ', '.join(keys))
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f'{name} is no number')


def _entries(data: Annotations, content: dict[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of a list of the file and the name of each in messages; such as are no objects are noted."""
    for number, entry in enumerate(content[kind]):
        place = f'{kind}[{number}]'
        if isinstance(entry, dict):
            yield place if _key(entry.get('id')) is None else f'{place} (id {shown(entry["id"])})', entry
        else:
            data.note(place, 'is not an object')


def _images(data: Annotations, content: dict[str, Any]) -> dict[Any, str]:
    found: dict[Any, str] = {}
    names: set[str] = set()
    for place, entry in _entries(data, content, 'images'):
        key, given = _key(entry.get('id')), entry.get('file_name')
        name, size = data.safe_id(given), (entry.get('width'), entry.get('height'))
        if key is None:
            data.note(place, 'has no id; give each image a number of its own')
        elif name is None:
            data.note(place, f'file_name {shown(given)} is no path below {data.images}; write such a path')
        elif key in found or name in names:
            data.note(place, f'{name} is listed twice, or another image has its id; remove one')
        elif size != (None, None) and not all(type(v) is int and 0 < v < 10**9 for v in size):
            data.note(place, f'{shown(size)} is no width and height; write both in pixels, or neither')
        else:
            found[key] = name
            names.add(name)
            data.listed.append(name)
            if size != (None, None):
                data.sizes[name] = size
    return found


def _categories(data: Annotations, content: dict[str, Any]) -> dict[Any, int]:
    names: dict[Any, str] = {}
    for place, entry in _entries(data, content, 'categories'):
        key, name = _key(entry.get('id')), entry.get('name')
        if key is None or not isinstance(name, str) or not name.strip() or not name.isprintable():
            data.note(place, 'needs an id and a name; write both')
        elif key in names:
            data.note(place, f'another category has the id {shown(entry["id"])}; remove one')
        else:
            names[key] = name.strip()
    order = sorted(names)
    data.classes = {label: names[key] for label, key in enumerate(order)}
    return {key: label for label, key in enumerate(order)}


def _key(value: object) -> tuple[bool, Any] | None:
    """An id in a form that sorts beside others; None for what is neither a whole number nor text."""
    return (type(value) is str, value) if type(value) in (int, str) else None


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(type(v) in (int, float) and abs(v) <= 1e9 for v in value):
        return None
    return tuple(map(float, value))
