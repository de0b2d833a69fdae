"""Convert what the metrics accept to checked NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import torch

from .._schema import as_whole, show

ArrayLike: TypeAlias = Any  # NumPy array, torch tensor of any device and type, or nested sequence

# Resizing may exceed 0 or 1 by rounding; such scores are clipped.
_ROUNDING = 1e-6


class BatchError(ValueError):
    """An item of a batch that cannot be scored.

    Attributes:
        thing: 'score map', 'mask' or 'image'.
        index: Its index in the batch.
        problem: What is wrong with it, as the rest of a sentence.
    """

    def __init__(self, thing: str, index: int, problem: str) -> None:
        super().__init__(thing, index, problem)
        self.thing, self.index, self.problem = thing, index, problem

    def __str__(self) -> str:
        return f'{self.thing} {self.index} of the batch {self.problem}'


def as_array(values: ArrayLike) -> np.ndarray:
    """Convert a tensor on any device and of any type, or anything that NumPy accepts, to a NumPy array.

    Raises:
        ValueError: For a tensor without data or in a layout that NumPy lacks, or lists of different lengths.
    """
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
            if values.dtype == torch.bfloat16:
                values = values.float()
            return values.numpy()
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        problem = str(error).split('. ')[0]
        raise ValueError(f'{type(values).__name__} is not an array ({problem}): give numbers of one shape') from error


def as_numbers(values: ArrayLike, name: str) -> np.ndarray:
    """Convert to an array of real numbers, of any shape.

    Raises:
        ValueError: For anything else, with the name of the argument.
    """
    array = as_array(values)
    if array.dtype.kind not in 'biuf':
        raise ValueError(f'{name} must be real numbers, got {array.dtype}')
    return array


def check_whole(name: str, value: Any, least: int) -> None:
    """Check that an argument is a whole number, at least `least`.

    Raises:
        ValueError: If not.
    """
    if as_whole(value, least) is None:
        raise ValueError(f'{name}={show(value)}: give a whole number of {least} or more')


def check_kinds(maps: Any) -> list[str]:
    """Check kinds of map, and return each once.

    Raises:
        TypeError: When they are not a list of names.
    """
    if isinstance(maps, str) or not isinstance(maps, Iterable) or not all(isinstance(name, str) for name in maps):
        raise TypeError(f"maps is {show(maps)}: give a list of kinds, such as ('cam', 'fcam')")
    return list(dict.fromkeys(maps))


def as_score_maps(score_maps: ArrayLike, single: bool = False) -> np.ndarray:
    """Convert score maps (N,H,W) in [0,1] to float64, or to float32 with `single` if that is lossless.

    Raises:
        ValueError: For another shape or type, or a map (named by its index) with NaN or values outside [0,1].
    """
    maps = as_numbers(score_maps, 'score_maps')
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f'score_maps must have the shape (N,H,W), got {maps.shape}')
    maps = maps.astype(np.float32 if single and np.can_cast(maps.dtype, np.float32) else np.float64, copy=False)
    low, high = maps.min((1, 2)), maps.max((1, 2))
    bad = ~((low >= -_ROUNDING) & (high <= 1 + _ROUNDING))  # true for NaN
    if bad.any():
        i = int(bad.argmax())
        found = 'NaN' if np.isnan(low[i]) else f'values from {low[i]:.6g} to {high[i]:.6g}'
        raise BatchError('score map', i, f'holds {found}; scores must lie in [0,1]')
    if len(maps) and (low.min() < 0 or high.max() > 1):
        maps = maps.clip(0, 1)
    return maps


def as_thresholds(thresholds: ArrayLike | None, ascending: bool = False) -> np.ndarray:
    """Convert thresholds to float64 (T); None means 0, 0.001, ..., 0.999, as in Choe et al. (CVPR 2020).

    Raises:
        ValueError: For an empty list, a threshold outside [0,1], or, with `ascending`, thresholds that do not ascend.
    """
    if thresholds is None:
        return np.arange(0, 1, 0.001)
    values = np.array(as_numbers(thresholds, 'thresholds'), np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f'thresholds must be a list of at least one number, got the shape {values.shape}')
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError('thresholds must lie in [0,1]: they are fractions of the largest score of a map')
    if ascending and not (np.diff(values) > 0).all():
        raise ValueError('thresholds must ascend, without repeats')
    return values


def as_iou(iou: ArrayLike) -> tuple[float, ...]:
    """Convert required IoUs to a tuple of different percentages.

    Raises:
        ValueError: For an empty list, a percentage outside (0,100], or equal ones.
    """
    levels = as_numbers(iou, 'iou')
    if levels.ndim != 1 or not levels.size or not ((levels > 0) & (levels <= 100)).all():
        raise ValueError(f'iou must be percentages above 0 and up to 100, got {levels.tolist()}')
    found = tuple(levels.tolist())
    if len({f'{level:g}' for level in found}) < len(found):
        raise ValueError(f'iou must be different percentages, got {levels.tolist()}')
    return found


def top_k_hits(labels: ArrayLike, logits: ArrayLike, n: int, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Check whether the label has the largest logit, and one of the k largest; equal logits keep their order.

    Args:
        labels: (N) class indices.
        logits: (N,K).
        n: Expected N.
        k: Number of logits.

    Returns:
        Two bool arrays (N).

    Raises:
        ValueError: When shapes do not match, a label is outside 0..K-1, or logits hold NaN.
    """
    labels, logits = as_array(labels), as_numbers(logits, 'logits')
    if labels.shape != (n,) or logits.ndim != 2 or len(logits) != n:
        raise ValueError(
            f'labels (N) and logits (N,K) must match {n} score maps, got the shapes {labels.shape} and {logits.shape}'
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f'labels must be whole numbers, got {labels.dtype}')
    if n and not (labels.min() >= 0 and labels.max() < logits.shape[1]):
        raise ValueError(f'labels must lie in 0..{logits.shape[1] - 1}, the classes of the logits')
    if np.isnan(logits).any():
        raise ValueError('logits hold NaN')
    first = np.argsort(-logits.astype(np.float64), axis=1, kind='stable')[:, :k] == labels[:, None]
    return first[:, 0], first.any(1)
