"""fcam-zoo push"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import UnknownModelError


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'push',
        description='Publish RUN/best of a finished training, or a released model, with a generated model card. Log in '
        'with `hf auth login`, or set HF_TOKEN.',
        epilog='Example: fcam-zoo push runs/birds me/fcam-birds --data-title "My birds" --data-license CC0-1.0',
    )
    parser.add_argument('model', metavar='RUN', help='folder of a finished training, or the name of a released model')
    parser.add_argument('repo_id', help='org/name; created if needed')
    parser.add_argument('--data-title', help='title of the data set (default: the name of its folder)')
    parser.add_argument('--data-license', default='unknown', help='license of its images (default: unknown)')
    parser.add_argument(
        '--license',
        help="license of the weights, as an identifier of the Hub such as apache-2.0 (default: the backbone's)",
    )
    parser.add_argument('--half', action='store_true', help='store parameters in float16')
    parser.add_argument(
        '--backbone-from',
        metavar='NAME',
        help='timm name, with tag, of the unchanged weights of the classifier: publish the decoder only',
    )
    parser.add_argument('--private', action='store_true', help='create a new repository as private')
    parser.add_argument('--preview', type=Path, metavar='FOLDER', help='write the files to FOLDER and publish nothing')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .. import hub

    model, options = load(args)
    options = {'half': args.half, 'backbone_from': args.backbone_from, **options}
    if args.preview:
        print(hub.write_repository(model, args.preview, args.repo_id, **options))
        return 0
    pinned = hub.push_to_hub(model, args.repo_id, private=args.private, **options)
    print(f'published: hf-hub:{pinned}')
    return 0


def load(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return the model and its facts; the flags cannot change the facts of a released model."""
    from .. import hub
    from ..models import create_model, list_models
    from ..models.names import full_name, similar_names

    name = full_name(args.model)
    if name in list_models(pretrained=True):
        facts = hub.facts_of_release(name)
        # The parameters of a release are float16 already.
        half = {'half': True} if hub.index()[name].holds_backbone else {}
        return create_model(name, pretrained=True), {**facts, **half}
    if not Path(args.model).is_dir():
        similar = similar_names(args.model)
        hint = f'Did you mean {" or ".join(similar)}? ' if similar else ''
        raise UnknownModelError(
            f'{args.model} is neither the folder of a training nor a released model. {hint}'
            f'Released: {", ".join(list_models(pretrained=True)) or "none"}'
        )
    facts = hub.facts_of_run(args.model, args.data_title, args.data_license, args.license)
    return create_model(Path(args.model) / 'best'), facts
