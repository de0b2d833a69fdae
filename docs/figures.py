"""Draw the pictures of the documentation with the general model, from photographs of scikit-image.

Run it in the root of a checkout: python docs/figures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fcam_zoo import FCAM, create_model, figures, localize, sampling, viz
from fcam_zoo._catalog import GENERAL_MODEL
from fcam_zoo._photos import DIFFICULT, PHOTOS, bundled
from fcam_zoo.data import EvalTransform, normalize, open_image

DOCS = Path('docs')
GREEN, BLUE = (60, 200, 80), (70, 90, 220)


def candidates(photo: Image.Image, teacher: torch.Tensor) -> Image.Image:
    """Draw the foreground (green) and background (blue) candidates of a class map (s,s) over the photograph."""
    found = sampling.regions(teacher[None])
    pixels = np.array(photo.resize(tuple(teacher.shape[::-1])))
    for mask, color in zip(found, (GREEN, BLUE)):
        pixels[mask[0].numpy()] = (0.4 * pixels[mask[0].numpy()] + 0.6 * np.array(color)).astype(np.uint8)
    return Image.fromarray(pixels).resize(photo.size)


def steps(model: FCAM, photo: Image.Image) -> Image.Image:
    """Draw a photograph, its class maps, the training samples and the F-CAM in one row."""
    cfg = model.pretrained_cfg
    x = normalize(EvalTransform(cfg['input_size'][-1])(photo)[None], cfg['mean'], cfg['std'])
    cam, teacher = (model.cam(x, method=method)[0] for method in ('cam', 'layercam'))
    (found,) = localize(model, photo)
    row = [
        (photo, 'photograph'),
        (viz.blend(photo, cam.numpy()), 'CAM'),
        (viz.blend(photo, teacher.numpy()), 'LayerCAM'),
        (candidates(photo, teacher), 'samples'),
        (viz.draw_box(viz.blend(photo, found.map), found.box), 'F-CAM'),
    ]
    return viz.grid([row], height=170)


def main() -> None:
    model = create_model(GENERAL_MODEL, pretrained=True)
    pictures = {
        'how': steps(model, open_image(bundled()['cat'])),
        'demo': figures.rows(model, bundled(PHOTOS))[0],
        'limits': figures.rows(model, bundled(DIFFICULT))[0],
        'grid': figures.grid(model, bundled(PHOTOS))[0],
    }
    for name, picture in pictures.items():
        picture.save(DOCS / f'{name}.jpg', quality=85)


if __name__ == '__main__':
    main()
