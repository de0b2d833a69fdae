"""ADL, Attention-based Dropout Layer (Choe and Shim, CVPR 2019): drop or weight the strongest positions of features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn as nn

from .._schema import Share
from .base import Generators, Layers, MethodSettings, Network, WSOLMethod


def drop(features: torch.Tensor, rate: float, threshold: float, draw: float) -> torch.Tensor:
    """Multiply features by a mask or by their importance.

    The attention a is the mean over the channels. The mask is 1 where a < threshold * max(a), by image, else 0; it is
    a constant. The importance is sigmoid(a).

    Args:
        features: (B,C,h,w), usually after a ReLU.
        rate: Probability of the mask.
        threshold: Relative to the largest attention of the image, in [0,1].
        draw: Uniform number in [0,1): the mask is used if it is at least 1 - rate.

    Returns:
        (B,C,h,w).
    """
    attention = features.float().mean(1, keepdim=True)
    if draw + rate >= 1:
        factor = (attention < threshold * attention.amax((2, 3), keepdim=True)).to(features.dtype)
    else:
        factor = attention.sigmoid().to(features.dtype)
    return features * factor


@dataclass
class ADLSettings(MethodSettings):
    """rate: probability of the mask; threshold: relative to the largest attention.

    layers: dotted names of modules of the backbone; default: the ends of its last two stages.
    """

    rate: Share = 0.75
    threshold: Share = 0.9
    layers: Layers = field(default_factory=list)


class ADL(WSOLMethod):
    """Cross-entropy with `drop` after some layers, in training only; one draw per layer and batch.

    The class map is CAM.
    """

    name = 'adl'
    title = 'ADL'
    Settings = ADLSettings
    settings: ADLSettings

    def __init__(self, network: Network, settings: ADLSettings) -> None:
        super().__init__(network, settings)
        self.check_maps()
        self.layers = settings.layers or network.stages(2)
        network.shapes(self.layers, self.title)
        self._draws: dict[str, float] = {}
        for layer in self.layers:
            self.hook(layer, partial(self._drop, layer))

    def draw(self, shape: torch.Size, generators: Generators) -> list[float]:
        """Draw a uniform number for each layer."""
        return torch.rand(len(self.layers), generator=generators.step, dtype=torch.float64).tolist()

    @contextmanager
    def applied(self, draws: list[float]) -> Iterator[None]:
        self._draws = dict(zip(self.layers, draws))
        try:
            yield
        finally:
            self._draws = {}

    def _drop(self, layer: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if layer not in self._draws:
            return None
        return drop(output, self.settings.rate, self.settings.threshold, self._draws[layer])
