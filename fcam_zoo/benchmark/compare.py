"""Confidence intervals of metrics and of their differences, by bootstrap over images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np

from .._io import printable, write_json
from .._schema import build, length, read_json, show
from .object_metric import detection_scores
from .report import Report, as_unicode, reading_report

LEVEL = 95
MAX_SAMPLES = 10**5
# Largest number of rows in a file.
MAX_ROWS = 10**4
# Images whose samples are unpacked at a time.
_CHUNK = 2048
_SAME = ('id', 'label', 'width', 'height', 'n_boxes')
_PROTOCOL = ('metric', 'iou', 'multi_contour', 'min_area')


@dataclass
class ComparisonRow:
    """A metric of a report.

    Attributes:
        metric: max_box_acc_50, ..., mean, box_acc_50, ..., top1_50, ..., cls; or precision_50, recall_50, f1_50,
            best_f1_50, ..., cls; or pxap, cls.
        maps: Name of the report.
        value: In percent.
        low: Lower end of its interval.
        high: Upper end of its interval.
        difference: To the baseline, in points. This and the following are None for the baseline, and for metrics that
            the baseline lacks.
        difference_low: Lower end of its interval.
        difference_high: Upper end of its interval.
        p: Two-sided bootstrap p-value of no difference.
    """

    metric: str
    maps: str
    value: float
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None


@dataclass
class ComparisonMeta:
    """How reports were compared.

    Attributes:
        baseline: Name of the report that others are compared with.
        n: Number of images.
        samples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.
        level: Of the intervals, in percent.
        thresholds: Without masks, whether each resample chooses its best ones.
    """

    baseline: str
    n: int
    samples: int
    seed: int
    level: int
    thresholds: str | None = None


@dataclass
class Comparison:
    """Result of `compare`, in plain Python values: a row per metric and report."""

    rows: Annotated[list[ComparisonRow], length(1, MAX_ROWS)]
    meta: ComparisonMeta

    def to_json(self, path: str | os.PathLike) -> None:
        """Write everything as strict JSON."""
        write_json(path, as_unicode(asdict(self)))

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> Comparison:
        """Read what `to_json` wrote.

        Raises:
            FileNotFoundError: When the file does not exist.
            ReportError: When it does not hold a comparison.
        """
        with reading_report(path, 'comparison'):
            return build(cls, read_json(Path(path)))

    def to_markdown(self, metrics: Sequence[str] | None = None) -> str:
        """Return a table of all metrics, or of some.

        Raises:
            ValueError: For a metric that was not compared.
        """
        known = list(dict.fromkeys(row.metric for row in self.rows))
        if unknown := [metric for metric in metrics or () if metric not in known]:
            raise ValueError(f'metric {", ".join(unknown)} was not compared: choose from {", ".join(known)}')
        interval = f'{self.meta.level} % interval'
        lines = [
            f'| metric | maps | % | {interval} | difference to {_cell(self.meta.baseline)} | {interval} | p |',
            '|---|---|--:|--:|--:|--:|--:|',
        ]
        for row in self.rows:
            if metrics is not None and row.metric not in metrics:
                continue
            cells = [_cell(row.metric), _cell(row.maps), *format_row(row)]
            lines.append(f'| {" | ".join(cells)} |')
        return '\n'.join(lines) + '\n'


def compare(
    reports: Mapping[str, Report], baseline: str | None = None, samples: int = 1000, seed: int = 0
) -> Comparison:
    """Compute intervals of the metrics of reports on the same images, and of their differences.

    Images are drawn with replacement, the same ones for all reports, so that differences are paired. The best threshold
    of MaxBoxAcc and of best_f1_* is chosen again in each resample, as it would be on other images. Reports that were
    read from files lack the samples for this: their thresholds stay fixed, and top-1 localization and best_f1_* are
    omitted. AP of objects has no interval. Intervals are percentiles. The maximum over thresholds is slightly larger in
    resamples than in the images themselves, especially if its curve is rough.

    Args:
        reports: Name -> report, evaluated with `rows=True`.
        baseline: Name of the report that others are compared with; default: the first F-CAM, or else the first.
        samples: Resamples, at least 40.
        seed: Seed of the random generator.

    Raises:
        ValueError: Without reports, or for an unknown baseline, too few samples, reports on different images or with
            different metrics, reports without rows, PxAP reports without samples.
    """
    baseline = _check(reports, baseline, samples, seed)
    first = next(iter(reports.values()))
    n, kind = len(first.rows), first.description.kind
    counts = _draw(n, samples, seed)
    chosen = all(report.samples is not None for report in reports.values())
    labelled = all('top1' in report.rows[0] for report in reports.values())
    drawn = {name: _RESAMPLE[kind](report, counts, chosen, labelled) for name, report in reports.items()}
    if labelled:
        for name, report in reports.items():
            drawn[name]['cls'] = 100 * counts @ _column(report, 'top1').astype(np.float32) / n
    rows: list[ComparisonRow] = []
    for metric in dict.fromkeys(metric for found in drawn.values() for metric in found):
        expected = drawn[baseline].get(metric)
        for name, found in drawn.items():
            if metric in found:
                other = None if name == baseline else expected
                rows.append(ComparisonRow(metric, name, *_intervals(found[metric], other)))
    meta = ComparisonMeta(baseline, n, samples, seed, LEVEL)
    if kind != 'masks':
        meta.thresholds = 'chosen in each resample' if chosen else 'as reported'
    return Comparison(rows, meta)


def _check(reports: Mapping[str, Report], baseline: str | None, samples: int, seed: int) -> str:
    if not reports:
        raise ValueError('nothing to compare: give at least one report')
    if type(samples) is not int or not 40 <= samples <= MAX_SAMPLES:
        raise ValueError(f'samples is {show(samples)}: give 40 or more for {LEVEL} % intervals, up to {MAX_SAMPLES}')
    if type(seed) is not int or seed < 0:
        raise ValueError(f'seed is {show(seed)}: give a whole number from 0')
    names = list(reports)
    if baseline is None:
        baseline = next((name for name, report in reports.items() if report.maps == 'fcam'), names[0])
    if baseline not in reports:
        raise ValueError(f'baseline {baseline!r} is not a report: choose one of {", ".join(names)}')
    first = reports[names[0]]
    for name, report in reports.items():
        if not report.rows:
            raise ValueError(f'report {name} has no rows: evaluate with rows=True')
        if different := [k for k in _PROTOCOL if getattr(report.meta, k) != getattr(first.meta, k)]:
            raise ValueError(f'reports {names[0]} and {name} have different {", ".join(different)}: not comparable')
        same = len(report.rows) == len(first.rows)
        if not same or any(a.get(k) != b.get(k) for a, b in zip(report.rows, first.rows) for k in _SAME):
            raise ValueError(f'reports {names[0]} and {name} are on different images: evaluate both on the same')
        if report.samples is None and report.description.kind == 'masks':
            raise ValueError(f'report {name} was read from a file, which lacks the samples of PxAP: evaluate again')
    return baseline


def _draw(n: int, samples: int, seed: int) -> np.ndarray:
    """Count how often each image is drawn, float32 (1 + samples, n); the first row has each image once."""
    counts = np.ones((1 + samples, n), np.float32)
    rng = np.random.default_rng(seed)
    for row in counts[1:]:
        row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return counts


def _resample_boxes(report: Report, counts: np.ndarray, chosen: bool, labelled: bool) -> dict[str, np.ndarray]:
    """Compute the metrics (S) of each resample."""
    iou = report.meta.iou or []
    levels = [f'{level:g}' for level in iou]
    metrics = {f'max_box_acc_{k}': v for k, v in zip(levels, _best(report, counts, chosen).T)}
    metrics['max_box_acc_v2' if report.meta.multi_contour else 'mean'] = np.mean(list(metrics.values()), 0)
    if 'iou_at_threshold' in report.rows[0]:
        best_iou = _column(report, 'iou_at_threshold').astype(np.float32)
        hits = {k: best_iou >= np.float32(level / 100) for k, level in zip(levels, iou)}
        metrics |= {f'box_acc_{k}': 100 * counts @ hit.astype(np.float32) / len(hit) for k, hit in hits.items()}
    if labelled and chosen:
        right = counts * _column(report, 'top1')
        metrics |= {f'top1_{k}': v for k, v in zip(levels, _best(report, right, chosen).T)}
    return metrics


def _resample_objects(report: Report, counts: np.ndarray, chosen: bool, _labelled: bool) -> dict[str, np.ndarray]:
    """Compute the metrics (S) of each resample; 0 where nothing was found or is true."""
    levels = [f'{level:g}' for level in report.meta.iou or ()]
    columns = [_column(report, key) for key in ('n_boxes', 'n_found', *(f'correct_{k}' for k in levels))]
    # Whole numbers below 2**53 are exact in float64.
    truth, found, *correct = (counts.astype(np.float64) @ np.array(columns, np.float64).T).T
    metrics: dict[str, np.ndarray] = {}
    for level, right in zip(levels, correct):
        values = detection_scores(truth, found, right)
        metrics |= {f'{key}_{level}': value for key, value in zip(('precision', 'recall', 'f1'), values)}
    if chosen:
        samples = cast(np.ndarray, report.samples)
        sums = _product(counts, lambda part: samples[part], np.float64).reshape(len(counts), *samples.shape[1:])
        f1 = 2 * 100 * sums[:, 1:] / np.maximum(sums[:, :1], 1)
        metrics |= {f'best_f1_{level}': value for level, value in zip(levels, f1.max(2).T)}
    return metrics


def _best(report: Report, counts: np.ndarray, chosen: bool) -> np.ndarray:
    """Compute the largest accuracy in percent over thresholds (S,I), given how often images count (S,N)."""
    samples = report.samples if chosen else None
    thresholds = report.meta.thresholds if chosen else 1
    levels = report.meta.iou or []

    def hits(part: slice) -> np.ndarray:
        if samples is not None:
            return np.unpackbits(samples[part], axis=2, count=thresholds)
        return np.array([[[row[f'hit_{level:g}']] for level in levels] for row in report.rows[part]])

    # Whole numbers below 2**24 are exact in float32.
    correct = _product(counts, hits, np.float32).reshape(len(counts), len(levels), thresholds)
    return 100 * correct.max(2).astype(np.float64) / counts.shape[1]


def _resample_masks(report: Report, counts: np.ndarray, _chosen: bool, _labelled: bool) -> dict[str, np.ndarray]:
    """Compute PxAP (S) in percent of each resample; NaN if none of its images has an object."""
    samples = cast(np.ndarray, report.samples)  # `_check` refuses reports without them.
    bins = samples.shape[2]
    pixels = _product(counts, lambda part: samples[part], np.float64).reshape(-1, 2, bins)
    true, false = pixels[:, :, ::-1].cumsum(2).swapaxes(0, 1)
    precision = true / np.maximum(true + false, 1)
    with np.errstate(invalid='ignore'):
        recall = true / true[:, -1:]
    return {'pxap': 100 * (precision[:, 1:] * np.diff(recall, axis=1)).sum(1)}


_RESAMPLE = {'objects': _resample_objects, 'boxes': _resample_boxes, 'masks': _resample_masks}


def _product(counts: np.ndarray, values: Callable[[slice], np.ndarray], dtype: type) -> np.ndarray:
    """Multiply counts (S,N) and values (N,...), which are made in parts, to (S,M)."""
    total: Any = 0
    for start in range(0, counts.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        found = values(part)
        total = total + counts[:, part].astype(dtype, copy=False) @ found.reshape(len(found), -1).astype(dtype)
    return total


def _intervals(drawn: np.ndarray, baseline: np.ndarray | None) -> tuple[float, ...]:
    """Return value and interval of a metric, given its resamples (S), and those of the difference to the baseline."""
    result = (float(drawn[0]), *_percentiles(drawn))
    if baseline is None:
        return result
    paired = drawn.astype(np.float64) - baseline
    # The observed difference counts as one of the resamples, so that p is never 0.
    tails = (1 + (paired[1:] <= 0).sum(), 1 + (paired[1:] >= 0).sum())
    p = min(1.0, 2 * float(min(tails)) / len(paired))
    return (*result, float(paired[0]), *_percentiles(paired), p)


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    tail = (100 - LEVEL) / 200
    low, high = np.nanquantile(drawn[1:], (tail, 1 - tail))
    return float(low), float(high)


def _column(report: Report, key: str) -> np.ndarray:
    return np.array([row[key] for row in report.rows])


def format_row(row: ComparisonRow) -> list[str]:
    """Format value, interval, difference, its interval and p of a row of a comparison."""
    cells = [f'{row.value:.1f}', f'{row.low:.1f} to {row.high:.1f}']
    if row.p is None:
        return [*cells, '', '', '']
    interval = f'{row.difference_low:+.1f} to {row.difference_high:+.1f}'
    return [*cells, f'{row.difference:+.1f}', interval, f'{row.p:.3f}']


def _cell(text: str) -> str:
    return printable(text).replace('|', '\\|')
