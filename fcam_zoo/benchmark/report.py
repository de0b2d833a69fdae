"""What an evaluation found: figures, curves, a row an image; as JSON, CSV, text or a picture."""

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
from .box_metric import BoxMetric
from .pixel_ap import PixelAP

FCAM_CONVENTION = 'softmax of the foreground channel, not re-normalised'
CAM_CONVENTION = 'true label, min-max normalised at low resolution, bilinear resize, not re-normalised'


@dataclass
class Report:
    """Result of `evaluate`.

    Attributes:
        maps: Kind of map.
        metrics: Figures in percent (max_box_acc_30, ..., mean, top1_50, top5_50, cls, best_threshold_50; or pxap).
        curves: threshold and accuracy (percent) an IoU level; or precision and recall.
        rows: id, label, best IoU at the best threshold of IoU 50; empty unless asked for.
        meta: Data set, split, number of images, protocol options, versions.
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
        """Write the rows, one an image.

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
        """Draw accuracy against the threshold (F-CAM, Fig. 5), or precision against recall.

        Raises:
            ImportError: Without matplotlib (extra `viz`).
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as e:
            raise ImportError("plots need matplotlib: pip install 'fcam-zoo[viz]'") from e
        axes = (figure := Figure(figsize=(5, 4), layout='constrained')).subplots()
        if 'precision' in self.curves:
            axes.plot(self.curves['recall'], self.curves['precision'], label=self.maps)
            axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1))
        else:
            for level in self.meta['iou']:
                axes.plot(self.curves['threshold'], self.curves[f'accuracy_{level}'], label=f'IoU {level}')
            axes.set(xlabel='threshold', ylabel='box accuracy (%)', xlim=(0, 1), ylim=(0, 100))
        axes.set_title(f'{self.maps} on {self.meta["dataset"]}/{self.meta["split"]}')
        axes.legend()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120)

    def summary(self) -> str:
        """One line of figures."""
        cells = (f'{k} {v:.3f}' if 'threshold' in k else f'{k} {v:.1f}' for k, v in self.metrics.items())
        return f'{self.maps}: ' + '  '.join(cells)


def make_report(
    maps: str, metric: BoxMetric | PixelAP, dataset: Any, cls: float | None, best_iou: list[np.ndarray]
) -> Report:
    """Gather a metric's results."""
    result = metric.compute()
    meta: dict[str, Any] = {
        'dataset': getattr(dataset, 'name', 'unnamed'),
        'split': getattr(dataset, 'split', 'unnamed'),
        'n': result['n'],
        'score_map': FCAM_CONVENTION if maps == 'fcam' else CAM_CONVENTION if maps != 'center' else 'centred Gaussian',
        'versions': {'fcam_zoo': __version__, 'torch': torch.__version__, 'opencv': cv2.__version__},
    }
    rows: list[dict[str, Any]] = []
    if isinstance(metric, BoxMetric):
        meta |= {'iou': list(metric.iou), 'multi_contour': metric.multi_contour, 'thresholds': len(metric.thresholds)}
        metrics, curves = _box_figures(metric, result)
        if best_iou:
            column = _best_column(metric, result)
            for i, iou in enumerate(np.concatenate(best_iou)[:, column]):
                rows.append({'id': dataset.ids[i], 'label': int(dataset.labels[i]), 'iou': round(float(iou), 4)})
    else:
        known = ~np.isnan(result['precision'])
        metrics = {'pxap': result['pxap'], 'best_threshold': _best_f1_threshold(metric, result)}
        curves = {k: result[k][known].tolist() for k in ('precision', 'recall')}
        meta['thresholds'] = len(metric.edges) - 3
    if cls is not None:
        metrics['cls'] = cls
    return Report(maps, metrics, curves, meta, rows)


def _best_f1_threshold(metric: PixelAP, result: dict[str, Any]) -> float:
    """Threshold in [0,1) at which precision and recall of the pixels balance best (largest F1)."""
    precision, recall = np.nan_to_num(result['precision'])[::-1], result['recall'][::-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(metric.edges[f1[: len(metric.edges) - 3].argmax()])


def _best_column(metric: BoxMetric, result: dict[str, Any]) -> int:
    level = metric.iou.index(50) if 50 in metric.iou else 0
    return int(result['num_correct'][level].argmax())


def _box_figures(metric: BoxMetric, result: dict[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    metrics: dict[str, float] = {}
    curves = {'threshold': metric.thresholds.tolist()}
    for i, level in enumerate(metric.iou):
        metrics[f'max_box_acc_{level}'] = float(result['max_box_acc'][i])
        metrics[f'best_threshold_{level}'] = float(result['best_threshold'][i])
        for k in ('top1', 'top5'):
            if k in result:
                metrics[f'{k}_{level}'] = float(result[k][i])
        curves[f'accuracy_{level}'] = (100 * result['num_correct'][i] / result['n']).tolist()
    metrics['mean'] = result['mean']
    return metrics, curves
