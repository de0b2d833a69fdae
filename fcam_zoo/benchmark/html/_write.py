"""Write reports as one HTML file with tables, curves and pictures that loads nothing and runs no script."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..._io import write_text
from ..compare import Comparison
from ..report import Report, check_comparable
from ..sources import MapOf
from . import _charts as charts
from ._images import images_section
from ._page import PAGE, STYLE, cell, definition_list, paragraph, section
from ._plots import activations_section, curves_section
from ._tables import classes_section, comparison_section, metrics_section, sizes_section


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

    It shows the metrics, their comparison, curves over thresholds, activations, tables by size of object and class, the
    best and worst images, and how everything was measured.

    Args:
        reports: A report, or name -> report, of the same data set.
        path: File to write.
        dataset: The data set, for pictures.
        maps: Name of a report -> function of an image's index that returns its map (H,W), for pictures; see `maps_of`.
        images: Number of best, and of worst, images of each report except the centre baseline.
        comparison: Of these reports, from `compare`.
        command: How to make the reports again.
        title: Default: the data set.

    Raises:
        ValueError: For no report, reports on different data sets or with different metrics, maps without a data set or
            without a report, or a data set with other images.
    """
    if isinstance(reports, Report):
        reports = {reports.maps: reports}
    _check(reports, dataset, maps, images)
    first = next(iter(reports.values()))
    title = f'Localization on {first.data_name}' if title is None else title
    body = [
        f'<h1>{cell(title)}</h1>',
        paragraph(f'{first.meta["n"]} images. {first.description.name}. {first.description.text}'),
        metrics_section(reports),
        comparison_section(comparison, first.description),
        curves_section(reports),
        activations_section(reports),
        sizes_section(reports),
        classes_section(reports),
        images_section(reports, dataset, maps or {}, images),
        _protocol_section(reports, command),
    ]
    page = PAGE.format(
        title=cell(title), page_style=STYLE, chart_style=charts.STYLE, body='\n'.join(filter(None, body))
    )
    # File names need not be Unicode.
    write_text(path, page.encode(errors='replace').decode())


def _check(reports: Mapping[str, Report], dataset: Any, maps: Mapping[str, MapOf] | None, images: int) -> None:
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


def _protocol_section(reports: Mapping[str, Report], command: str | None) -> str:
    """List what the reports have in common once, and the rest by report."""
    metas = {name: dict(_entries(report.meta)) for name, report in reports.items()}
    first = next(iter(metas.values()))
    common = {k: v for k, v in first.items() if all(m.get(k) == v for m in metas.values())}
    entries = list(common.items())
    for key in dict.fromkeys(k for m in metas.values() for k in m if k not in common):
        entries += [(f'{key}, {name}', m[key]) for name, m in metas.items() if key in m]
    shown = definition_list((key.replace('_', ' '), value) for key, value in entries)
    return section('How it was measured', shown + (f'<pre>{cell(command)}</pre>' if command else ''))


def _entries(meta: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in meta.items():
        if isinstance(value, Mapping):
            yield key, ', '.join(f'{k} {v}' for k, v in value.items())
        elif isinstance(value, (list, tuple)):
            yield key, ', '.join(map(str, value))
        elif value is not None:
            yield key, value
