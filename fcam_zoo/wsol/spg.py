"""SPG, Self-Produced Guidance (Zhang et al., ECCV 2018): attention teaches side branches to find the object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from .. import cams
from .._distributed import mean_count
from .._schema import Rule, Share
from .base import Channels, Encoding, Layers, MethodSettings, Network, Targets, TrainingOutput, WSOLMethod, of_labels

UNKNOWN = 255
# With fewer object pixels than this share of the image (30 of 224 x 224), those over RELATIVE * maximum are the object.
LEAST, RELATIVE = 30 / 224**2, 0.7

Pair = Annotated[
    list[Share],
    Rule(lambda value: len(value) == 2 and value[1] <= value[0], 'give two values, high and low, such as [0.7, 0.05]'),
]
Pairs = Annotated[list[Pair], Rule(lambda value: len(value) == 3, 'give three pairs, for b2, b1 and c')]


def guidance_mask(maps: torch.Tensor, high: float, low: float) -> torch.Tensor:
    """Label the sure pixels of maps: 1 object, 0 background, 255 unknown.

    Object is where the map exceeds `high` or, in an image with fewer such pixels than LEAST, 0.7 of its maximum.
    Background is where it is below `low`, also where it is object.

    Args:
        maps: (B,H,W) in [0,1].
        high: Threshold of the object.
        low: Threshold of the background.

    Returns:
        uint8 (B,H,W).
    """
    found = maps > high
    few = found.sum((1, 2), keepdim=True) < round(LEAST * maps.shape[1] * maps.shape[2])
    found = torch.where(few, maps > RELATIVE * maps.amax((1, 2), keepdim=True), found)
    mask = torch.full_like(maps, UNKNOWN, dtype=torch.uint8).masked_fill_(found, 1)
    return mask.masked_fill_(maps < low, 0)


def guidance_losses(
    attention: torch.Tensor,
    sides: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    size: tuple[int, int],
    thresholds: Sequence[Sequence[float]],
) -> dict[str, torch.Tensor]:
    """Compute the losses of the side branches b1, b2 and c, each binary cross-entropy on the known pixels.

    With up() the bilinear resize to `size`, s = sigmoid(up(b)) and mm min-max normalization, the masks are those of
    mm(up(attention)) for b2, of s2 for b1, and of (s1 + s2) / 2 for c. Masks are constants.

    Args:
        attention: Class map of the label (B,h,w).
        sides: Logits of b1, b2 and c, (B,1,h_i,w_i).
        size: Height and width of the masks, which are those of the images.
        thresholds: High and low threshold for b2, b1 and c (see `guidance_mask`).

    Returns:
        Scalars by name: 'b2', 'b1', 'c', averaged over the known pixels of all processes; 0 without any.
    """
    with torch.no_grad():
        taught = cams.normalize(_enlarged(attention[:, None], size))
    b1, b2, c = (_enlarged(side, size) for side in sides)
    s1, s2 = b1.detach().sigmoid(), b2.detach().sigmoid()
    pairs = {'b2': (b2, taught), 'b1': (b1, s2), 'c': (c, (s1 + s2) / 2)}
    return {
        name: _known_cross_entropy(logits, guidance_mask(maps, *pair))
        for (name, (logits, maps)), pair in zip(pairs.items(), thresholds)
    }


def _enlarged(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(maps.float(), size, mode='bilinear', align_corners=False)[:, 0]


def _known_cross_entropy(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    known = mask != UNKNOWN
    target = torch.where(known, mask, 0).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    return (each * known).sum() / mean_count(known.sum())


@dataclass
class SPGSettings(MethodSettings):
    """thresholds: high and low for the branches b2, b1 and c; channels: width of the side branches.

    layers: dotted names of the modules of the backbone whose outputs b1 and b2 read; default: the ends of the two
    stages before the last.
    """

    thresholds: Pairs = field(default_factory=lambda: [[0.7, 0.05], [0.5, 0.05], [0.7, 0.1]])
    channels: Channels = 512
    layers: Annotated[Layers, Rule(lambda value: len(value) in (0, 2), 'name two layers')] = field(default_factory=list)


class SPG(WSOLMethod):
    """A 1x1 convolution to class maps, whose attention teaches side branches at three depths.

    Loss: CE + `guidance_losses`. Logits: average-pooled class maps. The class map is that of the 1x1 convolution; the
    side branches are used in training only.
    """

    name = 'spg'
    title = 'SPG'
    Settings = SPGSettings
    settings: SPGSettings
    own_head = own_map = True
    mixes = False

    def __init__(self, network: Network, settings: SPGSettings) -> None:
        super().__init__(network, settings)
        self.check_maps()
        width = settings.channels
        self.layers = settings.layers or network.stages(3)[:2]
        inputs = [shape[1] for shape in network.shapes(self.layers, self.title)]
        self.classifier = nn.Conv2d(network.num_features, network.num_classes, 1)
        self.side_b1, self.side_b2 = (nn.Sequential(*_conv(channels, width)) for channels in inputs)
        self.side_shared = nn.Sequential(*_conv(width, width), nn.Conv2d(width, 1, 1))
        self.side_c = nn.Sequential(*_conv(network.num_features, width), nn.Conv2d(width, 1, 1))
        self._taps: dict[str, torch.Tensor] | None = None
        for layer in self.layers:
            self.hook(layer, partial(self._tap, layer))

    @contextmanager
    def applied(self, draws: Any) -> Iterator[None]:
        self._taps = {}
        try:
            yield
        finally:
            self._taps = None

    def _tap(self, layer: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if self._taps is not None:
            self._taps[layer] = output

    def forward(self, encoding: Encoding, targets: Targets, draws: Any) -> TrainingOutput:
        taps = self._taps or {}
        first, second = (taps[layer] for layer in self.layers)
        maps = self.classifier(encoding.features)
        sides = (
            self.side_shared(self.side_b1(first)),
            self.side_shared(self.side_b2(second)),
            self.side_c(encoding.features),
        )
        logits = maps.mean((2, 3)).float()
        size = (encoding.images.shape[-2], encoding.images.shape[-1])
        terms = guidance_losses(of_labels(maps, targets.labels), sides, size, self.settings.thresholds)
        return TrainingOutput(logits, {'ce': targets.cross_entropy(logits), **terms})

    def logits(self, encoding: Encoding) -> torch.Tensor:
        return self.classifier(encoding.features).mean((2, 3))

    def class_map(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        return of_labels(self.classifier(encoding.features), labels)


def _conv(in_channels: int, channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()
