"""I2C, Inter-Image Communication (Zhang, Wei and Yang, ECCV 2020): pulls features of a class together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from .. import cams
from .._distributed import all_reduce, mean_count
from .._schema import NotNegative, Share, between
from .base import (
    Channels,
    Encoding,
    Generators,
    MethodSettings,
    Network,
    Targets,
    TrainingOutput,
    WSOLMethod,
    of_labels,
)

# How fast the momentum of a row of the bank falls with its updates.
DECAY = 0.002


def choose_cells(mask: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """Choose cells of a mask: for rank r, number (r mod count) of its count cells in raster order.

    Args:
        mask: bool (B,h,w).
        ranks: int64 (B,n), at least 0.

    Returns:
        Flat indices of the cells, int64 (B,n); any cells where the mask of an image is empty.
    """
    found = mask.flatten(1).long().cumsum(1)
    wanted = 1 + ranks % found[:, -1:].clamp(min=1)
    return torch.searchsorted(found, wanted).clamp(max=found.shape[1] - 1)


class PairTerms(NamedTuple):
    """Distances, averaged over the pairs of all processes (scalars), and the center of each pair (P,C)."""

    local: torch.Tensor
    whole: torch.Tensor
    centers: torch.Tensor


def pair_terms(seeds: torch.Tensor, rows: torch.Tensor, valid: torch.Tensor) -> PairTerms:
    """Compare the seeds of each pair with each other, and their center with the row of the bank.

    local = mean_{pair, i} ||f_i - f'_i||, whole = mean_pair ||row - c||, with c the mean of all seeds of the pair. The
    norms are not squared. Torch adds 1e-6 to the differences, so that the gradient exists at 0.

    Args:
        seeds: Features of the seeds (P,2,n,C) of P pairs.
        rows: Row of the bank of the class of each pair (P,C).
        valid: bool (P); other pairs do not count. Without any, both distances are 0.
    """
    centers, count = seeds.mean((1, 2)), mean_count(valid.sum())
    local = F.pairwise_distance(seeds[:, 0], seeds[:, 1]).mean(1)
    whole = F.pairwise_distance(rows, centers)
    return PairTerms((local * valid).sum() / count, (whole * valid).sum() / count, centers)


@dataclass
class I2CSettings(MethodSettings):
    """local_weight, global_weight: weights of the distances between seeds, and between their center and the bank.

    threshold: object cells have a normalized class map above it. n_seeds: object cells per image. sampling: 'random'
    seeds, as in the paper, or the 'first' object cells in raster order, repeated if they are fewer, which the published
    code takes. channels: width of the head. pool: average the features over 3x3 cells first, as published for VGG16.
    """

    local_weight: Annotated[float, NotNegative] = 0.008
    global_weight: Annotated[float, NotNegative] = 0.001
    threshold: Share = 0.7
    n_seeds: Annotated[int, between(1, 64)] = 3
    sampling: Literal['random', 'first'] = 'random'
    channels: Channels = 1024
    pool: bool = False


class I2C(WSOLMethod):
    """Cross-entropy, plus distances between features of the object in two images of a class and to their mean.

    A head of two 3x3 convolutions with ReLU and a 1x1 convolution, with dropout 0.5 before each, makes class maps M;
    logits are their averages, and the class map is M_y. Seeds are n_seeds cells of an image where mm(M_y) > threshold,
    mm being min-max normalization; their features f are those that enter the head. Images 2j and 2j+1 of a batch are a
    pair of one class: training orders the images so (see `pairs` of the base class).

    Loss: CE + local_weight * mean ||f_i - f'_i|| + global_weight * mean ||bank_y - c|| (see `pair_terms`). After that,
    bank_y <- (1 - m) bank_y + m c with m = exp(-0.002 * number of updates of y), so the first update overwrites the
    random start. The bank and the numbers are part of the state dict.

    The published training starts from a CAM model, with learning rate 0.001, for 5 epochs of ImageNet; its settings for
    CUB are not public. Our choices, where the published code has none: seeds are drawn with replacement; of several
    pairs of a class in a batch, the mean of the centers updates the bank once; pairs of different classes or with a
    constant map are left out. If most classes have one image, about half of the classes are missing from each epoch
    (see `train.loading.paired_order`).
    """

    name = 'i2c'
    title = 'I2C'
    Settings = I2CSettings
    settings: I2CSettings
    own_head = own_map = pairs = True
    mixes = False
    bank: torch.Tensor
    counter: torch.Tensor

    def __init__(self, network: Network, settings: I2CSettings) -> None:
        super().__init__(network, settings)
        self.check_maps()
        width = settings.channels
        self.head = nn.Sequential(
            nn.Dropout(0.5),
            nn.Conv2d(network.num_features, width, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(width, network.num_classes, 1),
        )
        self.register_buffer('bank', torch.randn(network.num_classes, network.num_features))
        self.register_buffer('counter', torch.zeros(network.num_classes))

    def draw(self, shape: torch.Size, generators: Generators) -> torch.Tensor:
        """Draw the ranks of the seeds of each image, (B,n) (see `choose_cells`)."""
        count = self.settings.n_seeds
        if self.settings.sampling == 'first':
            return torch.arange(count).expand(shape[0], count)
        return torch.stack([torch.randint(2**31, (count,), generator=generator) for generator in generators.images])

    def forward(self, encoding: Encoding, targets: Targets, draws: torch.Tensor) -> TrainingOutput:
        features = self._pooled(encoding.features)
        maps = self.head(features)
        logits = maps.mean((2, 3)).float()
        settings, pairs = self.settings, (len(maps) // 2, 2)
        count = 2 * pairs[0]
        labels = targets.labels[:count]
        mask = self.object_mask(maps[:count], labels)
        index = choose_cells(mask, draws[:count].to(mask.device))
        seeds = features[:count].float().flatten(2).transpose(1, 2)
        seeds = seeds.gather(1, index[:, :, None].expand(-1, -1, seeds.shape[2])).unflatten(0, pairs)
        labels = labels.unflatten(0, pairs)
        valid = (labels[:, 0] == labels[:, 1]) & mask.flatten(1).any(1).unflatten(0, pairs).all(1)
        terms = pair_terms(seeds, self.bank[labels[:, 0]].float(), valid)
        self._update(labels[:, 0], terms.centers.detach(), valid)
        return TrainingOutput(
            logits,
            {
                'ce': targets.cross_entropy(logits),
                'local': settings.local_weight * terms.local,
                'global': settings.global_weight * terms.whole,
            },
        )

    @torch.no_grad()
    def object_mask(self, maps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return where the normalized map of the label exceeds the threshold: (B,K,h,w) and (B,) -> bool (B,h,w)."""
        return cams.normalize(of_labels(maps, labels).float()) > self.settings.threshold

    @torch.no_grad()
    def _update(self, labels: torch.Tensor, centers: torch.Tensor, valid: torch.Tensor) -> None:
        """Update the rows of the bank of labels (P,) by the centers (P,C), over all processes."""
        hits = F.one_hot(labels, len(self.bank)).to(centers) * valid[:, None]
        # Without autocast, whose matrix products are in half precision.
        with torch.autocast(centers.device.type, enabled=False):
            sums, counts = all_reduce(hits.T @ centers), all_reduce(hits.sum(0))
        momentum = torch.exp(-DECAY * self.counter)[:, None]
        moved = (1 - momentum) * self.bank + momentum * sums / counts.clamp(min=1)[:, None]
        self.bank.copy_(torch.where(counts[:, None] > 0, moved, self.bank))
        self.counter += counts > 0

    def logits(self, encoding: Encoding) -> torch.Tensor:
        return self.head(self._pooled(encoding.features)).mean((2, 3))

    def class_map(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        return of_labels(self.head(self._pooled(encoding.features)), labels)

    def _pooled(self, features: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(features, 3, 1, 1) if self.settings.pool else features
