"""fcam-zoo train"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..cams import METHODS
from ..train import TrainConfig, train

# Flag -> place in TrainConfig; everything else is reached with --set.
FLAGS = {
    'backbone': 'backbone',
    'backbone_checkpoint': 'backbone_checkpoint',
    'backbone_pretrained': 'backbone_pretrained',
    'output_stride': 'output_stride',
    'teacher': 'teacher',
    'classifier_epochs': 'classifier.epochs',
    'decoder_epochs': 'decoder.epochs',
    'background_fraction': 'decoder.background_fraction',
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
        'choose the best epoch; no other use is made of them. Interrupted runs go on with --resume.',
        epilog='Example: fcam-zoo train birds/ -o runs/birds --backbone resnet50 --backbone-pretrained. '
        'Then: fcam-zoo predict photos/ --model local-dir:runs/birds/best -o out',
    )
    parser.add_argument('data', help='root of the data set')
    parser.add_argument('-o', '--output', required=True, type=Path, help='run folder: models best/ and last/, metrics')
    parser.add_argument('--recipe', help='JSON file of settings; flags override it')
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
    parser.add_argument('--seed', type=int)
    parser.add_argument('--workers', type=int, help='processes that load images')
    parser.add_argument('--device', help='auto, cpu, cuda, cuda:1, ... (default: auto)')
    parser.add_argument(
        '--set', action='append', default=[], metavar='KEY=VALUE', help='any other setting, e.g. decoder.lr=0.005'
    )
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')
    parser.add_argument('--quiet', action='store_true', help='no progress bars and no log')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = TrainConfig.from_file(args.recipe).to_dict() if args.recipe else TrainConfig().to_dict()
    config['data'] = str(Path(args.data))
    for flag, place in FLAGS.items():
        if getattr(args, flag) is not None:
            put(config, place, getattr(args, flag))
    for item in args.set:
        place, sign, value = item.partition('=')
        if not sign:
            raise ValueError(f'--set {item}: write KEY=VALUE, e.g. decoder.lr=0.005')
        try:
            put(config, place, json.loads(value))
        except json.JSONDecodeError:
            put(config, place, value)
    summary = train(TrainConfig.from_dict(config), args.output, resume=args.resume, quiet=args.quiet)
    for stage, result in summary.items():
        for which in ('best', 'last'):
            row = result[which]
            print(f'{stage} {which} (epoch {row["epoch"]}): {json.dumps(row.get("val", {}))}')
    print(f'models: {args.output / "best"}, {args.output / "last"}')
    return 0


def put(config: dict[str, Any], place: str, value: Any) -> None:
    """Set a dotted place of nested settings.

    Raises:
        ValueError: When there is no such setting.
    """
    *parents, key = place.split('.')
    target = config
    for parent in parents:
        target = target.get(parent) if isinstance(target, dict) else None
    if not isinstance(target, dict) or key not in target:
        raise ValueError(f'no setting {place!r}; settings: {", ".join(config)}, classifier.*, decoder.*')
    target[key] = value
