"""Pascal VOC: a folder of XML files, one per image."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn
from xml.etree import ElementTree

from .annotated import AnnotatedDataset
from .annotations import NUMBER, Annotations, Problem, number_classes, shown
from .images import SUFFIXES, images_within
from .paths import files_within

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
"""Largest XML file that is parsed; those of VOC have a few kilobytes."""

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


class VocDataset(AnnotatedDataset):
    """Boxes of a folder of VOC XML files; arguments, attributes and errors are those of `AnnotatedDataset`.

    Corners count from 1, the last pixel inside, and are converted to pixels from 0. If a corner in the folder is 0, all
    its files are read as counting from 0, which is logged. Objects marked `difficult` are kept, parts of objects are
    not read. If `ImageSets/Main/<split>.txt` exists beside the folder it selects the files.
    """

    @staticmethod
    def _read(data: Annotations, ground_truth: bool) -> None:
        files = [_parse(data, path) for path in files_within(data.path, '.xml')]
        # Over all files, so that every split numbers its classes and counts its pixels in the same way.
        labels = number_classes(data, {found.name for file in files for found in file.objects})
        first = 1
        if any(0 <= min(found.corners[:2]) < 0.5 for file in files for found in file.objects):
            first = 0
            logger.warning('%s: some corners are 0, so pixels are assumed to count from 0, not from 1', data.path)
        by_stem: dict[str, str] = {}
        if any(PurePosixPath(file.image).suffix.lower() not in SUFFIXES for file in files):
            paths = (path.relative_to(data.images) for path in images_within(data.images))
            by_stem = {path.with_suffix('').as_posix(): path.as_posix() for path in paths}
        for file in _selected(data, files):
            data.problems += file.problems
            image_id = by_stem.get(file.image, file.image)
            if not image_id:
                continue
            if image_id in data.sources:
                data.problems.append(f'{file.path}: {data.sources[image_id]} also describes {image_id}; remove one')
                continue
            data.listed.append(image_id)
            data.sources[image_id] = file.path
            if file.size:
                data.sizes[image_id] = file.size
            for found in file.objects:
                x0, y0, x1, y1 = (math.floor(v + 0.5) - first for v in found.corners)
                data.label_by_area(image_id, labels.get(found.name, 0), (x1 - x0) * (y1 - y0))
                if ground_truth:
                    data.add_box(image_id, (x0, y0, x1, y1), found.place)


class _Object(NamedTuple):
    name: str
    corners: tuple[float, ...]
    place: str


@dataclass
class _File:
    path: Path
    name: str  # Relative to the folder, without suffix.
    image: str = ''
    size: tuple[int, int] | None = None
    objects: list[_Object] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _DoctypeRefusingBuilder(ElementTree.TreeBuilder):
    """A document type can define entities, which may grow without bound or name other files; VOC needs none."""

    def doctype(self, *_: object) -> NoReturn:
        raise ValueError('it declares a DOCTYPE, which VOC does not need; remove it')


def _selected(data: Annotations, files: list[_File]) -> list[_File]:
    """Return the files of the split: those that ImageSets/Main lists, or all if there is no list."""
    listing = data.path.parent / 'ImageSets' / 'Main' / f'{data.split}.txt'
    if not data.split or not listing.is_file():
        return files
    try:
        lines = listing.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as e:
        data.problems.append(f'{listing}: cannot be read ({e}); write one name per line, as UTF-8')
        return []
    by_name = {file.name: file for file in files}
    # A name may contain spaces; the lists of a single class have a number after each name.
    entries = (line.strip() for line in lines if line.strip())
    names = list(dict.fromkeys(entry if entry in by_name else entry.split()[0] for entry in entries))
    for name in names:
        if name not in by_name:
            data.problems.append(f'{listing}: {data.path} has no XML file {shown(name)}; add it or remove the line')
    return [by_name[name] for name in names if name in by_name]


def _parse(data: Annotations, path: Path) -> _File:
    relative = path.relative_to(data.path)
    file = _File(path, relative.with_suffix('').as_posix())
    try:
        root = _read_xml(path)
        name = (root.findtext('filename') or '').strip() or relative.stem
        image_id = data.image_id(name, 'filename')
    except Problem as problem:
        file.problems.append(f'{path}: {problem}')
        return file
    # A bare name is relative to the subfolder that the XML file is in.
    file.image = image_id if '/' in image_id else (relative.parent / image_id).as_posix()
    size = [(root.findtext(f'size/{side}') or '').strip() or '0' for side in ('width', 'height')]
    if not all(NUMBER.fullmatch(v) and float(v) >= 0 and float(v).is_integer() for v in size):
        sides = ' x '.join(map(shown, size))
        file.problems.append(f'{path}: {sides} is not a size; write width and height in pixels, or no size')
    elif all(map(float, size)):  # Some tools write 0 for an unknown size.
        file.size = int(float(size[0])), int(float(size[1]))
    for number, element in enumerate(root.findall('object'), 1):
        place = f'object {number}'
        try:
            file.objects.append(_parse_object(element, place))
        except Problem as problem:
            file.problems.append(f'{path}: {place}: {problem}')
    return file


def _read_xml(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f'it has more than {MAX_BYTES} bytes')
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_DoctypeRefusingBuilder()))
    except (OSError, ElementTree.ParseError, ValueError, LookupError, RecursionError) as e:
        raise Problem(f'cannot be read as XML ({e}); write it again') from e
    if root.tag != 'annotation':
        raise Problem(f'has the root {shown(root.tag)}, but in Pascal VOC it is <annotation>; move the file elsewhere')
    return root


def _parse_object(element: ElementTree.Element, place: str) -> _Object:
    name = (element.findtext('name') or '').strip()
    if not name or not name.isprintable():
        raise Problem('has no name; write its class')
    texts = [(element.findtext(f'bndbox/{corner}') or '').strip() for corner in _CORNERS]
    if not all(map(NUMBER.fullmatch, texts)):
        raise Problem(f'bndbox needs {", ".join(_CORNERS)} as numbers; write them in pixels')
    x0, y0, x1, y1 = corners = tuple(map(float, texts))
    if x1 < x0 or y1 < y0:
        raise Problem('bndbox is inverted; write xmin <= xmax and ymin <= ymax')
    return _Object(name, corners, place)
