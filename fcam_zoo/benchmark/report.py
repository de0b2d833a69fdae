"""What an evaluation found: figures, curves, a row for each image; as JSON, CSV, text or a picture."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from .._io import atomic_path, write_json
from .._version import __version__
from ._analysis import (
    ACTIVATION_BINS,
    Score,
    activation_shares,
    activations,
    class_table,
    f1_scores,
    object_masks,
    robustness,
    size_table,
)
from ._inputs import ArrayLike, top_k_hits
from .box_metric import BoxMetric
from .pixel_ap import PixelAP, average_precision

_CENTER = 'Gaussian in the middle, standard deviation a quarter of each side'
_FCAM, _CAM = 'softmax of the foreground channel', 'class map of the true label'
# By convention of `evaluate_many`, and whether the map is a class map.
_CONVENTIONS = {
    ('bilinear', False): f'{_FCAM}, not re-normalised',
    ('bilinear', True): f'{_CAM}, min-max normalised, resized bilinearly, not re-normalised',
    ('bicubic', False): f'{_FCAM}, min-max normalised',
    ('bicubic', True): f'{_CAM}, resized bicubically, then min-max normalised',
}


@dataclass
class Report:
    """Result of `evaluate`, in plain Python values.

    Attributes:
        maps: Kind of map.
        metrics: With boxes, for each IoU (50, ...) max_box_acc_50 in percent, best_threshold_50 and robustness_50, the
            percentage of thresholds whose accuracy is within 5 points of the best; and mean of the first; with logits
            also top1_50, top5_50 and cls in percent. With masks pxap in percent; best_threshold, at which the F1 of the
            pixels is largest, best_f1 in percent, its robustness; and cls.
        curves: threshold and, for each IoU, accuracy_50 in percent; or threshold, precision and recall.
        meta: Data set, split, number of images, metric and its options, convention of the maps, versions.
        rows: For each image id, label and object_share, the percentage of the image within its boxes or mask; with
            boxes width, height, n_boxes and, for each IoU, iou_50 and hit_50 at its best threshold; with masks the
            image's own pxap (None without object pixels); with logits top1 and top5.
        activations: score, where each of 128 bins starts, and the percentage of pixels in it: of all, of those inside
            boxes or masks, of those outside.
        tables: Of the rows: classes (label, class, n) and sizes (images whose object_share is above one number and up
            to another, n), each with accuracy_50, ... at the best threshold of all images, or pxap.
        samples: What `compare` draws from, in no file: with boxes whether each image is right at each IoU and
            threshold, packed bits (N,I,ceil(T/8)); with masks the
            histograms (N,2,bins) of `PixelAP`. None without rows.
    """

    maps: str
    metrics: dict[str, float]
    curves: dict[str, list[float]]
    meta: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    activations: dict[str, list[float]] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    samples: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_json(self, path: str | os.PathLike) -> None:
        """Write everything but the samples as strict JSON."""
        write_json(path, {f.name: getattr(self, f.name) for f in fields(self) if f.name != 'samples'})

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> Report:
        """Read what `to_json` wrote; there are no samples then.

        Raises:
            FileNotFoundError: When there is no such file.
            ValueError: When the file is no report.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding='utf-8')))
        except (ValueError, TypeError) as error:
            raise ValueError(f'{path}: not a report of fcam-zoo benchmark ({error}); evaluate again') from error

    def to_csv(self, path: str | os.PathLike, table: str | None = None) -> None:
        """Write the rows, or a table: 'classes' or 'sizes'.

        Raises:
            ValueError: When the report has none.
        """
        rows = self.rows if table is None else self.tables.get(table, [])
        if not rows:
            raise ValueError(f'the report has no {table or "rows"}: evaluate with rows=True')
        with atomic_path(path) as temporary, temporary.open('w', newline='', encoding='utf-8') as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def plot(self, path: str | os.PathLike) -> None:
        """Draw accuracy against the threshold, or precision against recall; the suffix of the path tells the format.

        Raises:
            ImportError: Without matplotlib (extra `viz`).
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plots need matplotlib: pip install 'fcam-zoo[viz]'") from error
        axes = (figure := Figure(figsize=(5, 4), layout='constrained')).subplots()
        if 'precision' in self.curves:
            axes.plot(self.curves['recall'], self.curves['precision'], label=f'PxAP {self.metrics["pxap"]:.1f}')
            axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1))
        else:
            for level in map(_name, self.meta['iou']):
                accuracy = self.metrics[f'max_box_acc_{level}']
                label = f'IoU {level}: {accuracy:.1f}'
                axes.plot(self.curves['threshold'], self.curves[f'accuracy_{level}'], label=label)
            axes.set(xlabel='threshold', ylabel='box accuracy (%)', xlim=(0, 1), ylim=(0, 100))
        axes.set_title(f'{self.maps} on {self.meta["dataset"]}/{self.meta["split"]}')
        axes.legend()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120)

    def summary(self) -> str:
        """One line of figures."""
        cells = (f'{k} {v:.3f}' if 'threshold' in k else f'{k} {v:.1f}' for k, v in self.metrics.items())
        return f'{self.maps}: ' + '  '.join(cells)


class Measured(NamedTuple):
    """What a batch of B score maps comes to."""

    counts: np.ndarray  # (B,T) best IoU, or (B,2,bins) histograms
    activations: np.ndarray  # (3,ACTIVATION_BINS)
    shares: np.ndarray  # (B) of the image within its boxes or mask


def measure(metric: BoxMetric | PixelAP, score_maps: ArrayLike, truth: Any) -> Measured:
    """Measure a batch, with its boxes or masks; counts nothing, so that any process can do it.

    Raises:
        ValueError: As `BoxMetric.update` and `PixelAP.update`.
    """
    find = metric.best_iou if isinstance(metric, BoxMetric) else metric.histograms
    counts = find(score_maps, truth)
    masks = object_masks(truth, (len(counts), *score_maps.shape[-2:]))
    return Measured(counts, activations(score_maps, masks), (masks == 1).mean((1, 2)))


class Scores:
    """A metric, and what rows need beyond it."""

    def __init__(self, metric: BoxMetric | PixelAP) -> None:
        self.metric = metric
        self.each: list[np.ndarray] = []  # (B,T) best IoU, or (B) average precision
        self.histograms: list[np.ndarray] = []  # (B,2,bins), with masks
        self.shares: list[np.ndarray] = []  # (B) of the image within its boxes or mask
        self.activations = np.zeros((3, ACTIVATION_BINS), np.int64)
        self.top1: list[np.ndarray] = []
        self.top5: list[np.ndarray] = []

    def add(self, found: Measured, labels: ArrayLike | None, logits: ArrayLike | None, rows: bool) -> None:
        """Count a measured batch.

        Raises:
            ValueError: As `BoxMetric.count` and `PixelAP.count`.
        """
        if isinstance(self.metric, BoxMetric):
            self.metric.count(found.counts, labels, logits)
            # Rational numbers of this size are told apart, and compared with a wanted IoU, in float32 as in float64.
            each = found.counts.astype(np.float32)
        else:
            self.metric.count(found.counts)
            each = np.array([average_precision(*h)[0] if h[0].any() else np.nan for h in found.counts])
        self.activations += found.activations
        if rows:
            self.each.append(each)
            self.shares.append(found.shares)
            if isinstance(self.metric, PixelAP):
                # 16 bits hold the pixels of maps up to 256 x 256.
                self.histograms.append(found.counts.astype(np.min_scalar_type(found.counts.max(initial=0))))
        if logits is not None:
            top1, top5 = top_k_hits(labels, logits, len(each))
            self.top1.append(top1)
            self.top5.append(top5)

    def merge(self, other: Scores) -> None:
        """Add those of the images that follow."""
        self.metric.merge(other.metric)
        self.activations = self.activations + other.activations
        for name in ('each', 'histograms', 'shares', 'top1', 'top5'):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def make_report(maps: str, scores: Scores, dataset: Any, convention: str | None) -> Report:
    """Gather a metric's results."""
    metric = scores.metric
    made = 'as given' if convention is None else _CONVENTIONS[convention, maps != 'fcam']
    result = metric.compute()
    step = np.diff(metric.thresholds)
    meta: dict[str, Any] = {
        'dataset': getattr(dataset, 'name', None),
        'split': getattr(dataset, 'split', None),
        'n': result['n'],
        'score_maps': _CENTER if maps == 'center' else made,
        'thresholds': len(metric.thresholds),
        'threshold_step': float(step[0]) if step.size and np.allclose(step, step[0]) else None,
    }
    if isinstance(metric, BoxMetric):
        meta |= {'metric': 'MaxBoxAccV2' if metric.multi_contour else 'MaxBoxAcc', 'iou': list(metric.iou)}
        meta |= {'multi_contour': metric.multi_contour}
        metrics, curves = _box_figures(metric, result)
    else:
        meta['metric'] = 'PxAP'
        metrics, curves = _pixel_figures(metric, result)
    if scores.top1:
        metrics['cls'] = 100 * float(np.concatenate(scores.top1).mean())
    meta['versions'] = {
        'fcam_zoo': __version__,
        'torch': torch.__version__,
        'numpy': np.__version__,
        'opencv': cv2.__version__,
    }
    report = Report(maps, metrics, curves, meta, _rows(scores, dataset, result))
    report.activations = activation_shares(scores.activations)
    if report.rows:
        report.samples = _samples(scores)
        score = _box_score(report) if isinstance(metric, BoxMetric) else _pixel_score(report)
        names = getattr(dataset, 'class_names', None)
        report.tables = {'classes': class_table(report.rows, names, score), 'sizes': size_table(report.rows, score)}
    return report


def _name(iou: float) -> str:
    return f'{iou:g}'


def _box_figures(metric: BoxMetric, result: dict[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    metrics: dict[str, float] = {}
    curves = {'threshold': metric.thresholds.tolist()}
    for i, level in enumerate(map(_name, metric.iou)):
        metrics[f'max_box_acc_{level}'] = float(result['max_box_acc'][i])
        metrics[f'best_threshold_{level}'] = float(result['best_threshold'][i])
        metrics |= {f'{k}_{level}': float(result[k][i]) for k in ('top1', 'top5') if k in result}
        accuracy = 100 * result['num_correct'][i] / result['n']
        metrics[f'robustness_{level}'] = robustness(accuracy)
        curves[f'accuracy_{level}'] = accuracy.tolist()
    metrics['mean'] = result['mean']
    return metrics, curves


def _pixel_figures(metric: PixelAP, result: dict[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    known = ~np.isnan(result['precision'])
    thresholds = metric.edges[:-1][::-1]
    curves = {'threshold': thresholds[known].tolist()}
    curves |= {k: result[k][known].tolist() for k in ('precision', 'recall')}
    # Bins from 1 on are no thresholds: nothing is above them.
    below = thresholds < 1
    f1 = f1_scores(result['precision'], result['recall'])[below]
    figures = {'pxap': result['pxap'], 'best_threshold': float(thresholds[below][f1.argmax()])}
    return figures | {'best_f1': float(f1.max()), 'robustness': robustness(f1)}, curves


def _samples(scores: Scores) -> np.ndarray:
    if scores.histograms:
        return np.concatenate(scores.histograms)
    wanted = (np.array(scores.metric.iou)[:, None] / 100).astype(np.float32)
    return np.concatenate([np.packbits(each[:, None] >= wanted, axis=2) for each in scores.each])


def _box_score(report: Report) -> Score:
    levels = [_name(level) for level in report.meta['iou']]
    hits = {f'accuracy_{k}': np.array([row[f'hit_{k}'] for row in report.rows]) for k in levels}
    return lambda index: {key: 100 * float(hit[index].mean()) for key, hit in hits.items()}


def _pixel_score(report: Report) -> Score:
    def score(index: np.ndarray) -> dict[str, Any]:
        true, false = report.samples[index].sum(0, dtype=np.int64)
        return {'pxap': average_precision(true, false)[0] if true.any() else None}

    return score


def _rows(scores: Scores, dataset: Any, result: dict[str, Any]) -> list[dict[str, Any]]:
    if not scores.each:
        return []
    each, metric = np.concatenate(scores.each), scores.metric
    rows = [{'id': dataset.ids[i], 'label': int(dataset.labels[i])} for i in range(len(each))]
    for row, share in zip(rows, np.concatenate(scores.shares).tolist()):
        row['object_share'] = 100 * share
    for i, row in enumerate(rows):
        if isinstance(metric, BoxMetric):
            width, height = dataset.sizes[i]
            row |= {'width': int(width), 'height': int(height), 'n_boxes': len(dataset.boxes[i])}
            for level, best in zip(metric.iou, result['num_correct'].argmax(1)):
                row[f'iou_{_name(level)}'] = float(each[i, best])
                row[f'hit_{_name(level)}'] = bool(each[i, best] >= np.float32(level / 100))
        else:
            row['pxap'] = None if np.isnan(each[i]) else float(each[i])
    for key in ('top1', 'top5'):
        for row, hit in zip(rows, np.concatenate(getattr(scores, key)).tolist() if getattr(scores, key) else []):
            row[key] = hit
    return rows
