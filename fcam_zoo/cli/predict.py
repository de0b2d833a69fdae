"""fcam-zoo predict"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..labelling import FORMATS, Summary, label_images
from ..localization import MIN_AREA
from ..models import create_model
from ._arguments import add_classifier_argument, threshold


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'predict',
        help='boxes and masks for images',
        description='Localize the objects of images. By default OUT/<image>.png (heat map, box, label) and '
        'OUT/predictions.json (box x0,y0,x1,y1 in pixels, ends exclusive) are written; --export chooses annotation '
        'formats instead. An unreadable image is reported and left out; the others are finished, and the exit status '
        'is 1. After a kill the same command goes on where it was. In the folder of a finished run all images are '
        'labelled anew, and files of images that are gone since are removed; formats that are not named, and files of '
        'others, stay as they are. A second run in the same folder at the same time is refused.',
    )
    parser.add_argument('images', nargs='+', help='image files and folders')
    parser.add_argument('--model', required=True, help='a released name, local-dir:RUN/best, or hf-hub:org/name')
    add_classifier_argument(parser)
    parser.add_argument('-o', '--output', required=True, type=_folder, help='output folder, made if needed')
    parser.add_argument(
        '--export',
        nargs='+',
        action='extend',
        choices=FORMATS,
        metavar='FORMAT',
        help=f'one or several of {", ".join(FORMATS)} (default: overlays)',
    )
    parser.add_argument(
        '--threshold',
        type=threshold,
        help="tau in [0,1), or otsu for Otsu's threshold of each map; default: the model's, chosen on val",
    )
    parser.add_argument('--multi', action='store_true', help='several objects an image: all regions large enough')
    parser.add_argument(
        '--min-area',
        type=float,
        default=MIN_AREA,
        help=f'with --multi, smallest share of the image that a further object has (default: {MIN_AREA})',
    )
    parser.add_argument(
        '--labels',
        choices=('predicted', 'folder'),
        default='predicted',
        help='class of the objects: predicted (default), or the class folder that holds the image',
    )
    parser.add_argument('--flip', action='store_true', help='average with the mirrored image: better, half the speed')
    parser.add_argument(
        '--sizes',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help="sides that the network sees; maps of several are averaged (default: the model's own)",
    )
    parser.add_argument('--batch-size', type=int, default=8, help='images a forward pass (default: 8)')
    workers = min(2, os.cpu_count() or 1)
    parser.add_argument('--workers', type=int, default=workers, help=f'reading processes (default: {workers})')
    parser.add_argument('--device', default='cpu', help='cpu (default), cuda, cuda:1, ...')
    parser.add_argument(
        '--restart', action='store_true', help='give up an unfinished run in OUT, whatever its settings; begin anew'
    )
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(run=run, go_on='with the same command')


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError('the name is empty')
    return Path(text)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(args: argparse.Namespace) -> int:
    with _terminable():
        done = _label(args)
    total = done.labelled + len(done.errors)
    for error in done.errors:
        print(f'fcam-zoo: skipped: {error}', file=sys.stderr)
    print(f'{done.labelled} of {total} images localized, {done.objects} objects: {", ".join(map(str, done.files))}')
    if done.removed:
        print(f'{done.removed} files of images that are gone were removed from {args.output}')
    return 1 if done.errors else 0


def _label(args: argparse.Namespace) -> Summary:
    model = create_model(args.model, pretrained=True, backbone_checkpoint=args.backbone_checkpoint)
    try:
        model.to(args.device)
    except (RuntimeError, AssertionError) as e:  # Of torch, for a device that is unknown or not there.
        raise ValueError(f'device {args.device!r} cannot be used ({str(e).splitlines()[0]}): try cpu') from e
    return label_images(
        model,
        args.images,
        args.output,
        args.export or ['overlays'],
        threshold=args.threshold,
        labels=args.labels,
        multi=args.multi,
        min_area=args.min_area,
        sizes=args.sizes,
        flip=args.flip,
        batch_size=args.batch_size,
        workers=args.workers,
        name=args.model,
        progress=not args.quiet,
        restart=args.restart,
    )
