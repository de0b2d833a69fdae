"""Pascal VOC: a folder of XML files, one per image."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NoReturn
from xml.etree import ElementTree

from .._io import is_file
from .._schema import read_bytes, show
from .annotations import Annotations, number_classes
from .base import AnnotatedDataset
from .images import SUFFIXES, images_within
from .paths import files_within, stem_within
from .values import NUMBER, Box, Problem, check_image_size, class_name, collect_problem, parse_box, plain, read_text

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
"""Largest XML file that is parsed; those of VOC have a few kilobytes."""

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


class VocDataset(AnnotatedDataset):
    """Boxes of a folder of VOC XML files; arguments, attributes and errors are those of `AnnotatedDataset`.

    Corners count pixels from 1, the last pixel inside, and are converted to pixels from 0. If a corner in the folder is
    0, all its files are assumed to count from 0, and a warning is logged. Objects marked `difficult` are kept; parts of
    objects are not read. A `filename` without folder is in the subfolder of its XML file, in `<folder>`, or anywhere
    if its name is unique. If `ImageSets/Main/<split>.txt` exists beside the folder, it lists the files of the split.
    """

    @staticmethod
    def _read(data: Annotations) -> None:
        files = [_parse(data, path) for path in files_within(data.path, '.xml')]
        # Over all files, so that every split numbers its classes and counts its pixels in the same way.
        labels = number_classes(data, {name for file in files for name, _, _ in file.objects})
        first = 0 if any(0 in corners[:2] for file in files for _, corners, _ in file.objects) else 1
        if first == 0:
            logger.warning('%s: some corners are 0, so pixels are assumed to count from 0, not from 1', data.path)
        images = _Images(data.images)
        for file in _selected(data, files):
            data.problems += file.problems
            if not file.image:
                continue
            image_id = images.find(file)
            if image_id in data.sources:
                data.problems.append(
                    f'{file.path}: {data.sources[image_id]} also describes {plain(image_id)}; remove one, or '
                    'write {split} in the path if they are of different splits'
                )
                continue
            data.listed.append(image_id)
            data.sources[image_id] = file.path
            if file.size:
                data.sizes[image_id] = file.size
            for name, corners, where in file.objects:
                x0, y0, x1, y1 = (corner - first for corner in corners)
                area = (x1 - x0) * (y1 - y0)
                data.add_object(image_id, labels.get(name, 0), area, (x0, y0, x1, y1), where)


class _Images:
    """The images of the folder by id, path without suffix, and name; the folder is listed only if it is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _ids(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in images_within(self.folder):
            image_id, stem = path.relative_to(self.folder).as_posix(), stem_within(self.folder, path)
            for name in {image_id, stem, path.name, path.stem}:
                found.setdefault(name, []).append(image_id)
        return found

    def find(self, file: _File) -> str:
        """Return the id of the image of an XML file; that in the file if there is no such image."""
        if PurePosixPath(file.image).suffix.lower() in SUFFIXES and is_file(self.folder / file.image):
            return file.image
        for name in file.names:
            if len(ids := self._ids.get(name, [])) == 1:
                return ids[0]
        return file.image


@dataclass
class _File:
    path: Path
    name: str  # Relative to the folder, without suffix.
    image: str = ''  # Id of the image; '' if it has none.
    names: tuple[str, ...] = ()  # Its path or name as in `_Images`, the most precise first.
    size: tuple[int, int] | None = None
    objects: list[tuple[str, Box, str]] = field(default_factory=list)  # Name, corners as in the file, file and place.
    problems: list[str] = field(default_factory=list)


class _DoctypeRefusingBuilder(ElementTree.TreeBuilder):
    """Refuses a document type: it can define entities that grow without bound or name other files."""

    def doctype(self, *_: object) -> NoReturn:
        raise ValueError('it declares a DOCTYPE, which VOC does not need; remove it')


def _selected(data: Annotations, files: list[_File]) -> list[_File]:
    """Return the files of the split: those that ImageSets/Main lists, or all if there is no list."""
    listing = data.path.parent / 'ImageSets' / 'Main' / f'{data.split}.txt'
    if not data.split or not is_file(listing):
        return files
    by_name = {file.name: file for file in files}
    names: list[str] = []
    with collect_problem(data.problems, listing):
        entries = [line.strip() for line in read_text(listing, 'check its permissions').splitlines()]
        # A name may contain spaces; the lists of a single class have a number after each name.
        names = [entry if entry in by_name else entry.split()[0] for entry in entries if entry]
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in by_name:
            data.problems.append(f'{listing}: {data.path} has no XML file {show(name)}; add it or remove the line')
    return [by_name[name] for name in names if name in by_name]


def _parse(data: Annotations, path: Path) -> _File:
    file = _File(path, stem_within(data.path, path))
    with collect_problem(file.problems, path):
        root = _read_xml(path)
        folder, stem = PurePosixPath(file.name).parent, PurePosixPath(file.name).name
        image_id = data.image_id(_text(root, 'filename') or stem, 'filename')
        file.image = image_id
        if '/' not in image_id:
            # A bare name is relative to the subfolder that the XML file is in, to <folder>, or unique.
            file.image = (folder / image_id).as_posix()
            file.names = (f'{_text(root, "folder")}/{image_id}', image_id)
        file.names = (file.image, *file.names)
        for number, element in enumerate(root.findall('object'), 1):
            where = f'{path}, object {number}'
            with collect_problem(file.problems, where):
                name = class_name(_text(element, 'name'), 'write its class')
                corners = parse_box([_text(element, f'bndbox/{corner}') for corner in _CORNERS], _CORNERS)
                file.objects.append((name, corners, where))
        size = [_text(root, f'size/{side}') or '0' for side in ('width', 'height')]
        if not all(NUMBER.fullmatch(v) and float(v) >= 0 and float(v).is_integer() for v in size):
            sides = ' x '.join(map(show, size))
            raise Problem(f'{sides} is not a size; write width and height in pixels, or no size')
        if all(map(float, size)):  # Some tools write 0 for an unknown size.
            file.size = check_image_size(int(float(size[0])), int(float(size[1])))
    return file


def _read_xml(path: Path) -> ElementTree.Element:
    try:
        content = read_bytes(path, MAX_BYTES)
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_DoctypeRefusingBuilder()))
    except (OSError, ElementTree.ParseError, ValueError, LookupError, RecursionError) as e:
        raise Problem(f'cannot be read as XML ({str(e)[:200]}); write the file again') from e
    if root.tag != 'annotation':
        raise Problem(f'has the root {show(root.tag)}, but in Pascal VOC it is <annotation>; move the file elsewhere')
    return root


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or '').strip()
