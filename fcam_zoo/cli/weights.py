"""fcam-zoo weights"""

from __future__ import annotations

import argparse

from .. import hub
from ..errors import FcamZooError


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser('weights', help='verify the released weights', description='Released weight files.')
    actions = parser.add_subparsers(required=True, metavar='ACTION')
    verify = actions.add_parser('verify', help='compare size and SHA-256 of the files with the index')
    verify.add_argument('names', nargs='*', help='default: all')
    verify.set_defaults(run=run_verify)


def run_verify(args: argparse.Namespace) -> int:
    failed = 0
    for name in args.names or hub.index():
        try:
            path = hub.verify(name)
            print(f'{name}: ok ({path.stat().st_size / 2**20:.1f} MB)')
        except FcamZooError as e:
            failed += 1
            print(f'{name}: FAILED: {e}')
    return 1 if failed else 0
