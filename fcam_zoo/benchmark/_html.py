"""Reports as a page: one HTML file with tables, curves and pictures, which needs nothing else and runs no script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .._io import write_text
from . import _charts as charts
from ._charts import Axis, Line
from ._page import PAGE, STYLE, bar_cell, cell, definition_list, paragraph, table
from ._pictures import MapOf, data_url, picture, show
from .compare import Comparison
from .report import Report

_PERCENT = Axis('', (0, 20, 40, 60, 80, 100))
_SHARE = Axis('share of pixels (%), log scale', (0.01, 0.1, 1, 10, 100), log=True)
_UNIT = (0, 0.2, 0.4, 0.6, 0.8, 1)
# Classes shown without unfolding the table.
_FEW = 20


def write_html(
    reports: Report | Mapping[str, Report],
    path: str | os.PathLike,
    dataset: Any = None,
    maps: Mapping[str, MapOf] | None = None,
    *,
    images: int = 4,
    comparison: Comparison | None = None,
    command: str | None = None,
    title: str | None = None,
) -> None:
    """Write a page about one report, or about several side by side.

    It holds the figures, their comparison, curves over thresholds, activations, tables by size of object and class, the
    best and worst images, and how all of it was measured.

    Args:
        reports: A report, or name -> report, of the same data set.
        path: File to write.
        dataset: The data set, for pictures.
        maps: Name of a report -> function of an image's index that returns its map (H,W), for pictures; see `maps_of`.
        images: Number of best, and of worst, images of each report but that of the centre baseline.
        comparison: Of these reports, from `compare`.
        command: How to make the reports again.
        title: Default: the data set.

    Raises:
        ValueError: For no report, reports on different data sets or with different metrics, maps without a data set or
            for no report, or a data set with other images.
    """
    if isinstance(reports, Report):
        reports = {reports.maps: reports}
    _check(reports, dataset, maps, images)
    meta = next(iter(reports.values())).meta
    named = '/'.join(str(meta[k]) for k in ('dataset', 'split') if meta.get(k)) or 'data set'
    title = f'Localization on {named}' if title is None else title
    body = [
        f'<h1>{cell(title)}</h1>',
        paragraph(f'{meta["n"]} images. {meta["metric"]}. {_GOALS[_kind(meta)]}'),
        _figures(reports),
        _compared(comparison),
        _curves(reports),
        _activations(reports),
        _sizes(reports),
        _classes(reports),
        _images(reports, dataset, maps, images),
        _protocol(reports, command),
    ]
    body = '\n'.join(part for part in body if part)
    page = PAGE.format(title=cell(title), page_style=STYLE, chart_style=charts.STYLE, body=body)
    # Names of files need not be Unicode.
    write_text(path, page.encode(errors='replace').decode())


_GOALS = {
    'boxes': 'An image is right at a threshold when the box of what scores above it overlaps a true box by the wanted '
    'IoU; each figure is that of its best threshold.',
    'masks': 'Average precision of the scores of all pixels, object against background.',
}


def _kind(meta: Mapping[str, Any]) -> str:
    return 'masks' if meta['metric'] == 'PxAP' else 'boxes'


def _check(reports: Mapping[str, Report], dataset: Any, maps: Mapping[str, MapOf] | None, images: int) -> None:
    if not reports:
        raise ValueError('nothing to show: give at least one report')
    if images < 0:
        raise ValueError(f'images={images}: give 0 or more')
    first = next(iter(reports.values()))
    for name, report in reports.items():
        different = [k for k in ('dataset', 'split', 'n', 'metric', 'iou') if report.meta.get(k) != first.meta.get(k)]
        if different:
            raise ValueError(f'reports {next(iter(reports))} and {name} have different {", ".join(different)}')
        if maps and dataset is not None and any(row['id'] != dataset.ids[i] for i, row in enumerate(report.rows)):
            raise ValueError(f'report {name} is on other images than the data set')
    if maps and dataset is None:
        raise ValueError('pictures need the data set: give dataset=')
    unknown = [name for name in maps or () if name not in reports]
    if unknown:
        raise ValueError(f'maps of {", ".join(unknown)}, of which there is no report')


def _levels(meta: Mapping[str, Any]) -> list[str]:
    return [f'{level:g}' for level in meta['iou']]


def _main_level(meta: Mapping[str, Any]) -> str:
    """The IoU that stands for all, where there is room for one: 50, or the first."""
    levels = _levels(meta)
    return '50' if '50' in levels else levels[0]


def _figures(reports: Mapping[str, Report]) -> str:
    meta = next(iter(reports.values())).meta
    if _kind(meta) == 'boxes':
        levels = {level: f'IoU {level}' for level in _levels(meta)}
        groups = {f'{meta["metric"]} (%)': {f'max_box_acc_{k}': v for k, v in levels.items()} | {'mean': 'mean'}}
        groups['top-1 localization (%)'] = {f'top1_{k}': v for k, v in levels.items()}
        groups['top-5 localization (%)'] = {f'top5_{k}': v for k, v in levels.items()}
        groups['class (%)'] = {'cls': 'top-1'}
        settings = {'best threshold': {f'best_threshold_{k}': v for k, v in levels.items()}}
        settings['robustness (%)'] = {f'robustness_{k}': v for k, v in levels.items()}
    else:
        groups = {'pixels (%)': {'pxap': 'PxAP', 'best_f1': 'best F1'}, 'class (%)': {'cls': 'top-1'}}
        settings = {'best F1 at': {'best_threshold': 'threshold'}, 'robustness (%)': {'robustness': 'of F1'}}
    note = 'Robustness: share of the thresholds that come within 5 points of the best one.'
    if len(reports) > 1:
        note += ' In bold the best of a column.'
    shown = _metrics_table(reports, groups, len(reports) > 1) + _metrics_table(reports, settings, False)
    return f'<section><h2>Figures</h2>{shown}{paragraph(note, "note")}</section>'


def _metrics_table(reports: Mapping[str, Report], groups: Mapping[str, Mapping[str, str]], bold: bool) -> str:
    found = {key for report in reports.values() for key in report.metrics}
    groups = {name: {k: v for k, v in keys.items() if k in found} for name, keys in groups.items()}
    groups = {name: keys for name, keys in groups.items() if keys}
    keys = [key for group in groups.values() for key in group]
    rows = []
    for name, report in reports.items():
        row = [f'<th scope="row">{cell(name)}</th>']
        for key in keys:
            value = report.metrics.get(key)
            others = [r.metrics[key] for r in reports.values() if key in r.metrics]
            best = bold and value is not None and value == max(others) > min(others)
            mark = ' class="best"' if best else ''
            row.append(f'<td{mark}>{cell(value, 3 if "threshold" in key else 1)}</td>')
        rows.append(row)
    head = [''.join(['<td></td>', *(f'<th colspan="{len(keys)}">{cell(name)}</th>' for name, keys in groups.items())])]
    titles = (title for group in groups.values() for title in group.values())
    head.append(''.join(['<th scope="col">maps</th>', *(f'<th scope="col">{cell(title)}</th>' for title in titles)]))
    return table(head, rows)


def _compared(comparison: Comparison | None) -> str:
    if comparison is None:
        return ''
    meta = comparison.meta
    head = ['figure', 'maps', '%', 'interval', f'difference to {meta["baseline"]}', 'interval', 'p']
    rows, last = [], None
    for row in comparison.rows:
        figure, last = row['figure'] if row['figure'] != last else '', row['figure']
        cells = [f'<th scope="row">{cell(_title(figure))}</th>', f'<td class="text">{cell(row["maps"])}</td>']
        cells += [f'<td>{cell(row["value"])}</td>', f'<td>{row["low"]:.1f} to {row["high"]:.1f}</td>']
        if row['p'] is None:
            cells += ['<td></td>'] * 3
        else:
            clear = ' class="best"' if row['difference_low'] > 0 or row['difference_high'] < 0 else ''
            cells.append(f'<td{clear}>{row["difference"]:+.1f}</td>')
            cells.append(f'<td>{row["difference_low"]:+.1f} to {row["difference_high"]:+.1f}</td>')
            cells.append(f'<td>{row["p"]:.3f}</td>')
        rows.append(cells)
    chosen = f'; thresholds {meta["thresholds"]}' if 'thresholds' in meta else ''
    note = (
        f'Intervals of {meta["level"]} %: {meta["samples"]} resamples of the images, the same for all maps'
        f'{chosen}. Differences in points, in bold where the interval leaves out 0; p is two-sided.'
    )
    return f'<section><h2>Comparison</h2>{table(_heads(head), rows)}{paragraph(note, "note")}</section>'


def _title(figure: str) -> str:
    """Name of a figure for people: max_box_acc_50 -> box accuracy, IoU 50."""
    name, _, level = figure.rpartition('_')
    names = {'max_box_acc': 'box accuracy', 'top1': 'top-1 localization'}
    if name in names:
        return f'{names[name]}, IoU {level}'
    return {'mean': 'box accuracy, mean', 'cls': 'class', 'pxap': 'PxAP'}.get(figure, figure)


def _curves(reports: Mapping[str, Report]) -> str:
    meta = next(iter(reports.values())).meta
    threshold = Axis('threshold', _UNIT)
    drawn = []
    if _kind(meta) == 'boxes':
        accuracy = Axis('images that are right (%)', _PERCENT.ticks)
        for level in _levels(meta):
            lines, told = [], []
            for i, (name, report) in enumerate(reports.items()):
                dot = report.metrics[f'best_threshold_{level}'], report.metrics[f'max_box_acc_{level}']
                curve = report.curves[f'accuracy_{level}']
                lines.append(Line(i, report.curves['threshold'], curve, dot))
                told.append(f'{name} is best, {dot[1]:.1f} %, at {dot[0]:.3f}')
            text = f'Accuracy at IoU {level} against the threshold: {"; ".join(told)}.'
            drawn.append(charts.line_chart(f'IoU {level} %', threshold, accuracy, lines, text))
        note = 'Accuracy against the threshold, which is relative to the maximum of each map. Dots: best thresholds. '
        note += 'A high, flat line means that the threshold hardly matters.'
    else:
        recall, precision = Axis('recall', _UNIT), Axis('precision', _UNIT)
        text = ', '.join(f'{name} {r.metrics["pxap"]:.1f} %' for name, r in reports.items())
        lines = [Line(i, r.curves['recall'], r.curves['precision']) for i, r in enumerate(reports.values())]
        title = 'Precision against recall'
        drawn.append(charts.line_chart(title, recall, precision, lines, f'{title}. PxAP: {text}.'))
        lines, told = [], []
        for i, (name, report) in enumerate(reports.items()):
            curve = [100 * _f1(*pair) for pair in zip(report.curves['precision'], report.curves['recall'])]
            dot = report.metrics['best_threshold'], report.metrics['best_f1']
            lines.append(Line(i, report.curves['threshold'], curve, dot))
            told.append(f'{name} is best, {dot[1]:.1f} %, at {dot[0]:.3f}')
        text = f'F1 of pixels against the threshold: {"; ".join(told)}.'
        axis = Axis('F1 of pixels (%)', _PERCENT.ticks)
        drawn.append(charts.line_chart('F1 against the threshold', threshold, axis, lines, text))
        note = 'Scores of all pixels of all images together. Dots: best thresholds.'
    return _charts_section('Curves', reports, drawn, note)


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / max(precision + recall, 1e-12)


def _activations(reports: Mapping[str, Report]) -> str:
    reports = {name: report for name, report in reports.items() if report.activations}
    if not reports:
        return ''
    score = Axis('score', _UNIT)
    drawn = []
    where = {'all': 'all pixels', 'inside': 'inside objects', 'outside': 'outside objects'}
    for key, title in where.items():
        lines = [Line(i, *_middles(r.activations, key)) for i, r in enumerate(reports.values())]
        text = f'Share of pixels against their score, {title}.'
        drawn.append(charts.line_chart(title.capitalize(), score, _SHARE, lines, text))
    truth = 'true boxes' if _kind(next(iter(reports.values())).meta) == 'boxes' else 'true masks'
    note = f'Share of the pixels by score, in 128 bins; objects are the {truth}. Two modes, near 0 outside and near 1 '
    note += 'inside, mean that objects are told from background with certainty.'
    return _charts_section('Activations', reports, drawn, note)


def _middles(found: Mapping[str, Sequence[float]], key: str) -> tuple[list[float], Sequence[float]]:
    return [score + 0.5 / len(found[key]) for score in found['score']], found[key]


def _charts_section(title: str, reports: Mapping[str, Report], drawn: Sequence[str], note: str) -> str:
    legend = ''.join(f'<span>{charts.swatch(i)}{cell(name)}</span>' for i, name in enumerate(reports))
    figures = ''.join(f'<figure>{svg}</figure>' for svg in drawn)
    content = f'<p class="legend">{legend}</p><div class="charts">{figures}</div>{paragraph(note, "note")}'
    return f'<section><h2>{title}</h2>{content}</section>'


def _heads(titles: Sequence[str]) -> list[str]:
    return [''.join(f'<th scope="col"{" class=text" * (title == "maps")}>{cell(title)}</th>' for title in titles)]


def _grouped(reports: Mapping[str, Report], kind: str, first: Sequence[str], name: Any) -> str:
    """A table of the reports' tables of a kind, whose rows are the same images in all of them."""
    having = {k: r for k, r in reports.items() if r.tables.get(kind)}
    key = 'pxap' if _kind(next(iter(having.values())).meta) == 'masks' else None
    key = key or f'accuracy_{_main_level(next(iter(having.values())).meta)}'
    rows = []
    for group in zip(*(report.tables[kind] for report in having.values())):
        cells = [f'<th scope="row">{cell(name(group[0]))}</th>', f'<td>{group[0]["n"]}</td>']
        rows.append(cells + [bar_cell(row[key]) for row in group])
    return table(_heads([*first, *having]), rows)


def _figure_of_groups(meta: Mapping[str, Any]) -> str:
    if _kind(meta) == 'masks':
        return 'PxAP (%) of the pixels of these images.'
    return f'Percentage of images that are right at IoU {_main_level(meta)}, at the best threshold of all images.'


def _sizes(reports: Mapping[str, Report]) -> str:
    if not any(report.tables.get('sizes') for report in reports.values()):
        return ''
    shown = _grouped(reports, 'sizes', ['share of the image', 'images'], lambda r: f'{r["above"]} to {r["up_to"]} %')
    note = f'{_figure_of_groups(next(iter(reports.values())).meta)} Images by the share that their objects cover.'
    return f'<section><h2>Size of objects</h2>{shown}{paragraph(note, "note")}</section>'


def _classes(reports: Mapping[str, Report]) -> str:
    found = next((r.tables['classes'] for r in reports.values() if r.tables.get('classes')), None)
    if found is None:
        return ''
    shown = _grouped(reports, 'classes', ['class', 'images'], lambda row: row['class'])
    note = paragraph(_figure_of_groups(next(iter(reports.values())).meta), 'note')
    unfolded = ' open' if len(found) <= _FEW else ''
    content = f'<details{unfolded}><summary>{len(found)} classes</summary>{shown}</details>'
    return f'<section><h2>Classes</h2>{content}{note}</section>'


def _images(reports: Mapping[str, Report], dataset: Any, maps: Mapping[str, MapOf] | None, images: int) -> str:
    if not maps or not images or not any(reports[name].rows for name in maps):
        return ''
    meta = next(iter(reports.values())).meta
    key = 'pxap' if _kind(meta) == 'masks' else f'iou_{_main_level(meta)}'
    # The centre baseline is the same map in each image: its own best and worst tell of the data set.
    shown = [name for name in maps if reports[name].rows and reports[name].maps != 'center'] or list(maps)
    sections, cache = [], {}
    for name in shown:
        rows = [(row[key], i) for i, row in enumerate(reports[name].rows) if row[key] is not None]
        rows.sort(key=lambda pair: (-pair[0], pair[1]))
        best = rows[:images]
        for word, chosen in (('Best', best), ('Worst', rows[len(best) :][::-1][:images])):
            for _, i in chosen:
                if i not in cache:
                    cache[i] = _card(i, shown, reports, dataset, maps, key)
            cards = ''.join(cache[i] for _, i in chosen)
            sections.append(f'<h3>{word} of {cell(name)}</h3><div class="cards">{cards}</div>' if cards else '')
    lines = 'Box' if _kind(meta) == 'boxes' else 'Outline'
    rule = 'its IoU below' if _kind(meta) == 'boxes' else 'the PxAP (%) of the image below'
    note = (
        f'<p class="note">{lines} found at the best threshold: <b class="key found">magenta</b>; '
        f'ground truth: <b class="key truth">white</b>; the map in colours from blue (low) to red (high), {rule}.</p>'
    )
    return f'<section><h2>Images</h2>{note}{"".join(sections)}</section>'


def _card(
    i: int, shown: Sequence[str], reports: Mapping[str, Report], dataset: Any, maps: Mapping[str, MapOf], key: str
) -> str:
    """An image with its maps of all kinds."""
    image = picture(dataset, i)
    row = reports[shown[0]].rows[i]
    label = str(getattr(dataset, 'class_names', {}).get(row['label'], row['label']))
    tiles = []
    for name in shown:
        level = key.removeprefix('iou_')
        drawn = show(image, maps[name](i), reports[name], level, dataset, i)
        value = reports[name].rows[i][key] if reports[name].rows else None
        measure, text = ('PxAP', cell(value)) if key == 'pxap' else ('IoU', cell(value, 2))
        alt = f'{row["id"]}, class {label}: map {name}, {measure} {text}'
        # More pixels than are shown keep lines crisp on dense screens.
        size = f'width="{round(drawn.width / 1.5)}" height="{round(drawn.height / 1.5)}"'
        tiles.append(
            f'<span class="tile"><img src="{data_url(drawn)}" {size} alt="{cell(alt)}">'
            f'<span>{cell(name)} <b>{text}</b></span></span>'
        )
    text = str(row['id']) if label in str(row['id']) else f'{row["id"]}: {label}'
    caption = f'<figcaption>{cell(text)}</figcaption>'
    return f'<figure class="card"><div class="tiles">{"".join(tiles)}</div>{caption}</figure>'


def _protocol(reports: Mapping[str, Report], command: str | None) -> str:
    """What the reports have in common once, and the rest by report."""
    metas = {name: _flat(report.meta) for name, report in reports.items()}
    first = next(iter(metas.values()))
    common = {k: v for k, v in first.items() if all(m.get(k) == v for m in metas.values())}
    entries = list(common.items())
    for key in dict.fromkeys(k for m in metas.values() for k in m if k not in common):
        entries += [(f'{key}, {name}', m[key]) for name, m in metas.items() if key in m]
    shown = definition_list((key.replace('_', ' '), value) for key, value in entries)
    if command:
        shown += f'<pre>{cell(command)}</pre>'
    return f'<section><h2>How it was measured</h2>{shown}</section>'


def _flat(meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in meta.items():
        if isinstance(value, Mapping):
            found[key] = ', '.join(f'{k} {v}' for k, v in value.items())
        elif isinstance(value, (list, tuple)):
            found[key] = ', '.join(map(str, value))
        elif value is not None:
            found[key] = value
    return found
