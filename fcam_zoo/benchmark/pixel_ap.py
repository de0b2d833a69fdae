"""PxAP: average precision of pixels, for data sets with masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .box_metric import THRESHOLDS, to_numpy


class PixelAP:
    """Pixel average precision over the whole data set (Choe et al., CVPR 2020, Sec. 4.2).

    Args:
        thresholds: Ascending edges in [0,1); default 0, 0.001, ... 0.999. A score of exactly 1 has a bin of its own.
    """

    def __init__(self, thresholds: Sequence[float] | None = None) -> None:
        thresholds = np.array(THRESHOLDS if thresholds is None else thresholds, np.float64)
        if not len(thresholds) or (np.diff(thresholds) <= 0).any() or thresholds[0] < 0 or thresholds[-1] >= 1:
            raise ValueError('thresholds must ascend within [0,1)')
        self.edges = np.concatenate([thresholds, [1.0, 2.0, 3.0]])
        self.hist_true, self.hist_false = np.zeros(len(self.edges) - 1), np.zeros(len(self.edges) - 1)
        self.n = 0

    def update(self, score_maps: Any, masks: Any) -> PixelAP:
        """Add a batch.

        Args:
            score_maps: (B,H,W) in [0,1].
            masks: (B,H,W), 1 object, 0 background, 255 not scored.

        Returns:
            Itself.

        Raises:
            ValueError: On NaN, values outside [0,1], other mask values, or shapes that differ.
        """
        maps, masks = to_numpy(score_maps), to_numpy(masks)
        if maps.ndim != 3 or maps.shape != masks.shape:
            raise ValueError(f'score maps {maps.shape} and masks {masks.shape} must both be (B,H,W)')
        if not ((maps >= 0) & (maps <= 1)).all():
            raise ValueError('score maps hold NaN or values outside [0,1]: normalise them first')
        if not np.isin(masks, (0, 1, 255)).all():
            raise ValueError('masks hold values other than 0, 1 and 255 (ignored)')
        maps = maps.astype(np.float64)
        # Half-open bins: the bin of a score is that of the last edge not above it.
        bins = np.searchsorted(self.edges, maps, side='right') - 1
        size = len(self.hist_true)
        self.hist_true += np.bincount(bins[masks == 1], minlength=size)
        self.hist_false += np.bincount(bins[masks == 0], minlength=size)
        self.n += len(maps)
        return self

    def merge(self, other: PixelAP) -> PixelAP:
        """Add the histograms of another metric with the same thresholds.

        Raises:
            ValueError: When the thresholds differ.
        """
        if not np.array_equal(self.edges, other.edges):
            raise ValueError('metrics with different thresholds cannot be merged')
        self.hist_true += other.hist_true
        self.hist_false += other.hist_false
        self.n += other.n
        return self

    def compute(self) -> dict[str, Any]:
        """Results over all images so far.

        Returns:
            pxap, percent; precision and recall from high to low threshold (precision is NaN where nothing is above the
            threshold); hist_true, hist_false in ascending bins; n.

        Raises:
            ValueError: When no object pixel has been added.
        """
        if not self.hist_true.sum():
            raise ValueError('no object pixel in the masks: PxAP is not defined')
        true, false = self.hist_true[::-1].cumsum(), self.hist_false[::-1].cumsum()
        with np.errstate(invalid='ignore'):
            precision = true / (true + false)
        recall = true / true[-1]
        known = (true + false)[1:] > 0
        return {
            'pxap': float(100 * (precision[1:] * np.diff(recall))[known].sum()),
            'precision': precision,
            'recall': recall,
            'hist_true': self.hist_true.copy(),
            'hist_false': self.hist_false.copy(),
            'n': self.n,
        }
