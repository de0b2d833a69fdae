"""Arguments that several commands share."""

from __future__ import annotations

import argparse


def add_classifier_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that gives the classifier of a decoder-only model."""
    parser.add_argument(
        '--backbone-checkpoint',
        metavar='FILE',
        help='safetensors file of the classifier in timm names, for a decoder-only model (default: from timm)',
    )


def threshold(text: str) -> float | str:
    """Parse a threshold: a number in [0,1) or 'otsu'."""
    if text == 'otsu':
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number in [0,1) nor otsu') from None
