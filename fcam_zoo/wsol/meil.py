"""EIL and MEIL, Erasing Integrated Learning (Mai, Yang and Luo, CVPR 2020): also classify what is not erased."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn as nn

from .._schema import NotNegative, Share
from .base import Encoding, Layers, MethodSettings, Network, Targets, TrainingOutput, WSOLMethod


def erase(features: torch.Tensor, threshold: float) -> torch.Tensor:
    """Set features to 0 at the positions with the strongest attention.

    The attention a is the mean over the channels. Kept are the positions with a < threshold * max(a), by image. The
    mask is a constant: gradients flow through the kept features only.

    Args:
        features: (B,C,h,w), usually after a ReLU.
        threshold: Relative to the largest attention of the image, in [0,1].

    Returns:
        (B,C,h,w).
    """
    attention = features.detach().float().mean(1, keepdim=True)
    keep = attention < threshold * attention.amax((2, 3), keepdim=True)
    return features * keep.to(features.dtype)


@contextmanager
def fixed_statistics(net: nn.Module) -> Iterator[None]:
    """Let batch norm in train mode leave its running statistics unchanged; it still uses those of the batch."""
    layers = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@dataclass
class MEILSettings(MethodSettings):
    """threshold: positions with at least this share of the largest attention are erased.

    weight: of each erased term of the loss. layers: dotted names of modules of the backbone, each followed by one
    erasing block; default: the ends of its last two stages. One layer is EIL.
    """

    threshold: Share = 0.7
    weight: Annotated[float, NotNegative] = 1.0
    layers: Layers = field(default_factory=list)


class MEIL(WSOLMethod):
    """Cross-entropy without erasure plus, for each block, cross-entropy with `erase` at that block.

    Loss: CE(p) + weight * sum_i CE(p_i), where p_i are the logits of a pass with the features erased after layer i, and
    all passes share the weights. Logits and class map (CAM) are those of the pass without erasure.

    With one layer this is EIL as in the published code, where the block follows the fourth pool of VGG16, and both
    terms have weight 1. The version with several blocks, MEIL, has no published code and is after the paper's
    description. How its blocks are wired and weighted, and where they are, could not be confirmed: here each erased
    pass erases at one layer only, and all have the same weight.

    Each layer costs one more pass of the network per step. These passes do not update the running statistics of batch
    norm, because the network is used without erasure later.
    """

    name = 'meil'
    title = 'MEIL'
    Settings = MEILSettings
    settings: MEILSettings

    def __init__(self, network: Network, settings: MEILSettings) -> None:
        super().__init__(network, settings)
        self.check_maps()
        self.layers = settings.layers or network.stages(2)
        network.shapes(self.layers, self.title)
        self._erased: str | None = None
        for layer in self.layers:
            self.hook(layer, partial(self._erase, layer))

    def _erase(self, layer: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        return erase(output, self.settings.threshold) if layer == self._erased else None

    def forward(self, encoding: Encoding, targets: Targets, draws: Any) -> TrainingOutput:
        output = super().forward(encoding, targets, draws)
        terms = dict(output.terms)
        for number, layer in enumerate(self.layers):
            logits = self.erased_logits(encoding.images, layer).float()
            terms[f'ce_erased_{number + 1}'] = self.settings.weight * targets.cross_entropy(logits)
        return TrainingOutput(output.logits, terms)

    def erased_logits(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        """Compute the logits (B,K) of images (B,3,H,W) in a pass with the features erased after a layer."""
        self._erased = layer
        try:
            with fixed_statistics(self.network.net):
                return self.logits(self.network.encode(images))
        finally:
            self._erased = None
