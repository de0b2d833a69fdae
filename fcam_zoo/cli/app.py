"""fcam-zoo app"""

from __future__ import annotations

import argparse

from .._catalog import GENERAL_MODEL
from ._arguments import MODEL, add_device_argument


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'app',
        description='Serve a web page that localizes images. It shows CAM, F-CAM with boxes, and mask, and offers the '
        'annotation as a download. The page loads nothing from other servers. Needs the extra `app`.',
    )
    parser.add_argument(
        '-m',
        '--models',
        '--model',
        nargs='+',
        metavar='NAME',
        help=f'each {MODEL} (default: {GENERAL_MODEL}, then the other released models)',
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on (default: 127.0.0.1, reachable only from this machine); there is no password',
    )
    parser.add_argument('--port', type=int, help='default: the first free port from 7860')
    add_device_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..app import launch

    launch(args.models, args.host, args.port, args.device)
    return 0
