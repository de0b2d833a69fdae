"""fcam-zoo list"""

from __future__ import annotations

import argparse
import sys

from .._catalog import GENERAL_MODEL
from .._io import one_line
from .._table import text_table

HEADINGS = ('released model', 'short name', 'training data', 'F-CAM on a test split')


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'list',
        description='List the models of the zoo that have released weights. Names without weights, which you can train '
        'with fcam-zoo train --recipe, are listed with --all, or if no released model matches.',
    )
    parser.add_argument(
        'filter',
        nargs='?',
        default='',
        help="part of a name, or a pattern such as '*resnet50*cub' (default: all)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--all', action='store_true', help='also names without weights')
    which.add_argument('--pretrained', action='store_true', help='no other names, even if no released model matches')
    parser.add_argument('-q', '--quiet', action='store_true', help='print full names only, one per line')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..models.names import list_models, similar_names

    pattern = args.filter if set('*?[') & set(args.filter) else f'*{args.filter}*'
    released = list_models(pattern, pretrained=True)
    others = [name for name in list_models(pattern) if name not in released]
    shown = others if args.all or not (args.pretrained or released) else []
    if not released and not shown:
        wanted = one_line(args.filter, 100)
        if others:
            hint = f'without --pretrained, {len(others)} names match'
            print(f'fcam-zoo: no released model matches {wanted}: {hint}', file=sys.stderr)
            return 1
        similar = similar_names(args.filter)
        hint = f'. Did you mean {" or ".join(similar)}?' if similar else ': fcam-zoo list --all prints all names'
        print(f'fcam-zoo: no model matches {wanted}{hint}', file=sys.stderr)
        return 1
    if args.quiet:
        print('\n'.join([*released, *shown]))
        return 0
    if released:
        print(text_table([HEADINGS, *map(row_of, released)]))
    if shown:
        print('\n' * bool(released) + 'without weights (fcam-zoo train --recipe)')
        print('\n'.join(shown))
    elif others and not args.pretrained:
        print(f'\n{len(others)} names without weights: fcam-zoo list --all')
    return 0


def row_of(name: str) -> tuple[str, ...]:
    """Return the cells of a released model."""
    from .._index import index, main_metric
    from ..models.names import full_name, short_name

    entry, short = index()[name], short_name(name)
    own = '' if short == name else short
    title = f'{name} (default)' if name == full_name(GENERAL_MODEL) else name
    if metric := entry.main_metric():
        return title, own, entry.dataset.title, f'{metric[0]} {metric[1]:.1f}'
    # The maps of a general model are measured on other data sets.
    found = ((place, main_metric(splits['test']['fcam'])) for place, splits in entry.elsewhere.items())
    other = next((f'{metric[0]} {metric[1]:.1f} on {place}' for place, metric in found if metric), '')
    return title, own, entry.dataset.title, other
