"""fcam-zoo figures"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .._catalog import CAM_METHODS, GENERAL_MODEL
from .._table import text_table
from ._arguments import add_classifier_argument, add_device_argument, add_model_argument, threshold

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from ..benchmark import Report
    from ..objects import Threshold


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'figures',
        description='Figures of the F-CAM paper for any model and data set. Curves and activations are drawn from the '
        'reports of fcam-zoo benchmark -o, convergence from the folders of fcam-zoo train; these need matplotlib '
        '(extra viz).',
        epilog='Example: fcam-zoo benchmark CUB/ --models runs/birds/best --maps cam layercam fcam -o report '
        '&& fcam-zoo figures curves report -o curves.png',
    )
    actions = parser.add_subparsers(required=True, metavar='FIGURE')
    grid = actions.add_parser(
        'grid',
        help='photographs, class maps and F-CAM with boxes',
        description='One column per image: the photograph, class maps of the predicted class and the F-CAM, each '
        'with the box of its largest region. Default images: CC0 and public domain photographs of scikit-image.',
    )
    grid.add_argument('images', nargs='*', type=Path, help='files and folders (default: those of fcam-zoo demo)')
    add_model_argument(grid, default=GENERAL_MODEL)
    grid.add_argument(
        '--maps',
        nargs='+',
        default=['cam', 'gradcam', 'gradcampp', 'layercam', 'fcam'],
        metavar='MAP',
        help=f'fcam, {", ".join(CAM_METHODS)} (default: cam gradcam gradcampp layercam fcam)',
    )
    grid.add_argument('--threshold', type=threshold, help="for the F-CAM: in [0,1), or otsu (default: the model's)")
    grid.add_argument(
        '--cam-threshold', type=threshold, default='otsu', help='for the class maps: in [0,1), or otsu (default)'
    )
    grid.add_argument('--height', type=int, default=130, help='height of a row in pixels (default: 130)')
    add_classifier_argument(grid)
    add_device_argument(grid)
    grid.set_defaults(run=run_grid)
    _output(grid, 'grid.jpg')
    _add_localization(actions)
    curves = actions.add_parser(
        'curves',
        help='accuracy, or precision and F1, over the threshold (Fig. 5)',
        description='Box accuracy over the threshold. For data sets with masks: precision over recall, and F1 over the '
        'threshold.',
    )
    _reports(curves)
    curves.add_argument('--iou', nargs='+', type=float, help='IoUs in percent, one panel each (default: 50)')
    curves.set_defaults(run=run_curves)
    _output(curves, 'curves.png')
    activations = actions.add_parser(
        'activations',
        help='map values inside and outside objects (Fig. 6)',
        description='Distribution of map values inside and outside the true boxes or masks, and the overlap of both.',
    )
    _reports(activations)
    activations.add_argument('--bins', type=int, default=32, help='a power of two up to 128 (default: 32)')
    activations.set_defaults(run=run_activations)
    _output(activations, 'activations.png')
    _add_convergence(actions)


def _add_localization(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        'localization',
        help='maps and what they find beside the true boxes or masks (Figs. 3, 4)',
        description='Two columns per image of a data set: photograph and ground truth, then each map and what it finds '
        'at a threshold. With boxes: pixels above the threshold and their box in red, true box in green. With masks: '
        'true positives red, false negatives green, false positives blue.',
    )
    parser.add_argument('data', help='data set with boxes or masks, as for fcam-zoo benchmark')
    parser.add_argument(
        '--annotations', metavar='PATH', help='file or folder of annotations; {split} stands for the split'
    )
    parser.add_argument('--split', default='test', help='split to draw (default: test)')
    add_model_argument(parser)
    parser.add_argument(
        '--maps',
        nargs='+',
        default=['cam', 'gradcam', 'gradcampp', 'fcam'],
        metavar='MAP',
        help=f'fcam, {", ".join(CAM_METHODS)} (default: cam gradcam gradcampp fcam)',
    )
    parser.add_argument('--images', type=int, default=4, help='number of images, spread over the classes (default: 4)')
    parser.add_argument(
        '--threshold',
        nargs='+',
        type=map_threshold,
        default=[],
        metavar='TAU',
        help="TAU for all maps or MAP=TAU, in [0,1) or otsu (default: the model's own for fcam, otsu for other maps)",
    )
    parser.add_argument('--height', type=int, default=130, help='height of a row in pixels (default: 130)')
    add_classifier_argument(parser)
    add_device_argument(parser)
    parser.set_defaults(run=run_localization)
    _output(parser, 'localization.jpg')


def _add_convergence(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        'convergence',
        help='loss terms and metrics on val over the epochs of trainings',
        description='Terms of the training loss, times their weights, and metrics on val over the epochs. Runs with '
        'the same NAME, such as those of several seeds, are drawn as their mean with a band of one standard deviation.',
    )
    parser.add_argument(
        'runs', nargs='+', metavar='RUN', help='folder of fcam-zoo train, or its metrics.jsonl; or NAME=RUN'
    )
    parser.add_argument('--stage', choices=('decoder', 'classifier'), help='default: the decoder if there is one')
    parser.add_argument(
        '--metrics',
        nargs='+',
        metavar='NAME',
        help='metrics on val, by their names in metrics.jsonl (default: the mean of MaxBoxAcc, PxAP or kept; cls)',
    )
    parser.set_defaults(run=run_convergence)
    _output(parser, 'convergence.png')


def _output(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument('-o', '--output', type=Path, default=Path(name), help=f'file (default: {name})')


def _reports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('reports', nargs='+', type=Path, help='folders of fcam-zoo benchmark -o, or their JSON files')
    parser.add_argument('--maps', nargs='+', metavar='NAME', help='reports to draw, in this order (default: all)')


def run_grid(args: argparse.Namespace) -> int:
    from .. import figures
    from .._device import chosen_device
    from .._photos import photographs
    from ..models import create_model

    figures.check_suffix(args.output, picture=True)
    figures.check_maps(args.maps)
    images = photographs(args.images)
    figures.check_number(len(images))
    device = chosen_device(args.device)
    model = create_model(args.model, pretrained=True, backbone_checkpoint=args.backbone_checkpoint)
    model.to(device)
    options = {'threshold': args.threshold, 'cam_threshold': args.cam_threshold, 'height': args.height}
    picture, found = figures.grid(model, images, args.maps, **options)
    lines = [['image', 'class', 'score', 'box of the F-CAM (x0, y0, x1, y1)']]
    lines += [[title, each.label, f'{each.score:.2f}', str(each.box)] for title, each in found.items()]
    print(text_table(lines, numbers=(2,)))
    return _save(picture, args.output)


def run_localization(args: argparse.Namespace) -> int:
    from .. import figures
    from .._device import chosen_device
    from ..benchmark.subset import limit_images
    from ..data import EvalTransform, open_dataset
    from ..models import create_model

    figures.check_suffix(args.output, picture=True)
    figures.check_maps(args.maps)
    figures.check_number(args.images)
    device = chosen_device(args.device)
    model = create_model(args.model, pretrained=True, backbone_checkpoint=args.backbone_checkpoint).to(device)
    side = model.pretrained_cfg['input_size'][-1]
    dataset = open_dataset(args.data, args.split, EvalTransform(side), annotations=args.annotations)
    dataset = limit_images(dataset, args.images)
    picture, found = figures.localization(
        model, dataset, args.maps, thresholds=thresholds(args.threshold, args.maps), height=args.height
    )
    lines = [['image', *(f'{name}, IoU %' for name in args.maps)]]
    lines += [[title, *(f'{value:.1f}' for value in row)] for title, row in zip(dataset.ids, zip(*found.values()))]
    print(text_table(lines, numbers=range(1, len(lines[0]))))
    return _save(picture, args.output)


def map_threshold(text: str) -> tuple[str, Threshold]:
    """Parse TAU or MAP=TAU, where TAU is a number or 'otsu'; the name is empty for all maps."""
    name, _, value = text.rpartition('=')
    return name, threshold(value)


def thresholds(given: list[tuple[str, Threshold]], maps: list[str]) -> dict[str, Threshold]:
    """Return thresholds by kind of map; MAP=TAU takes precedence over TAU.

    Raises:
        ValueError: For a map that is not drawn.
    """
    found = dict(given)
    if unknown := [name for name in found if name not in ('', *maps)]:
        raise ValueError(f'--threshold names {", ".join(unknown)}: choose from --maps {" ".join(maps)}')
    chosen = {name: found.get(name, found.get('')) for name in maps}
    return {name: value for name, value in chosen.items() if value is not None}


def run_convergence(args: argparse.Namespace) -> int:
    from .. import figures

    figures.check_suffix(args.output, picture=False)
    runs: dict[str, list[str]] = {}
    for text in args.runs:
        # The folders of a sweep have names such as decoder.lr=0.1.
        name, _, path = (text, '', '') if Path(text).exists() else text.partition('=')
        runs.setdefault(name, []).append(path or text)
    return _save(figures.convergence(runs, args.stage, args.metrics), args.output)


def run_curves(args: argparse.Namespace) -> int:
    from .. import figures

    figures.check_suffix(args.output, picture=False)
    reports = chosen(args)
    figure = figures.curves(reports, args.iou)
    for report in reports.values():
        print(report.summary())
    return _save(figure, args.output)


def run_activations(args: argparse.Namespace) -> int:
    from .. import figures

    figures.check_suffix(args.output, picture=False)
    reports = chosen(args)
    figure = figures.activations(reports, args.bins)
    for name, report in reports.items():
        print(f'{name}: overlap {figures.overlap(report):.1f} %')
    return _save(figure, args.output)


def chosen(args: argparse.Namespace) -> dict[str, Report]:
    """Return the selected reports, in the given order.

    Raises:
        ValueError: For a name without a report.
    """
    from ..benchmark import read_reports

    reports = read_reports(args.reports)
    names = args.maps or list(reports)
    unknown = [name for name in names if name not in reports]
    if unknown:
        raise ValueError(f'--maps {" ".join(unknown)}: no such report; choose from {", ".join(reports)}')
    return {name: reports[name] for name in names}


def _save(figure: Figure | Image.Image, path: Path) -> int:
    from .. import figures

    figures.save(figure, path)
    print(f'figure: {path}')
    return 0
