"""Counts of a metric as one state that can be summed over processes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from .inputs import ArrayLike, as_numbers

Metric = TypeVar('Metric', bound='Counts')


class Counts(ABC):
    """Base class of the metrics: integer counts, which can be added over any split of the images."""

    def __init__(self, options: dict[str, Any], state: dict[str, np.ndarray]) -> None:
        self._options, self._state = options, state

    @abstractmethod
    def update(self: Metric, *batch: Any, **options: Any) -> Metric:
        """Count a batch."""

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """Return the results over all images counted so far."""

    @abstractmethod
    def main_results(self) -> dict[str, str]:
        """Return the main results in percent as text, by their keys in `compute`; none before they are defined."""

    def __call__(self, *batch: Any, **options: Any) -> dict[str, Any]:
        """Count a batch and return the results of this batch only, as metrics of torchmetrics do.

        Takes the arguments of `update`.

        Raises:
            ValueError: As `update` and `compute`; then nothing is counted.
        """
        new = copy.copy(self)
        new.reset()
        results = new.update(*batch, **options).compute()
        self.merge(new)
        return results

    def __repr__(self) -> str:
        values = {'n': int(self._state['n']), **self.main_results()}
        return f'{type(self).__name__}({", ".join(f"{key}={value}" for key, value in values.items())})'

    def options(self) -> dict[str, Any]:
        """Return the options that metrics must share to be merged."""
        return dict(self._options)

    def merge(self: Metric, other: Metric) -> Metric:
        """Add the counts of another metric with the same options, for example of another process.

        Raises:
            ValueError: When options differ.
            TypeError: When the other metric has another class.
        """
        if type(other) is not type(self):
            raise TypeError(
                f'a {type(other).__name__} cannot be merged into a {type(self).__name__}: give one of its class'
            )
        if not all(np.array_equal(value, other._options[key]) for key, value in self._options.items()):
            raise ValueError(f'metrics can only be merged if {", ".join(self._options)} are the same')
        self._state = {key: value + other._state[key] for key, value in self._state.items()}
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return all counts as int64 arrays. The states of parts of the images sum to the state of all."""
        return {key: value.copy() for key, value in self._state.items()}

    def reset(self) -> None:
        """Set all counts to zero."""
        self._state = {key: np.zeros_like(value) for key, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Replace the counts.

        Raises:
            ValueError: When keys or shapes differ from those of `state_dict`.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f'a state has the type {type(state).__name__}: give what state_dict returned')
        new = {key: as_numbers(state[key], f'counts of {key}') for key in self._state if key in state}
        shapes = {key: value.shape for key, value in self._state.items()}
        if state.keys() != shapes.keys() or {key: value.shape for key, value in new.items()} != shapes:
            raise ValueError(
                'the state belongs to a metric with other options: create this metric with the same options'
            )
        if wrong := [key for key, value in new.items() if value.dtype.kind not in 'iu' or value.min(initial=0) < 0]:
            raise ValueError(f'counts of {wrong[0]} are not whole numbers from 0: give what state_dict returned')
        self._state = {key: np.array(value, np.int64) for key, value in new.items()}
