"""fcam-zoo benchmark"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..benchmark import Report, evaluate_many
from ..data import EvalTransform, open_dataset
from ..models import create_model


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'benchmark',
        help='MaxBoxAcc, top-1 localization or PxAP of a model',
        description='Score the maps of a model on a data set in the WSOL layout (images/, metadata/SPLIT/*.txt): '
        'MaxBoxAcc at IoU 30, 50, 70 with top-1 and top-5 localization for boxes, PxAP for masks.',
        epilog='Example: fcam-zoo benchmark data/CUB --model fcam_mobilenetv1_075_cub50 --maps cam fcam',
    )
    parser.add_argument('data', help='root of the data set')
    parser.add_argument('--model', required=True, help='a released name, or local-dir:RUN/best')
    parser.add_argument('--split', default='test', help='default: test')
    parser.add_argument(
        '--maps', nargs='+', default=['cam', 'fcam'], help='fcam, center, or CAM methods (default: cam fcam)'
    )
    parser.add_argument('--multi-contour', action='store_true', help='best of all contours (MaxBoxAccV2)')
    parser.add_argument('--batch-size', type=int, default=32, help='images a forward pass (default: 32)')
    parser.add_argument('--workers', type=int, default=0, help='processes that load images (default: 0)')
    parser.add_argument('--limit', type=int, help='score the first images only')
    parser.add_argument('-o', '--output', type=Path, help='folder for a JSON and a CSV report of each kind of map')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    model = create_model(args.model, pretrained=True)
    dataset = open_dataset(args.data, args.split, EvalTransform(model.pretrained_cfg['input_size'][-1]))
    reports = evaluate_many(
        model,
        dataset,
        args.maps,
        batch_size=args.batch_size,
        workers=args.workers,
        multi_contour=args.multi_contour,
        limit=args.limit,
        rows=args.output is not None,
        quiet=args.quiet,
    )
    print(f'{args.model} on {dataset.name}/{args.split}, {next(iter(reports.values())).meta["n"]} images')
    print(table(reports))
    if args.output:
        for name, report in reports.items():
            report.to_json(args.output / f'{name}.json')
            if report.rows:
                report.to_csv(args.output / f'{name}.csv')
        print(f'reports: {args.output}')
    return 0


def table(reports: dict[str, Report]) -> str:
    """Figures of each kind of map, one row each."""
    columns = [k for k in dict.fromkeys(k for r in reports.values() for k in r.metrics) if not k.startswith('top5')]
    titles = [c.replace('max_box_acc_', 'IoU').replace('best_threshold', 'tau') for c in columns]
    lines = ['maps'.ljust(12) + ''.join(t.rjust(8) for t in titles)]
    for name, report in reports.items():
        lines.append(name.ljust(12) + ''.join(cell(c, report.metrics.get(c)).rjust(8) for c in columns))
    return '\n'.join(lines)


def cell(column: str, value: float | None) -> str:
    """A figure as text: thresholds with three digits, percentages with one."""
    if value is None:
        return '-'
    return f'{value:.3f}' if column.startswith('best_threshold') else f'{value:.1f}'
