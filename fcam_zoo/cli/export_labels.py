"""fcam-zoo export-labels"""

from __future__ import annotations

import argparse
from pathlib import Path

from .._catalog import ANNOTATION_FORMATS
from ._arguments import add_quiet_argument


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'export-labels',
        description='Convert the Parquet files of predict --ray to the annotation files that predict --export writes, '
        'each format in its own folder. All parts of the job must be there. Images with an error are left out, and the '
        'exit status is then 1.',
    )
    parser.add_argument('shards', help='output of predict --ray: a folder or a URL')
    parser.add_argument(
        '--export',
        nargs='+',
        action='extend',
        required=True,
        choices=ANNOTATION_FORMATS,
        metavar='FORMAT',
        help=f'one or more of {", ".join(name for name in ANNOTATION_FORMATS if name != "overlays")}',
    )
    parser.add_argument('-o', '--output', required=True, type=Path, help='output folder, created if needed')
    parser.add_argument(
        '--source', nargs='+', help='the images, which yolo copies (default: where predict --ray found them)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace earlier results of these formats')
    add_quiet_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..labelling import export_labels

    done = export_labels(
        args.shards,
        args.output,
        args.export,
        source=args.source,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    left_out = f', {len(done.errors)} with an error left out' if done.errors else ''
    print(f'{done.labelled} images, {done.objects} objects{left_out}: {", ".join(map(str, done.files))}')
    return 1 if done.errors else 0
