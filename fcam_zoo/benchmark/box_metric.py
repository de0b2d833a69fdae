"""MaxBoxAcc, MaxBoxAccV2, top-1 and top-5 localization (Choe et al., CVPR 2020; F-CAM, WACV 2022, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._counts import Counts
from .boxes import as_boxes, best_overlap, distinct_boxes
from .inputs import ArrayLike, BatchError, as_array, as_iou, as_numbers, as_score_maps, as_thresholds, top_k_hits

DEFAULT_IOU = (30, 50, 70)


class BoxMetric(Counts):
    """Share of images whose box at a threshold overlaps a ground-truth box, and its maximum over thresholds.

    An image is correct at a threshold when the IoU of any of its boxes with any ground-truth box reaches the required
    IoU. MaxBoxAcc is the maximum over thresholds at IoU 50 with single contours. MaxBoxAccV2 is the mean of the maxima
    at IoU 30, 50 and 70 with `multi_contour`. Top-1 and top-5 localization also require that the label has the largest
    logit, or one of the five largest; each has its own maximum over thresholds.

    The printed metric has the main results. Call it like a metric of torchmetrics to count a batch and get the results
    of this batch.

    Counts equal those of tracing contours at every threshold, but take a fraction of the time.

    Args:
        thresholds: (T) ascending, in [0,1], relative to a map's maximum; default 0, 0.001, ..., 0.999.
        iou: Required IoUs in percent.
        multi_contour: Use the boxes of all contours of a map, not only of the largest.

    Raises:
        ValueError: When thresholds or IoUs are out of range.

    Examples:
        >>> import torch
        >>> maps = torch.zeros(2, 224, 224)
        >>> maps[0, 50:100, 60:120] = 0.9  # where the object is
        >>> maps[1, :20, :20] = 0.8  # elsewhere
        >>> metric = BoxMetric().update(maps, [[[60, 50, 120, 100]], [[90, 90, 180, 170]]])
        >>> result = metric.compute()
        >>> result['max_box_acc'].tolist(), result['best_threshold'].tolist(), result['n']
        ([50.0, 50.0, 50.0], [0.0, 0.0, 0.0], 2)
        >>> metric
        BoxMetric(n=2, max_box_acc={30: 50.0, 50: 50.0, 70: 50.0}, mean=50.0)
        >>> other = BoxMetric().update(maps[:1], [[[60, 50, 120, 100]]])  # for example of another process
        >>> metric.merge(other).compute()['num_correct'][:, 0].tolist()
        [2, 2, 2]
        >>> metric.reset()
        >>> metric(maps[:1], [[[60, 50, 120, 100]]])['mean']  # of this batch
        100.0
    """

    def __init__(
        self,
        thresholds: ArrayLike | None = None,
        iou: Sequence[float] = DEFAULT_IOU,
        multi_contour: bool = False,
    ) -> None:
        self.thresholds = as_thresholds(thresholds, ascending=True)
        self.iou = as_iou(iou)
        self.multi_contour = multi_contour
        shape = (len(self.iou), len(self.thresholds))
        state = {key: np.zeros((), np.int64) for key in ('n', 'n_labelled', 'num_class_correct')}
        state |= {key: np.zeros(shape, np.int64) for key in ('num_correct', 'num_correct_top1', 'num_correct_top5')}
        super().__init__({'thresholds': self.thresholds, 'iou': self.iou, 'multi_contour': multi_contour}, state)

    def best_iou(self, score_maps: ArrayLike, boxes: Sequence[ArrayLike]) -> np.ndarray:
        """Compute the best IoU of each image's boxes with its ground truth at each threshold, without counting it.

        Args:
            score_maps: (N,H,W), values in [0,1].
            boxes: N arrays (n,4) of x0, y0, x1, y1 in pixels of the maps; `resize_boxes` scales them.

        Returns:
            (N,T) float64.

        Raises:
            ValueError: As `update`.
        """
        maps = as_score_maps(score_maps)
        if not isinstance(boxes, Sequence) and not getattr(boxes, 'ndim', 0):
            raise TypeError(f'boxes has the type {type(boxes).__name__}: give a list with an array (n,4) per image')
        if len(boxes) != len(maps):
            raise ValueError(f'{len(maps)} score maps, but boxes of {len(boxes)} images')
        truth = [self._ground_truth(i, b, maps.shape) for i, b in enumerate(boxes)]
        best = np.empty((len(maps), len(self.thresholds)))
        for i, (score_map, expected) in enumerate(zip(maps, truth)):
            # All maps of the center baseline are equal: it has the boxes of the map before.
            if i == 0 or not np.array_equal(score_map, maps[i - 1]):
                found, starts, which = distinct_boxes(score_map, self.thresholds, self.multi_contour)
            best[i] = np.maximum.reduceat(best_overlap(found, expected), starts)[which]
        return best

    measure = best_iou

    @staticmethod
    def _ground_truth(i: int, boxes: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
        if not as_array(boxes).size:
            raise BatchError('image', i, 'has no ground-truth box')
        boxes = as_boxes(boxes)
        height, width = shape[1:]
        if boxes[:, 2].max() > width or boxes[:, 3].max() > height:
            problem = f'has a box outside its map of {width} x {height} pixels: scale boxes with resize_boxes'
            raise BatchError('image', i, problem)
        return boxes

    def update(
        self,
        score_maps: ArrayLike,
        boxes: Sequence[ArrayLike],
        labels: ArrayLike | None = None,
        logits: ArrayLike | None = None,
    ) -> BoxMetric:
        """Count a batch of images.

        Args:
            score_maps: (N,H,W), values in [0,1].
            boxes: N arrays (n,4) of x0, y0, x1, y1 in pixels of the maps; `resize_boxes` scales them.
            labels: (N) true classes, together with `logits`.
            logits: (N,K).

        Returns:
            The metric itself.

        Raises:
            ValueError: When a map holds NaN or values outside [0,1], shapes do not match, an image has no box or one
                outside its map, or only one of labels and logits is given, or only in some batches. Then nothing is
                counted.
        """
        return self.count(self.best_iou(score_maps, boxes), labels, logits)

    def count(self, best_iou: ArrayLike, labels: ArrayLike | None = None, logits: ArrayLike | None = None) -> BoxMetric:
        """Count images from their `best_iou` (N,T).

        Raises:
            ValueError: When shapes do not match, or only one of labels and logits is given, or only in some batches.
        """
        best_iou = as_numbers(best_iou, 'best_iou')
        if best_iou.ndim != 2 or best_iou.shape[1] != len(self.thresholds):
            raise ValueError(f'best_iou must have the shape (N,{len(self.thresholds)}), got {best_iou.shape}')
        if (labels is None) != (logits is None):
            raise ValueError('labels and logits go together: give both or neither')
        n, labelled = len(best_iou), labels is not None
        if self._state['n'] and n and labelled != bool(self._state['n_labelled']):
            raise ValueError('labels and logits must be given for all images or for none')
        hits = best_iou >= np.array(self.iou)[:, None, None] / 100
        counts: dict[str, Any] = {'n': n, 'num_correct': hits.sum(1)}
        if labelled:
            top1, top5 = top_k_hits(labels, logits, n)
            counts |= {'n_labelled': n, 'num_class_correct': top1.sum()}
            counts |= {'num_correct_top1': hits[:, top1].sum(1), 'num_correct_top5': hits[:, top5].sum(1)}
        for key, value in counts.items():
            self._state[key] = self._state[key] + value
        return self

    def merge(self, other: BoxMetric) -> BoxMetric:
        """Add the counts of another metric with the same options, for example of another process.

        Raises:
            ValueError: When options differ, or only one of the two has counted labels.
        """
        both = isinstance(other, BoxMetric) and self._state['n'] and other._state['n']
        if both and bool(self._state['n_labelled']) != bool(other._state['n_labelled']):
            raise ValueError('labels and logits must be given for all images or for none')
        return super().merge(other)

    def compute(self) -> dict[str, Any]:
        """Return the results over all images counted so far.

        Returns:
            Over I IoUs and T thresholds: max_box_acc (I), MaxBoxAcc in percent for each IoU of `iou`, which is the
            largest share of correct images over all thresholds (with the default IoUs, `max_box_acc[1]` is the
            published MaxBoxAcc, at IoU 50); best_threshold (I), the smallest threshold at which it is reached; mean of
            max_box_acc, which with `multi_contour` and the default IoUs is MaxBoxAccV2; num_correct (I,T) int64, the
            correct images; n, the number of images. With labels and logits also top1 and top5 (I), top-1 and top-5
            localization in percent; cls, the percentage of labels with the largest logit; num_correct_top1 and
            num_correct_top5 (I,T).

        Raises:
            ValueError: When no image has been counted.
        """
        n = int(self._state['n'])
        if not n:
            raise ValueError('no image has been counted: call update first')
        correct = self._state['num_correct']
        accuracy = 100 * correct.max(1) / n
        result = {
            'num_correct': correct.copy(),
            'max_box_acc': accuracy,
            'best_threshold': self.thresholds[correct.argmax(1)],
            'mean': float(accuracy.mean()),
            'n': n,
        }
        if self._state['n_labelled']:
            for name in ('top1', 'top5'):
                counts = self._state[f'num_correct_{name}'].copy()
                result |= {f'num_correct_{name}': counts, name: 100 * counts.max(1) / n}
            result['cls'] = 100 * int(self._state['num_class_correct']) / n
        return result

    def main_results(self) -> dict[str, str]:
        if not self._state['n']:
            return {}
        results = self.compute()
        names = [key for key in ('max_box_acc', 'top1', 'top5') if key in results]
        by_iou = {
            name: '{' + ', '.join(f'{iou:g}: {value:.1f}' for iou, value in zip(self.iou, results[name])) + '}'
            for name in names
        }
        return by_iou | {key: f'{results[key]:.1f}' for key in ('mean', 'cls') if key in results}
