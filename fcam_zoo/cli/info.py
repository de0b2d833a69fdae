"""fcam-zoo info"""

from __future__ import annotations

import argparse
import json

from .._index import index
from ..models import create_model, list_models
from ..models.zoo import full_name, no_weights


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'info', description='Describe a model: data set, teacher, metrics, recipe, license, size.'
    )
    parser.add_argument('name', help='a name from `fcam-zoo list`, local-dir:FOLDER, or hf-hub:org/name')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    name = full_name(args.name)
    entry = index().get(name)
    if entry is not None:
        print(json.dumps({k: v for k, v in entry.to_dict().items() if k != 'class_names'}, indent=2))
    elif name in list_models():
        print(no_weights(name))
    model = create_model(name, pretrained=entry is not None)
    total = sum(p.numel() for p in model.parameters())
    decoder = sum(p.numel() for p in model.decoder.parameters())
    print(
        f'{name}: backbone {model.config.backbone}, output stride {model.pyramid.output_stride}, {total:,} '
        f'parameters ({decoder:,} in the decoder), {model.num_classes} classes'
    )
    return 0
