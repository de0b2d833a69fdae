"""fcam-zoo benchmark"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..benchmark import Report, compare, evaluate_many, maps_of, write_html
from ..data import EvalTransform, check_dataset, open_dataset
from ..models import create_model

CENTER = 'center'


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'benchmark',
        help='MaxBoxAcc, top-1 localization or PxAP of models, or of maps in files',
        description='Score maps on a data set: MaxBoxAcc at IoU 30, 50, 70 with top-1 and top-5 localization for '
        'boxes, PxAP for masks. The centre baseline is always scored too. Several models or kinds of map are compared '
        'by bootstrap on the same images. Layouts of data sets: docs/datasets.md.',
        epilog='Example: fcam-zoo benchmark data/CUB --models fcam_mobilenetv1_075_cub50 --maps cam fcam -o report',
    )
    parser.add_argument('data', help='root of the data set')
    parser.add_argument('--models', '--model', nargs='+', default=[], help='released names, or local-dir:RUN/best')
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


def run(args: argparse.Namespace) -> int:
    if args.check:
        return check(args)
    if not args.models and not args.scoremaps:
        raise ValueError('nothing to score: give --models or --scoremaps (or --check to look at the data set alone)')
    join_processes()
    sources, dataset = open_all(args)
    reports: dict[str, Report] = {}
    maps: dict[str, Callable[[int], Any]] = {}
    for prefix, (source, kinds) in sources.items():
        # The baseline depends on the data set alone: once is enough.
        wanted = [kind for kind in dict.fromkeys(kinds) if kind != CENTER] + ([] if reports else [CENTER])
        found = evaluate_many(
            source,
            dataset,
            wanted,
            batch_size=args.batch_size,
            workers=args.workers,
            device=args.device,
            multi_contour=args.multi_contour,
            convention=args.convention,
            limit=args.limit,
            quiet=args.quiet,
        )
        getters = maps_of(source, dataset, wanted, convention=args.convention, device=args.device)
        for kind, report in found.items():
            name = kind if kind == CENTER or not prefix else f'{prefix}/{kind}'
            reports[name], maps[name] = report, getters[kind]
    if dist.is_initialized() and dist.get_rank():
        return 0
    # The baseline belongs below what it is a baseline of.
    reports[CENTER] = reports.pop(CENTER)
    publish(args, dataset, reports, maps)
    return 0


def check(args: argparse.Namespace) -> int:
    """List the faults of the data set; 1 when there are any."""
    splits = [args.split] if args.split else None
    problems = check_dataset(args.data, splits, quiet=args.quiet, annotations=args.annotations)
    for problem in problems:
        print(problem)
    print(f'{args.data}, {args.split or "all splits"}: {len(problems) or "no"} fault{"s" * (len(problems) != 1)} found')
    return 1 if problems else 0


def join_processes() -> None:
    """Take part in a torchrun."""
    if int(os.environ.get('WORLD_SIZE', '1')) > 1 and not dist.is_initialized():
        dist.init_process_group('gloo')


def open_all(args: argparse.Namespace) -> tuple[dict[str, tuple[Any, list[str]]], Any]:
    """Sources and their kinds of map by name ('' for a single one), and the data set at the size of the models.

    Raises:
        ValueError: When models have different input sizes.
    """
    models = {name: create_model(name, pretrained=True) for name in dict.fromkeys(args.models)}
    sides = {model.pretrained_cfg['input_size'][-1] for model in models.values()} or {224}
    if len(sides) > 1:
        raise ValueError(f'the models take images of {sorted(sides)} pixels: benchmark those of one size together')
    dataset = open_dataset(args.data, args.split or 'test', EvalTransform(sides.pop()), annotations=args.annotations)
    sources: dict[str, tuple[Any, list[str]]] = {name: (model, args.maps) for name, model in models.items()}
    sources |= {str(folder): (folder, [folder.name or 'maps']) for folder in args.scoremaps}
    if len(sources) == 1:
        sources = {'': next(iter(sources.values()))}
    return sources, dataset


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
    for name, report in reports.items():
        stem = re.sub(r'[^\w.-]+', '_', name)
        report.to_json(args.output / f'{stem}.json')
        report.to_csv(args.output / f'{stem}.csv')
        for kind in report.tables:
            report.to_csv(args.output / f'{stem}_{kind}.csv', kind)
    comparison.to_json(args.output / 'comparison.json')
    command = shlex.join(['fcam-zoo', *sys.argv[1:]])
    write_html(reports, args.output / 'report.html', dataset, maps, comparison=comparison, command=command)
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
