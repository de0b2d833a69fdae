"""Arguments shared by several commands."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..objects import Threshold

MODEL = 'a released name, a model folder such as RUN/best, or hf-hub:org/name'


def add_model_argument(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Add --model; without a `default` it is required."""
    text = MODEL if default is None else f'{MODEL} (default: {default})'
    parser.add_argument('-m', '--model', required=default is None, default=default, metavar='NAME', help=text)


def add_device_argument(parser: argparse.ArgumentParser, default: str | None = 'auto') -> None:
    """Add --device; `default` None leaves the choice to the recipe."""
    text = 'auto (default: CUDA if there is a GPU, otherwise the CPU), cpu, cuda, cuda:1, ...'
    parser.add_argument('--device', default=default, help=text)


def add_classifier_argument(parser: argparse.ArgumentParser) -> None:
    """Add --backbone-checkpoint, the classifier of a decoder-only model."""
    parser.add_argument(
        '--backbone-checkpoint',
        metavar='FILE',
        help='for a decoder-only model: safetensors file of its classifier, with timm key names (default: from timm)',
    )


def add_quiet_argument(parser: argparse.ArgumentParser) -> None:
    """Add --quiet, which `main` applies to the log and to warnings."""
    parser.add_argument('--quiet', action='store_true', help='no progress bars, log or warnings: only results, errors')


def threshold(text: str) -> Threshold:
    """Parse a threshold: a number in [0,1) or 'otsu'."""
    if text == 'otsu':
        return 'otsu'
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number in [0,1) nor otsu') from None
