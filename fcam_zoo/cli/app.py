"""fcam-zoo app"""

from __future__ import annotations

import argparse


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'app',
        help='look at images in the browser',
        description='A page on which images are dropped: CAM beside F-CAM, boxes, mask, threshold, annotation to '
        'download. It loads nothing from elsewhere. Needs the extra `app`.',
    )
    parser.add_argument('--models', nargs='+', help='names or local-dir:RUN/best (default: every released model)')
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen at; the default is reached from this machine alone, and there is no password',
    )
    parser.add_argument('--port', type=int, help='default: the first free one from 7860 on')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..app import launch

    launch(args.models, args.host, args.port)
    return 0
