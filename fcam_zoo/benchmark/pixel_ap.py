"""PxAP: average precision of pixels (Choe et al., CVPR 2020)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ._counts import Counts
from .inputs import ArrayLike, BatchError, as_array, as_ascending_thresholds, as_score_maps


class PixelAP(Counts):
    """Average precision of pixel scores, all pixels of all images taken together.

    Scores are sorted into bins [t_i, t_i+1) and, for those from 1 on, [1,2); here thresholds are absolute, not relative
    to a map's maximum. Precision and recall are cumulated from the highest bin; PxAP sums precision times the gain in
    recall, without interpolation.

    Args:
        thresholds: (T) ascending from 0, in [0,1]; default 0, 0.001, ..., 0.999.

    Raises:
        ValueError: When thresholds are out of range, or do not start at 0.

    Examples:
        >>> import torch
        >>> mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
        >>> mask[0, 2:6, 2:6] = 1
        >>> mask[0, 6] = 255  # left out
        >>> round(PixelAP().update(mask.eq(1).float(), mask).compute()['pxap'], 1)
        100.0
        >>> round(PixelAP().update(torch.full((1, 8, 8), 0.5), mask).compute()['pxap'], 1)  # 16 of 56 pixels
        28.6
    """

    def __init__(self, thresholds: ArrayLike | None = None) -> None:
        self.thresholds = as_ascending_thresholds(thresholds)
        if self.thresholds[0] != 0:
            raise ValueError('thresholds of PixelAP must start at 0, or lower scores would be left out')
        # The published bins end with [1,2) and an empty [2,3].
        self.edges = np.unique([*self.thresholds, 1.0, 2.0, 3.0])
        # Scores are looked up in cells finer than the bins. Their number is a power of two, so that score * number is
        # exact and the first bin of a cell is never past that of a score in it.
        self._cells = 1 << (4 * len(self.edges)).bit_length()
        starts = np.arange(self._cells + 1) / self._cells
        self._first_bin = self.edges.searchsorted(starts, side='right') - 1
        self._edges_in_cell = int(np.diff(self._first_bin).max())
        # Bins of one width need no table: the whole part of score * number is the bin, but near an edge.
        number = len(self.thresholds)
        self._even = number if np.allclose(self.thresholds * number, np.arange(number), rtol=0, atol=1e-9) else None
        bins = len(self.edges) - 1
        self._state = {'n': np.zeros((), np.int64), 'hist': np.zeros((2, bins), np.int64)}

    def histograms(self, score_maps: ArrayLike, masks: ArrayLike) -> np.ndarray:
        """Number of object and of background pixels of each image in each bin. Counts nothing.

        Args:
            score_maps: (N,H,W), values in [0,1].
            masks: (N,H,W): 1 object, 0 background, 255 left out.

        Returns:
            int64 (N,2,bins); bins ascend.

        Raises:
            ValueError: As `update`.
        """
        maps, masks = as_score_maps(score_maps, single=True), as_array(masks)
        if masks.shape != maps.shape:
            raise ValueError(f'score_maps {maps.shape} and masks {masks.shape} must have the same shape')
        bins = len(self.edges) - 1
        hist = np.empty((len(maps), 2, bins), np.int64)
        # Each kind of pixel has bins of its own: background, object, left out.
        row = np.zeros(256, np.int32)
        row[1], row[255] = bins, 2 * bins
        for i, (score_map, mask) in enumerate(zip(maps, masks)):
            kinds = np.ascontiguousarray(mask, np.uint8)
            odd = np.count_nonzero(kinds > 1) != np.count_nonzero(kinds == 255)
            if odd or not np.array_equal(kinds, mask):
                raise BatchError('mask', i, 'may hold 0, 1 and 255 only')
            index = self._bins(score_map)
            index += cv2.LUT(kinds, row)
            background, foreground, _ = np.bincount(index.ravel(), minlength=3 * bins).reshape(3, bins)
            hist[i] = foreground, background
        return hist

    measure = histograms

    def _bins(self, score_map: np.ndarray) -> np.ndarray:
        """Bin (H,W) of each score (H,W) in [0,1]."""
        if self._even is not None:
            return self._even_bins(score_map)
        index = self._first_bin.take((score_map.astype(np.float64) * self._cells).astype(np.intp))
        for _ in range(self._edges_in_cell):
            index += score_map >= self.edges.take(index + 1)
        return index

    def _even_bins(self, score_map: np.ndarray) -> np.ndarray:
        product = score_map * score_map.dtype.type(self._even)
        index = product.astype(np.int32)
        # Farther from an edge than any rounding of the product or the edges, the bin is certain.
        product -= np.rint(product)
        doubtful = np.flatnonzero(np.abs(product, out=product) < 1e-3)
        scores = score_map.ravel()[doubtful].astype(np.float64)
        index.ravel()[doubtful] = self.edges.searchsorted(scores, side='right') - 1
        return index

    def update(self, score_maps: ArrayLike, masks: ArrayLike) -> PixelAP:
        """Count a batch of images.

        Args:
            score_maps: (N,H,W), values in [0,1].
            masks: (N,H,W): 1 object, 0 background, 255 left out.

        Returns:
            The metric itself.

        Raises:
            ValueError: When a map holds NaN or values outside [0,1], a mask other values than these, or shapes differ.
        """
        return self.count(self.histograms(score_maps, masks))

    def count(self, histograms: ArrayLike) -> PixelAP:
        """Count images whose `histograms` (N,2,bins) are known, as `update` does.

        Raises:
            ValueError: When the shape does not fit.
        """
        histograms = as_array(histograms)
        if histograms.ndim != 3 or histograms.shape[1:] != self._state['hist'].shape:
            raise ValueError(f'histograms must have the shape (N,2,{len(self.edges) - 1}), got {histograms.shape}')
        self._state['n'] = self._state['n'] + len(histograms)
        self._state['hist'] = self._state['hist'] + histograms.sum(0)
        return self

    def merge(self, other: PixelAP) -> PixelAP:
        """Add the counts of another metric with the same thresholds, such as that of another process.

        Raises:
            ValueError: When thresholds differ.
        """
        if not np.array_equal(self.thresholds, other.thresholds):
            raise ValueError('metrics can be merged when thresholds are the same')
        self._state = {key: value + other._state[key] for key, value in self._state.items()}
        return self

    def compute(self) -> dict[str, Any]:
        """Results over all images counted so far.

        Returns:
            pxap (percent); precision and recall (bins) from the highest threshold to the lowest, NaN precision where no
            pixel has been reached yet; hist_true and hist_false (bins), ascending; n images.

        Raises:
            ValueError: When there is no image, or none with object pixels.
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


def average_precision(hist_true: np.ndarray, hist_false: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Average precision in percent, and precision and recall (bins) from the highest bin to the lowest.

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
