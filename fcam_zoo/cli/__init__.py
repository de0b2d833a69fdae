"""The command `fcam-zoo`: parses arguments, calls the library, prints the result."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from .._io import describe_os_error, one_line
from .._malloc import keep_freed_memory
from .._schema import show
from .._version import __version__
from ..errors import FcamZooError

INTERRUPTED = 'interrupted; finished work is kept: continue with --resume'

# Command -> its line in `fcam-zoo --help`. Each command is a module of this package, imported only for this command. It
# imports the library when it runs: its help should not wait for torch.
COMMANDS = {
    'list': 'list the models of the zoo',
    'info': 'describe a model: training, metrics, license, size',
    'demo': 'localize objects in photographs with released models',
    'predict': 'write boxes and masks for images',
    'export-labels': 'convert the labels of predict --ray to COCO, VOC, YOLO, CSV or masks',
    'app': 'view CAM, F-CAM and boxes of images in the browser',
    'train': 'train a localizer from images and labels',
    'benchmark': 'measure MaxBoxAcc, top-1 localization or PxAP of models or of score maps in files',
    'figures': 'draw the figures of the F-CAM paper for any model: pictures, threshold curves, activations',
    'export': 'export a model to ONNX',
    'push': 'publish a model on the Hugging Face Hub',
    'pull': 'download and verify a model',
    'weights': 'list, verify and remove weight files',
}

# Commands that run networks on many images, and end afterwards. A server, `app`, gives freed memory back.
RUN_NETWORKS = {'demo', 'predict', 'train', 'benchmark', 'figures'}


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line that points to the help, which argparse prints instead."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'{self.prog}: error: {one_line(message)}; see {self.prog} --help\n')

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # argparse leaves unknown arguments of a command to the main parser, whose help does not list them.
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(unknown)}')
        return found, unknown


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser with the arguments of one command; the others only have their line of help."""
    parser = Parser(
        'fcam-zoo',
        description='Weakly supervised object localization: train with image labels, get maps, boxes and masks.',
        epilog='Start with: fcam-zoo demo. Help for a command: fcam-zoo COMMAND --help',
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    commands = parser.add_subparsers(title='commands', required=True, metavar='COMMAND')
    for name, line in COMMANDS.items():
        if name == command:
            importlib.import_module(f'.{name.replace("-", "_")}', __name__).add_parser(commands)
        else:
            commands.add_parser(name, help=line)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # As stderr: names of files may not be valid text.
    for argument in argv:
        if '\0' in argument:
            return _fail(f'argument {show(argument)} contains a NUL character: remove it')
    args = build_parser(argv[0] if argv else None).parse_args(argv)
    # Otherwise Python looks for cycles among the objects of torch and timm when it ends, which takes a second.
    atexit.register(gc.freeze)
    if argv[0] in RUN_NETWORKS:
        keep_freed_memory()  # Before torch starts threads.
    quiet = getattr(args, 'quiet', False)
    logging.basicConfig(level=logging.WARNING, format='%(message)s', stream=sys.stderr)
    try:
        with _messages(quiet):
            return args.run(args)
    except BrokenPipeError:
        # The reader of the pipe, such as head, stopped: discard the remaining output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f'fcam-zoo: {INTERRUPTED if hasattr(args, "resume") else "interrupted"}', file=sys.stderr)
        return 130
    except OSError as e:
        return _fail(describe_os_error(e))
    except MemoryError:
        return _fail('not enough memory: use smaller images, a smaller batch or fewer workers')
    except (FcamZooError, ValueError, TypeError, ImportError) as e:
        return _fail(str(e))


@contextlib.contextmanager
def _messages(quiet: bool) -> Iterator[None]:
    """Log what a person needs, or only errors; restores the level of the logger for a caller in Python."""
    logger = logging.getLogger('fcam_zoo')
    before = logger.level
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    try:
        with warnings.catch_warnings():
            if quiet:
                warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(before)


def _fail(message: str) -> int:
    print(f'fcam-zoo: error: {one_line(message)}', file=sys.stderr)
    return 1
