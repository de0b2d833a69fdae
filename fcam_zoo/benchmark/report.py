"""What an evaluation found: figures, curves, a row for each image; as JSON, CSV, text or a picture."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from .._io import atomic_path, write_json
from .._version import __version__
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
        metrics: With boxes, for each IoU (50, ...) max_box_acc_50 in percent and best_threshold_50, and mean of the
            former; with logits also top1_50, top5_50 and cls in percent. With masks pxap in percent, best_threshold,
            at which the F1 of the pixels is largest, and cls.
        curves: threshold and, for each IoU, accuracy_50 in percent; or threshold, precision and recall.
        rows: For each image id and label; with boxes width, height, n_boxes and, for each IoU, iou_50 and hit_50 at its
            best threshold; with masks the image's own pxap (None without object pixels); with logits top1 and top5.
        meta: Data set, split, number of images, metric and its options, convention of the maps, versions.
    """

    maps: str
    metrics: dict[str, float]
    curves: dict[str, list[float]]
    meta: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self, path: str | os.PathLike) -> None:
        """Write everything as strict JSON."""
        write_json(path, asdict(self))

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write the rows.

        Raises:
            ValueError: When the report has none.
        """
        if not self.rows:
            raise ValueError('the report has no rows: evaluate with rows=True')
        with atomic_path(path) as temporary, temporary.open('w', newline='', encoding='utf-8') as f:
            writer = csv.DictWriter(f, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)

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


class Scores:
    """A metric, and what rows need beyond it."""

    def __init__(self, metric: BoxMetric | PixelAP) -> None:
        self.metric = metric
        self.each: list[np.ndarray] = []
        self.top1: list[np.ndarray] = []
        self.top5: list[np.ndarray] = []

    def add(
        self, score_maps: ArrayLike, truth: Any, labels: ArrayLike | None, logits: ArrayLike | None, rows: bool
    ) -> None:
        """Count a batch, with its boxes or masks.

        Raises:
            ValueError: As `BoxMetric.update` and `PixelAP.update`.
        """
        if isinstance(self.metric, BoxMetric):
            # Rational numbers of this size are told apart, and compared with a wanted IoU, in float32 as in float64.
            each = (best_iou := self.metric.best_iou(score_maps, truth)).astype(np.float32)
            self.metric.count(best_iou, labels, logits)
        else:
            histograms = self.metric.histograms(score_maps, truth)
            each = np.array([average_precision(*h)[0] if h[0].any() else np.nan for h in histograms])
            self.metric.count(histograms)
        if rows:
            self.each.append(each)
        if logits is not None:
            top1, top5 = top_k_hits(labels, logits, len(each))
            self.top1.append(top1)
            self.top5.append(top5)


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
    return Report(maps, metrics, curves, meta, _rows(scores, dataset, result))


def _name(iou: float) -> str:
    return f'{iou:g}'


def _box_figures(metric: BoxMetric, result: dict[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    metrics: dict[str, float] = {}
    curves = {'threshold': metric.thresholds.tolist()}
    for i, level in enumerate(map(_name, metric.iou)):
        metrics[f'max_box_acc_{level}'] = float(result['max_box_acc'][i])
        metrics[f'best_threshold_{level}'] = float(result['best_threshold'][i])
        metrics |= {f'{k}_{level}': float(result[k][i]) for k in ('top1', 'top5') if k in result}
        curves[f'accuracy_{level}'] = (100 * result['num_correct'][i] / result['n']).tolist()
    metrics['mean'] = result['mean']
    return metrics, curves


def _pixel_figures(metric: PixelAP, result: dict[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    known = ~np.isnan(result['precision'])
    curves = {'threshold': metric.edges[:-1][::-1][known]}
    curves |= {k: result[k][known] for k in ('precision', 'recall')}
    f1 = 2 * curves['precision'] * curves['recall'] / np.maximum(curves['precision'] + curves['recall'], 1e-12)
    # Bins from 1 on are no thresholds: nothing is above them.
    below = curves['threshold'] < 1
    best = float(curves['threshold'][below][f1[below].argmax()]) if below.any() else 0.0
    return {'pxap': result['pxap'], 'best_threshold': best}, {k: v.tolist() for k, v in curves.items()}


def _rows(scores: Scores, dataset: Any, result: dict[str, Any]) -> list[dict[str, Any]]:
    if not scores.each:
        return []
    each, metric = np.concatenate(scores.each), scores.metric
    rows = [{'id': dataset.ids[i], 'label': int(dataset.labels[i])} for i in range(len(each))]
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
