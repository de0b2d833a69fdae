"""Write reports as one HTML file with tables, plots and pictures that loads nothing and runs no script."""

from __future__ import annotations

import io
import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from .._io import printable, write_text
from . import plots
from ._pictures import picture, show
from .compare import Comparison, format_row
from .descriptions import MetricDescription
from .report import Report, check_comparable, columns_of, format_number
from .sources import MapOf

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Reports = Mapping[str, Report]


def write_html(
    reports: Report | Reports,
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

    It shows the metrics, their comparison, curves over thresholds, activations, tables by size of object and class, the
    best and worst images, and how everything was measured. Plots need matplotlib (extra `viz`); without it, the
    page says that they are missing.

    Args:
        reports: A report, or name -> report, of the same data set.
        path: File to write.
        dataset: The data set, for pictures.
        maps: Name of a report -> function of an image's index that returns its map (H,W), for pictures; see `maps_of`.
        images: Number of best, and of worst, images of each report except the center baseline.
        comparison: Of these reports, from `compare`.
        command: Command that makes the reports.
        title: Default: the data set.

    Raises:
        ValueError: Without reports, or for reports on different data sets or with different metrics, maps without a
            data set or without a report, or a data set with other images.
    """
    if isinstance(reports, Report):
        reports = {reports.maps: reports}
    _check(reports, dataset, maps, images)
    first = next(iter(reports.values()))
    description = first.description
    options: dict[str, Any] = {'undefined': StrictUndefined, 'trim_blocks': True, 'lstrip_blocks': True}
    environment = Environment(autoescape=True, finalize=_finalize, **options)
    template = environment.from_string(files(__package__).joinpath('report.html.jinja').read_text(encoding='utf-8'))
    page = template.render(
        title=f'Localization on {first.data_name}' if title is None else title,
        reports=reports,
        first=first,
        description=description,
        metrics=[_metrics_table(reports, setting) for setting in (False, True)],
        has_threshold=any('threshold' in report.metrics for report in reports.values()),
        comparison=comparison,
        comparison_table=comparison and _comparison_table(comparison, description),
        curves=_plot(lambda: plots.curves(reports, first.meta.iou)),
        activations=_activations(reports),
        sizes=_groups_table(reports, 'sizes', 'share of the image'),
        classes=_groups_table(reports, 'classes', 'class'),
        images=_images(reports, dataset, maps or {}, images),
        protocol=_protocol(reports),
        command=command,
    )
    write_text(path, page.lstrip() + '\n')


def _finalize(value: Any) -> Any:
    """Replace control characters in names; markup is that of the template."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _check(reports: Reports, dataset: Any, maps: Mapping[str, MapOf] | None, images: int) -> None:
    check_comparable(reports)
    if images < 0:
        raise ValueError(f'images={images}: give 0 or more')
    if maps and dataset is None:
        raise ValueError('pictures need the data set: give dataset=')
    for name, report in reports.items():
        if maps and any(row['id'] != dataset.ids[i] for i, row in enumerate(report.rows)):
            raise ValueError(f'report {name} and the data set have different images')
    if unknown := [name for name in maps or () if name not in reports]:
        raise ValueError(f'maps has {", ".join(unknown)}, but reports only has {", ".join(reports)}')


class _Cell(NamedTuple):
    text: str
    bold: bool = False
    bar: float | None = None  # length of a bar behind the text, in percent


class _Table(NamedTuple):
    """A table; `groups` are headings over several columns, with their number."""

    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[_Cell]]]
    groups: Sequence[tuple[str, int]] = ()


def _metrics_table(reports: Reports, setting: bool) -> _Table:
    """List the metrics, or what describes their thresholds (`setting`)."""
    columns = [column for column in columns_of(reports) if column.setting == setting]
    rows = []
    for name, report in reports.items():
        cells = []
        for column in columns:
            value = report.metrics.get(column.key)
            others = [r.metrics[column.key] for r in reports.values() if column.key in r.metrics]
            best = not setting and value is not None and value == max(others) > min(others)
            cells.append(_Cell(format_number(value, column.digits), best))
        rows.append((name, cells))
    headings = groupby(columns, lambda column: (column.group + ' (%)' * (column.digits == 1)).strip())
    return _Table(['maps', *(c.title for c in columns)], rows, [(name, len(list(found))) for name, found in headings])


def _comparison_table(comparison: Comparison, description: MetricDescription) -> _Table:
    """List intervals of the metrics and of their differences."""
    rows: list[tuple[str, Sequence[_Cell]]] = []
    for metric, found in groupby(comparison.rows, lambda row: row.metric):
        title = description.column(metric).label
        for row in found:
            low, high = row.difference_low, row.difference_high
            clear = low is not None and high is not None and (low > 0 or high < 0)
            value, interval, difference, *rest = (_Cell(text) for text in format_row(row))
            cells = [_Cell(row.maps), value, interval, difference._replace(bold=clear), *rest]
            rows.append((title, cells))
            title = ''
    baseline = comparison.meta.baseline
    return _Table(['metric', 'maps', '%', 'interval', f'difference to {baseline}', 'interval', 'p'], rows)


def _groups_table(reports: Reports, kind: str, first: str) -> _Table | None:
    """List the scores by class or size of all reports side by side; the rows are the same images in all of them."""
    shown = {name: report for name, report in reports.items() if report.tables.get(kind)}
    if not shown:
        return None
    key = next(iter(shown.values())).description.group
    rows = []
    for group in zip(*(report.tables[kind] for report in shown.values())):
        row = group[0]
        title = row['class'] if kind == 'classes' else f'{row["above"]} to {row["up_to"]} %'
        scores = (each[key] for each in group)
        rows.append((title, [_Cell(str(row['n'])), *(_Cell(format_number(s, 1), bar=s or 0) for s in scores)]))
    return _Table([first, 'images', *shown], rows)


def _plot(make: Callable[[], Figure]) -> dict[str, str]:
    """Draw a plot as the data URL of an SVG, or say why not."""
    try:
        figure = make()
    except ImportError as error:
        return {'url': '', 'problem': str(error)}
    from matplotlib import rc_context

    with io.BytesIO() as buffer, rc_context({'svg.hashsalt': 'fcam-zoo'}):  # the same page each time
        figure.savefig(buffer, format='svg', metadata={'Date': None})
        return {'url': _data_url('svg+xml', buffer)}


def _activations(reports: Reports) -> dict[str, str] | None:
    shown = {name: report for name, report in reports.items() if report.activations}
    return _plot(lambda: plots.activations(shown)) if shown else None


def _images(
    reports: Reports, dataset: Any, maps: Mapping[str, MapOf], images: int
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Find the best and the worst images of each report, and draw the maps of all reports."""
    if not images or not any(reports[name].rows for name in maps):
        return []
    # The center baseline is the same map in each image, so its best and worst images are not shown.
    shown = [name for name in maps if reports[name].rows and reports[name].maps != 'center'] or list(maps)
    key = reports[shown[0]].description.row.key
    sections = []
    cards: dict[int, dict[str, Any]] = {}
    for name in shown:
        scored = [(row[key], i) for i, row in enumerate(reports[name].rows) if row[key] is not None]
        order = [i for _, i in sorted(scored, key=lambda pair: (-pair[0], pair[1]))]
        for word, chosen in (('Best', order[:images]), ('Worst', order[images:][::-1][:images])):
            cards |= {i: _card(i, shown, reports, dataset, maps) for i in chosen if i not in cards}
            sections.append((f'{word} of {name}', [cards[i] for i in chosen]))
    return [(heading, found) for heading, found in sections if found]


def _card(i: int, shown: Sequence[str], reports: Reports, dataset: Any, maps: Mapping[str, MapOf]) -> dict[str, Any]:
    """Draw an image with its maps of all kinds."""
    image, row = picture(dataset, i), reports[shown[0]].rows[i]
    name = str(row['id'])
    label = str(getattr(dataset, 'class_names', {}).get(row['label'], row['label']))
    tiles = []
    for kind in shown:
        report = reports[kind]
        drawn = show(image, maps[kind](i), report, dataset, i)
        score = report.rows[i][report.description.row.key] if report.rows else None
        # More pixels than are shown keep lines crisp on dense screens.
        size = {'width': round(drawn.width / 1.5), 'height': round(drawn.height / 1.5)}
        tiles.append({'name': kind, 'score': score, 'url': _jpeg(drawn), **size})
    return {'tiles': tiles, 'alt': f'{name}, class {label}', 'caption': name if label in name else f'{name}: {label}'}


def _jpeg(image: Image.Image) -> str:
    with io.BytesIO() as buffer:
        image.save(buffer, 'JPEG', quality=82, optimize=True)
        return _data_url('jpeg', buffer)


def _data_url(kind: str, buffer: io.BytesIO) -> str:
    return f'data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}'


def _protocol(reports: Reports) -> list[tuple[str, Any]]:
    """List what the reports have in common once, and the rest by report."""
    metas = {name: dict(_entries(asdict(report.meta))) for name, report in reports.items()}
    first = next(iter(metas.values()))
    common = {k: v for k, v in first.items() if all(m.get(k) == v for m in metas.values())}
    entries = list(common.items())
    for key in dict.fromkeys(k for m in metas.values() for k in m if k not in common):
        entries += [(f'{key}, {name}', m[key]) for name, m in metas.items() if key in m]
    return [(key.replace('_', ' '), value) for key, value in entries]


def _entries(meta: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in meta.items():
        if isinstance(value, Mapping):
            yield key, ', '.join(f'{k} {v}' for k, v in value.items())
        elif isinstance(value, (list, tuple)):
            yield key, ', '.join(map(str, value))
        elif value is not None:
            yield key, value
