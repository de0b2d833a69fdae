"""Annotation formats: what each writes for an image, and at the end of a run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from .. import viz
from .._io import atomic_path
from .._version import __version__
from ..data.box_csv import HEADER
from ..localization import Localization
from .inputs import MAX_STEM, Inputs
from .record import Record
from .state import STATE, UNFINISHED

NOTE = f'made by a model (fcam_zoo {__version__}), not by people'


@dataclass(frozen=True)
class Shot:
    """An image as it is labelled.

    Attributes:
        path: Its file.
        record: What is kept of it.
        stored: What was found, in stored pixels.
        upright: The same in the pixels of the picture turned upright by its EXIF orientation.
        picture: That picture, where a format draws it.
    """

    path: Path
    record: Record
    stored: Localization
    upright: Localization
    picture: Image.Image | None = None


class Format:
    """Base of all formats.

    Args:
        output: Folder of the run; nothing is written outside it.
        classes: Names of the run's classes.
        model: Name of the model.
        inputs: All images.

    Attributes:
        summaries: Paths, below `output`, of the files that describe the whole run.
        draws: Whether `write` needs the picture.
    """

    summaries: tuple[str, ...] = ()
    draws = False

    def __init__(self, output: Path, classes: tuple[str, ...], model: str, inputs: Inputs) -> None:
        self.output, self.classes, self.model = output, classes, model

    def file(self, image_id: str) -> str | None:
        """Path, below `output`, of the file of an image; None where the format has none."""
        return None

    def files(self, ids: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Each image that has a file, with its path."""
        return ((image_id, file) for image_id in ids if (file := self.file(image_id)))

    def write(self, shot: Shot) -> None:
        """Write the file of an image, where the format has one."""

    def finish(self, records: Callable[[], Iterator[Record]]) -> Path:
        """Write what describes the whole run, and return the main file or folder; each call of `records` reads anew."""
        raise NotImplementedError

    @contextmanager
    def whole(self, path: str) -> Iterator[Path]:
        """A temporary file that becomes the file `path` below `output` when the block succeeds.

        Raises:
                OSError: When it cannot be written.
            ValueError: When a symbolic link in the output folder leads out of it.
        """
        target = self.output / path
        if not target.parent.resolve().is_relative_to(self.output.resolve()):
            raise ValueError(f'{target.parent} leads out of {self.output} by a symbolic link: remove the link')
        try:
            with atomic_path(target, self.output / STATE / UNFINISHED) as temporary:
                yield temporary
        except OSError as e:
            if e.filename is not None:
                raise
            raise type(e)(e.errno, e.strerror or str(e), str(target)) from e

    def write_text(self, path: str, text: str) -> None:
        """Write a file below `output` in UTF-8."""
        with self.whole(path) as temporary:
            temporary.write_text(text, encoding='utf-8')


class Coco(Format):
    """`coco.json`: instances with boxes, masks (run lengths) and scores, in stored pixels."""

    summaries = ('coco.json',)

    def finish(self, records: Callable[[], Iterator[Record]]) -> Path:
        categories = [{'id': i, 'name': name} for i, name in enumerate(self.classes, 1)]
        with self.whole('coco.json') as temporary, temporary.open('w', encoding='utf-8') as f:
            f.write(f'{{"info": {json.dumps({"description": NOTE, "model": self.model})},\n')
            f.write(f'"categories": {json.dumps(categories)},\n')
            f.write('"images": [\n')
            _write_list(f.write, _coco_images(records()))
            f.write('\n],\n"annotations": [\n')
            _write_list(f.write, _coco_annotations(records()))
            f.write('\n]}\n')
        return self.output / 'coco.json'


def _write_list(write: Callable[[str], object], entries: Iterable[dict]) -> None:
    for number, entry in enumerate(entries):
        write((',\n' if number else '') + json.dumps(entry))


def _coco_images(records: Iterator[Record]) -> Iterator[dict]:
    for number, record in enumerate(records, 1):
        width, height = record.size
        yield {'id': number, 'file_name': record.image, 'width': width, 'height': height}


def _coco_annotations(records: Iterator[Record]) -> Iterator[dict]:
    annotation = 0
    for number, record in enumerate(records, 1):
        for item in record.items:
            annotation += 1
            x0, y0, x1, y1 = item.box
            yield {
                'id': annotation,
                'image_id': number,
                'category_id': record.label + 1,
                'bbox': [x0, y0, x1 - x0, y1 - y0],
                'area': item.area,
                'iscrowd': 0,
                'score': item.score,
                'segmentation': {'size': [record.size[1], record.size[0]], 'counts': item.counts},
            }


class Voc(Format):
    """`voc/Annotations/<image>.xml` and `voc/ImageSets/Main/train.txt`, in stored pixels that count from 1."""

    summaries = ('voc/ImageSets/Main/train.txt',)

    def file(self, image_id: str) -> str:
        return f'voc/Annotations/{PurePosixPath(image_id).with_suffix(".xml")}'

    def write(self, shot: Shot) -> None:
        record = shot.record
        root = ElementTree.Element('annotation')
        _add(root, filename=PurePosixPath(record.image).name)
        _add(ElementTree.SubElement(root, 'source'), database=NOTE, annotation=self.model)
        _add(ElementTree.SubElement(root, 'size'), width=record.size[0], height=record.size[1], depth=3)
        _add(root, segmented=0)
        for item in record.items:
            x0, y0, x1, y1 = item.box
            cut = x0 == 0 or y0 == 0 or x1 == record.size[0] or y1 == record.size[1]
            found = ElementTree.SubElement(root, 'object')
            _add(found, name=self.classes[record.label], pose='Unspecified', truncated=int(cut), difficult=0)
            _add(found, confidence=item.score)
            _add(ElementTree.SubElement(found, 'bndbox'), xmin=x0 + 1, ymin=y0 + 1, xmax=x1, ymax=y1)
        ElementTree.indent(root)
        self.write_text(self.file(record.image), ElementTree.tostring(root, encoding='unicode') + '\n')

    def finish(self, records: Callable[[], Iterator[Record]]) -> Path:
        with self.whole('voc/ImageSets/Main/train.txt') as temporary, temporary.open('w', encoding='utf-8') as f:
            f.writelines(f'{PurePosixPath(record.image).with_suffix("")}\n' for record in records())
        return self.output / 'voc'


def _add(parent: ElementTree.Element, **children: object) -> None:
    for tag, value in children.items():
        ElementTree.SubElement(parent, tag).text = str(value)


class Yolo(Format):
    """`yolo/labels/<image>.txt` and `yolo/data.yaml`, in shares of the upright picture, which its readers see."""

    summaries = ('yolo/data.yaml',)

    def file(self, image_id: str) -> str:
        return f'yolo/labels/{PurePosixPath(image_id).with_suffix(".txt")}'

    def write(self, shot: Shot) -> None:
        width, height = shot.record.upright_size
        lines = []
        for item in shot.record.upright_items:
            x0, y0, x1, y1 = item.box
            shares = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
            lines.append(' '.join([str(shot.record.label), *(f'{share:.8f}' for share in shares)]) + '\n')
        self.write_text(self.file(shot.record.image), ''.join(lines))

    def finish(self, records: Callable[[], Iterator[Record]]) -> Path:
        about = {'train': 'images', 'val': 'images', 'names': dict(enumerate(self.classes))}
        self.write_text('yolo/data.yaml', yaml.safe_dump(about, sort_keys=False, allow_unicode=True))
        return self.output / 'yolo'


class Csv(Format):
    """`boxes.csv`, as `CsvDataset` reads it, in stored pixels, the last pixel inside."""

    summaries = ('boxes.csv',)

    def finish(self, records: Callable[[], Iterator[Record]]) -> Path:
        with self.whole('boxes.csv') as temporary, temporary.open('w', encoding='utf-8', newline='') as f:
            lines = csv.writer(f, lineterminator='\n')
            lines.writerow(HEADER)
            for record in records():
                lines.writerows(self._lines(record))
        return self.output / 'boxes.csv'

    def _lines(self, record: Record) -> Iterator[list]:
        name = self.classes[record.label]
        for item in record.items:
            x0, y0, x1, y1 = item.box
            yield [record.image, x0, y0, x1 - 1, y1 - 1, name, item.score]
        if not record.items:
            yield [record.image, '', '', '', '', name, '']


class Masks(Format):
    """`masks/<image>.png`: 255 in the objects and 0 elsewhere, of the size of the stored picture."""

    def file(self, image_id: str) -> str:
        return f'masks/{PurePosixPath(image_id).with_suffix(".png")}'

    def write(self, shot: Shot) -> None:
        mask = shot.stored.object_mask().astype(np.uint8) * 255
        with self.whole(self.file(shot.record.image)) as temporary:
            Image.fromarray(mask).save(temporary, compress_level=1)

    def finish(self, records: Callable[[], Iterator[Record]]) -> Path:
        return self.output / 'masks'


class Overlays(Format):
    """`<image>.png`: heat map, box and label over the upright picture; and `predictions.json`."""

    summaries = ('predictions.json',)
    draws = True

    def __init__(self, output: Path, classes: tuple[str, ...], model: str, inputs: Inputs) -> None:
        super().__init__(output, classes, model, inputs)
        self.names = flat_names(inputs.ids)
        self.paths = dict(zip(inputs.ids, inputs.paths))

    def file(self, image_id: str) -> str:
        return self.names[image_id]

    def write(self, shot: Shot) -> None:
        picture = viz.overlay(shot.picture, shot.upright)
        with self.whole(self.file(shot.record.image)) as temporary:
            picture.save(temporary)

    def finish(self, records: Callable[[], Iterator[Record]]) -> Path:
        with self.whole('predictions.json') as temporary, temporary.open('w', encoding='utf-8') as f:
            f.write(f'{{"model": {json.dumps(self.model)},\n"predictions": [\n')
            _write_list(f.write, map(self._prediction, records()))
            f.write('\n]}\n')
        return self.output / 'predictions.json'

    def _prediction(self, record: Record) -> dict:
        items = record.upright_items
        return {
            'image': self.paths[record.image],
            'label': record.predicted,
            'class_index': record.predicted_index,
            'score': record.probability,
            'box': items[0].box if items else [0, 0, 0, 0],
            'objects': [{'box': item.box, 'score': item.score} for item in items],
            'size': record.upright_size,
            'overlay': self.names[record.image],
        }


def flat_names(ids: Iterable[str]) -> dict[str, str]:
    """A PNG name for each image, unique even where images of different folders share a name."""
    names: dict[str, str] = {}
    used: set[str] = set()
    last: dict[str, int] = {}
    for image_id in ids:
        stem = PurePosixPath(image_id).stem
        name, n = f'{stem}.png', last.get(stem, 1)
        while name.casefold() in used:
            n += 1
            name = f'{_shortened(stem, MAX_STEM - len(str(n)) - 1)}_{n}.png'
        last[stem] = n
        used.add(name.casefold())
        names[image_id] = name
    return names


def _shortened(stem: str, size: int) -> str:
    return stem.encode()[:size].decode(errors='ignore')


FORMATS: dict[str, type[Format]] = {
    'overlays': Overlays,
    'coco': Coco,
    'voc': Voc,
    'yolo': Yolo,
    'csv': Csv,
    'masks': Masks,
}
