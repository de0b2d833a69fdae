"""fcam-zoo list"""

from __future__ import annotations

import argparse

from ..models import list_models


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser('list', description='List the models of the zoo.')
    parser.add_argument('filter', nargs='?', default='', help="shell pattern, e.g. '*cub*' (default: all models)")
    parser.add_argument('--pretrained', action='store_true', help='only models with released weights')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    released = set(list_models(args.filter, pretrained=True))
    for name in list_models(args.filter, pretrained=args.pretrained):
        print(f'{name}  [released]' if name in released and not args.pretrained else name)
    return 0
