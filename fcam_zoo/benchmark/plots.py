"""Plots of reports: threshold curves, and distributions of map values (F-CAM, WACV 2022, Figs. 5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._plotting import COLUMNS, LINES, figure_with_panels, legend_label, plain
from .._schema import show
from .descriptions import Curve, map_title
from .inputs import as_numbers
from .report import Report, check_comparable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The kinds of map that the paper compares have the same color in every plot.
_FIRST = {'cam': 0, 'layercam': 1, 'fcam': 2}
_GRAY, _INSIDE, _OUTSIDE = '#777777', '#0072b2', '#d55e00'
_BINS = [2**k for k in range(1, 8)]


def curves(reports: Mapping[str, Report], iou: Sequence[float] | None = None) -> Figure:
    """Plot localization against the threshold tau (Fig. 5 of the paper).

    With boxes: the percentage of images whose box is correct, over tau relative to the maximum of each map, one panel
    per IoU; dots are the best thresholds. With several objects per image: their F1 instead. With masks: precision over
    recall of all pixels, and their F1 over tau, which is absolute.

    Args:
        reports: Name -> report of the same data set, from `benchmark.evaluate_many` or `benchmark.read_reports`.
        iou: IoUs in percent, not with masks; default: 50, or the first if 50 was not measured.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: Without matplotlib (extra `viz`).
        ValueError: Without reports, or for reports of different data or metrics, or an IoU that was not measured.
    """
    check_comparable(reports)
    first = next(iter(reports.values()))
    known = first.description.curves
    names = first.description.main_curves if iou is None else _curves_at(iou, first.description.level_curve)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f'curve {", ".join(unknown)} is not in the reports: choose from {", ".join(known)}')
    figure, panels = figure_with_panels(len(names), (4.6, 3.5 + 0.18 * len(reports)))
    for axes, name in zip(panels, names):
        _draw_curve(axes, reports, known[name])
    figure.suptitle(_data(first), fontsize=11)
    return figure


def activations(reports: Mapping[str, Report], bins: int = 32) -> Figure:
    """Plot the distribution of map values inside and outside objects (Fig. 6 of the paper), one panel per kind of map.

    Objects are the true boxes or masks of the data set; ignored pixels are excluded. Each panel shows the overlap of
    both distributions: the sum over the 128 bins of the report of the smaller share, 0 % if a threshold separates
    objects from background without error.

    Args:
        reports: As for `curves`.
        bins: Number of bins between 0 and 1, a power of two up to 128.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: Without matplotlib (extra `viz`).
        ValueError: Without reports, or for reports of different data or without activations, or another number of bins.
    """
    check_comparable(reports)
    first = next(iter(reports.values()))
    if isinstance(bins, bool) or bins not in _BINS:
        raise ValueError(f'bins is {show(bins)}: choose one of {", ".join(map(str, _BINS))}')
    bare = [name for name, report in reports.items() if not report.activations]
    if bare:
        raise ValueError(f'report {bare[0]} has no activations: evaluate again')
    figure, panels = figure_with_panels(len(reports), (3.3, 3.1), share=True)
    for i, (axes, (name, report)) in enumerate(zip(panels, reports.items())):
        for key, color in (('outside', _OUTSIDE), ('inside', _INSIDE)):
            shares = np.reshape(report.activations[key], (bins, -1)).sum(1)
            label = f'{key} true {first.description.kind}'
            axes.stairs(shares, np.linspace(0, 1, bins + 1), fill=True, color=color, alpha=0.3)
            axes.stairs(shares, np.linspace(0, 1, bins + 1), color=color, linewidth=1.4, label=label)
        axes.set_title(f'{_title(name)}\noverlap {overlap(report):.0f} %', fontsize=10)
        axes.set(xlabel='map value', yscale='log', xlim=(0, 1), ylim=(0.05, 100))
        axes.yaxis.set_major_formatter('{x:g}')
        if i % COLUMNS == 0:
            axes.set_ylabel(f'pixels (% per bin of 1/{bins}), log scale', fontsize=9)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=9, loc='outside lower center', ncols=min(len(panels), 2))
    figure.suptitle(_data(first), fontsize=11)
    return figure


def _curves_at(iou: Sequence[float], name: str) -> list[str]:
    """Return the names of the curves at IoUs in percent."""
    levels = as_numbers(iou, 'iou')
    if levels.ndim != 1 or not levels.size:
        raise ValueError(f'iou is {show(iou)}: give a list of percentages')
    return [f'{name}_{level:g}' for level in levels.tolist()]


def overlap(report: Report) -> float:
    """Return the overlap of the distributions of map values inside and outside objects in percent, 100 if equal."""
    return float(np.minimum(report.activations['inside'], report.activations['outside']).sum())


def _data(report: Report) -> str:
    return plain(f'{report.data_name}, {report.meta.n} images', 100)


def _title(name: str) -> str:
    """Return a title of at most 32 characters, the last ones, so that a long path leaves room for the plot."""
    return plain(map_title(name), 32)


def _styles(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """Choose color and dashes of each line; the center baseline is thin and gray."""
    styles, free = [], list(range(len(LINES)))
    for report in reports.values():
        if report.maps == 'center':
            styles.append({'color': _GRAY, 'linestyle': ':', 'linewidth': 1.2})
            continue
        others = [i for i in free if i not in _FIRST.values()] or free or list(range(len(LINES)))
        number = _FIRST.get(report.maps)
        number = number if number in free else others[0]
        free = [i for i in free if i != number]
        styles.append(dict(zip(('color', 'linestyle'), LINES[number]), linewidth=1.8))
    return styles


def _label(name: str, report: Report, curve: Curve) -> str:
    """Return an entry of the legend."""
    return legend_label(f'{_title(name)}: {curve.legend(report.metrics)}')


def _draw_curve(axes: Axes, reports: Mapping[str, Report], curve: Curve) -> None:
    """Draw a curve of each report, with its value in the legend and its best threshold as a dot."""
    for (name, report), style in zip(reports.items(), _styles(reports)):
        axes.plot(*curve.points(report.curves), label=_label(name, report, curve), **style)
        if (dot := curve.dot(report.metrics)) is not None:
            axes.plot(*dot, 'o', color=style['color'], markersize=5)
    axes.set(xlabel=curve.x_label, ylabel=curve.y_label, xlim=(0, curve.x_end), ylim=(0, 100))
    # Above the panel, where it hides no line.
    axes.legend(fontsize=8, loc='lower left', bbox_to_anchor=(0, 1), frameon=False)
