"""Pascal VOC: a folder of XML files, one an image."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NoReturn
from xml.etree import ElementTree

from .annotated import AnnotatedDataset
from .annotations import NUMBER, Annotations, files_within, number_classes, shown
from .images import SUFFIXES, images_within

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
"""Largest XML file that is parsed; those of VOC are a few kilobytes."""

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


class VocDataset(AnnotatedDataset):
    """Boxes of a folder of VOC XML files; arguments, attributes and errors are those of `AnnotatedDataset`.

    Corners count from 1, the last pixel inside, and become pixels from 0; a folder with a corner at 0 is read as
    counting from 0, which is logged. Objects marked `difficult` are kept, parts of objects are not read. Where
    `ImageSets/Main/<split>.txt` lies beside the folder it chooses the files.
    """

    @staticmethod
    def _read(data: Annotations, ground_truth: bool) -> None:
        files = [_parse(data, path) for path in files_within(data.path, '.xml')]
        # Over all files, so that every split numbers its classes and counts its pixels alike.
        labels = number_classes(data, {name for file in files for name, _, _ in file.objects})
        first = 1
        if any(0 <= min(corners[:2]) < 0.5 for file in files for _, corners, _ in file.objects):
            first = 0
            logger.warning('%s: some corners are 0, so pixels are taken to count from 0, not from 1', data.path)
        by_stem: dict[str, str] = {}
        if any(PurePosixPath(file.image).suffix.lower() not in SUFFIXES for file in files):
            paths = (path.relative_to(data.images) for path in images_within(data.images))
            by_stem = {path.with_suffix('').as_posix(): path.as_posix() for path in paths}
        for file in _chosen(data, files):
            data.problems += file.problems
            image_id = by_stem.get(file.image, file.image)
            if not image_id:
                continue
            if image_id in data.sources:
                data.problems.append(f'{file.path}: {data.sources[image_id]} describes {image_id} too; remove one')
                continue
            data.listed.append(image_id)
            data.sources[image_id] = file.path
            if file.size:
                data.sizes[image_id] = file.size
            largest = -1.0
            for name, corners, place in file.objects:
                x0, y0, x1, y1 = (math.floor(v + 0.5) - first for v in corners)
                if (x1 - x0) * (y1 - y0) > largest:
                    largest, data.labels[image_id] = (x1 - x0) * (y1 - y0), labels.get(name, 0)
                if ground_truth:
                    data.boxes.setdefault(image_id, []).append(((x0, y0, x1, y1), place))


@dataclass
class _File:
    path: Path
    name: str  # Relative to the folder, without suffix.
    image: str = ''
    size: tuple[int, int] | None = None
    objects: list[tuple[str, tuple[float, ...], str]] = field(default_factory=list)  # Class, corners, place.
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        self.problems.append(f'{self.path}: {problem}')


class _Refusing(ElementTree.TreeBuilder):
    """A document type brings entities, which may grow without bound or name other files; VOC needs none."""

    def doctype(self, *_: object) -> NoReturn:
        raise ValueError('it declares a DOCTYPE, which VOC does not need; remove it')


def _chosen(data: Annotations, files: list[_File]) -> list[_File]:
    """The files of the split, where ImageSets/Main lists them."""
    listing = data.path.parent / 'ImageSets' / 'Main' / f'{data.split}.txt'
    if not data.split or not listing.is_file():
        return files
    try:
        lines = listing.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as e:
        data.problems.append(f'{listing}: cannot be read ({e}); write one name a line, as UTF-8')
        return []
    by_name = {file.name: file for file in files}
    # A name may hold spaces; lists of one class have a number behind each name.
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
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f'it has more than {MAX_BYTES} bytes')
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Refusing()))
    except (OSError, ElementTree.ParseError, ValueError, LookupError, RecursionError) as e:
        file.note(f'cannot be read as XML ({e}); write it again')
        return file
    if root.tag != 'annotation':
        file.note(f'has the root {shown(root.tag)}, but in Pascal VOC it is <annotation>; move the file elsewhere')
        return file
    name = (root.findtext('filename') or '').strip() or relative.stem
    image_id = data.safe_id(name)
    if image_id is None:
        file.note(f'filename {shown(name)} is no path below {data.images}; write the name of the image')
        return file
    # A bare name belongs to the folder that the XML file has among its own.
    file.image = image_id if '/' in image_id else (relative.parent / image_id).as_posix()
    size = [(root.findtext(f'size/{side}') or '').strip() or '0' for side in ('width', 'height')]
    if not all(NUMBER.fullmatch(v) and float(v) >= 0 and float(v).is_integer() for v in size):
        file.note(f'{" x ".join(map(shown, size))} is no size; write width and height in pixels, or no size')
    elif all(map(float, size)):  # Some tools write 0 for what they do not know.
        file.size = int(float(size[0])), int(float(size[1]))
    for number, found in enumerate(root.findall('object'), 1):
        label = (found.findtext('name') or '').strip()
        corners = [(found.findtext(f'bndbox/{corner}') or '').strip() for corner in _CORNERS]
        if not label or not label.isprintable():
            file.note(f'object {number}: has no name; write its class')
        elif not all(map(NUMBER.fullmatch, corners)):
            file.note(f'object {number}: bndbox needs {", ".join(_CORNERS)} as numbers; write them in pixels')
        elif float(corners[2]) < float(corners[0]) or float(corners[3]) < float(corners[1]):
            file.note(f'object {number}: bndbox is inverted; write xmin <= xmax and ymin <= ymax')
        else:
            file.objects.append((label, tuple(map(float, corners)), f'object {number}'))
    return file
