"""fcam-zoo train"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._catalog import FINE_TUNE, GENERAL_MODEL, TEACHER_METHODS, WSOL_METHODS, recipe_names
from .._schema import show
from ._arguments import MODEL, add_device_argument, add_quiet_argument

if TYPE_CHECKING:
    from ..train import TrainConfig

STAGES = ('classifier', 'decoder')
# Settings of the weights that a network starts from.
WEIGHTS = ('init', 'backbone_checkpoint', 'backbone_pretrained')


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'train',
        description='Train a classifier with image labels, then its F-CAM decoder on the frozen classifier. DATA holds '
        'train/<class>/*.jpg, only <class>/*.jpg (then there is no val), or images/ and metadata/ in the WSOL layout. '
        'Boxes or masks of val, if there are any, select the best epoch; those of train are used only with '
        '--supervision. Continue an interrupted run with --resume. Under torchrun, all processes train one model.',
        epilog='Example: fcam-zoo train birds/ -o runs/birds, which starts from the general model. '
        'Then: fcam-zoo predict photos/ --model runs/birds/best -o out',
    )
    parser.add_argument('data', help='folder of the data set, CSV file of paths and labels, or hf-dataset:org/name')
    parser.add_argument('-o', '--output', required=True, type=Path, help='run folder: models best/ and last/, metrics')
    parser.add_argument(
        '--recipe',
        help='settings: a YAML or JSON file, the name of a released model (its training settings), or one of '
        f'{", ".join(recipe_names())}; other options override them',
    )
    _add_settings(parser)
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='any other setting, e.g. decoder.erosion=11; repeat the option for several',
    )
    parser.add_argument(
        '--sweep',
        action='append',
        default=[],
        metavar='KEY=V1,V2',
        help='train once per value and select the best on val, by the metric of the setting select; repeat the option '
        'for all combinations of several settings; background_fraction without values uses those of the paper',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='only check data and settings, time a few steps, and print the expected time and memory',
    )
    parser.add_argument('--resume', action='store_true', help='continue an interrupted run')
    add_quiet_argument(parser)
    parser.set_defaults(run=run)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each common setting; `dest` is the dotted place of the setting."""
    parser.add_argument(
        '--annotations', help='boxes or masks of val: COCO, VOC, CSV or masks; {split} in the path becomes the split'
    )
    parser.add_argument(
        '--init',
        nargs='+',
        metavar='NAME',
        help=f'F-CAM to start from: {MODEL}; the weights of several are averaged (default, if no option or recipe '
        f'chooses a network: {GENERAL_MODEL})',
    )
    parser.add_argument(
        '--backbone', help='timm name of the classifier of a new network, instead of --init (resnet50 if left out)'
    )
    parser.add_argument('--backbone-checkpoint', help='safetensors file of backbone weights, with timm names')
    parser.add_argument(
        '--backbone-pretrained', action='store_true', default=None, help="start from timm's pretrained backbone"
    )
    parser.add_argument(
        '--method',
        dest='classifier.method',
        choices=WSOL_METHODS,
        help='training method of the classifier (docs/methods.md; default: cross-entropy); its settings are those of '
        '--set classifier.method.KEY=VALUE',
    )
    parser.add_argument(
        '--output-stride', type=int, help='stride of the last feature map of a new network (default: 16)'
    )
    parser.add_argument(
        '--teacher',
        dest='teacher.method',
        choices=TEACHER_METHODS,
        help='CAM method whose maps guide the decoder, or fcam for the F-CAMs of --teacher-model (default: layercam, '
        'or cam if the --method has its own map)',
    )
    parser.add_argument(
        '--teacher-model',
        dest='teacher.model',
        nargs='+',
        type=lambda text: None if text == 'null' else text,
        metavar='NAME',
        help='F-CAMs as teachers, each as in --init; init is the model of --init, null in a list the classifier in '
        'training (default: that classifier; after --init, both)',
    )
    parser.add_argument(
        '--teacher-layers',
        dest='teacher.layers',
        nargs='+',
        type=lambda text: int(text) if re.fullmatch(r'-?\d+', text) else text,
        metavar='LAYER',
        help='layers of the classifier whose maps are fused: names, or stages of a CNN, -1 for the last (default: the '
        'last feature map)',
    )
    parser.add_argument(
        '--supervision',
        dest='teacher.supervision',
        type=int,
        metavar='N',
        help='train the decoder on boxes or masks of N training images per class, instead of class maps '
        '(docs/methods.md)',
    )
    parser.add_argument(
        '--decoder-type', choices=('unet', 'fpn'), help='decoder of a new network (default: unet, as in the paper)'
    )
    parser.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help='epochs of each stage that the recipe does not skip (default: 7 and 15, or 4 after --init, or more for at '
        'least 150 steps)',
    )
    for stage in STAGES:
        parser.add_argument(
            f'--{stage}-epochs', dest=f'{stage}.epochs', type=int, metavar='N', help='0 skips the stage'
        )
    parser.add_argument(
        '--lr',
        type=float,
        metavar='RATE',
        help='learning rate of both stages, which may have different optimizers; that of a new head '
        '(classifier.head_lr) changes in proportion',
    )
    parser.add_argument('--batch-size', type=int, metavar='N', help='images per step of both stages')
    parser.add_argument(
        '--background-fraction',
        dest='decoder.background_fraction',
        type=float,
        metavar='FRACTION',
        help='share of the pixels, those with the lowest activations, that are background candidates (n- in the paper)',
    )
    parser.add_argument('--amp', choices=('off', 'bfloat16', 'float16'), help='mixed precision (default: off)')
    parser.add_argument('--skip-bad', action='store_true', default=None, help='skip unreadable images')
    parser.add_argument('--seed', type=int, help='seed of all random draws (default: 0)')
    parser.add_argument('--workers', type=int, help='processes that load images (default: 2)')
    add_device_argument(parser, default=None)


def run(args: argparse.Namespace) -> int:
    from ..train import plan, summary_table, sweep, train
    from ..train.sweep import best_run, parse_sweeps, plan_runs, sweep_table

    config, auto_epochs = settings_of(args), stages_without_epochs(args)
    searched = parse_sweeps(args.sweep)
    if args.dry_run:
        runs = plan_runs(config, searched)
        lines = [plan(runs[0].config, args.output, auto_epochs)]
        if searched:
            counts = (f'{len(values)} values of {place}' for place, values in searched.items())
            lines.append(f'{len(runs)} runs: once for each of {" x ".join(counts)}')
    elif searched:
        rows = sweep(config, args.output, searched, args.resume, args.quiet, auto_epochs)
        best, metric = best_run(rows).folder, plan_runs(config, searched)[0].metric
        lines = [sweep_table(rows), f'best on val by {metric}: {best}; models: {args.output / best / "best"}']
    else:
        summary = train(config, args.output, args.resume, args.quiet, auto_epochs)
        lines = [summary_table(summary), f'models: {args.output / "best"}, {args.output / "last"}']
    # Under torchrun, only the first process prints.
    if os.environ.get('RANK', '0') == '0':
        print('\n'.join(lines))
    return 0


def settings_of(args: argparse.Namespace) -> TrainConfig:
    """Create the config: the recipe, then the options of both stages, then other options, then --set.

    Without a recipe, a training that starts from an F-CAM has the recipe `FINE_TUNE`, unless an option chooses a
    teacher or a training method. It starts from the general model if no option chooses the network.

    Raises:
        ValueError, FileNotFoundError: For an unknown setting, a wrong value or a missing recipe.
    """
    from ..hub.facts import NETWORK_SETTINGS
    from ..train import TrainConfig
    from ..train.sweep import parse_value

    places = TrainConfig().flat().keys()
    given = {place: value for place, value in vars(args).items() if place in places and value is not None}
    given['data'] = str(Path(args.data))
    for item in args.set:
        place, sign, value = item.partition('=')
        if not sign or not place:
            raise ValueError(f'--set {show(item)}: write KEY=VALUE, e.g. decoder.lr=0.005')
        given[place] = parse_value(value)
    recipe = args.recipe
    if recipe is None:
        chosen = {*given, *(text.partition('=')[0] for text in args.sweep)}
        if {*NETWORK_SETTINGS, *WEIGHTS}.isdisjoint(chosen):
            given['init'] = [GENERAL_MODEL]
        starts = given.get('init') or 'init' in chosen - given.keys()
        if starts and not any(place.startswith(('teacher.', 'classifier.method')) for place in chosen):
            recipe = FINE_TUNE
            check_not_of_seeds(chosen)
    config = TrainConfig() if recipe is None else TrainConfig.from_file(recipe)
    return config.replace(settings_of_both(args, config) | given)


def check_not_of_seeds(chosen: Collection[str]) -> None:
    """Raise ValueError for settings of seeds, which have no effect with the dense targets of `FINE_TUNE`."""
    found = {'background_fraction'} & {*chosen}  # The only short name, in --sweep.
    found |= {name for name in ('background_fraction', 'dilation', 'erosion', 'n_seeds') if f'decoder.{name}' in chosen}
    if found and 'decoder.dense' not in chosen:
        raise ValueError(
            f'decoder.{min(found)} is a setting of seeds, and the recipe {FINE_TUNE} has dense targets instead: add '
            '--set decoder.dense=null for seeds, or leave it out'
        )


def stages_without_epochs(args: argparse.Namespace) -> list[str]:
    """Return the stages whose epochs neither an option nor the recipe sets."""
    from ..train.recipe import read_recipe

    recipe = read_recipe(args.recipe) if args.recipe is not None else {}
    given = {item.partition('=')[0] for item in (*args.set, *args.sweep)}
    given |= {place for place, value in vars(args).items() if value is not None}
    return [
        stage
        for stage in STAGES
        if given.isdisjoint({'epochs', f'{stage}.epochs'}) and 'epochs' not in (recipe.get(stage) or {})
    ]


def settings_of_both(args: argparse.Namespace, config: TrainConfig) -> dict[str, Any]:
    """Return the settings of --epochs, --lr and --batch-size by dotted place."""
    changes: dict[str, Any] = {}
    for stage in STAGES:
        # A stage that the recipe skips stays skipped.
        if args.epochs is not None and getattr(config, stage).epochs:
            changes[f'{stage}.epochs'] = args.epochs
        if args.lr is not None:
            changes[f'{stage}.lr'] = args.lr
        if args.batch_size is not None:
            changes[f'{stage}.batch_size'] = args.batch_size
    if args.lr is not None:
        changes['classifier.head_lr'] = args.lr * (config.classifier.head_lr / config.classifier.lr)
    return changes
