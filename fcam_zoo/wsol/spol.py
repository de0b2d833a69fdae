"""SPOL (Wei et al., CVPR 2021): class maps of multiplied shallow and deep features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..errors import UnknownModelError
from .base import Channels, Encoding, MethodSettings, Network, Targets, TrainingOutput, WSOLMethod, of_labels

LEVELS = 3


class Maps(NamedTuple):
    """Rectified class maps (B,K,h,w) of the deep features, and of the product of all three."""

    deep: torch.Tensor
    fused: torch.Tensor


class Level(nn.Module):
    """The layers of one level: a gate by global features, and an embedding of the gated features.

    Args:
        channels: Channels C of the features f (B,C,h,w).
        width: Channels of the embedding.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.expand = nn.Conv2d(width, channels, 1)
        self.embed = nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU())

    def summary(self, features: torch.Tensor) -> torch.Tensor:
        """Compute ReLU(BN(conv(GAP f))), (B,width,1,1)."""
        return self.squeeze(features.mean((2, 3), keepdim=True))

    def forward(self, features: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """Compute ReLU(BN(conv(f * sigmoid(conv(shared))))), (B,width,h,w)."""
        return self.embed(features * self.expand(shared).sigmoid())


@dataclass
class SPOLSettings(MethodSettings):
    """channels: width of the embeddings."""

    channels: Channels = 128


class SPOL(WSOLMethod):
    """Class maps of the product of embedded features of the last three stages, in which background noise cancels.

    With f the features of the last three stages, a gate multiplies each channel by sigmoid(conv(g_1 g_2 g_3)), where
    g = ReLU(BN(conv(GAP f))). An embedding e = ReLU(BN(conv f)) follows, resized to the largest stage (with aligned
    corners). One 1x1 convolution, with dropout 0.5 before it, makes class maps: deep = ReLU(conv(e_3)) and
    fused = ReLU(conv(e_3 e_2 e_1)). Logits are averages of the maps.

    Loss: (CE(deep) - sum softmax(deep) log_softmax(fused)) / 2, with softmax(deep) constant. The class map is the fused
    one of the label, and the logits are its averages; the paper takes the class from another network.

    This is the first of the two stages of the paper. In its second, pseudo labels (`spol_labels`) train a network of
    its own that segments any object. Here the decoder of the F-CAM has this role (docs/methods.md). The published
    training has SGD with learning rate 0.02, a tenth of it for the backbone, weight decay 1e-4, and 32 epochs of CUB
    with batches of 64.

    Raises:
        UnknownModelError: When the backbone is not convolutional or has fewer than three stages.
    """

    name = 'spol'
    title = 'SPOL'
    Settings = SPOLSettings
    settings: SPOLSettings
    own_head = own_map = True
    # Batch norm of the means of whole images.
    least_images = 2

    def __init__(self, network: Network, settings: SPOLSettings) -> None:
        super().__init__(network, settings)
        self.check_maps()
        if len(network.channels) < LEVELS:
            raise UnknownModelError(
                f'SPOL needs {LEVELS} stages, and {type(network.net).__name__} has {len(network.channels)}: choose '
                'another backbone'
            )
        inputs = [*network.channels[-LEVELS:-1], network.num_features]
        self.stages = nn.ModuleList(Level(channels, settings.channels) for channels in inputs)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2d(settings.channels, network.num_classes, 1)

    def forward(self, encoding: Encoding, targets: Targets, draws: Any) -> TrainingOutput:
        maps = self.maps(encoding)
        deep, fused = (own.mean((2, 3)).float() for own in maps)
        distilled = F.cross_entropy(fused, deep.detach().softmax(1))
        return TrainingOutput(fused, {'ce': targets.cross_entropy(deep) / 2, 'distillation_maps': distilled / 2})

    def logits(self, encoding: Encoding) -> torch.Tensor:
        return self.maps(encoding).fused.mean((2, 3))

    def class_map(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        return of_labels(self.maps(encoding).fused, labels)

    def maps(self, encoding: Encoding) -> Maps:
        """Compute the class maps."""
        stages: list[Any] = list(self.stages)
        features = [*encoding.levels[-LEVELS:-1], encoding.features]
        summaries = [stage.summary(own) for stage, own in zip(stages, features)]
        shared = summaries[2] * summaries[1] * summaries[0]
        size = (features[0].shape[2], features[0].shape[3])
        first, second, deep = (
            F.interpolate(stage(own, shared), size, mode='bilinear', align_corners=True)
            for stage, own in zip(stages, features)
        )
        return Maps(*(self.classifier(self.dropout(own)).relu() for own in (deep, deep * second * first)))
