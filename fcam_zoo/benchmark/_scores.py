"""Results of one kind of map, collected batch by batch, and what a report keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ._analysis import ACTIVATION_BINS, Score, activations, f1_scores, object_masks, robustness
from .box_metric import BoxMetric
from .inputs import ArrayLike, top_k_hits
from .pixel_ap import PixelAP, average_precision

# In the curves of `PixelAP` at one threshold, the place of that threshold: below are the bins from 1 and from 2 on.
_FIXED = 2


class Measured(NamedTuple):
    """What a batch of B score maps comes to."""

    counts: tuple[np.ndarray, ...]  # for each metric its best IoU (B,T), or histograms (B,2,bins)
    activations: np.ndarray  # (3,ACTIVATION_BINS)
    shares: np.ndarray  # (B) of the image within its boxes or mask


def measure(metrics: Sequence[BoxMetric | PixelAP], score_maps: ArrayLike, truth: Any) -> Measured:
    """Measure a batch, with its boxes or masks; counts nothing, so that any process can do it.

    Raises:
        ValueError: As `BoxMetric.update` and `PixelAP.update`.
    """
    counts = tuple(metric.measure(score_maps, truth) for metric in metrics)
    masks = object_masks(truth, (len(counts[0]), *score_maps.shape[-2:]))
    return Measured(counts, activations(score_maps, masks), (masks == 1).mean((1, 2)))


class Scores:
    """Base class of what is collected for a kind of ground truth.

    Attributes:
        metrics: The metric and, with a threshold that was chosen elsewhere, the same metric at this threshold.
        threshold: That threshold, or None.
    """

    def __init__(self, metric: Any, fixed: Any = None, threshold: float | None = None) -> None:
        self.metrics = [metric] if threshold is None else [metric, fixed]
        self.threshold = threshold
        self.activations: np.ndarray = np.zeros((3, ACTIVATION_BINS), np.int64)
        self.lists: dict[str, list[np.ndarray]] = {}  # arrays over the images of a batch, by name

    @property
    def metric(self) -> Any:
        return self.metrics[0]

    def add(self, found: Measured, labels: ArrayLike | None, logits: ArrayLike | None, rows: bool) -> None:
        """Count a measured batch, and keep what rows need.

        Raises:
            ValueError: As `BoxMetric.count` and `PixelAP.count`.
        """
        for metric, counts in zip(self.metrics, found.counts):
            self._count(metric, counts, labels, logits)
        self.activations = self.activations + found.activations
        kept = {}
        if logits is not None:
            kept['top1'], kept['top5'] = top_k_hits(labels, logits, len(found.shares))
        if rows:
            kept |= {'share': found.shares, **self._per_image(found.counts)}
        for name, values in kept.items():
            self.lists.setdefault(name, []).append(values)

    def merge(self, other: Scores) -> None:
        """Add those of the images that follow."""
        for metric, more in zip(self.metrics, other.metrics):
            metric.merge(more)
        self.activations = self.activations + other.activations
        for name, values in other.lists.items():
            self.lists.setdefault(name, []).extend(values)

    def kept(self, name: str) -> np.ndarray:
        """Return what was kept by this name, over all images."""
        return np.concatenate(self.lists[name])

    def rows(self, dataset: Any) -> list[dict[str, Any]]:
        """A row for each image, or none where none were kept."""
        if 'share' not in self.lists:
            return []
        rows = [
            {'id': dataset.ids[i], 'label': int(dataset.labels[i]), 'object_share': 100 * share}
            for i, share in enumerate(self.kept('share').tolist())
        ]
        self._fill_rows(rows, dataset)
        for key in ('top1', 'top5'):
            if key in self.lists:
                for row, hit in zip(rows, self.kept(key).tolist()):
                    row[key] = hit
        return rows

    def results(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Metrics and curves of a report."""
        metrics, curves = self._results()
        if self.threshold is not None:
            metrics |= {'threshold': self.threshold, **self._fixed()}
        if 'top1' in self.lists:
            metrics['cls'] = 100 * float(self.kept('top1').mean())
        return metrics, curves

    def meta(self) -> dict[str, Any]:
        """Name and options of the metric."""
        raise NotImplementedError

    def samples(self) -> np.ndarray:
        """`Report.samples`."""
        raise NotImplementedError

    def group_score(self, rows: Sequence[dict[str, Any]]) -> Score:
        """Function of the indices of images that returns their score."""
        raise NotImplementedError

    def _count(self, metric: Any, counts: np.ndarray, labels: ArrayLike | None, logits: ArrayLike | None) -> None:
        raise NotImplementedError

    def _per_image(self, counts: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def _fill_rows(self, rows: list[dict[str, Any]], dataset: Any) -> None:
        raise NotImplementedError

    def _results(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        raise NotImplementedError

    def _fixed(self) -> dict[str, float]:
        raise NotImplementedError


class BoxScores(Scores):
    """Scores on boxes."""

    def __init__(self, threshold: float | None = None, **options: Any) -> None:
        fixed = None if threshold is None else BoxMetric(**{**options, 'thresholds': [threshold]})
        super().__init__(BoxMetric(**options), fixed, threshold)

    def _count(self, metric: Any, counts: np.ndarray, labels: ArrayLike | None, logits: ArrayLike | None) -> None:
        metric.count(counts, labels, logits)

    def _per_image(self, counts: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        # float32 tells rational numbers of this size apart, and compares them with an IoU, as float64 does.
        return dict(zip(('each', 'fixed'), (c.astype(np.float32) for c in counts)))

    def _levels(self) -> dict[str, np.float32]:
        return {f'{level:g}': np.float32(level / 100) for level in self.metric.iou}

    def _results(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        result = self.metric.compute()
        metrics: dict[str, float] = {}
        curves = {'threshold': self.metric.thresholds.tolist()}
        for i, level in enumerate(self._levels()):
            metrics[f'max_box_acc_{level}'] = float(result['max_box_acc'][i])
            metrics[f'best_threshold_{level}'] = float(result['best_threshold'][i])
            metrics |= {f'{k}_{level}': float(result[k][i]) for k in ('top1', 'top5') if k in result}
            accuracy = 100 * result['num_correct'][i] / result['n']
            metrics[f'robustness_{level}'] = robustness(accuracy)
            curves[f'accuracy_{level}'] = accuracy.tolist()
        metrics['max_box_acc_v2' if self.metric.multi_contour else 'mean'] = result['mean']
        return metrics, curves

    def _fixed(self) -> dict[str, float]:
        accuracy = self.metrics[1].compute()['max_box_acc']
        return {f'box_acc_{level}': float(value) for level, value in zip(self._levels(), accuracy)}

    def _fill_rows(self, rows: list[dict[str, Any]], dataset: Any) -> None:
        each = self.kept('each')
        fixed = self.kept('fixed') if 'fixed' in self.lists else None
        best = self.metric.compute()['num_correct'].argmax(1)
        for i, row in enumerate(rows):
            width, height = dataset.sizes[i]
            row |= {'width': int(width), 'height': int(height), 'n_boxes': len(dataset.boxes[i])}
            for (level, wanted), threshold in zip(self._levels().items(), best):
                row[f'iou_{level}'] = float(each[i, threshold])
                row[f'hit_{level}'] = bool(each[i, threshold] >= wanted)
            if fixed is not None:
                row['iou_at_threshold'] = float(fixed[i, 0])

    def meta(self) -> dict[str, Any]:
        name = 'MaxBoxAccV2' if self.metric.multi_contour else 'MaxBoxAcc'
        return {'metric': name, 'iou': list(self.metric.iou), 'multi_contour': self.metric.multi_contour}

    def samples(self) -> np.ndarray:
        wanted = np.array(list(self._levels().values()))[:, None]
        return np.concatenate([np.packbits(each[:, None] >= wanted, axis=2) for each in self.lists['each']])

    def group_score(self, rows: Sequence[dict[str, Any]]) -> Score:
        hits = {f'accuracy_{k}': np.array([row[f'hit_{k}'] for row in rows]) for k in self._levels()}
        return lambda index: {key: 100 * float(hit[index].mean()) for key, hit in hits.items()}


class MaskScores(Scores):
    """Scores on masks."""

    def __init__(self, threshold: float | None = None, thresholds: ArrayLike | None = None, **_of_boxes: Any) -> None:
        fixed = None if threshold is None else PixelAP(sorted({0.0, threshold}))
        super().__init__(PixelAP(thresholds), fixed, threshold)

    def _count(self, metric: Any, counts: np.ndarray, labels: ArrayLike | None, logits: ArrayLike | None) -> None:
        metric.count(counts)

    def _per_image(self, counts: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        histograms, *fixed = counts
        # 16 bits hold the pixels of maps up to 256 x 256.
        small = histograms.astype(np.min_scalar_type(histograms.max(initial=0)))
        each = np.array([average_precision(*h)[0] if h[0].any() else np.nan for h in histograms])
        kept = {'each': each, 'histograms': small}
        if fixed:
            kept['fixed'] = np.array([_f1_at_threshold(*h) if h[0].any() else np.nan for h in fixed[0]])
        return kept

    def _results(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        result = self.metric.compute()
        known = ~np.isnan(result['precision'])
        thresholds = self.metric.edges[:-1][::-1]
        curves = {'threshold': thresholds[known].tolist()}
        curves |= {k: result[k][known].tolist() for k in ('precision', 'recall')}
        # Bins from 1 on are no thresholds: nothing is above them.
        below = thresholds < 1
        f1 = f1_scores(result['precision'], result['recall'])[below]
        metrics = {'pxap': result['pxap'], 'best_threshold': float(thresholds[below][f1.argmax()])}
        return metrics | {'best_f1': float(f1.max()), 'robustness': robustness(f1)}, curves

    def _fixed(self) -> dict[str, float]:
        result = self.metrics[1].compute()
        return {'f1': _f1_at_threshold(result['hist_true'], result['hist_false'])}

    def _fill_rows(self, rows: list[dict[str, Any]], dataset: Any) -> None:
        for name, key in (('each', 'pxap'), ('fixed', 'f1_at_threshold')):
            if name in self.lists:
                for row, value in zip(rows, self.kept(name).tolist()):
                    row[key] = None if np.isnan(value) else value

    def meta(self) -> dict[str, Any]:
        return {'metric': 'PxAP'}

    def samples(self) -> np.ndarray:
        return np.concatenate(self.lists['histograms'])

    def group_score(self, rows: Sequence[dict[str, Any]]) -> Score:
        samples = self.samples()

        def score(index: np.ndarray) -> dict[str, Any]:
            true, false = samples[index].sum(0, dtype=np.int64)
            return {'pxap': average_precision(true, false)[0] if true.any() else None}

        return score


def _f1_at_threshold(hist_true: np.ndarray, hist_false: np.ndarray) -> float:
    """F1 in percent, given the histograms of `PixelAP` at one threshold."""
    _, precision, recall = average_precision(hist_true, hist_false)
    return float(f1_scores(precision, recall)[_FIXED])


SCORES: dict[str, type[Scores]] = {'boxes': BoxScores, 'masks': MaskScores}
