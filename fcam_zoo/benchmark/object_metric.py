"""Precision, recall, F1 and AP of several objects per image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .._catalog import MIN_AREA
from ..objects import as_share, find_regions, foreground, resize_map
from .boxes import as_boxes, resize_boxes
from .inputs import ArrayLike, BatchError, as_array, as_iou, as_numbers, as_score_maps, as_thresholds
from .matching import ImageBoxes, check_pycocotools, match

DEFAULT_IOU = (30, 50)
# Every 0.05: regions are found again at each threshold.
_THRESHOLDS = np.arange(20) / 20


class ObjectTruth(NamedTuple):
    """True boxes of a batch of N images, in pixels of the images."""

    boxes: Sequence[ArrayLike]  # N arrays (n,4) of x0, y0, x1, y1, the last pixel inside
    sizes: Sequence[tuple[int, int]]  # N times (width, height)

    def resized(self, size: tuple[int, int]) -> list[np.ndarray]:
        """Return the boxes in pixels of maps of a (width, height)."""
        return [resize_boxes(_rows(boxes), own, size) for boxes, own in zip(self.boxes, self.sizes)]


class ImageObjects(NamedTuple):
    """Objects of an image: its true boxes, and those found at T thresholds, M in all."""

    truth: np.ndarray  # (n,4) x, y, width, height
    found: np.ndarray  # (M,4)
    scores: np.ndarray  # (M)
    starts: np.ndarray  # (T+1): those found at threshold t are starts[t] to starts[t+1]

    def at(self, t: int) -> ImageBoxes:
        """Return the boxes at a threshold."""
        part = slice(self.starts[t], self.starts[t + 1])
        return ImageBoxes(self.truth, self.found[part], self.scores[part])


class ObjectCounts(NamedTuple):
    """Boxes of N images at T thresholds and I IoUs."""

    truth: np.ndarray  # (N) true boxes
    found: np.ndarray  # (N,T) found boxes
    correct: np.ndarray  # (N,I,T) found boxes that match a true box


class ObjectMetric:
    """Precision, recall, F1 and AP of all boxes found in maps, against all true boxes of each image.

    At each threshold, the boxes are those of `localize(multi=True)` and `fcam-zoo predict --multi`: the map is resized
    to its image, a pixel belongs to an object if its 8-bit value is above int(threshold * largest value), and each
    connected region (8 neighbors) with at least `min_area` of the image is an object; the largest region always is.
    Its score is the mean of the map inside the region. pycocotools matches them with the true boxes and computes AP
    (see `matching.match`). Classes do not matter.

    Unlike `BoxMetric`, boxes are in pixels of the images and as wide as their pixels, since they are annotations rather
    than a published protocol. All images are kept, about 1 kB each.

    Args:
        thresholds: (T) ascending, in [0,1], relative to a map's maximum; default 0, 0.05, ..., 0.95.
        iou: Required IoUs in percent.
        min_area: Smallest area of a further region as a share of the image, in [0,1).

    Raises:
        ImportError: Without pycocotools (extra `objects`).
        ValueError: When thresholds, IoUs or min_area are out of range.

    Examples:
        Two true objects; one is found, and something else:

        >>> import torch
        >>> maps = torch.zeros(1, 100, 100)
        >>> maps[0, 10:30, 10:30], maps[0, 60:80, 60:80] = 0.9, 0.7
        >>> metric = ObjectMetric(thresholds=[0.5]).update(maps, [[[10, 10, 29, 29], [5, 70, 40, 95]]])
        >>> result = metric.compute()
        >>> [result[key][1, 0].item() for key in ('precision', 'recall', 'f1')]
        [50.0, 50.0, 50.0]
        >>> round(result['ap'][1, 0].item(), 1)  # 51 of the 101 recalls are reached, with a precision of 1
        50.5
    """

    def __init__(
        self,
        thresholds: ArrayLike | None = None,
        iou: Sequence[float] = DEFAULT_IOU,
        min_area: float = MIN_AREA,
    ) -> None:
        check_pycocotools()
        self.thresholds = as_thresholds(_THRESHOLDS if thresholds is None else thresholds, ascending=True)
        self.iou = as_iou(iou)
        self.min_area = as_share(min_area, 'min_area')
        self._images: list[ImageObjects] = []

    def measure(self, score_maps: ArrayLike, truth: ObjectTruth) -> list[ImageObjects]:
        """Find the objects of a batch of maps, without counting them; can run in any process.

        Args:
            score_maps: (N,h,w), values in [0,1], of any size.
            truth: True boxes of these images.

        Raises:
            ValueError: As `update`.
        """
        maps = as_score_maps(score_maps, single=True).astype(np.float32, copy=False)
        if not len(maps) == len(truth.boxes) == len(truth.sizes):
            raise ValueError(
                f'{len(maps)} score maps, but boxes of {len(truth.boxes)} and sizes of {len(truth.sizes)} images'
            )
        return [
            self._find(score_map, _true_boxes(i, boxes, size), size)
            for i, (score_map, boxes, size) in enumerate(zip(maps, truth.boxes, truth.sizes))
        ]

    def _find(self, score_map: np.ndarray, truth: np.ndarray, size: tuple[int, int]) -> ImageObjects:
        full = resize_map(score_map, (int(size[0]), int(size[1])))
        regions = [find_regions(foreground(full, t), full, True, self.min_area) for t in self.thresholds.tolist()]
        corners = np.array([region.box for found in regions for region in found], np.float64).reshape(-1, 4)
        scores = np.array([region.strength for found in regions for region in found], np.float64)
        starts = np.cumsum([0, *map(len, regions)])
        return ImageObjects(truth, np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]), scores, starts)

    def update(
        self, score_maps: ArrayLike, boxes: Sequence[ArrayLike], sizes: Sequence[tuple[int, int]] | None = None
    ) -> ObjectMetric:
        """Count a batch of images.

        Args:
            score_maps: (N,h,w), values in [0,1].
            boxes: N arrays (n,4) of x0, y0, x1, y1 in pixels of the images, the last pixel inside; n may be 0.
            sizes: (width, height) of each image; default: the size of the maps.

        Returns:
            The metric itself.

        Raises:
            ValueError: When a map holds NaN or values outside [0,1], a box is inverted or outside its image, or
                lengths differ. Then nothing is counted.
        """
        if sizes is None:
            shape = as_array(score_maps).shape
            sizes = [(shape[-1], shape[-2])] * len(boxes)
        return self.count(self.measure(score_maps, ObjectTruth(boxes, sizes)))

    def count(self, found: Sequence[ImageObjects]) -> ObjectMetric:
        """Count images from what `measure` returned."""
        self._images.extend(found)
        self._forget()
        return self

    def merge(self, other: ObjectMetric) -> ObjectMetric:
        """Add the images of another metric with the same options, for example of another process.

        Raises:
            ValueError: When options differ.
            TypeError: When the other metric has another class.
        """
        if not isinstance(other, ObjectMetric):
            raise TypeError(f'a {type(other).__name__} cannot be merged into an ObjectMetric: give one of its class')
        same = np.array_equal(self.thresholds, other.thresholds) and self.iou == other.iou
        if not same or self.min_area != other.min_area:
            raise ValueError('metrics can only be merged if thresholds, iou, min_area are the same')
        return self.count(other._images)

    def reset(self) -> None:
        """Remove all images."""
        self._images = []
        self._forget()

    def _forget(self) -> None:
        self.__dict__.pop('_matched', None)

    @cached_property
    def _matched(self) -> tuple[np.ndarray, np.ndarray]:
        """Correct boxes (N,I,T), and AP in percent (I,T)."""
        each = [match([image.at(t) for image in self._images], self.iou) for t in range(len(self.thresholds))]
        return np.stack([correct for correct, _ in each], 2), np.stack([ap for _, ap in each], 1)

    def counts(self) -> ObjectCounts:
        """Return the number of boxes of each image."""
        truth = np.array([len(image.truth) for image in self._images])
        return ObjectCounts(truth, np.array([np.diff(image.starts) for image in self._images]), self._matched[0])

    def ap_of(self, index: np.ndarray, t: int) -> np.ndarray:
        """Return AP in percent (I) of some images at a threshold; NaN if none of them has a true box."""
        return match([self._images[i].at(t) for i in index], self.iou)[1]

    def compute(self) -> dict[str, Any]:
        """Return the results over all images counted so far.

        Returns:
            Over I IoUs and T thresholds: num_correct (I,T) int64; precision, recall, f1 and ap (I,T) in percent;
            best_f1 (I) over thresholds, and best_threshold (I), the smallest one with this F1; num_found (T); num_true
            boxes; n images. Precision is 0 where nothing was found.

        Raises:
            ValueError: When no image has been counted, or none with a true box.
        """
        if not self._images:
            raise ValueError('no image has been counted: call update first')
        truth, found, correct = self.counts()
        if not truth.any():
            raise ValueError('no image has a true box: precision and recall of objects are not defined')
        precision, recall, f1 = detection_scores(truth.sum(), found.sum(0), correct.sum(0))
        return {
            'num_correct': correct.sum(0),
            'num_found': found.sum(0),
            'num_true': int(truth.sum()),
            'precision': precision,
            'recall': recall,
            'f1': f1,
            'ap': self._matched[1].copy(),
            'best_f1': f1.max(1),
            'best_threshold': self.thresholds[f1.argmax(1)],
            'n': len(self._images),
        }


def detection_scores(truth: ArrayLike, found: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, ...]:
    """Compute precision, recall and F1 in percent from numbers of boxes, arrays that broadcast; 0 for 0 of 0."""
    mean = np.add(truth, found) / 2
    return tuple(100 * np.asarray(correct) / np.maximum(total, 1) for total in (found, truth, mean))


def _rows(boxes: ArrayLike) -> np.ndarray:
    """Return boxes (n,4), also without any."""
    return as_numbers(boxes, 'boxes') if len(boxes) else np.zeros((0, 4))


def _true_boxes(i: int, boxes: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """Convert boxes in pixels of an image, the last one inside, to x, y, width, height (n,4)."""
    width, height = size
    if not len(boxes):
        return np.zeros((0, 4))
    corners = as_boxes(boxes)
    if corners[:, 2].max() > width or corners[:, 3].max() > height:
        raise BatchError('image', i, f'has a box outside its {width} x {height} pixels: correct the box or the size')
    # Some formats have exclusive ends, one pixel outside.
    ends = np.minimum(corners[:, 2:] + 1, [width, height])
    return np.hstack([corners[:, :2], ends - corners[:, :2]])
