"""MaxBoxAcc, MaxBoxAccV2 and top-1 / top-5 localization over a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .boxes import box_iou, distinct_boxes, grey_levels

THRESHOLDS = np.arange(0, 1, 0.001)


def to_numpy(value: Any) -> np.ndarray:
    """Tensor of any device and precision, or array-like, as NumPy."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


class BoxMetric:
    """Share of images whose box meets the ground truth, at every threshold (Choe et al., CVPR 2020).

    MaxBoxAcc is `max_box_acc` at IoU 50 with one contour; MaxBoxAccV2 is `mean` with `multi_contour`.

    Args:
        thresholds: tau in [0,1); default 0, 0.001, ... 0.999.
        iou: IoU levels in percent; a hit is IoU >= level.
        multi_contour: Score the best of all contours instead of the largest one.
    """

    def __init__(
        self,
        thresholds: Sequence[float] | None = None,
        iou: Sequence[int] = (30, 50, 70),
        multi_contour: bool = False,
    ) -> None:
        self.thresholds = np.array(THRESHOLDS if thresholds is None else thresholds, np.float64)
        if not len(self.thresholds) or not ((self.thresholds >= 0) & (self.thresholds <= 1)).all():
            raise ValueError('thresholds must be in [0,1] and at least one')
        self.iou, self.multi_contour = tuple(iou), multi_contour
        counts = (len(self.iou), len(self.thresholds))
        self.num_correct = np.zeros(counts)
        self.num_correct_top1, self.num_correct_top5 = np.zeros(counts), np.zeros(counts)
        self.n = self.num_classified = self.num_top1 = 0

    def update(
        self,
        score_maps: Any,
        boxes: Sequence[Any],
        labels: Any = None,
        logits: Any = None,
    ) -> BoxMetric:
        """Add a batch.

        Args:
            score_maps: (B,H,W) in [0,1], NumPy or torch.
            boxes: B arrays (n,4) of ground truth in the pixels of the map.
            labels: (B,) true classes, for top-1 and top-5.
            logits: (B,K), for top-1 and top-5.

        Returns:
            Itself.

        Raises:
            ValueError: On NaN, values outside [0,1], batch sizes that differ, or labels without logits. Nothing of the
                batch is counted then.
        """
        best_iou = self.best_iou(score_maps, boxes)
        if (labels is None) != (logits is None):
            raise ValueError('labels and logits go together: give both or neither')
        hits = best_iou[:, None, :] >= np.array(self.iou)[:, None] / 100
        if logits is not None:
            labels, logits = to_numpy(labels), to_numpy(logits)
            if logits.ndim != 2 or len(logits) != len(hits) or labels.shape != (len(hits),):
                raise ValueError(
                    f'labels {labels.shape} and logits {logits.shape} do not fit {len(hits)} maps: need (B,) and (B,K)'
                )
            ranked = np.argsort(-logits, axis=1, kind='stable')[:, :5] == labels[:, None]
            self.num_correct_top1 += hits[ranked[:, 0]].sum(0)
            self.num_correct_top5 += hits[ranked.any(1)].sum(0)
            self.num_top1 += int(ranked[:, 0].sum())
            self.num_classified += len(hits)
        self.num_correct += hits.sum(0)
        self.n += len(hits)
        return self

    def best_iou(self, score_maps: Any, boxes: Sequence[Any]) -> np.ndarray:
        """Best IoU of each image at each threshold, (B,T), without counting anything."""
        maps = to_numpy(score_maps)
        if maps.ndim != 3 or len(maps) != len(boxes):
            raise ValueError(f'score maps {maps.shape} and {len(boxes)} box arrays do not fit: expected (B,H,W) and B')
        result = np.empty((len(maps), len(self.thresholds)))
        for i, (score_map, truth) in enumerate(zip(maps, boxes)):
            truth = to_numpy(truth).reshape(-1, 4)
            if not len(truth):
                raise ValueError(f'image {i} of the batch has no ground-truth box')
            try:
                found, index = distinct_boxes(grey_levels(score_map), self.thresholds, self.multi_contour)
            except ValueError as e:
                raise ValueError(f'image {i} of the batch: {e}') from e
            starts = np.cumsum([0] + [len(b) for b in found[:-1]])
            iou = box_iou(np.concatenate(found), truth).max(1)
            result[i] = np.maximum.reduceat(iou, starts)[index]
        return result

    def merge(self, other: BoxMetric) -> BoxMetric:
        """Add the counts of another metric with the same settings (distributed use).

        Raises:
            ValueError: When the settings differ.
        """
        same = np.array_equal(self.thresholds, other.thresholds) and self.iou == other.iou
        if not same or self.multi_contour != other.multi_contour:
            raise ValueError('metrics with different thresholds, iou or multi_contour cannot be merged')
        for name in ('num_correct', 'num_correct_top1', 'num_correct_top5', 'n', 'num_classified', 'num_top1'):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def compute(self) -> dict[str, Any]:
        """Results over all images so far.

        Returns:
            num_correct (I,T) counts; max_box_acc (I,) percent, each level's own maximum over tau; best_threshold (I,),
            the smallest tau that reaches it; mean of max_box_acc; n. With labels and logits also top1, top5 (I,)
            percent, num_correct_top1, num_correct_top5 (I,T), and cls, the classification accuracy in percent.

        Raises:
            ValueError: Before the first image, or when only some batches had logits.
        """
        if not self.n:
            raise ValueError('no image has been added: call update() first')
        accuracy = 100 * self.num_correct / self.n
        result = {
            'num_correct': self.num_correct.copy(),
            'max_box_acc': accuracy.max(1),
            'best_threshold': self.thresholds[accuracy.argmax(1)],
            'mean': float(accuracy.max(1).mean()),
            'n': self.n,
        }
        if self.num_classified:
            if self.num_classified != self.n:
                raise ValueError(f'only {self.num_classified} of {self.n} images came with logits: give all or none')
            for k in ('top1', 'top5'):
                counts = getattr(self, f'num_correct_{k}')
                result[k] = 100 * counts.max(1) / self.n
                result[f'num_correct_{k}'] = counts.copy()
            result['cls'] = 100 * self.num_top1 / self.n
        return result
