"""Plots of a report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..report import Report
from . import _charts as charts
from ._charts import Axis, Line
from ._page import cell, paragraph, section

_PERCENT = (0, 20, 40, 60, 80, 100)
_UNIT = (0, 0.2, 0.4, 0.6, 0.8, 1)
_SHARE = Axis('share of pixels (%), log scale', (0.01, 0.1, 1, 10, 100), log=True)


def curves_section(reports: Mapping[str, Report]) -> str:
    """Show all curves of the metric."""
    drawn = []
    for curve in next(iter(reports.values())).description.curves.values():
        x, y = Axis(curve.x_label, _UNIT if curve.x_end == 1 else _PERCENT), Axis(curve.y_label, _PERCENT)
        lines = [
            Line(i, *curve.points(report.curves), curve.dot(report.metrics))
            for i, report in enumerate(reports.values())
        ]
        values = '; '.join(f'{name} {curve.legend(report.metrics)}' for name, report in reports.items())
        drawn.append(charts.line_chart(curve.title, x, y, lines, f'{curve.title}: {values}.'))
    note = 'Dots: best thresholds. A high, flat line over the threshold means that its choice hardly matters.'
    return _section('Curves', reports, drawn, note)


def activations_section(reports: Mapping[str, Report]) -> str:
    """Show the distribution of scores."""
    reports = {name: report for name, report in reports.items() if report.activations}
    if not reports:
        return ''
    drawn = []
    for key, title in (('all', 'All pixels'), ('inside', 'Inside objects'), ('outside', 'Outside objects')):
        lines = [Line(i, *_middles(report.activations, key)) for i, report in enumerate(reports.values())]
        text = f'Share of pixels by score, {title.lower()}.'
        drawn.append(charts.line_chart(title, Axis('score', _UNIT), _SHARE, lines, text))
    truth = next(iter(reports.values())).description.kind
    note = (
        f'Share of the pixels by score, in 128 bins; objects are the true {truth}. '
        'Two modes, near 0 outside and near 1 inside, mean that objects are clearly separated from the background.'
    )
    return _section('Activations', reports, drawn, note)


def _middles(found: Mapping[str, Sequence[float]], key: str) -> tuple[list[float], Sequence[float]]:
    return [score + 0.5 / len(found[key]) for score in found['score']], found[key]


def _section(title: str, reports: Mapping[str, Report], drawn: Sequence[str], note: str) -> str:
    legend = ''.join(f'<span>{charts.swatch(i)}{cell(name)}</span>' for i, name in enumerate(reports))
    plots = ''.join(f'<figure>{svg}</figure>' for svg in drawn)
    return section(title, f'<p class="legend">{legend}</p><div class="charts">{plots}</div>{paragraph(note, "note")}')
