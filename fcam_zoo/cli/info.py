"""fcam-zoo info"""

from __future__ import annotations

import argparse
import json

from .. import hub
from ..models import create_model, list_models
from ..models.factory import full_name, training_command


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'info',
        help='what a model is, how it was trained and measured',
        description='Describe a model: data set, teacher, measured figures, recipe, license, size.',
    )
    parser.add_argument('name', help='a name of `fcam-zoo list`, local-dir:FOLDER, or hf-hub:org/name')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    name = full_name(args.name)
    entry = hub.index().get(name)
    if entry is not None:
        print(json.dumps({k: v for k, v in entry.to_dict().items() if k != 'class_names'}, indent=2))
    elif '.' in name and name in list_models():
        print(f'{name} has no released weights. Train it: {training_command(name)}')
    model = create_model(name, pretrained=entry is not None)
    total = sum(p.numel() for p in model.parameters())
    decoder = sum(p.numel() for p in model.decoder.parameters())
    print(
        f'{name}: backbone {model.model_args["backbone"]}, output stride {model.pyramid.output_stride}, {total:,} '
        f'parameters ({decoder:,} in the decoder), {model.num_classes} classes'
    )
    return 0
