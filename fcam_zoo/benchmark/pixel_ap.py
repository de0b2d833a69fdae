"""PxAP: average precision of pixels (Choe et al., CVPR 2020)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ._counts import Counts
from .inputs import ArrayLike, BatchError, as_numbers, as_score_maps, as_thresholds


class PixelAP(Counts):
    """Average precision of pixel scores over all pixels of all images.

    Scores are sorted into bins [t_i, t_i+1), and [1,2) for a score of 1. Thresholds are absolute, not relative to the
    maximum of a map. Precision and recall are cumulated from the highest bin; PxAP is the sum of precision times the
    gain in recall, without interpolation. The printed metric has the result. Call it like a metric of torchmetrics to
    count a batch and get the results of this batch.

    Args:
        thresholds: (T) ascending from 0, in [0,1]; default 0, 0.001, ..., 0.999.

    Raises:
        ValueError: When thresholds are out of range, or do not start at 0.

    Examples:
        >>> import torch
        >>> mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
        >>> mask[0, 2:6, 2:6] = 1
        >>> mask[0, 6] = 255  # ignored
        >>> round(PixelAP().update(mask.eq(1).float(), mask).compute()['pxap'], 1)
        100.0
        >>> round(PixelAP().update(torch.full((1, 8, 8), 0.5), mask).compute()['pxap'], 1)  # 16 of 56 pixels
        28.6
        >>> PixelAP().update(mask.eq(1).float(), mask)
        PixelAP(n=1, pxap=100.0)
    """

    def __init__(self, thresholds: ArrayLike | None = None) -> None:
        self.thresholds = as_thresholds(thresholds, ascending=True)
        if self.thresholds[0] != 0:
            raise ValueError('thresholds of PixelAP must start at 0: lower scores would be excluded')
        # The published bins end with [1,2) and an empty [2,3].
        self.edges = np.unique([*self.thresholds, 1.0, 2.0, 3.0])
        # With bins of equal width, the integer part of score * number is the bin, except near an edge.
        number = len(self.thresholds)
        self._even = number if np.allclose(self.thresholds * number, np.arange(number), rtol=0, atol=1e-9) else None
        bins = len(self.edges) - 1
        state = {'n': np.zeros((), np.int64), 'hist': np.zeros((2, bins), np.int64)}
        super().__init__({'thresholds': self.thresholds}, state)

    def histograms(self, score_maps: ArrayLike, masks: ArrayLike) -> np.ndarray:
        """Count object and background pixels of each image in each bin, without adding them to the metric.

        Args:
            score_maps: (N,H,W), values in [0,1].
            masks: (N,H,W): 1 object, 0 background, 255 ignored.

        Returns:
            int64 (N,2,bins); bins ascend.

        Raises:
            ValueError: As `update`.
        """
        maps, masks = as_score_maps(score_maps, single=True), as_numbers(masks, 'masks')
        if masks.shape != maps.shape:
            raise ValueError(f'score_maps {maps.shape} and masks {masks.shape} must have the same shape')
        bins = len(self.edges) - 1
        hist = np.empty((len(maps), 2, bins), np.int64)
        # Background, object and ignored pixels have separate bins.
        row = np.zeros(256, np.int32)
        row[1], row[255] = bins, 2 * bins
        for i, (score_map, mask) in enumerate(zip(maps, masks)):
            with np.errstate(invalid='ignore'):  # NaN
                kinds = np.ascontiguousarray(mask, np.uint8)
            odd = np.count_nonzero(kinds > 1) != np.count_nonzero(kinds == 255)
            if odd or not np.array_equal(kinds, mask):
                raise BatchError('mask', i, 'may only hold 0, 1 and 255')
            index = self._bins(score_map)
            index += cv2.LUT(kinds, row)
            background, foreground, _ = np.bincount(index.ravel(), minlength=3 * bins).reshape(3, bins)
            hist[i] = foreground, background
        return hist

    measure = histograms

    def _bins(self, score_map: np.ndarray) -> np.ndarray:
        """Return the bin (H,W) of each score (H,W) in [0,1]."""
        if self._even is None:
            return self.edges.searchsorted(score_map.astype(np.float64), side='right') - 1
        product = score_map * score_map.dtype.type(self._even)
        index = product.astype(np.int32)
        # The bin is certain when the score is farther from an edge than any rounding of product or edges.
        product -= np.rint(product)
        doubtful = np.flatnonzero(np.abs(product, out=product) < 1e-3)
        scores = score_map.ravel()[doubtful].astype(np.float64)
        index.ravel()[doubtful] = self.edges.searchsorted(scores, side='right') - 1
        return index

    def update(self, score_maps: ArrayLike, masks: ArrayLike) -> PixelAP:
        """Count a batch of images.

        Args:
            score_maps: (N,H,W), values in [0,1].
            masks: (N,H,W): 1 object, 0 background, 255 ignored.

        Returns:
            The metric itself.

        Raises:
            ValueError: When a map holds NaN or values outside [0,1], a mask holds other values, or shapes differ.
        """
        return self.count(self.histograms(score_maps, masks))

    def count(self, histograms: ArrayLike) -> PixelAP:
        """Count images from their `histograms` (N,2,bins).

        Raises:
            ValueError: When the shape does not match.
        """
        histograms = as_numbers(histograms, 'histograms')
        if histograms.ndim != 3 or histograms.shape[1:] != self._state['hist'].shape:
            raise ValueError(f'histograms must have the shape (N,2,{len(self.edges) - 1}), got {histograms.shape}')
        if histograms.dtype.kind == 'f':
            raise ValueError(f'histograms must be whole numbers, got {histograms.dtype}')
        self._state['n'] = self._state['n'] + len(histograms)
        self._state['hist'] = self._state['hist'] + histograms.sum(0)
        return self

    def compute(self) -> dict[str, Any]:
        """Return the results over all images counted so far.

        Returns:
            pxap (percent); precision and recall (bins) from the highest threshold to the lowest, NaN precision where no
            pixel has been reached yet; hist_true and hist_false (bins), ascending; n images.

        Raises:
            ValueError: When no image was counted, or none with object pixels.
        """
        hist_true, hist_false = self._state['hist']
        if not self._state['n']:
            raise ValueError('no image has been counted: call update first')
        if not hist_true.sum():
            raise ValueError('no mask has object pixels: PxAP is not defined')
        pxap, precision, recall = average_precision(hist_true, hist_false)
        return {
            'pxap': pxap,
            'precision': precision,
            'recall': recall,
            'hist_true': hist_true.copy(),
            'hist_false': hist_false.copy(),
            'n': int(self._state['n']),
        }

    def main_results(self) -> dict[str, str]:
        return {'pxap': f'{self.compute()["pxap"]:.1f}'} if self._state['hist'][0].any() else {}


def average_precision(hist_true: np.ndarray, hist_false: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Compute average precision in percent, and precision and recall (bins) from the highest bin to the lowest.

    Args:
        hist_true: (bins) object pixels in ascending bins; at least one.
        hist_false: (bins) background pixels.
    """
    true, false = hist_true[::-1].cumsum(), hist_false[::-1].cumsum()
    with np.errstate(invalid='ignore'):
        precision = true / (true + false)
    recall = true / true[-1]
    reached = (true + false > 0)[1:]
    return float(100 * (precision[1:] * np.diff(recall))[reached].sum()), precision, recall
