"""Results of one kind of map, collected batch by batch, and what a report keeps of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._analysis import ACTIVATION_BINS, Score, activations, f1_scores, object_masks, robustness
from .box_metric import DEFAULT_IOU, BoxMetric
from .inputs import ArrayLike, top_k_hits
from .object_metric import ImageObjects, ObjectMetric, ObjectTruth
from .pixel_ap import PixelAP, average_precision

# Index of the threshold in the curves of `PixelAP` at one threshold, after the bins from 2 and from 1 on.
_FIXED = 2


class Measured(NamedTuple):
    """Measurements of a batch of B score maps."""

    # For each metric its best IoU (B,T), histograms (B,2,bins), or the objects of B images.
    counts: tuple[np.ndarray | list[ImageObjects], ...]
    activations: np.ndarray  # (3,ACTIVATION_BINS)
    shares: np.ndarray  # (B) of the image within its boxes or mask


def measure(metrics: Sequence[BoxMetric | PixelAP | ObjectMetric], score_maps: ArrayLike, truth: Any) -> Measured:
    """Measure a batch, given its boxes or masks, without adding it to the metrics; can run in any process.

    Raises:
        ValueError: As `update` of the metric.
    """
    counts = tuple(metric.measure(score_maps, truth) for metric in metrics)
    height, width = score_maps.shape[-2:]
    boxes_or_masks = truth.resized((width, height)) if isinstance(truth, ObjectTruth) else truth
    masks = object_masks(boxes_or_masks, (len(counts[0]), height, width))
    return Measured(counts, activations(score_maps, masks), (masks == 1).mean((1, 2)))


class Scores(ABC):
    """Base class of the results on one kind of ground truth.

    Args:
        metric: The metric.
        fixed: The same metric at a threshold that was chosen on other images, or None.
        threshold: That threshold, or None.
    """

    takes_labels = False  # whether the metric also counts labels and logits

    def __init__(self, metric: Any, fixed: Any = None, threshold: float | None = None) -> None:
        self.metric, self.threshold = metric, threshold
        self.metrics = [metric] if fixed is None else [metric, fixed]
        self.activations: np.ndarray = np.zeros((3, ACTIVATION_BINS), np.int64)
        self.lists: dict[str, list[np.ndarray]] = {}  # by name, an array over the images of each batch

    @abstractmethod
    def results(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Return metrics, except those of classification, and curves of a report."""

    @abstractmethod
    def meta(self) -> dict[str, Any]:
        """Return name and options of the metric."""

    @abstractmethod
    def group_score(self, rows: Sequence[Mapping[str, Any]]) -> Score:
        """Return a function that scores images by their indices."""

    @abstractmethod
    def _kept(self, counts: Any, fixed: Any = None) -> dict[str, np.ndarray]:
        """Return what rows need of the counts of each image, by name."""

    @abstractmethod
    def _columns(self, dataset: Any) -> dict[str, list[Any]]:
        """Return the columns of rows that depend on the metric."""

    def add(self, found: Measured, labels: ArrayLike | None, logits: ArrayLike | None, rows: bool) -> None:
        """Count a measured batch, and keep what rows need.

        Raises:
            ValueError: As `count` of the metric.
        """
        for metric, counts in zip(self.metrics, found.counts):
            metric.count(counts, *((labels, logits) if self.takes_labels else ()))
        self.activations = self.activations + found.activations
        kept = {}
        if logits is not None:
            kept['top1'], kept['top5'] = top_k_hits(labels, logits, len(found.shares))
        if rows:
            kept |= {'share': found.shares, **self._kept(*found.counts)}
        for name, values in kept.items():
            self.lists.setdefault(name, []).append(values)

    def merge(self, other: Scores) -> None:
        """Add the results of the images that follow."""
        for metric, more in zip(self.metrics, other.metrics):
            metric.merge(more)
        self.activations = self.activations + other.activations
        for name, values in other.lists.items():
            self.lists.setdefault(name, []).extend(values)

    def kept(self, name: str) -> np.ndarray:
        """Return what was kept under a name, over all images."""
        return np.concatenate(self.lists[name])

    def samples(self) -> np.ndarray:
        """Return `Report.samples`."""
        return self.kept('samples')

    def rows(self, dataset: Any) -> list[dict[str, Any]]:
        """Return `Report.rows`."""
        if 'share' not in self.lists:
            return []
        shares = (100 * self.kept('share')).tolist()
        columns = {'id': dataset.ids[: len(shares)], 'label': np.asarray(dataset.labels)[: len(shares)].tolist()}
        columns |= {'object_share': shares, **self._columns(dataset)}
        columns |= {key: self.kept(key).tolist() for key in ('top1', 'top5') if key in self.lists}
        return [dict(zip(columns, values)) for values in zip(*columns.values())]


class BoxScores(Scores):
    """Results on boxes."""

    takes_labels = True

    def __init__(
        self,
        threshold: float | None = None,
        thresholds: ArrayLike | None = None,
        iou: Sequence[float] | None = None,
        multi_contour: bool = False,
        **_of_objects: Any,
    ) -> None:
        required = DEFAULT_IOU if iou is None else iou
        fixed = None if threshold is None else BoxMetric([threshold], required, multi_contour)
        super().__init__(BoxMetric(thresholds, required, multi_contour), fixed, threshold)
        # float32 distinguishes IoUs of maps of this size, and compares them like float64.
        self.levels = {f'{level:g}': np.float32(level / 100) for level in self.metric.iou}

    def results(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        result = self.metric.compute()
        metrics: dict[str, float] = {}
        curves = {'threshold': self.metric.thresholds.tolist()}
        for i, level in enumerate(self.levels):
            metrics[f'max_box_acc_{level}'] = float(result['max_box_acc'][i])
            metrics[f'best_threshold_{level}'] = float(result['best_threshold'][i])
            metrics |= {f'{k}_{level}': float(result[k][i]) for k in ('top1', 'top5') if k in result}
            accuracy = 100 * result['num_correct'][i] / result['n']
            metrics[f'robustness_{level}'] = robustness(accuracy)
            curves[f'accuracy_{level}'] = accuracy.tolist()
        metrics['max_box_acc_v2' if self.metric.multi_contour else 'mean'] = result['mean']
        if self.threshold is not None:
            fixed = self.metrics[1].compute()['max_box_acc'].tolist()
            metrics |= {'threshold': self.threshold, **{f'box_acc_{k}': v for k, v in zip(self.levels, fixed)}}
        return metrics, curves

    def meta(self) -> dict[str, Any]:
        name = 'MaxBoxAccV2' if self.metric.multi_contour else 'MaxBoxAcc'
        return {'metric': name, 'iou': list(self.metric.iou), 'multi_contour': self.metric.multi_contour}

    def group_score(self, rows: Sequence[Mapping[str, Any]]) -> Score:
        hits = {f'accuracy_{k}': np.array([row[f'hit_{k}'] for row in rows]) for k in self.levels}
        return lambda index: {key: 100 * float(hit[index].mean()) for key, hit in hits.items()}

    def _kept(self, counts: np.ndarray, fixed: np.ndarray | None = None) -> dict[str, np.ndarray]:
        each = counts.astype(np.float32)
        hits = each[:, None] >= np.array(list(self.levels.values()))[:, None]
        kept: dict[str, np.ndarray] = {'each': each, 'samples': np.packbits(hits, axis=2)}
        if fixed is not None:
            kept['fixed'] = fixed[:, 0].astype(np.float32)
        return kept

    def _columns(self, dataset: Any) -> dict[str, list[Any]]:
        each = self.kept('each')
        widths, heights = np.asarray(dataset.sizes)[: len(each)].T.tolist()
        columns = {'width': widths, 'height': heights, 'n_boxes': [len(b) for b in dataset.boxes[: len(each)]]}
        for (level, required), best in zip(self.levels.items(), self.metric.compute()['num_correct'].argmax(1)):
            columns[f'iou_{level}'] = each[:, best].tolist()
            columns[f'hit_{level}'] = (each[:, best] >= required).tolist()
        if self.threshold is not None:
            columns['iou_at_threshold'] = self.kept('fixed').tolist()
        return columns


class MaskScores(Scores):
    """Results on masks."""

    def __init__(self, threshold: float | None = None, thresholds: ArrayLike | None = None, **_of_boxes: Any) -> None:
        fixed = None if threshold is None else PixelAP(sorted({0.0, threshold}))
        super().__init__(PixelAP(thresholds), fixed, threshold)

    def results(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        result = self.metric.compute()
        known = ~np.isnan(result['precision'])
        thresholds = self.metric.edges[:-1][::-1]
        curves = {'threshold': thresholds[known].tolist()}
        curves |= {k: result[k][known].tolist() for k in ('precision', 'recall')}
        # Bins from 1 on are not thresholds: no score is above them.
        below = thresholds < 1
        f1 = f1_scores(result['precision'], result['recall'])[below]
        metrics = {'pxap': result['pxap'], 'best_threshold': float(thresholds[below][f1.argmax()])}
        metrics |= {'best_f1': float(f1.max()), 'robustness': robustness(f1)}
        if self.threshold is not None:
            fixed = self.metrics[1].compute()
            metrics |= {'threshold': self.threshold, 'f1': _f1_at_threshold(fixed['hist_true'], fixed['hist_false'])}
        return metrics, curves

    def meta(self) -> dict[str, Any]:
        return {'metric': 'PxAP'}

    def group_score(self, rows: Sequence[Mapping[str, Any]]) -> Score:
        samples = self.kept('samples')

        def score(index: np.ndarray) -> dict[str, Any]:
            true, false = samples[index].sum(0, dtype=np.int64)
            return {'pxap': average_precision(true, false)[0] if true.any() else None}

        return score

    def _kept(self, counts: np.ndarray, fixed: np.ndarray | None = None) -> dict[str, np.ndarray]:
        # 16 bits hold the pixels of maps up to 256 x 256.
        kept = {'samples': counts.astype(np.min_scalar_type(counts.max(initial=0)))}
        kept['pxap'] = np.array([average_precision(*h)[0] if h[0].any() else np.nan for h in counts])
        if fixed is not None:
            kept['f1_at_threshold'] = np.array([_f1_at_threshold(*h) if h[0].any() else np.nan for h in fixed])
        return kept

    def _columns(self, dataset: Any) -> dict[str, list[Any]]:
        keys = [key for key in ('pxap', 'f1_at_threshold') if key in self.lists]
        return {key: [None if np.isnan(v) else v for v in self.kept(key).tolist()] for key in keys}


def _f1_at_threshold(hist_true: np.ndarray, hist_false: np.ndarray) -> float:
    """Return F1 in percent, given the histograms of `PixelAP` at one threshold."""
    _, precision, recall = average_precision(hist_true, hist_false)
    return float(f1_scores(precision, recall)[_FIXED])
