"""Arguments that several commands share."""

from __future__ import annotations

import argparse


def add_classifier_argument(parser: argparse.ArgumentParser) -> None:
    """Where the classifier of a model that holds its decoder alone comes from."""
    parser.add_argument(
        '--backbone-checkpoint',
        metavar='FILE',
        help='safetensors of the classifier in timm names, for a model that holds the decoder alone (default: of timm)',
    )


def threshold(text: str) -> float | str:
    if text == 'otsu':
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number in [0,1) nor otsu') from None
