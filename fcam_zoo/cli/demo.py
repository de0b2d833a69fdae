"""fcam-zoo demo"""

from __future__ import annotations

import argparse
from pathlib import Path

from .._catalog import GENERAL_MODEL
from .._table import text_table
from ._arguments import add_device_argument, add_model_argument


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'demo',
        description='Localize the objects in photographs, print a table and save a picture with a row per photograph: '
        'the photograph, CAM, F-CAM, and the box. Works offline. For boxes and masks of many images: fcam-zoo predict.',
        epilog='Examples: fcam-zoo demo. fcam-zoo demo photo.jpg holidays/ -o out',
    )
    parser.add_argument(
        'images', nargs='*', type=Path, help='files and folders (default: two free photographs of scikit-image)'
    )
    parser.add_argument(
        '-o', '--output', type=Path, default=Path('fcam-zoo-demo'), help='output folder (default: fcam-zoo-demo)'
    )
    add_model_argument(parser, default=GENERAL_MODEL)
    add_device_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .. import figures
    from .._device import chosen_device
    from .._photos import photographs
    from ..models import create_model

    images = photographs(args.images)
    figures.check_number(len(images))
    device = chosen_device(args.device)
    model = create_model(args.model, pretrained=True).to(device)
    picture, found = figures.rows(model, images)
    lines = [['photograph', 'label', 'score', 'box (x0, y0, x1, y1)']]
    lines += [[title, each.label, f'{each.score:.2f}', str(each.box)] for title, each in found.items()]
    print(text_table(lines, numbers=(2,)))
    path = args.output / 'demo.png'
    figures.save(picture, path)
    print(f'picture: {path}')
    return 0
