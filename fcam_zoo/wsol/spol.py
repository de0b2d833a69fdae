"""SPOL (Wei et al., CVPR 2021): class maps of multiplied shallow and deep features, and pseudo labels from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from ..errors import UnknownModelError
from .base import Channels, Encoding, MethodSettings, Network, Targets, TrainingOutput, WSOLMethod, of_labels

LEVELS = 3
# Pseudo labels: the map is cut to this band, whose regions of at least so many pixels become Gaussians, with the
# covariance of the region divided by SHARPNESS. Object is above OBJECT, background below BACKGROUND.
BAND, LEAST_AREA, SHARPNESS, OBJECT, BACKGROUND = (0.1, 0.5), 20, 10, 0.25, 0.01


def pseudo_pictures(score_map: np.ndarray, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Make the two pictures of the pseudo labels from a class map, before its min-max normalization.

    The first is the map divided by its maximum and resized bilinearly. In the second, each contour of the pixels in
    [0.1,0.5] of the first with an area of at least 20 pixels gives a Gaussian with peak 1. Its mean and covariance are
    those of the pixels inside, weighted by the first picture; the covariance is divided by 10. The largest Gaussian
    counts.

    Args:
        score_map: (h,w), at least 0.
        side: S, the height and width of the pictures.

    Returns:
        The map and the Gaussians, float (S,S) in [0,1].
    """
    import cv2

    scaled = score_map / (score_map.max() + 1e-6)
    picture = cv2.resize(scaled, (side, side), interpolation=cv2.INTER_LINEAR)
    band = ((picture >= BAND[0]) & (picture <= BAND[1])).astype(np.uint8)
    contours, _ = cv2.findContours(band, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    gaussians = np.zeros((side, side))
    for contour in contours:
        if cv2.contourArea(contour) < LEAST_AREA:
            continue
        filled = np.zeros_like(band)
        cv2.drawContours(filled, [contour], -1, 1, -1)
        gaussians = np.maximum(gaussians, _gaussian(picture * (filled & band)))
    return picture, gaussians


def _gaussian(weights: np.ndarray) -> np.ndarray:
    """Return the Gaussian (S,S), peak 1, with the mean of weights (S,S) and their covariance / SHARPNESS."""
    places = np.stack([axis.ravel() for axis in np.indices(weights.shape)], 1).astype(np.float64)
    share = weights.astype(np.float64).ravel() / weights.sum(dtype=np.float64)
    offset = places - share @ places
    covariance = (offset * share[:, None]).T @ offset / SHARPNESS
    # The pseudoinverse does not fail for pixels on a line.
    distance = ((offset @ np.linalg.pinv(covariance)) * offset).sum(1)
    return np.exp(-distance / 2).reshape(weights.shape)


def pseudo_labels(score_map: np.ndarray, side: int = 256) -> np.ndarray:
    """Label pixels by a class map: 1 is the object, 0 background, 0.5 neither.

    Object is where one of the `pseudo_pictures` exceeds 0.25; of the other pixels, background is where the first is
    below 0.01.

    Args:
        score_map: The class map of the label (h,w) by `SPOL.class_map`, at least 0.
        side: S, the height and width of the labels.

    Returns:
        float32 (S,S), which `teacher.maps` can read for a decoder with `decoder.dense` = [0.25, 0.75].
    """
    picture, gaussians = pseudo_pictures(score_map, side)
    labels = np.where(picture < BACKGROUND, 0.0, 0.5)
    labels[(picture > OBJECT) | (gaussians > OBJECT)] = 1.0
    return labels.astype(np.float32)


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

    This is the first of the two stages of the paper. In its second, pseudo labels (`pseudo_labels`) train a network of
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
