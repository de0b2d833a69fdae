"""Annotation formats: the files of each image, and those that describe the whole run."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, BinaryIO, cast
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from .. import viz
from .._catalog import ANNOTATION_FORMATS, SHEET, SHEET_IMAGES
from .._io import CsvWriter, one_line
from .._version import __version__
from ..data.box_csv import HEADER
from ..data.images import open_image
from ..data.sources import ImageSource
from ..localization import Localization
from .labeller import ImageRecord, LabelledImage, ObjectRecord, object_mask
from .output import MARKER, sync_file

# Suffixes of images that Ultralytics reads, among those of this package.
_YOLO_SUFFIXES = {'.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff'}

NOTE = f'made by a model (fcam_zoo {__version__}), not by people'


class Format:
    """Base of all formats.

    Args:
        folder: Folder of the format; all files are written below it.
        classes: Class names of the run.
        model_name: Name of the model.
        source: All images.

    Attributes:
        main_file: Path of the main file below `folder`; empty when it is the folder itself.
        image_file: Pattern of the path of an image's file; empty when the format has no file per image.
        needs_image: Whether `write` draws the image.
        needs_file: Whether `write` copies the image, if it is not a file of this machine.
    """

    main_file = ''
    image_file = ''
    needs_image = False
    needs_file = False

    def __init__(self, folder: Path, classes: tuple[str, ...], model_name: str, source: ImageSource) -> None:
        self.folder, self.classes, self.model_name, self.source = folder, classes, model_name, source

    def file_of(self, image_id: str) -> str:
        """Return the path of the file of an image below `folder`; empty when the format has none."""
        return self.image_file.format(PurePosixPath(image_id).with_suffix(''))

    @cached_property
    def indices(self) -> dict[str, int]:
        """Return the position of each image in the source."""
        return {image_id: index for index, image_id in enumerate(self.source.ids)}

    def check_files(self) -> None:
        """Raise ValueError when two images share a file, also on file systems that ignore case."""
        owners: dict[str, str] = {}
        for image_id in self.source.ids if self.image_file else ():
            file = self.file_of(image_id)
            owner = owners.setdefault(file.casefold(), image_id)
            if owner != image_id:
                raise ValueError(f'{owner} and {image_id} would share {file}: rename one of the images')

    def place(self, path: str) -> Path:
        """Return the place of a file below `folder`; raise ValueError for a path that leaves it."""
        folder, file = (os.path.abspath(place) for place in (self.folder, self.folder / path))  # noqa: PTH100
        if not Path(file).is_relative_to(folder) or file == folder:
            raise ValueError(f'{one_line(path)} is not a path below the output folder: rename the image')
        return self.folder / path

    @contextmanager
    def create(self, path: str, mode: str = 'w') -> Iterator[IO]:
        """Open a file below `folder` for writing, UTF-8 unless binary; it is on disk when the block ends.

        Raises:
            ValueError: When the path leaves `folder`.
        """
        file = self.place(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        encoding, newline = (None, None) if 'b' in mode else ('utf-8', '\n')
        with file.open(mode, encoding=encoding, newline=newline) as f, sync_file(f):
            yield f

    def start(self) -> None:
        """Create the folder, marked as written by this package."""
        with self.create(MARKER) as f:
            f.write(f'Annotations {NOTE}. fcam-zoo predict --overwrite replaces this folder.\n')

    def write(self, labelled: LabelledImage) -> None:
        """Write the file of an image, if the format has one."""

    def finish(self, records: Callable[[], Iterator[ImageRecord]]) -> None:
        """Write the files that describe the whole run; each call of `records` reads all records."""


class Coco(Format):
    """`annotations.json`: boxes, masks (run lengths) and scores, in stored pixels."""

    main_file = 'annotations.json'

    def finish(self, records: Callable[[], Iterator[ImageRecord]]) -> None:
        info = {'description': NOTE, 'model': self.model_name}
        categories = [{'id': i, 'name': name} for i, name in enumerate(self.classes, 1)]
        # The records may not fit into memory: the list of annotations waits in a file until that of images is complete.
        with self.create(self.main_file) as f, TemporaryFile('w+', encoding='utf-8', dir=self.folder) as annotations:
            f.write(f'{{"info": {_json(info)},\n"categories": {_json(categories)},\n"images": [')
            objects = 0
            for number, record in enumerate(records(), 1):
                f.write(_item(_coco_image(number, record), number))
                for found in record.objects:
                    objects += 1
                    annotations.write(_item(_coco_annotation(objects, number, record, found), objects))
            f.write('\n],\n"annotations": [')
            annotations.seek(0)
            shutil.copyfileobj(annotations, f)
            f.write('\n]}\n')


def _item(value: dict, number: int) -> str:
    """Return an item of a list on a line of its own; the first has the number 1."""
    return (',\n' if number > 1 else '\n') + _json(value)


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _coco_image(number: int, record: ImageRecord) -> dict:
    width, height = record.size
    return {'id': number, 'file_name': record.image, 'width': width, 'height': height}


def _coco_annotation(number: int, image: int, record: ImageRecord, found: ObjectRecord) -> dict:
    x0, y0, x1, y1 = found.box
    return {
        'id': number,
        'image_id': image,
        'category_id': record.label + 1,
        'bbox': [x0, y0, x1 - x0, y1 - y0],
        'area': found.area,
        'iscrowd': 0,
        'score': found.score,
        'segmentation': {'size': [record.size[1], record.size[0]], 'counts': found.counts},
    }


class Voc(Format):
    """`Annotations/<image>.xml` and `ImageSets/Main/train.txt`, in stored pixels, counted from 1, ends inclusive."""

    image_file = 'Annotations/{}.xml'

    def write(self, labelled: LabelledImage) -> None:
        record = labelled.record
        width, height = record.size
        root = ElementTree.Element('annotation')
        _add(root, filename=PurePosixPath(record.image).name)
        _add(ElementTree.SubElement(root, 'source'), database=NOTE, annotation=self.model_name)
        _add(ElementTree.SubElement(root, 'size'), width=width, height=height, depth=3)
        _add(root, segmented=0)
        for found in record.objects:
            x0, y0, x1, y1 = found.box
            truncated = int(x0 == 0 or y0 == 0 or x1 == width or y1 == height)
            element = ElementTree.SubElement(root, 'object')
            _add(element, name=self.classes[record.label], pose='Unspecified', truncated=truncated, difficult=0)
            _add(element, confidence=found.score)
            _add(ElementTree.SubElement(element, 'bndbox'), xmin=x0 + 1, ymin=y0 + 1, xmax=x1, ymax=y1)
        ElementTree.indent(root)
        with self.create(self.file_of(record.image)) as f:
            f.write(ElementTree.tostring(root, encoding='unicode') + '\n')

    def finish(self, records: Callable[[], Iterator[ImageRecord]]) -> None:
        with self.create('ImageSets/Main/train.txt') as f:
            f.writelines(f'{PurePosixPath(record.image).with_suffix("")}\n' for record in records())


def _add(parent: ElementTree.Element, **children: object) -> None:
    for tag, value in children.items():
        ElementTree.SubElement(parent, tag).text = str(value)


class Yolo(Format):
    """`images/<image>`, `labels/<image>.txt` and `data.yaml`, ready for training with Ultralytics.

    Boxes are in fractions of the upright image, which YOLO's readers use. Images are hard links, or copies if the file
    system cannot link them; those of formats that the readers do not know are saved as PNG.
    """

    image_file = 'labels/{}.txt'
    needs_file = True

    def file_of(self, image_id: str) -> str:
        """Return the path of the label: readers replace the last folder `images` of the image's path by `labels`."""
        head, _, tail = f'/images/{image_id}'.rpartition('/images/')
        return PurePosixPath(f'{head}/labels/{tail}'.lstrip('/')).with_suffix('.txt').as_posix()

    def write(self, labelled: LabelledImage) -> None:
        record = labelled.record
        width, height = record.upright_size
        self._add_image(record.image, labelled.file)
        with self.create(self.file_of(record.image)) as f:
            for found in record.upright_objects:
                x0, y0, x1, y1 = found.box
                values = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
                f.write(' '.join([str(record.label), *(f'{value:.8f}' for value in values)]) + '\n')

    def finish(self, records: Callable[[], Iterator[ImageRecord]]) -> None:
        # Without `path`, the readers look in the folder of this file.
        content = {'train': 'images', 'val': 'images', 'names': dict(enumerate(self.classes))}
        with self.create('data.yaml') as f:
            yaml.safe_dump(content, f, sort_keys=False, allow_unicode=True)

    def _add_image(self, image_id: str, file: BinaryIO | None) -> None:
        index, target = self.indices[image_id], PurePosixPath('images', image_id)
        if target.suffix.lower() not in _YOLO_SUFFIXES:
            with self.create(str(target.with_suffix('.png')), 'wb') as f:
                image = self.source.image(index) if file is None else open_image(file, name=self.source.describe(index))
                image.save(f, 'PNG', compress_level=1)
            return
        copy = self.place(str(target))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        path = self.source.local_path(index)
        if path is None or not _link(path, copy):
            with (
                nullcontext(file) if file else self.source.open(index) as original,
                self.create(str(target), 'wb') as f,
            ):
                original.seek(0)
                shutil.copyfileobj(original, f)


def _link(path: str, target: Path) -> bool:
    """Make a hard link; return False if the file system cannot."""
    try:
        # A link to the file itself, which `os.link` does not follow on every system.
        os.link(os.path.realpath(path), target)
    except OSError:
        return False
    return True


class Csv(Format):
    """`boxes.csv`, as `CsvDataset` reads it, in stored pixels, ends inclusive."""

    main_file = 'boxes.csv'

    def finish(self, records: Callable[[], Iterator[ImageRecord]]) -> None:
        with self.create(self.main_file) as f:
            rows = CsvWriter(f)
            rows.write(HEADER)
            for record in records():
                name = self.classes[record.label]
                for found in record.objects:
                    x0, y0, x1, y1 = found.box
                    rows.write([record.image, x0, y0, x1 - 1, y1 - 1, name, found.score])
                if not record.objects:
                    rows.write([record.image, '', '', '', '', name, ''])


class Masks(Format):
    """`<image>.png`: 255 inside the objects and 0 elsewhere, in stored pixels."""

    image_file = '{}.png'

    def write(self, labelled: LabelledImage) -> None:
        mask = object_mask(labelled.record).astype(np.uint8) * 255
        with self.create(self.file_of(labelled.record.image), 'wb') as f:
            Image.fromarray(mask).save(f, 'PNG', compress_level=1)


class Overlays(Format):
    """`<image>.png`: heat map, boxes and label over the upright image; `predictions.json`; and `contact_sheet.jpg`.

    The contact sheet shows all images, or `SHEET_IMAGES` of them at equal distances.
    """

    main_file = 'predictions.json'
    image_file = '{}.png'
    needs_image = True

    @cached_property
    def _shared(self) -> set[str]:
        """Return the paths that several images would share without their suffix, in lower case."""
        users = Counter(Format.file_of(self, image_id).casefold() for image_id in self.source.ids)
        return {file for file, count in users.items() if count > 1}

    def file_of(self, image_id: str) -> str:
        """Return the path as in other formats, but images that differ only in their suffix keep it: `a.jpg.png`."""
        file = super().file_of(image_id)
        return f'{image_id}.png' if file.casefold() in self._shared else file

    def write(self, labelled: LabelledImage) -> None:
        # Both are kept because of needs_image.
        image, upright = cast(Image.Image, labelled.image), cast(Localization, labelled.upright)
        with self.create(self.file_of(labelled.record.image), 'wb') as f:
            # Run-length encoding (3 in zlib): 3 % larger than the default, in less than a third of the time.
            viz.overlay(image, upright).save(f, 'PNG', compress_level=1, compress_type=3)

    def finish(self, records: Callable[[], Iterator[ImageRecord]]) -> None:
        with self.create(self.main_file) as f:
            f.write(f'{{"model": {_json(self.model_name)},\n"predictions": [')
            for number, record in enumerate(records(), 1):
                f.write(_item(self._prediction(record), number))
            f.write('\n]}\n')
        if total := sum(1 for _ in records()):
            with self.create(SHEET, 'wb') as f:
                viz.contact_sheet(self._examples(records(), total)).save(f, 'JPEG', quality=85)

    def _examples(self, records: Iterator[ImageRecord], total: int) -> Iterator[tuple[Image.Image, str]]:
        """Read the overlays of the contact sheet again, so that a resumed run shows those of all its images."""
        number = min(total, SHEET_IMAGES)
        chosen = {i * total // number for i in range(number)}
        for i, record in enumerate(records):
            if i in chosen:
                with Image.open(self.folder / self.file_of(record.image)) as picture:
                    yield picture, f'{PurePosixPath(record.image).name}\n{record.predicted} {record.probability:.2f}'

    def _prediction(self, record: ImageRecord) -> dict:
        objects = record.upright_objects
        return {
            'image': self.source.describe(self.indices[record.image]),
            'label': record.predicted,
            'class_index': record.predicted_index,
            'score': record.probability,
            'box': objects[0].box if objects else [0, 0, 0, 0],
            'objects': [{'box': found.box, 'score': found.score} for found in objects],
            'size': record.upright_size,
            'overlay': self.file_of(record.image),
        }


FORMATS: dict[str, type[Format]] = dict(zip(ANNOTATION_FORMATS, (Overlays, Coco, Voc, Yolo, Csv, Masks), strict=True))
"""Formats by name, which is also the name of their folder."""
