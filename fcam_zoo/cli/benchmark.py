"""fcam-zoo benchmark"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._catalog import MIN_AREA, VARIANTS
from .._io import one_line
from ._arguments import MODEL, add_classifier_argument, add_device_argument, add_quiet_argument

if TYPE_CHECKING:
    from ..benchmark import Report
    from ..benchmark.sources import MapOf

CENTER = 'center'
# Those of `benchmark.sources` and `benchmark.classes`, which import torch.
CONVENTIONS = ('bilinear', 'bicubic')
LABELS = ('auto', 'true', 'predicted')


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'benchmark',
        description='Score maps on a data set. With boxes: MaxBoxAcc at IoU 30, 50 and 70, and top-1 and top-5 '
        'localization; with --objects precision, recall and AP of several objects per image. With masks: PxAP. Also '
        'scores the center baseline, and compares all maps by bootstrap. Layouts of data sets: docs/datasets.md.',
        epilog='Example: fcam-zoo benchmark data/CUB --models fcam_mobilenetv1_075_cub50 --maps cam fcam -o report. '
        'Plots for a paper: fcam-zoo figures curves report',
    )
    parser.add_argument('data', help='folder of the data set, or a CSV file of paths, labels and boxes')
    parser.add_argument('-m', '--models', '--model', nargs='+', default=[], metavar='NAME', help=f'each {MODEL}')
    add_classifier_argument(parser)
    parser.add_argument(
        '--scoremaps',
        nargs='+',
        default=[],
        type=Path,
        help='folders of maps (H,W) in [0,1] as numpy.save writes them, named like the path of the image below the '
        'folder of images, with its suffix: cat/1.jpg -> cat/1.jpg.npy; with --limit only those of the chosen images',
    )
    parser.add_argument('--split', help='default: test; with --check all splits')
    parser.add_argument(
        '--annotations',
        help='COCO .json, boxes .csv, folder of Pascal VOC .xml or of mask .png; {split} stands for the split',
    )
    parser.add_argument(
        '--maps', nargs='+', default=['cam', 'fcam'], help='maps of the models: fcam or CAM methods (default: cam fcam)'
    )
    parser.add_argument(
        '--variant',
        choices=VARIANTS,
        help='formulas of Grad-CAM++ and Smooth Grad-CAM++ (docs/cams.md; default: those with which the model was '
        'trained)',
    )
    parser.add_argument(
        '--labels',
        choices=LABELS,
        default='auto',
        help='class of the class maps: auto (default) is that of the image if the model has its classes, by name, else '
        'the predicted one, without metrics that depend on classes; true uses the label numbers as they are',
    )
    parser.add_argument(
        '--threshold',
        nargs='+',
        type=fixed_threshold,
        metavar='TAU',
        help='also report the metric at a threshold in [0,1) chosen on other images: TAU for all maps, or MAP=TAU '
        "(default: each model's own threshold for fcam)",
    )
    parser.add_argument(
        '--convention',
        choices=CONVENTIONS,
        default='bilinear',
        help='how small maps become score maps: as in F-CAM (default), or as in Choe et al. (bicubic, then min-max)',
    )
    parser.add_argument('--multi-contour', action='store_true', help='use the boxes of all contours (MaxBoxAccV2)')
    parser.add_argument(
        '--objects',
        action='store_true',
        help='several objects per image: precision, recall, F1 and AP of all boxes of a map, those of predict --multi '
        '(needs the extra objects)',
    )
    parser.add_argument(
        '--min-area',
        type=float,
        help=f'with --objects, smallest area of a further object as a share of the image (default: {MIN_AREA})',
    )
    parser.add_argument(
        '--baseline', help='report that others are compared with (default: the first F-CAM, or else the first)'
    )
    parser.add_argument('--batch-size', type=int, default=32, help='images per forward pass (default: 32)')
    parser.add_argument('--workers', type=int, default=0, help='processes that load and score images (default: 0)')
    add_device_argument(parser)
    parser.add_argument('--limit', type=int, help='score only so many images, spread over the classes')
    parser.add_argument('--check', action='store_true', help='list all problems of the data set; score nothing')
    parser.add_argument(
        '-o',
        '--output',
        type=Path,
        help='folder for report.html (plots need the extra viz), comparison.json, and JSON and CSV of each report',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace earlier reports in the folder')
    add_quiet_argument(parser)
    parser.set_defaults(run=run)


# Where maps come from, and for each kind of map the name of its report.
Sources = list[tuple[Any, dict[str, str]]]


def fixed_threshold(text: str) -> tuple[str | None, float]:
    """Parse TAU or MAP=TAU.

    Raises:
        argparse.ArgumentTypeError: For anything else.
    """
    name, _, number = text.rpartition('=')
    try:
        value = float(number)
    except ValueError:
        value = -1
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a threshold in [0,1), or MAP=threshold')
    return name or None, value


def run(args: argparse.Namespace) -> int:
    if args.check:
        return check(args)
    # Read when torch is imported: by default, its threads keep their cores while they wait for each other at the end of
    # each layer, and the processes that score have to wait.
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    from .._distributed import process_group

    # Gloo, whose processes may share a GPU.
    with process_group(args.device, backend='gloo') as device:
        score(args, device)
    return 0


def check(args: argparse.Namespace) -> int:
    """Print the problems of the data set; return 1 if there are any."""
    from ..data import check_dataset

    splits = [args.split] if args.split else None
    problems = check_dataset(args.data, splits, quiet=args.quiet, annotations=args.annotations)
    for problem in problems:
        print(one_line(problem))
    count = f'{len(problems) or "no"} problem{"s" * (len(problems) != 1)}'
    print(one_line(f'{args.data}, {args.split or "all splits"}: {count} found'))
    return 1 if problems else 0


def score(args: argparse.Namespace, device: str) -> None:
    """Score all maps, then print and write the reports."""
    from .._distributed import rank, run_on_all_ranks
    from ..benchmark import evaluate_many, maps_of

    dataset, sources = run_on_all_ranks(lambda: prepare(args))
    reports: dict[str, Report] = {}
    maps: dict[str, MapOf] = {}
    made = {'convention': args.convention, 'labels': args.labels, 'device': device}
    for source, names in sources:
        found = evaluate_many(
            source,
            dataset,
            [*names],
            batch_size=args.batch_size,
            workers=args.workers,
            multi_contour=args.multi_contour,
            objects=args.objects,
            min_area=MIN_AREA if args.min_area is None else args.min_area,
            threshold=thresholds(args, [*names]),
            quiet=args.quiet,
            **made,
        )
        getters = run_on_all_ranks(partial(maps_of, source, dataset, [*names], **made))
        reports |= {name: found[kind] for kind, name in names.items()}
        maps |= {name: getters[kind] for kind, name in names.items()}
    # List the baseline last.
    reports[CENTER] = reports.pop(CENTER)
    run_on_all_ranks(lambda: None if rank() else publish(args, dataset, reports, maps))


def thresholds(args: argparse.Namespace, kinds: list[str]) -> dict[str, float] | None:
    """Return the thresholds of --threshold by kind of map; MAP=TAU takes precedence over TAU."""
    if args.threshold is None:
        return None
    given = dict(args.threshold)
    found = {kind: given.get(kind, given.get(None)) for kind in kinds}
    return {kind: value for kind, value in found.items() if value is not None}


def prepare(args: argparse.Namespace) -> tuple[Any, Sources]:
    """Open everything, so that wrong arguments are reported before anything is scored.

    Raises:
        ValueError: For arguments out of range, a data set without boxes and masks, models of different input sizes, an
            unknown baseline, or a folder that cannot be written to.
        FileNotFoundError: When images are missing that models or the page of reports need.
    """
    from .._distributed import rank
    from ..benchmark.evaluate import ground_truth_kind
    from ..benchmark.subset import limit_images
    from ..data import EvalTransform, open_dataset
    from ..models import create_model

    if not args.models and not args.scoremaps:
        raise ValueError('nothing to score: give --models or --scoremaps (or --check to check only the data set)')
    if args.variant and not args.models:
        raise ValueError('--variant chooses the class maps of models: add --models, or leave it out')
    for flag, least in (('batch_size', 1), ('workers', 0), ('limit', 1)):
        if (value := getattr(args, flag)) is not None and value < least:
            raise ValueError(f'--{flag.replace("_", "-")} is {value}: give {least} or more')
    if args.min_area is not None and not args.objects:
        raise ValueError('--min-area is the smallest area of one of several objects: add --objects')
    writes = args.output and not rank()
    if writes:
        check_output(args.output, args.overwrite)
    classifier = args.backbone_checkpoint
    models = {n: create_model(n, pretrained=True, backbone_checkpoint=classifier) for n in dict.fromkeys(args.models)}
    for model in models.values():
        model.cam_variant = args.variant or model.cam_variant
    sides = {model.pretrained_cfg['input_size'][-1] for model in models.values()} or {224}
    if len(sides) > 1:
        raise ValueError(f'the models take images of {sorted(sides)} pixels: benchmark those of one size together')
    dataset = open_dataset(args.data, args.split or 'test', EvalTransform(sides.pop()), annotations=args.annotations)
    ground_truth_kind(dataset, args.objects)
    dataset = limit_images(dataset, args.limit)
    if models or writes:
        check_images(dataset)
    sources = name_reports(args, models)
    names = [name for _, named in sources for name in named.values()]
    kinds = [kind for _, named in sources for kind in named]
    if len(set(names)) < len(names):
        raise ValueError(
            f'two of {", ".join(names)} have the same name: write the path of one in another way, as ./{names[0]}'
        )
    if args.baseline is not None and args.baseline not in names:
        raise ValueError(f'--baseline {args.baseline!r} is not a report: choose one of {", ".join(names)}')
    if unknown := [kind for kind, _ in args.threshold or () if kind not in {*kinds, None}]:
        raise ValueError(f'--threshold {unknown[0]}=…: choose one of {", ".join(dict.fromkeys(kinds))}')
    return dataset, sources


def name_reports(args: argparse.Namespace, models: dict[str, Any]) -> Sources:
    """List each source with its kinds of map and the names of their reports."""
    folders = list(dict.fromkeys(args.scoremaps))
    several = len(models) + len(folders) > 1
    kinds = [kind for kind in dict.fromkeys(args.maps) if kind != CENTER]
    sources: Sources = [
        (model, {kind: f'{name}/{kind}' if several else kind for kind in kinds}) for name, model in models.items()
    ]
    for folder in folders:
        kind = folder.resolve().name or 'maps'
        # The name of the baseline is taken.
        kind = f'{kind} (maps)' if kind == CENTER else kind
        sources.append((folder, {kind: str(folder) if several else kind}))
    # The baseline depends only on the data set: once is enough.
    sources[0][1][CENTER] = CENTER
    return [source for source in sources if source[1]]


def check_output(folder: Path, overwrite: bool) -> None:
    """Create a folder, and check that files can be written there.

    Raises:
        ValueError: If not.
        FileExistsError: When it holds reports, without `overwrite`.
    """
    from ..benchmark.report_folder import holds_reports

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f'--output {folder}: cannot be written to ({error.strerror}); name another folder') from error
    if holds_reports(folder) and not overwrite:
        raise FileExistsError(f'{folder} already holds reports: replace them with --overwrite, or name another folder')


def check_images(dataset: Any) -> None:
    """Check that all images exist, if they are files.

    Raises:
        FileNotFoundError: If not.
    """
    if not getattr(getattr(dataset, 'dataset', dataset), 'in_files', True):
        return
    paths = [dataset.path(index) for index in range(len(dataset))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(paths)} images are missing, the first {missing[0]}: restore them (--check lists '
            'all; score maps can be scored without images if --output is left out)'
        )


def publish(args: argparse.Namespace, dataset: Any, reports: dict[str, Report], maps: dict[str, MapOf]) -> None:
    """Print the metrics and their comparison; write the reports."""
    from ..benchmark import compare
    from ..benchmark.report import columns_legend, metrics_table
    from ..benchmark.report_folder import write_reports
    from ..benchmark.subset import Subset

    first = next(iter(reports.values()))
    chosen = f' of {len(dataset.dataset)}, spread over the classes' if isinstance(dataset, Subset) else ''
    print(f'{", ".join(args.models) or "score maps"} on {dataset.name}/{dataset.split}, {first.meta.n} images{chosen}')
    print(metrics_table(reports))
    print(columns_legend(reports))
    if note := first.description.note:
        print(note)
    for reason in dict.fromkeys(
        report.meta.class_agnostic for report in reports.values() if report.meta.class_agnostic
    ):
        print(f'class-agnostic: {reason}; CAMs explain the predicted class, metrics of classes are left out')
    comparison = compare(reports, args.baseline)
    compared = {row.metric for row in comparison.rows}
    main = [key for key in dict.fromkeys((first.description.primary, first.description.overall)) if key in compared]
    print(f'\n{comparison.to_markdown(main)}', end='')
    if args.output:
        command = shlex.join(['fcam-zoo', *sys.argv[1:]])
        page = write_reports(args.output, reports, comparison, dataset, maps, command=command)
        print(f'reports: {page}')
