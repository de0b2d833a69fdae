"""Arguments shared by several commands."""

from __future__ import annotations

import argparse


def add_classifier_argument(parser: argparse.ArgumentParser) -> None:
    """Add --backbone-checkpoint, the classifier of a decoder-only model."""
    parser.add_argument(
        '--backbone-checkpoint',
        metavar='FILE',
        help='for a decoder-only model: safetensors file of its classifier, with timm key names (default: from timm)',
    )


def threshold(text: str) -> float | str:
    """Parse a threshold: a number in [0,1) or 'otsu'."""
    if text == 'otsu':
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number in [0,1) nor otsu') from None
