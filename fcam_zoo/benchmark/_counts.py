"""Counts of a metric as one state that can be summed over processes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .inputs import ArrayLike, as_array


class Counts:
    """Base class of the metrics: integer arrays by name, additive over any split of the images."""

    _state: dict[str, np.ndarray]

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
        new = {key: np.array(as_array(value), np.int64) for key, value in state.items()}
        if {k: v.shape for k, v in new.items()} != {k: v.shape for k, v in self._state.items()}:
            raise ValueError(
                'the state belongs to a metric with other options: create this metric with the same options'
            )
        self._state = new
