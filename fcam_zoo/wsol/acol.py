"""ACoL, Adversarial Complementary Learning (Zhang et al., CVPR 2018): two classifiers that look at different parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from .. import cams
from .._schema import Share
from .base import Channels, Encoding, MethodSettings, Network, Targets, TrainingOutput, WSOLMethod, of_labels


def kept(maps: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return where the min-max normalized maps (B,h,w) are below the threshold: bool (B,h,w).

    Of a constant map, everything is kept if the threshold is above 0.
    """
    return cams.normalize(maps.float()) < threshold


def branch(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    """Create a classifier of maps: two 3x3 convolutions with ReLU, and a 1x1 convolution to one map per class."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, num_classes, 1),
    )


@dataclass
class ACoLSettings(MethodSettings):
    """threshold: the second branch does not get features where the normalized map of the first reaches it.

    channels: width of the branches. pool: average the features over 3x3 cells first, as the original VGG16 does.
    """

    threshold: Share = 0.6
    channels: Channels = 1024
    pool: bool = False


class ACoL(WSOLMethod):
    """Two branches on the last features; the second gets them with the strongest region of the first erased.

    Loss: CE(A) + CE(B), the erased region being that of the true label. Logits: average-pooled maps of branch A. The
    class map is max(mm(A_y), mm(B_y)), mm being min-max normalization and B_y computed with the erasure for the label.
    """

    name = 'acol'
    title = 'ACoL'
    Settings = ACoLSettings
    settings: ACoLSettings
    own_head = own_map = True
    mixes = False

    def __init__(self, network: Network, settings: ACoLSettings) -> None:
        super().__init__(network, settings)
        self.check_maps()
        widths = (network.num_features, settings.channels, network.num_classes)
        self.branch_a, self.branch_b = branch(*widths), branch(*widths)

    def forward(self, encoding: Encoding, targets: Targets, draws: Any) -> TrainingOutput:
        maps_a, maps_b = self.maps(encoding.features, targets.labels)
        logits = maps_a.mean((2, 3)).float()
        terms = {
            'ce': targets.cross_entropy(logits),
            'ce_erased': targets.cross_entropy(maps_b.mean((2, 3)).float()),
        }
        return TrainingOutput(logits, terms)

    def logits(self, encoding: Encoding) -> torch.Tensor:
        return self.branch_a(self._pooled(encoding.features)).mean((2, 3))

    def class_map(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        own = (cams.normalize(of_labels(maps, labels)) for maps in self.maps(encoding.features, labels))
        return torch.maximum(*own)

    def maps(self, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the maps (B,K,h,w) of both branches, with the region of the labels (B,) erased for the second."""
        features = self._pooled(features)
        maps_a = self.branch_a(features)
        keep = kept(of_labels(maps_a, labels).detach(), self.settings.threshold)
        return maps_a, self.branch_b(features * keep[:, None].to(features.dtype))

    def _pooled(self, features: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(features, 3, 1, 1) if self.settings.pool else features
