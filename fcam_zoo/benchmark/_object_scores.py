"""Results on several objects per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._catalog import MIN_AREA
from ._analysis import Score, robustness
from ._scores import Scores
from .descriptions import main_level
from .inputs import ArrayLike
from .object_metric import DEFAULT_IOU, ObjectMetric, detection_scores

_NAMES = ('precision', 'recall', 'f1')


class ObjectScores(Scores):
    """Results on all boxes of each image.

    Precision, recall, F1 and AP are those at the chosen threshold or, without one, at the best threshold of these
    images for F1 at IoU 50.
    """

    def __init__(
        self,
        threshold: float | None = None,
        thresholds: ArrayLike | None = None,
        iou: Sequence[float] | None = None,
        min_area: float = MIN_AREA,
        **_of_boxes: Any,
    ) -> None:
        required = DEFAULT_IOU if iou is None else iou
        fixed = None if threshold is None else ObjectMetric([threshold], required, min_area)
        super().__init__(ObjectMetric(thresholds, required, min_area), fixed, threshold)
        self.levels = [f'{level:g}' for level in self.metric.iou]

    def _operating_point(self) -> tuple[ObjectMetric, int]:
        """Return the metric, and the index of its threshold, that give precision, recall, F1 and AP."""
        if self.threshold is not None:
            return self.metrics[1], 0
        main = self.levels.index(main_level(self.levels))
        return self.metric, int(self.metric.compute()['f1'][main].argmax())

    def results(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        grid = self.metric.compute()
        metric, t = self._operating_point()
        used = metric.compute()
        metrics: dict[str, float] = {}
        curves = {'threshold': self.metric.thresholds.tolist()}
        for i, level in enumerate(self.levels):
            metrics |= {f'{name}_{level}': float(used[name][i, t]) for name in (*_NAMES, 'ap')}
            metrics[f'best_f1_{level}'] = float(grid['best_f1'][i])
            metrics[f'best_threshold_{level}'] = float(grid['best_threshold'][i])
            metrics[f'robustness_{level}'] = robustness(grid['f1'][i])
            curves |= {f'{name}_{level}': grid[name][i].tolist() for name in _NAMES}
        if self.threshold is not None:
            metrics['threshold'] = self.threshold
        return metrics, curves

    def meta(self) -> dict[str, Any]:
        return {'metric': 'Objects', 'iou': list(self.metric.iou), 'min_area': self.metric.min_area}

    def samples(self) -> np.ndarray:
        truth, found, correct = self.metric.counts()
        sums = np.broadcast_to(truth[:, None] + found, found.shape)
        return np.concatenate([sums[:, None], correct], 1)

    def group_score(self, rows: Sequence[Mapping[str, Any]]) -> Score:
        metric, t = self._operating_point()
        truth, found, correct = metric.counts()

        def score(index: np.ndarray) -> dict[str, Any]:
            values = detection_scores(truth[index].sum(), found[index, t].sum(), correct[index, :, t].sum(0))
            table = dict(zip((*_NAMES, 'ap'), (*values, metric.ap_of(index, t))))
            known = truth[index].any()  # Without true boxes, no metric is defined.
            return {
                f'{k}_{level}': float(v[i]) if known else None
                for i, level in enumerate(self.levels)
                for k, v in table.items()
            }

        return score

    def _kept(self, counts: Any, fixed: Any = None) -> dict[str, np.ndarray]:
        return {}  # The metric keeps all images.

    def _columns(self, dataset: Any) -> dict[str, list[Any]]:
        metric, t = self._operating_point()
        truth, found, correct = metric.counts()
        widths, heights = np.asarray(dataset.sizes)[: len(truth)].T.tolist()
        columns = {'width': widths, 'height': heights, 'n_boxes': truth.tolist(), 'n_found': found[:, t].tolist()}
        for i, level in enumerate(self.levels):
            f1 = detection_scores(truth, found[:, t], correct[:, i, t])[2]
            columns[f'correct_{level}'] = correct[:, i, t].tolist()
            # An image without true and found boxes has no F1.
            columns[f'f1_{level}'] = [
                value if some else None for value, some in zip(f1.tolist(), truth + found[:, t] > 0)
            ]
        return columns
