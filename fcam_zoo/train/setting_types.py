"""Types of the settings of a training, with the values that they allow."""

from __future__ import annotations

from typing import Annotated, Literal

from .._catalog import TEACHER_METHODS
from .._schema import NotNegative, Positive, Rule, Share, between
from ..cams import FUSIONS
from ..data.values import is_printable
from ..models.backbone_arguments import MAX_SIDE

Schedule = Literal['constant', 'cosine', 'step']
# Metrics on val that select the best epoch (see `StageConfig`).
Select = Literal['localization', 'localization_50', 'accuracy']

Epochs = Annotated[int, between(0, 100_000)]
Images = Annotated[int, between(1, 2**16)]
# Weights are in float32: larger or smaller rates would overflow.
Rate = Annotated[float, Positive, Rule(lambda value: 1e-30 <= value <= 1e30, 'give a number from 1e-30 to 1e30')]
Weight = Annotated[float, NotNegative, Rule(lambda value: value <= 1e30, 'give at most 1e30')]
Line = Annotated[
    str,
    Rule(
        lambda value: len(value) <= 800 and is_printable(value),
        'give text of at most 800 characters, without control characters',
    ),
]
CropScale = Annotated[
    list[float],
    Rule(
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
        'give the smallest and the largest share of the area, such as [0.4, 1]',
    ),
]
Shift = Annotated[
    list[Annotated[float, between(-MAX_SIDE, MAX_SIDE)]],
    Rule(lambda value: len(value) == 2, 'give two numbers of pixels, down and right'),
]
# Side of a square of pixels.
Odd = Annotated[int, between(1, MAX_SIDE), Rule(lambda value: value % 2 == 1, 'give an odd number of pixels')]
Method = Annotated[str, Rule(TEACHER_METHODS.__contains__, f'choose one of {", ".join(TEACHER_METHODS)}')]
Fusion = Annotated[str, Rule(FUSIONS.__contains__, f'choose one of {", ".join(FUSIONS)}')]
# A stage of a CNN, counted from the last one.
Stage = Annotated[int, Rule(lambda value: -20 <= value <= -1, 'give -1 for the last stage, -2 for the one before')]
ImageSide = Annotated[int, between(32, MAX_SIDE)]
Band = Annotated[
    list[Share],
    Rule(
        lambda value: len(value) == 2 and value[0] < value[1],
        'give two values in [0,1]: background up to the first, foreground from the second, such as [0.2, 0.8]',
    ),
]


def names_of(value: str | list[str] | None) -> list[str]:
    """Return the names of a setting that takes one, several or none."""
    return [value] if isinstance(value, str) else list(value or ())
