"""Exponential moving average of the weights, which is validated and saved instead of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..models import FCAM
from .checkpoint import weights_of


class WeightAverage:
    """An average w of the weights v in training: after step n, w <- d w + (1 - d) v, d = min(decay, (1+n) / (10+n)).

    The decay grows with the number n of steps, so that the first weights are soon forgotten (Polyak averaging; the
    schedule is that of TensorFlow's ExponentialMovingAverage). Batch-norm statistics are averaged, too.

    Args:
        model: The model in training.
        decay: Largest decay.
    """

    def __init__(self, model: FCAM, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: value.clone() for name, value in weights_of(model).items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Update the average after so many steps, from 1."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights in the block."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.model.load_state_dict(own)
