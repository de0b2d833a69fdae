"""Line charts as inline SVG, without scripts or files; colours come from the style sheet of the page (`STYLE`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 26, 38
# Distinguishable by colour-blind readers, and on paper by their dashes.
_COLORS = ('#0072b2', '#d55e00', '#009e73', '#b0529a', '#a67c00', '#3a87ad', '#666666')
_DARK = ('#56b4e9', '#ff8a3d', '#2fd6a3', '#e79ac8', '#f0c419', '#9fd3f0', '#bbbbbb')
_DASHES = ('none', '7 3', '2 2', '8 3 2 3')

STYLE = '\n'.join(
    [
        'svg text{font-size:11px;fill:currentColor}svg .title{font-weight:600}',
        'svg .grid{stroke:var(--line);stroke-width:1}svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round}',
        *(f'.c{i}{{stroke:{c};color:{c}}}' for i, c in enumerate(_COLORS)),
        *(f'svg .d{i}{{stroke-dasharray:{d}}}' for i, d in enumerate(_DASHES)),
        'svg .dot{fill:currentColor;stroke:none}',
        '@media screen and (prefers-color-scheme:dark){'
        + ''.join(f'.c{i}{{stroke:{c};color:{c}}}' for i, c in enumerate(_DARK))
        + '}',
    ]
)


@dataclass
class Line:
    """A line of a chart.

    Attributes:
        number: Selects colour and dashes.
        x, y: Values.
        dot: Point to mark, or None.
    """

    number: int
    x: Sequence[float]
    y: Sequence[float]
    dot: tuple[float, float] | None = None


@dataclass
class Axis:
    """An axis with its label and ticks; the first and the last tick are its ends."""

    label: str
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """Return 0 at the first tick, 1 at the last; values beyond are clipped."""
        low, high = self.ticks[0], self.ticks[-1]
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def style(number: int) -> str:
    """Return the CSS classes for the colour and dashes of a line."""
    return f'c{number % len(_COLORS)} d{number % len(_DASHES)}'


def swatch(number: int) -> str:
    """Draw a piece of a line, for a legend."""
    line = f'<path class="line {style(number)}" d="M1 6H27"/>'
    return f'<svg class="swatch" width="28" height="12" viewBox="0 0 28 12" aria-hidden="true">{line}</svg>'


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], description: str) -> str:
    """Draw a chart as an SVG element; screen readers read the description."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">',
        f'<text class="title" x="{_LEFT}" y="15">{escape(title)}</text>',
    ]
    bottom = HEIGHT - _BOTTOM
    for tick in x.ticks:
        at = _x(x.place(tick))
        parts.append(f'<path class="grid" d="M{at} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks:
        at = _y(y.place(tick))
        parts.append(f'<path class="grid" d="M{_LEFT} {at}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{at + 4:g}" text-anchor="end">{tick:g}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:g}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text transform="translate(11 {middle:g}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>'
    )
    for line in lines:
        points = [(_x(x.place(a)), _y(y.place(b))) for a, b in zip(line.x, line.y)]
        parts.append(f'<path class="line {style(line.number)}" d="{_path(points)}"/>')
    for line in lines:
        if line.dot is not None:
            a, b = _x(x.place(line.dot[0])), _y(y.place(line.dot[1]))
            parts.append(f'<circle class="dot {style(line.number)}" cx="{a}" cy="{b}" r="3.5"/>')
    return ''.join([*parts, '</svg>'])


def _x(share: float) -> float:
    return round(_LEFT + share * (WIDTH - _RIGHT - _LEFT), 1)


def _y(share: float) -> float:
    return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Build a path without the points inside level stretches."""
    kept = [
        point
        for i, point in enumerate(points)
        if not (0 < i < len(points) - 1 and points[i - 1][1] == point[1] == points[i + 1][1])
    ]
    return 'M' + 'L'.join(f'{x:g} {y:g}' for x, y in kept) if kept else ''
