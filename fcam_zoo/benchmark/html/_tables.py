"""Tables of a report's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..compare import Comparison, format_row
from ..descriptions import Column, MetricDescription
from ..report import Report
from ._page import bar_cell, cell, heads, paragraph, section, table

# Largest number of classes whose table is unfolded.
_FEW = 20


def metrics_section(reports: Mapping[str, Report]) -> str:
    """Show all metrics, and what describes the threshold apart."""
    columns = [
        column
        for column in next(iter(reports.values())).description.columns
        if any(column.key in report.metrics for report in reports.values())
    ]
    note = 'Robustness: share of the thresholds that come within 5 points of the best one.'
    if any('threshold' in report.metrics for report in reports.values()):
        note += ' Chosen: a threshold that was chosen on other images.'
    if several := len(reports) > 1:
        note += ' In bold the best of a column.'
    shown = _metrics_table(reports, [column for column in columns if not column.setting], several)
    shown += _metrics_table(reports, [column for column in columns if column.setting], False)
    return section('Metrics', shown + paragraph(note, 'note'))


def _metrics_table(reports: Mapping[str, Report], columns: Sequence[Column], bold: bool) -> str:
    rows = []
    for name, report in reports.items():
        row = [f'<th scope="row">{cell(name)}</th>']
        for column in columns:
            value = report.metrics.get(column.key)
            others = [r.metrics[column.key] for r in reports.values() if column.key in r.metrics]
            best = bold and value is not None and value == max(others) > min(others)
            row.append(f'<td{" class=best" * best}>{cell(value, column.digits)}</td>')
        rows.append(row)
    groups = ''.join(
        f'<th colspan="{len(list(members))}">{cell(name)}</th>'
        for name, members in groupby(columns, lambda c: (c.group + ' (%)' * (c.digits == 1)).strip())
    )
    titles = ''.join(f'<th scope="col">{cell(column.title)}</th>' for column in columns)
    return table([f'<td></td>{groups}', f'<th scope="col">maps</th>{titles}'], rows)


def comparison_section(comparison: Comparison | None, description: MetricDescription) -> str:
    """Show intervals of the metrics and of their differences."""
    if comparison is None:
        return ''
    meta = comparison.meta
    head = ['metric', 'maps', '%', 'interval', f'difference to {meta["baseline"]}', 'interval', 'p']
    rows, last = [], None
    for row in comparison.rows:
        title, last = '' if row['metric'] == last else description.column(row['metric']).label, row['metric']
        cells = [f'<th scope="row">{cell(title)}</th>', f'<td class="text">{cell(row["maps"])}</td>']
        clear = row['p'] is not None and (row['difference_low'] > 0 or row['difference_high'] < 0)
        marks = ('', '', ' class="best"' if clear else '', '', '')
        cells += [f'<td{mark}>{cell(text)}</td>' for mark, text in zip(marks, format_row(row))]
        rows.append(cells)
    chosen = f'; thresholds {meta["thresholds"]}' if 'thresholds' in meta else ''
    note = (
        f'{meta["level"]} % intervals: {meta["samples"]} resamples of the images, the same for all maps{chosen}. '
        'Differences in points, in bold where the interval excludes 0; p is two-sided.'
    )
    return section('Comparison', table([heads(head)], rows) + paragraph(note, 'note'))


def sizes_section(reports: Mapping[str, Report]) -> str:
    """Show scores by the size of objects."""
    if not any(report.tables.get('sizes') for report in reports.values()):
        return ''
    shown = _groups_table(reports, 'sizes', 'share of the image', lambda r: f'{r["above"]} to {r["up_to"]} %')
    text = next(iter(reports.values())).description.group_text
    note = paragraph(f'{text} Images are grouped by the share that their objects cover.', 'note')
    return section('Size of objects', shown + note)


def classes_section(reports: Mapping[str, Report]) -> str:
    """Show scores by class."""
    found = next((r.tables['classes'] for r in reports.values() if r.tables.get('classes')), None)
    if found is None:
        return ''
    shown = _groups_table(reports, 'classes', 'class', lambda row: row['class'])
    unfolded = ' open' if len(found) <= _FEW else ''
    content = f'<details{unfolded}><summary>{len(found)} classes</summary>{shown}</details>'
    return section('Classes', content + paragraph(next(iter(reports.values())).description.group_text, 'note'))


def _groups_table(
    reports: Mapping[str, Report], kind: str, first: str, name: Callable[[Mapping[str, Any]], str]
) -> str:
    """Show the tables of a kind side by side; their rows are the same images in all reports."""
    shown = {k: r for k, r in reports.items() if r.tables.get(kind)}
    key = next(iter(shown.values())).description.group
    rows = []
    for group in zip(*(report.tables[kind] for report in shown.values())):
        cells = [f'<th scope="row">{cell(name(group[0]))}</th>', f'<td>{group[0]["n"]}</td>']
        rows.append(cells + [bar_cell(row[key]) for row in group])
    return table([heads([first, 'images', *shown])], rows)
