"""Images with objects at known places, and helpers that label them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from glow import Glow
from PIL import Image

from fcam_zoo.labelling import FORMATS, LabelOptions, Summary, label_images

# Name: size and boxes of an image. The input size is 224 pixels, so sizes that divide it keep boxes exact.
SCENES = {
    'dim/a.png': ((112, 224), [(0, 0, 56, 64)]),
    'dim/b c.jpg': ((224, 112), [(168, 32, 224, 112)]),
    'bright/d&<é>.png': ((224, 224), [(8, 8, 200, 224)]),
    'bright/two.png': ((224, 224), [(16, 16, 120, 112), (160, 152, 224, 224)]),
    'bright/none.png': ((56, 56), []),
}


def draw(path: Path, size: tuple[int, int], boxes: list[tuple[int, int, int, int]], **options) -> None:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def make_photos(folder: Path) -> Path:
    """Save the scenes as files."""
    for name, (size, boxes) in SCENES.items():
        draw(folder / name, size, boxes, **({'quality': 95} if name.endswith('jpg') else {}))
    return folder


def label(images, output, formats=tuple(FORMATS), **options) -> Summary:
    return label_images(Glow(), images, output, LabelOptions(formats, multi=True, **options))


def tree(folder: Path) -> dict[str, bytes]:
    """Content of all files by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}
