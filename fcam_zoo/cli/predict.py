"""fcam-zoo predict"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .._catalog import ANNOTATION_FORMATS, GENERAL_MODEL, MIN_AREA, SHEET, SHEET_IMAGES
from .._io import one_line, printable
from . import INTERRUPTED
from ._arguments import add_classifier_argument, add_device_argument, add_model_argument, add_quiet_argument, threshold

GRACE_SECONDS = 3.0
"""Time that a run has to stop after a signal."""


def add_parser(commands: argparse._SubParsersAction) -> None:
    workers = min(2, os.cpu_count() or 1)
    parser = commands.add_parser(
        'predict',
        description='Localize objects in images. By default writes OUT/overlays/<image>.png (heat map, boxes, label), '
        f'OUT/overlays/predictions.json and OUT/overlays/{SHEET}, which shows up to {SHEET_IMAGES} of them; --export '
        'chooses other formats, each in its own folder. An unreadable image is reported and skipped, and the exit '
        'status is then 1.',
    )
    parser.add_argument(
        'images',
        nargs='+',
        metavar='SOURCE',
        help="image files and folders, quoted patterns ('photos/**/*.jpg'), text files of paths or URLs (.txt, or - "
        'for standard input), URLs (s3://, gs://, hf://datasets/, https://), tar shards (.tar), Parquet files '
        '(.parquet)',
    )
    add_model_argument(parser, default=GENERAL_MODEL)
    add_classifier_argument(parser)
    parser.add_argument('-o', '--output', required=True, type=Path, help='output folder, created if needed')
    parser.add_argument(
        '--export',
        nargs='+',
        action='extend',
        choices=ANNOTATION_FORMATS,
        metavar='FORMAT',
        help=f'one or more of {", ".join(ANNOTATION_FORMATS)} (default: overlays)',
    )
    parser.add_argument(
        '--threshold',
        type=threshold,
        help="tau in [0,1), or otsu for Otsu's threshold per map (default: the threshold of the model)",
    )
    parser.add_argument(
        '--multi', action='store_true', help='keep all regions that are large enough, not only the largest'
    )
    parser.add_argument(
        '--min-area',
        type=float,
        default=MIN_AREA,
        help=f'with --multi, smallest area of a further object as a share of the image (default: {MIN_AREA})',
    )
    parser.add_argument(
        '--labels',
        choices=('predicted', 'folder'),
        default='predicted',
        help='class of the objects: the predicted class (default), or the class folder of the image; in shards with '
        'labels, the label',
    )
    parser.add_argument('--flip', action='store_true', help='average with the mirrored image; takes twice the time')
    parser.add_argument(
        '--sizes',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='input sizes of the network; the maps of several are averaged (default: the size of the model)',
    )
    parser.add_argument('--batch-size', type=int, default=8, help='images per forward pass (default: 8)')
    parser.add_argument('--workers', type=int, default=workers, help=f'processes that read images (default: {workers})')
    add_device_argument(parser)
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        '--overwrite',
        action='store_true',
        help='replace earlier results of these formats, and discard an unfinished run',
    )
    existing.add_argument('--resume', action='store_true', help='continue an unfinished run')
    add_quiet_argument(parser)
    parser.set_defaults(run=run)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, as on Ctrl-C; exit if the block has not ended a few seconds after either.

    A large image or a forward pass may take longer than that. Unfinished runs survive an exit at any time.
    """
    woken, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    ended = threading.Event()
    # Unlike a handler, the watcher does not wait for the main thread to return from code in C.
    threading.Thread(target=_exit_if_late, args=(woken, ended), daemon=True).start()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    fd = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(fd)
        signal.signal(signal.SIGTERM, before)
        wakeup.close()


def _exit_if_late(woken: socket.socket, ended: threading.Event) -> None:
    with woken:
        while received := woken.recv(64):
            if {signal.SIGINT, signal.SIGTERM}.isdisjoint(received):
                continue
            if not ended.wait(GRACE_SECONDS):
                print(f'fcam-zoo: {INTERRUPTED}', file=sys.stderr, flush=True)
                os._exit(130)


def run(args: argparse.Namespace) -> int:
    from .._device import chosen_device
    from ..labelling import LabelOptions, label_images
    from ..models import create_model

    options = LabelOptions(
        formats=args.export or ['overlays'],
        threshold=args.threshold,
        labels=args.labels,
        multi=args.multi,
        min_area=args.min_area,
        sizes=args.sizes,
        flip=args.flip,
        batch_size=args.batch_size,
        workers=args.workers,
        model_name=printable(args.model),
        progress=not args.quiet,
        overwrite=args.overwrite,
        resume=args.resume,
    )
    device = chosen_device(args.device)
    model = create_model(args.model, pretrained=True, backbone_checkpoint=args.backbone_checkpoint).to(device)
    with _interruptible():
        done = label_images(model, args.images, args.output, options)
    for error in done.errors:
        print(f'fcam-zoo: skipped: {one_line(error)}', file=sys.stderr)
    total = done.labelled + len(done.errors)
    print(f'{done.labelled} of {total} images localized, {done.objects} objects: {", ".join(map(str, done.files))}')
    if 'overlays' in options.formats and done.labelled:
        print(f'contact sheet: {args.output / "overlays" / SHEET}')
    return 1 if done.errors else 0
