"""fcam-zoo benchmark"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .._distributed import process_group, rank, run_on_all_ranks
from ..benchmark import Report, compare, evaluate_many, maps_of, write_html
from ..benchmark._folder import COMPARISON, file_stems
from ..data import EvalTransform, check_dataset, open_dataset
from ..models import create_model
from ._arguments import add_classifier_argument

CENTER = 'center'


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'benchmark',
        help='MaxBoxAcc, top-1 localization or PxAP of models, or of maps in files',
        description='Score maps on a data set: MaxBoxAcc at IoU 30, 50, 70 with top-1 and top-5 localization for '
        'boxes, PxAP for masks. The centre baseline is always scored too. Several models or kinds of map are compared '
        'by bootstrap on the same images. Layouts of data sets: docs/datasets.md.',
        epilog='Example: fcam-zoo benchmark data/CUB --models fcam_mobilenetv1_075_cub50 --maps cam fcam -o report. '
        'Figures for a paper: fcam-zoo figures curves report',
    )
    parser.add_argument('data', help='root of the data set')
    parser.add_argument('--models', '--model', nargs='+', default=[], help='released names, or local-dir:RUN/best')
    add_classifier_argument(parser)
    parser.add_argument(
        '--scoremaps', nargs='+', default=[], type=Path, help='folders of <image id>.npy, maps (H,W) in [0,1]'
    )
    parser.add_argument('--split', help='default: test; with --check all splits')
    parser.add_argument(
        '--annotations',
        help='COCO .json, boxes .csv, folder of Pascal VOC .xml or of mask .png; {split} stands for the split',
    )
    parser.add_argument(
        '--maps', nargs='+', default=['cam', 'fcam'], help='of the models: fcam or CAM methods (default: cam fcam)'
    )
    parser.add_argument(
        '--convention',
        choices=('bilinear', 'bicubic'),
        default='bilinear',
        help="from small maps to score maps: F-CAM's way (default), or bicubic and min-max as Choe et al.",
    )
    parser.add_argument('--multi-contour', action='store_true', help='best of all contours (MaxBoxAccV2)')
    parser.add_argument('--baseline', help='report that others are compared with (default: the first)')
    parser.add_argument('--batch-size', type=int, default=32, help='images a forward pass (default: 32)')
    parser.add_argument('--workers', type=int, default=0, help='processes that load and score images (default: 0)')
    parser.add_argument('--device', help='where models run, such as cuda (default: cpu)')
    parser.add_argument('--limit', type=int, help='score the first images only')
    parser.add_argument('--check', action='store_true', help='list all that is wrong with the data set, score nothing')
    parser.add_argument(
        '-o', '--output', type=Path, help='folder for report.html, comparison.json, and JSON and CSV of each report'
    )
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(run=run)


@dataclass
class Work:
    """What is to be scored.

    Attributes:
        dataset: The data set at the size of the models.
        sources: What makes maps, and for each kind of its maps the name of the report.
    """

    dataset: Any
    sources: list[tuple[Any, dict[str, str]]]


def run(args: argparse.Namespace) -> int:
    if args.check:
        return check(args)
    # Gloo, whose processes may share a GPU.
    with process_group(args.device or 'cpu', backend='gloo'):
        score(args)
    return 0


def score(args: argparse.Namespace) -> None:
    """Score all maps and publish the reports."""
    work = run_on_all_ranks(lambda: prepare(args))
    reports: dict[str, Report] = {}
    maps: dict[str, Callable[[int], Any]] = {}
    options = {'convention': args.convention, 'device': args.device}
    for source, names in work.sources:
        # The baseline depends on the data set alone: once is enough.
        kinds = [*names] if reports else [*names, CENTER]
        if not kinds:
            continue
        found = evaluate_many(
            source,
            work.dataset,
            kinds,
            batch_size=args.batch_size,
            workers=args.workers,
            multi_contour=args.multi_contour,
            limit=args.limit,
            quiet=args.quiet,
            **options,
        )
        getters = run_on_all_ranks(partial(maps_of, source, work.dataset, list(found), **options))
        for kind, report in found.items():
            name = names.get(kind, kind)
            reports[name], maps[name] = report, getters[kind]
    # The baseline belongs below what it is a baseline of.
    reports[CENTER] = reports.pop(CENTER)
    run_on_all_ranks(lambda: None if rank() else publish(args, work.dataset, reports, maps))


def check(args: argparse.Namespace) -> int:
    """List the faults of the data set; 1 when there are any."""
    splits = [args.split] if args.split else None
    problems = check_dataset(args.data, splits, quiet=args.quiet, annotations=args.annotations)
    for problem in problems:
        print(problem)
    print(f'{args.data}, {args.split or "all splits"}: {len(problems) or "no"} fault{"s" * (len(problems) != 1)} found')
    return 1 if problems else 0


def prepare(args: argparse.Namespace) -> Work:
    """Open everything; what is wrong with the arguments is said before anything is scored.

    Raises:
        ValueError: For arguments out of range, models of different input sizes, an unknown baseline, or a folder that
            cannot be written to.
        FileNotFoundError: When images are missing that models or the page of reports need.
    """
    if not args.models and not args.scoremaps:
        raise ValueError('nothing to score: give --models or --scoremaps (or --check to look at the data set alone)')
    for flag, least in (('batch_size', 1), ('workers', 0), ('limit', 1)):
        if (value := getattr(args, flag)) is not None and value < least:
            raise ValueError(f'--{flag.replace("_", "-")} is {value}: give {least} or more')
    if args.output and not rank():
        check_writable(args.output)
    classifier = args.backbone_checkpoint
    models = {n: create_model(n, pretrained=True, backbone_checkpoint=classifier) for n in dict.fromkeys(args.models)}
    sides = {model.pretrained_cfg['input_size'][-1] for model in models.values()} or {224}
    if len(sides) > 1:
        raise ValueError(f'the models take images of {sorted(sides)} pixels: benchmark those of one size together')
    dataset = open_dataset(args.data, args.split or 'test', EvalTransform(sides.pop()), annotations=args.annotations)
    if models or (args.output and not rank()):
        check_images(dataset, args.limit)
    folders = list(dict.fromkeys(args.scoremaps))
    several = len(models) + len(folders) > 1
    kinds = [kind for kind in dict.fromkeys(args.maps) if kind != CENTER]
    sources: list[tuple[Any, dict[str, str]]] = [
        (model, {kind: f'{name}/{kind}' if several else kind for kind in kinds}) for name, model in models.items()
    ]
    for folder in folders:
        kind = folder.resolve().name or 'maps'
        # The name of the baseline is taken.
        kind = f'{kind} (maps)' if kind == CENTER else kind
        sources.append((folder, {kind: str(folder) if several else kind}))
    names = [name for _, named in sources for name in named.values()] + [CENTER]
    if len(set(names)) < len(names):
        raise ValueError(
            f'two of {", ".join(names)} have one name: write the path of one in another way, as ./{names[0]}'
        )
    if args.baseline is not None and args.baseline not in names:
        raise ValueError(f'no report {args.baseline!r} to compare with; there are {", ".join(names)}')
    return Work(dataset, sources)


def check_writable(folder: Path) -> None:
    """Make a folder, and try whether files can be written there.

    Raises:
        ValueError: When not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f'--output {folder}: cannot be written to ({error.strerror}); name another folder') from error


def check_images(dataset: Any, limit: int | None) -> None:
    """See whether all images are there.

    Raises:
        FileNotFoundError: When not.
    """
    paths = [dataset.path(index) for index in range(len(dataset))][:limit]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(paths)} images are missing, the first {missing[0]}: restore them (--check lists '
            'all; score maps are scored without images when no --output is asked for)'
        )


def publish(
    args: argparse.Namespace, dataset: Any, reports: dict[str, Report], maps: dict[str, Callable[[int], Any]]
) -> None:
    """Print the figures and their comparison; write the reports."""
    meta = next(iter(reports.values())).meta
    print(f'{", ".join(args.models) or "score maps"} on {dataset.name}/{dataset.split}, {meta["n"]} images')
    print(table(reports))
    comparison = compare(reports, args.baseline)
    main = [k for k in ('pxap', 'max_box_acc_50', 'mean') if any(row['figure'] == k for row in comparison.rows)]
    print(f'\n{comparison.to_markdown(main)}', end='')
    if not args.output:
        return
    # All files appear, or none.
    with tempfile.TemporaryDirectory(prefix='.report-', dir=args.output) as unfinished:
        folder = Path(unfinished)
        for stem, report in zip(file_stems(reports), reports.values()):
            report.to_json(folder / f'{stem}.json')
            report.to_csv(folder / f'{stem}.csv')
            for kind in report.tables:
                report.to_csv(folder / f'{stem}_{kind}.csv', kind)
        comparison.to_json(folder / COMPARISON)
        command = shlex.join(['fcam-zoo', *sys.argv[1:]])
        write_html(reports, folder / 'report.html', dataset, maps, comparison=comparison, command=command)
        for path in sorted(folder.iterdir()):
            path.replace(args.output / path.name)
    print(f'reports: {args.output / "report.html"}')


def table(reports: dict[str, Report]) -> str:
    """Figures of each kind of map, one row each."""
    columns = [k for k in dict.fromkeys(k for r in reports.values() for k in r.metrics) if not k.startswith('top5')]
    titles = [_title(c) for c in columns]
    width = max(12, *(len(name) + 2 for name in reports))
    lines = ['maps'.ljust(width) + ''.join(t.rjust(8) for t in titles)]
    for name, report in reports.items():
        lines.append(name.ljust(width) + ''.join(cell(c, report.metrics.get(c)).rjust(8) for c in columns))
    return '\n'.join(lines)


def _title(column: str) -> str:
    for long, short in (('max_box_acc_', 'IoU'), ('best_threshold', 'tau'), ('robustness', 'rob'), ('best_f1', 'F1')):
        column = column.replace(long, short)
    return column


def cell(column: str, value: float | None) -> str:
    """A figure as text: thresholds with three digits, percentages with one."""
    if value is None:
        return '-'
    return f'{value:.3f}' if column.startswith('best_threshold') else f'{value:.1f}'
