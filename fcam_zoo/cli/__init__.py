"""The command `fcam-zoo`: parse, call, print."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from .._version import __version__
from ..errors import FcamZooError

COMMANDS = (
    'list',
    'info',
    'demo',
    'predict',
    'app',
    'train',
    'benchmark',
    'figures',
    'export',
    'push',
    'pull',
    'weights',
)


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command; one module of this package each."""
    parser = argparse.ArgumentParser(
        'fcam-zoo',
        description='Weakly-supervised object localization: labels in, full-resolution maps, boxes and masks out.',
        epilog='Start with: fcam-zoo demo. Each command explains itself: fcam-zoo COMMAND --help',
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    commands = parser.add_subparsers(title='commands', required=True, metavar='COMMAND')
    for name in COMMANDS:
        importlib.import_module(f'.{name}', __name__).add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    args = build_parser().parse_args(argv)
    level = logging.WARNING if getattr(args, 'quiet', False) else logging.INFO
    logging.basicConfig(level=logging.WARNING, format='%(message)s', stream=sys.stderr)
    logging.getLogger('fcam_zoo').setLevel(level)
    try:
        return args.run(args)
    except BrokenPipeError:
        # The reader, such as head, has seen enough; nothing is left to be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        go_on = getattr(args, 'go_on', 'with --resume' if hasattr(args, 'resume') else '')
        hint = f'; what was finished is kept: go on {go_on}' if go_on else ''
        print(f'fcam-zoo: interrupted{hint}', file=sys.stderr)
        return 130
    except (FcamZooError, ValueError, TypeError, OSError, ImportError) as e:
        print(f'fcam-zoo: error: {e}', file=sys.stderr)
        return 1
