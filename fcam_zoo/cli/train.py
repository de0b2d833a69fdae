"""Train a localizer from images and labels."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from ..cams import METHODS
from ..train import TrainConfig, plan, plan_text, recipe_names, summary_table, sweep, train
from ..train.config import set_value
from ..train.sweep import parse_sweep

# Flag -> place in the settings.
FLAGS = {
    'annotations': 'annotations',
    'init': 'init',
    'backbone': 'backbone',
    'backbone_checkpoint': 'backbone_checkpoint',
    'backbone_pretrained': 'backbone_pretrained',
    'output_stride': 'output_stride',
    'teacher': 'teacher',
    'classifier_epochs': 'classifier.epochs',
    'decoder_epochs': 'decoder.epochs',
    'background_fraction': 'decoder.background_fraction',
    'amp': 'amp',
    'skip_bad': 'skip_bad',
    'seed': 'seed',
    'workers': 'workers',
    'device': 'device',
}


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'train',
        help='a localizer from images and labels',
        description='Train a classifier with image labels, then its F-CAM decoder on the frozen classifier. DATA holds '
        'train/<class>/*.jpg, or images/ and metadata/ in the WSOL layout. Where a val split has boxes or masks, they '
        'choose the best epoch; no other use is made of them. Interrupted runs go on with --resume. Under torchrun all '
        'processes train one model.',
        epilog='Example: fcam-zoo train birds/ -o runs/birds --backbone resnet50 --backbone-pretrained. '
        'Then: fcam-zoo predict photos/ --model local-dir:runs/birds/best -o out',
    )
    parser.add_argument('data', help='root of the data set')
    parser.add_argument('-o', '--output', required=True, type=Path, help='run folder: models best/ and last/, metrics')
    parser.add_argument(
        '--recipe', help=f'settings, which flags override: a YAML or JSON file, or one of {", ".join(recipe_names())}'
    )
    parser.add_argument(
        '--annotations', help='boxes or masks of val: COCO, VOC, CSV or masks; {split} in the path stands for the split'
    )
    parser.add_argument('--init', help='F-CAM to start from: a released name or local-dir:FOLDER')
    parser.add_argument('--backbone', help='timm name (default: resnet50)')
    parser.add_argument('--backbone-checkpoint', help='local safetensors file in timm names to start from')
    parser.add_argument(
        '--backbone-pretrained', action='store_true', default=None, help="start from timm's weights of the backbone"
    )
    parser.add_argument('--output-stride', type=int, help='of the last feature map, without dilation (default: 16)')
    parser.add_argument('--teacher', choices=METHODS, help='CAM method that guides the decoder (default: layercam)')
    parser.add_argument('--classifier-epochs', type=int, help='0 leaves the stage out')
    parser.add_argument('--decoder-epochs', type=int, help='0 leaves the stage out')
    parser.add_argument('--background-fraction', type=float, help='n-: share of lowest activations taken as background')
    parser.add_argument('--amp', choices=('off', 'bfloat16', 'float16'), help='mixed precision (default: off)')
    parser.add_argument('--skip-bad', action='store_true', default=None, help='leave unreadable images out')
    parser.add_argument('--seed', type=int)
    parser.add_argument('--workers', type=int, help='processes that load images')
    parser.add_argument('--device', help='auto, cpu, cuda, cuda:1, ... (default: auto)')
    parser.add_argument(
        '--set', action='append', default=[], metavar='KEY=VALUE', help='any other setting, e.g. decoder.lr=0.005'
    )
    parser.add_argument(
        '--sweep',
        metavar='KEY=V1,V2',
        help="one training a value, the best chosen on val; background_fraction has the paper's",
    )
    parser.add_argument('--dry-run', action='store_true', help='print the plan, with memory and time of a few steps')
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')
    parser.add_argument('--quiet', action='store_true', help='no progress bars and no log')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = settings_of(args)
    searched = parse_sweep(args.sweep) if args.sweep else None
    if args.dry_run:
        lines = [plan_text(plan(config, args.output))]
        if searched:
            lines.append(f'that for each of {len(searched[1])} values of {searched[0]}')
    elif searched:
        found = sweep(config, args.output, *searched, resume=args.resume, quiet=args.quiet)
        lines = [f'{found["setting"]}={row["value"]}: {row["score"]:.2f}' for row in found['rows']]
        lines.append(f'best on val: {found["best"]}; models: {args.output / found["folder"] / "best"}')
    else:
        summary = train(config, args.output, resume=args.resume, quiet=args.quiet)
        lines = [summary_table(summary), f'models: {args.output / "best"}, {args.output / "last"}']
    # Of the processes of a torchrun, the first speaks.
    if os.environ.get('RANK', '0') == '0':
        print('\n'.join(lines))
    return 0


def settings_of(args: argparse.Namespace) -> TrainConfig:
    """Recipe, then flags, then --set.

    Raises:
        ValueError, FileNotFoundError: For a setting or recipe that does not exist.
    """
    config: dict[str, Any] = (TrainConfig.from_file(args.recipe) if args.recipe else TrainConfig()).to_dict()
    config['data'] = str(Path(args.data))
    for flag, place in FLAGS.items():
        if getattr(args, flag) is not None:
            set_value(config, place, getattr(args, flag))
    for item in args.set:
        place, sign, value = item.partition('=')
        if not sign:
            raise ValueError(f'--set {item}: write KEY=VALUE, e.g. decoder.lr=0.005')
        try:
            set_value(config, place, json.loads(value))
        except json.JSONDecodeError:
            set_value(config, place, value)
    return TrainConfig.from_dict(config)
