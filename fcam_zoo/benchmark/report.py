"""The result of an evaluation: metrics, curves and a row per image; written as JSON, CSV or text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from .._io import CsvWriter, atomic_path, printable, write_json
from .._schema import InvalidValue, build, read_json, reading
from .._table import text_table
from .._version import __version__
from ..errors import ReportError
from ._analysis import activation_shares, class_table, size_table
from ._scores import Scores
from .descriptions import Column, MetricDescription, describe_metric
from .report_schema import Meta, Row, check_contents

# Largest file in bytes: a report has about 400 bytes per image.
_MAX_FILE = 2**29


@dataclass
class Report:
    """Result of `evaluate`, in plain Python values.

    Attributes:
        maps: Kind of map.
        metrics: With boxes, for each IoU (50, ...): max_box_acc_50 in percent, best_threshold_50 and robustness_50, the
            percentage of thresholds whose accuracy is within 5 points of the best; with logits also top1_50, top5_50.
            The mean of max_box_acc_*, or max_box_acc_v2 with multiple contours. With masks: pxap in percent;
            best_threshold, where the F1 of the pixels is largest, best_f1 in percent and its robustness. With a
            threshold that was chosen on other images: threshold, and box_acc_50, ... or f1 at it, in percent. With
            logits: cls in percent. With several objects per image, for each IoU in percent: precision_50, recall_50,
            f1_50 and ap_50 at the chosen threshold or, without one, at best_threshold_50; best_f1_50 at
            best_threshold_50, and its robustness_50.
        curves: threshold and, for each IoU, accuracy_50, or precision_50, recall_50 and f1_50, in percent; or
            threshold, precision and recall.
        meta: How it was measured: data set, split, number of images, metric and its options, maps, versions.
        rows: For each image id, label and object_share, the percentage of the image inside its boxes or mask. With
            boxes width, height, n_boxes, for each IoU iou_50 and hit_50 at its best threshold, and iou_at_threshold at
            the one chosen on other images. With several objects n_found boxes, for each IoU correct_50 of them and
            f1_50 (None without true and found boxes). With masks the pxap and the f1_at_threshold of the image (None
            without object pixels). With logits top1 and top5.
        activations: score, where each of 128 bins starts, and the percentage of pixels in it: of all pixels, of those
            inside and of those outside boxes or masks.
        tables: classes (label, class, n) and sizes (images whose object_share is above one number and up to another,
            n), each with accuracy_50, ... at the best threshold of all images, precision_50, recall_50, f1_50, ap_50,
            ... of objects, or pxap.
        samples: What `compare` resamples; not written to files, None without rows. With boxes whether each image is
            correct at each IoU and threshold, packed bits (N,I,ceil(T/8)); with several objects the sum of true and
            found boxes, and the correct ones at each IoU (N,1+I,T); with masks the histograms (N,2,bins) of `PixelAP`.
    """

    maps: str
    metrics: dict[str, float]
    curves: dict[str, list[float]]
    meta: Meta
    rows: list[Row] = field(default_factory=list)
    activations: dict[str, list[float]] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    samples: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_json(self, path: str | os.PathLike) -> None:
        """Write everything except the samples as strict JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != 'samples'}
        write_json(path, as_unicode(values | {'meta': asdict(self.meta)}))

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> Report:
        """Read what `to_json` wrote; the samples are None.

        Raises:
            FileNotFoundError: When the file does not exist.
            ReportError: When it does not hold a report.
        """
        with reading_report(path):
            report = build(cls, read_json(Path(path), _MAX_FILE))
            check_contents(report)
        return report

    def to_csv(self, path: str | os.PathLike, table: str | None = None) -> None:
        """Write the rows, or a table: 'classes' or 'sizes'.

        Raises:
            ValueError: If the report does not have them.
        """
        rows = self.rows if table is None else self.tables.get(table, [])
        if not rows:
            raise ValueError(f'the report has no {table or "rows"}: evaluate with rows=True')
        # File names need not be Unicode.
        with atomic_path(path) as temporary, temporary.open('w', newline='', encoding='utf-8', errors='replace') as f:
            writer = CsvWriter(f)
            writer.write(rows[0])
            for row in rows:
                writer.write(row[column] for column in rows[0])

    @property
    def description(self) -> MetricDescription:
        """Return names, columns and curves of the metric."""
        return describe_metric(self.meta.metric, self.meta.iou)

    @property
    def data_name(self) -> str:
        """Return data set and split, if they were recorded."""
        return '/'.join(name for name in (self.meta.dataset, self.meta.split) if name) or 'data set'

    def summary(self) -> str:
        """Return one line with all metrics."""
        digits = {column.key: column.digits for column in self.description.columns}
        cells = (f'{key} {value:.{digits[key]}f}' for key, value in self.metrics.items())
        return f'{printable(self.maps)}: ' + '  '.join(cells)


def make_report(maps: str, scores: Scores, dataset: Any, source: Mapping[str, Any]) -> Report:
    """Build the report of one kind of map.

    Args:
        maps: Kind of map.
        scores: Scores of all images.
        dataset: The data set.
        source: From `describe_maps`.
    """
    metrics, curves = scores.results()
    if 'top1' in scores.lists:
        metrics['cls'] = 100 * float(scores.kept('top1').mean())
    step = np.diff(scores.metric.thresholds)
    meta = Meta(
        dataset=getattr(dataset, 'name', None),
        split=getattr(dataset, 'split', None),
        n=scores.metric.compute()['n'],
        **source,
        thresholds=len(scores.metric.thresholds),
        threshold_step=float(step[0]) if step.size and np.allclose(step, step[0]) else None,
        **scores.meta(),
        versions={
            'fcam_zoo': __version__,
            'torch': torch.__version__,
            'numpy': np.__version__,
            'opencv': cv2.__version__,
        },
    )
    report = Report(maps, metrics, curves, meta, scores.rows(dataset))
    report.activations = activation_shares(scores.activations)
    if report.rows:
        report.samples = scores.samples()
        score = scores.group_score(report.rows)
        names = getattr(dataset, 'class_names', None)
        report.tables = {'classes': class_table(report.rows, names, score), 'sizes': size_table(report.rows, score)}
    return report


def as_unicode(value: Any) -> Any:
    """Replace what UTF-8 cannot hold in all texts of a JSON value, because file names need not be Unicode."""
    if isinstance(value, str):
        return value.encode(errors='replace').decode()
    if isinstance(value, dict):
        return {key: as_unicode(item) for key, item in value.items()}
    return [as_unicode(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def reading_report(path: str | os.PathLike, kind: str = 'report') -> Iterator[None]:
    """Convert errors of reading a file of `fcam-zoo benchmark -o` to `ReportError`; `kind` is what it should hold."""
    if not os.path.lexists(path):
        raise FileNotFoundError(f'{path} does not exist: give a folder or a JSON file of fcam-zoo benchmark -o')
    with reading(path, ReportError, 'run fcam-zoo benchmark again'):
        try:
            yield
        except InvalidValue as error:
            raise ReportError(f'{path} is not a {kind} of fcam-zoo benchmark ({error})') from error


def check_comparable(reports: Mapping[str, Report]) -> None:
    """Check that reports can be shown side by side.

    Raises:
        ValueError: Without reports, or for reports of different data sets or metrics.
    """
    if not reports:
        raise ValueError('nothing to show: give at least one report')
    first = next(iter(reports))
    for name, report in reports.items():
        keys = ('dataset', 'split', 'n', 'metric', 'iou')
        if different := [k for k in keys if getattr(report.meta, k) != getattr(reports[first].meta, k)]:
            raise ValueError(f'reports {first} and {name} have different {", ".join(different)}: show them apart')


def columns_of(reports: Mapping[str, Report]) -> list[Column]:
    """Return the columns of all metrics that at least one of the reports has."""
    keys = {key for report in reports.values() for key in report.metrics}
    return [column for column in next(iter(reports.values())).description.columns if column.key in keys]


def metrics_table(reports: Mapping[str, Report]) -> str:
    """Format the metrics as text, one row per report, without top-5 localization."""
    columns = text_columns(reports)
    rows = [['maps', *(column.short for column in columns)]]
    for name, report in reports.items():
        cells = (format_number(report.metrics.get(column.key), column.digits, '-') for column in columns)
        rows.append([name, *cells])
    return text_table(rows, numbers=range(1, len(columns) + 1))


def columns_legend(reports: Mapping[str, Report]) -> str:
    """Explain the columns of `metrics_table` in one line."""
    groups: dict[str, list[Column]] = {}
    for column in text_columns(reports):
        groups.setdefault(column.group or column.key, []).append(column)
    parts = []
    for own in groups.values():
        titles, shorts = [column.title for column in own], ', '.join(column.short for column in own)
        text = own[0].group
        if len(own) == 1:
            text = f'{text} {titles[0]}'.lstrip()
        elif not all(title.startswith('IoU') or title in ('mean', 'V2') for title in titles):
            text = f'{", ".join(titles)} of {text}'
        if text != shorts:
            parts.append(f'{shorts}: {text}')
    return f'columns: {"; ".join(parts)}'


def text_columns(reports: Mapping[str, Report]) -> list[Column]:
    """Return the columns of `metrics_table`."""
    return [column for column in columns_of(reports) if not column.key.startswith('top5')]


def format_number(value: float | None, digits: int, missing: str = '–') -> str:
    """Format a number, or return what stands for a missing one."""
    return missing if value is None else f'{value:.{digits}f}'
