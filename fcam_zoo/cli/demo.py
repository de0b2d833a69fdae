"""fcam-zoo demo"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from .._io import atomic_path
from .._table import text_table
from ..errors import install_hint
from ._arguments import add_model_argument

# Photographs in scikit-image, all public domain or CC0.
PHOTOS = {'chelsea': 'cat', 'rocket': 'rocket', 'coffee': 'cup', 'astronaut': 'astronaut'}


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'demo',
        description='Localize four CC0 photographs from scikit-image (a cat, and objects that no released model was '
        'trained on), print a table and save a picture of photograph, CAM, and F-CAM with its box. Works offline.',
    )
    parser.add_argument(
        '-o', '--output', type=Path, default=Path('fcam-zoo-demo'), help='output folder (default: fcam-zoo-demo)'
    )
    add_model_argument(parser, default='all released models that include their backbone')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .. import _index, viz
    from ..inference import class_maps
    from ..localization import localize
    from ..models import create_model, list_models

    photos = load_photos()
    images = list(photos.values())
    complete = [name for name in list_models(pretrained=True) if _index.index()[name].holds_backbone]
    lines = [['photograph', 'model', 'label', 'score', 'box (x0, y0, x1, y1)']]
    rows = [[(image, title) for title, image in photos.items()]]
    for name in [args.model] if args.model else complete:
        model = create_model(name, pretrained=True)
        found = localize(model, images)
        for title, result in zip(photos, found):
            lines.append([title, name, result.label, f'{result.score:.2f}', str(result.box)])
        rows.append([(viz.blend(im, m), f'CAM {short(name)}') for im, m in zip(images, class_maps(model, images))])
        rows.append([(viz.overlay(im, r), f'F-CAM {short(name)}') for im, r in zip(images, found)])
    print(text_table(lines, numbers=(3,)))
    path = args.output / 'demo.png'
    with atomic_path(path) as temporary:
        viz.grid(rows).save(temporary)
    print(f'picture: {path}')
    return 0


def short(name: str) -> str:
    """Shorten a model name for a caption: network and data set."""
    architecture, _, tag = Path(name).name.partition('.')
    return f'{architecture.removeprefix("fcam_mobilenetv1_")} {tag.rpartition("_")[2]}'.strip()


def load_photos() -> dict[str, Image.Image]:
    """Load the photographs by title.

    Raises:
        ImportError: Without scikit-image (extra `demo`).
    """
    try:
        from skimage import data
    except ImportError as e:
        raise ImportError(f"the demo's photographs come with scikit-image: {install_hint('demo')}") from e
    return {title: Image.fromarray(getattr(data, name)()).convert('RGB') for name, title in PHOTOS.items()}
