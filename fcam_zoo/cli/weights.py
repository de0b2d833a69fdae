"""fcam-zoo weights"""

from __future__ import annotations

import argparse

from .. import hub
from ..errors import FcamZooError
from ..hub.release import release
from ..models.factory import full_name


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser('weights', help='verify the released weights', description='Released weight files.')
    actions = parser.add_subparsers(required=True, metavar='ACTION')
    verify = actions.add_parser('verify', help='compare size and SHA-256 of the files with the index')
    verify.add_argument('names', nargs='*', help='default: all')
    verify.set_defaults(run=run_verify)
    add = actions.add_parser(
        'add',
        help='release a finished training (maintainers)',
        description='Measure RUN/best and RUN/last on val and test, store the best one in float16 in the weights '
        'folder and write its index entry. Then: python -m fcam_zoo.hub.card',
    )
    add.add_argument('run_dir', help='folder of a finished training')
    add.add_argument('name', help='fcam_<backbone>.<teacher>_<dataset>')
    add.add_argument('--base', required=True, help='timm name of the weights the backbone started from')
    add.add_argument('--quiet', action='store_true', help='no progress bar')
    add.set_defaults(run=run_add)


def run_verify(args: argparse.Namespace) -> int:
    failed = 0
    for name in map(full_name, args.names or hub.index()):
        try:
            path = hub.verify(name)
            print(f'{name}: ok ({path.stat().st_size / 2**20:.1f} MB)')
        except FcamZooError as e:
            failed += 1
            print(f'{name}: FAILED: {e}')
    return 1 if failed else 0


def run_add(args: argparse.Namespace) -> int:
    entry = release(args.run_dir, args.name, args.base, args.quiet)
    print(f'{entry["file"]}: {entry["size"]:,} bytes')
    return 0
