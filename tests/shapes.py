"""The shapes of `synthetic` with annotations in every format."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import shape_image

from fcam_zoo.data import check_dataset, open_dataset
from fcam_zoo.errors import DatasetError

CLASSES = ('disc', 'square')


@dataclass
class Shape:
    id: str
    label: int
    mask: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.mask.shape[::-1]

    @property
    def box(self) -> list[int]:
        y, x = np.nonzero(self.mask)
        return [int(v) for v in (x.min(), y.min(), x.max(), y.max())]


@dataclass
class Shapes:
    root: Path
    shapes: list[Shape]

    def coco(self) -> dict:
        boxes = [(s.box[0], s.box[1], s.box[2] + 1 - s.box[0], s.box[3] + 1 - s.box[1]) for s in self.shapes]
        return {
            'images': [
                {'id': 7 * k, 'file_name': s.id, 'width': s.size[0], 'height': s.size[1]}
                for k, s in enumerate(self.shapes)
            ],
            'annotations': [
                {'id': k, 'image_id': 7 * k, 'category_id': (18, 44)[s.label], 'iscrowd': 0, 'bbox': [*map(float, box)]}
                for k, (s, box) in enumerate(zip(self.shapes, boxes))
            ],
            'categories': [{'id': 44, 'name': 'square'}, {'id': 18, 'name': 'disc'}],
        }

    def write_coco(self, content: object = None) -> Path:
        return self.write('instances.json', json.dumps(self.coco() if content is None else content))

    def xml(self, shape: Shape, first: int = 1, **replaced: str) -> str:
        corners = [str(v + first) for v in shape.box]
        parts = {
            'filename': f'<filename>{Path(shape.id).name}</filename>',
            'size': f'<size><width>{shape.size[0]}</width><height>{shape.size[1]}</height><depth>3</depth></size>',
            'object': f'<object><name>{CLASSES[shape.label]}</name><difficult>1</difficult>'
            + '<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'.format(*corners),
        }
        return f'<annotation><folder>../x</folder>{"".join((parts | replaced).values())}</annotation>'

    def write_voc(self, first: int = 1, **replaced: str) -> Path:
        """Write the XML files of all shapes; `replaced` parts go into the first."""
        for k, shape in enumerate(self.shapes):
            name = Path('Annotations', shape.id).with_suffix('.xml')
            self.write(str(name), self.xml(shape, first, **({} if k else replaced)))
        return self.root / 'Annotations'

    def csv(self, label: bool = True) -> list[str]:
        lines = [','.join(map(str, [s.id, *s.box, CLASSES[s.label]][: 5 + label])) for s in self.shapes]
        return ['image,x0,y0,x1,y1' + ',label' * label, *lines]

    def write_csv(self, lines: list[str] | None = None) -> Path:
        return self.write('boxes.csv', '\n'.join(self.csv() if lines is None else lines))

    def write_masks(self) -> Path:
        for shape in self.shapes:
            path = (self.root / 'masks' / shape.id).with_suffix('.png')
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shape.mask.astype(np.uint8) * 255).save(path)
        return self.root / 'masks'

    def write_wsol(self, kind: str) -> None:
        rows = {
            'image_ids': [s.id for s in self.shapes],
            'class_labels': [f'{s.id},{s.label}' for s in self.shapes],
            'image_sizes': [f'{s.id},{s.size[0]},{s.size[1]}' for s in self.shapes],
            'localization': [
                f'{s.id},{",".join(map(str, s.box))}'
                if kind == 'boxes'
                else f'{s.id},{Path(s.id).with_suffix(".png")},'
                for s in self.shapes
            ],
        }
        for name, lines in rows.items():
            self.write(f'metadata/test/{name}.txt', '\n'.join(lines))

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
        return path


def make(root: Path, folders: bool, images: str = 'images') -> Shapes:
    shapes = []
    for k in range(6):
        label = int(k > 2)
        image, mask = shape_image(1 - label, k)
        mask = mask[: 60 + 2 * k]
        shapes.append(Shape((f'{CLASSES[label]}/' if folders else '') + f'{k}.jpg', label, mask))
        path = root / images / shapes[-1].id
        path.parent.mkdir(parents=True, exist_ok=True)
        image.crop((0, 0, mask.shape[1], mask.shape[0])).save(path)
    return Shapes(root, shapes)


def refused(shapes: Shapes, path: Path, message: str) -> None:
    """Opening raises the problem, the check lists it, each on one line with a path."""
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(shapes.root, 'test', annotations=path)
    problems = check_dataset(shapes.root, ['test'], annotations=path, quiet=True)
    assert any(re.search(message, problem) for problem in problems)
    for text in (str(caught.value), *problems):
        assert text.isprintable()
        assert str(shapes.root) in text
