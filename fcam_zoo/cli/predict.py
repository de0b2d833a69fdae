"""fcam-zoo predict"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .._catalog import ANNOTATION_FORMATS, GENERAL_MODEL, MIN_AREA, SHEET, SHEET_IMAGES
from .._io import one_line, printable
from . import INTERRUPTED
from ._arguments import add_classifier_argument, add_device_argument, add_model_argument, add_quiet_argument, threshold

if TYPE_CHECKING:
    from ..labelling import LabelOptions

_SHOWN = 20
_READERS = min(2, os.cpu_count() or 1)

GRACE_SECONDS = 3.0
"""Time that a run has to stop after a signal."""


def add_parser(commands: argparse._SubParsersAction) -> None:
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
    parser.add_argument(
        '-o', '--output', required=True, help='output folder, created if needed; with --ray also a URL (s3://…)'
    )
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
    parser.add_argument(
        '--workers',
        type=int,
        help=f'threads that read and finish images (default: {_READERS}); with --ray, of each worker (default: up '
        'to 4 beside a GPU, otherwise none)',
    )
    add_device_argument(parser)
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        '--overwrite',
        action='store_true',
        help='replace earlier results of these formats, and discard an unfinished run',
    )
    existing.add_argument('--resume', action='store_true', help='continue an unfinished run')
    add_quiet_argument(parser)
    _add_cluster_arguments(parser)
    parser.set_defaults(run=run)


def _add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        'cluster',
        'with --ray, labels are rows of Parquet files, OUT/shards/*.parquet, which export-labels converts; --export '
        'does it at the end',
    )
    group.add_argument(
        '--ray',
        nargs='?',
        const='local',
        metavar='ADDRESS',
        help='label on a Ray cluster: auto or host:port, from one of its nodes (default: start Ray on this machine)',
    )
    group.add_argument(
        '--ray-workers', type=int, metavar='N', help='workers, each with the model (default: one per GPU or CPU core)'
    )
    group.add_argument(
        '--shard-size',
        type=int,
        metavar='N',
        help='images per part, which is one file (default: 1024, fewer for small jobs)',
    )


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
    for name in ('ray_workers', 'shard_size'):
        if args.ray is None and getattr(args, name) is not None:
            raise ValueError(f'--{name.replace("_", "-")} is for a cluster: add --ray')
    return _run_here(args) if args.ray is None else _run_on_ray(args)


def _options(args: argparse.Namespace) -> LabelOptions:
    from ..labelling import LabelOptions

    return LabelOptions(
        formats=args.export or ['overlays'],
        threshold=args.threshold,
        labels=args.labels,
        multi=args.multi,
        min_area=args.min_area,
        sizes=args.sizes,
        flip=args.flip,
        batch_size=args.batch_size,
        workers=_READERS if args.workers is None else args.workers,
        model_name=printable(args.model),
        progress=not args.quiet,
        overwrite=args.overwrite,
        resume=args.resume,
    )


def _run_here(args: argparse.Namespace) -> int:
    import cv2

    from .._device import chosen_device
    from ..labelling import label_images
    from ..models import create_model

    if '://' in args.output:
        raise ValueError(f'{args.output} is a URL, to which only --ray writes: choose a folder')
    cv2.setNumThreads(1)  # The threads of the run are enough; those of OpenCV wait without giving back their core.
    options, output = _options(args), Path(args.output)
    device = chosen_device(args.device)
    model = create_model(args.model, pretrained=True, backbone_checkpoint=args.backbone_checkpoint).to(device)
    with _interruptible():
        done = label_images(model, args.images, output, options)
    for error in done.errors:
        print(f'fcam-zoo: skipped: {one_line(error)}', file=sys.stderr)
    total = done.labelled + len(done.errors)
    print(f'{done.labelled} of {total} images localized, {done.objects} objects: {", ".join(map(str, done.files))}')
    if 'overlays' in options.formats and done.labelled:
        print(f'contact sheet: {output / "overlays" / SHEET}')
    return 1 if done.errors else 0


def _run_on_ray(args: argparse.Namespace) -> int:
    from ..labelling import ClusterOptions, check_export, label_on_ray
    from ..models import create_model

    options = _options(args)
    cluster = ClusterOptions(args.ray, args.ray_workers, args.device, args.shard_size, args.workers)
    if args.export:
        check_export(args.output, args.export, replace=args.overwrite or args.resume)
    model = create_model(args.model, pretrained=True, backbone_checkpoint=args.backbone_checkpoint)
    with _interruptible():
        done = label_on_ray(model, args.images, args.output, options, cluster)
    for error in done.errors:
        print(f'fcam-zoo: skipped: {one_line(error)}', file=sys.stderr)
    if more := done.error_count - len(done.errors):
        print(f'fcam-zoo: skipped: {more} more, see the rows with the status error', file=sys.stderr)
    for part, reason in islice(done.failed.items(), _SHOWN):
        print(f'fcam-zoo: part {part} failed: {one_line(reason)}', file=sys.stderr)
    if done.failed:
        print(f'fcam-zoo: {len(done.failed)} parts failed: try them again with --resume', file=sys.stderr)
    if done.unavailable:
        print(
            f'fcam-zoo: stores did not return {done.unavailable} of the images: try them again with --resume',
            file=sys.stderr,
        )
    print(
        f'{done.labelled} of {done.images} images localized, {done.objects} objects, {done.error_count} errors: '
        f'{done.shards}'
    )
    return _export(args, bool(done.failed)) or int(bool(done.error_count))


def _export(args: argparse.Namespace, failed: bool) -> int:
    """Convert the rows to the formats of --export, or print the command that does."""
    from ..labelling import export_labels

    if failed:
        return 1
    if args.export:
        replace, progress = args.overwrite or args.resume, not args.quiet
        done = export_labels(args.output, args.output, args.export, overwrite=replace, progress=progress)
        print(f'labels: {", ".join(map(str, done.files))}')
    else:
        print(f'next: {shlex.join(["fcam-zoo", "export-labels", args.output, "--export", "coco", "-o", "LABELS"])}')
    return 0
