"""What all plots share: panels, lines that color-blind readers can tell apart, and text without formulas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ._io import printable
from .errors import install_hint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors of Okabe and Ito, distinguishable by color-blind readers; lines also differ in their dashes.
LINES = (
    ('#d55e00', '--'),
    ('#0072b2', '-.'),
    ('#009e73', '-'),
    ('#cc79a7', '--'),
    ('#e69f00', '-.'),
    ('#56b4e9', '-'),
    ('#000000', '--'),
)
COLUMNS = 4
"""Panels per row."""


def figure_with_panels(count: int, size: tuple[float, float], share: bool = False) -> tuple[Figure, list[Axes]]:
    """Create a figure with panels of a size in inches, four per row.

    Raises:
        ImportError: Without matplotlib (extra `viz`).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'plots need matplotlib: {install_hint("viz")}') from error
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout='constrained')
    found = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel()
    for axes in found[count:]:
        axes.remove()
    for axes in found[:count]:
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(color='#dddddd', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return figure, list(found[:count])


def plain(text: str, longest: int) -> str:
    """Return the last characters of a text, with escaped dollar signs: matplotlib reads formulas between them."""
    text = text if len(text) <= longest else f'…{text[1 - longest :]}'
    return printable(text).replace('$', r'\$')


def legend_label(text: str) -> str:
    """Return an entry of a legend, from which matplotlib excludes labels that begin with an underscore."""
    return f'{" " * text.startswith("_")}{text}'
