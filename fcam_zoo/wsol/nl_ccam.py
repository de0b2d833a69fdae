"""NL-CCAM (Yang et al., WACV 2020): non-local blocks, and a class map that combines the maps of all classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn as nn

from .._schema import between
from ..cams.closed_form import linear_weight
from ..errors import UnknownModelError
from .base import Encoding, Layers, MethodSettings, Network, WSOLMethod

Combination = Literal['quadratic', 'linear', 'first_last', 'label']


def rank_weights(num_classes: int, combination: Combination = 'quadratic', split: int | None = None) -> torch.Tensor:
    """Return the weight gamma(r) of the map of each rank r = 0..K-1; rank 0 is the label.

    - 'label': 1 at rank 0, else 0 (CAM);
    - 'first_last': 1 at rank 0, -1 at the last, else 0;
    - 'linear': 1 - 2 r / (K - 1);
    - 'quadratic': (1 - r / (n - 1))^2 for r < n, else -((r - n) / (K - n - 1))^2.

    Args:
        num_classes: K.
        combination: The kind of weights.
        split: n of 'quadratic', the number of ranks with positive weights; default: half of the classes, rounded up.

    Returns:
        float32 (K).
    """
    rank = torch.arange(num_classes, dtype=torch.float64)
    last = max(num_classes - 1, 1)
    if combination == 'linear':
        weights = 1 - 2 * rank / last
    elif combination == 'quadratic':
        n = min(num_classes, -(-num_classes // 2) if split is None else split)
        positive = (1 - rank / max(n - 1, 1)).square()
        weights = torch.where(rank < n, positive, -((rank - n) / max(num_classes - n - 1, 1)).square())
    else:
        weights = (rank == 0).double()
        if combination == 'first_last' and num_classes > 1:
            weights[-1] = -1
    return weights.float()


def combine(
    features: torch.Tensor, weight: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, gamma: torch.Tensor
) -> torch.Tensor:
    """Compute sum_r gamma(r) M_(r), where M_k = W[k] . A is the CAM of class k, minus the minimum of the map.

    Ranks are by descending logit, with the label moved to rank 0. Since M_k is linear in W, one weight vector per image
    is enough: (sum_r gamma(r) W_(r)) . A.

    Args:
        features: A, (B,C,h,w).
        weight: W of the linear head, (K,C).
        logits: (B,K).
        labels: (B,).
        gamma: (K).

    Returns:
        (B,h,w), at least 0.
    """
    ranked = logits.scatter(1, labels[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)
    own = torch.zeros_like(logits).scatter(1, ranked, gamma.to(logits).expand_as(logits))
    maps = torch.einsum('bc,bchw->bhw', own @ weight.to(own), features.to(own))
    return maps - maps.amin((1, 2), keepdim=True)


class NonLocalBlock(nn.Module):
    """x + BN(conv(softmax_j(q_i . k_j) v_j)), with 1x1 convolutions for q, k, v; the identity at first, as BN is 0.

    The attention is computed in float32, also with AMP: q . k overflows in float16.

    Args:
        channels: Channels C of x (B,C,h,w).
        inner: Channels of q and k.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.value, self.project = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        with torch.autocast(x.device.type, enabled=False):
            attention = torch.einsum('bci,bcj->bij', query.float(), key.float()).softmax(2)
            found = torch.einsum('bij,bcj->bci', attention, value.float()).to(value.dtype)
        return x + self.norm(self.project(found.reshape(x.shape)))


@dataclass
class NLCCAMSettings(MethodSettings):
    """combination: weights of the class maps by rank (see `rank_weights`).

    layers: dotted names of the modules of the backbone after which blocks are added; default: the ends of its last two
    stages. reduction: q and k of a block have 1/reduction of its channels.
    """

    combination: Combination = 'quadratic'
    layers: Layers = field(default_factory=list)
    reduction: Annotated[int, between(1, 64)] = 8


class NLCCAM(WSOLMethod):
    """Cross-entropy with non-local blocks in the backbone; the class map is `combine`.

    The attention of a block takes (h*w)^2 numbers per image, so blocks on large maps need much memory.
    """

    name = 'nl_ccam'
    title = 'NL-CCAM'
    Settings = NLCCAMSettings
    settings: NLCCAMSettings
    own_map = True

    def __init__(self, network: Network, settings: NLCCAMSettings) -> None:
        super().__init__(network, settings)
        self.check_maps()
        if not network.linear_head:
            raise UnknownModelError(
                f'NL-CCAM needs a head of average pooling and one linear layer, and {type(network.net).__name__} has '
                'another: choose another backbone'
            )
        layers = settings.layers or network.stages(2)
        channels = [shape[1] for shape in network.shapes(layers, self.title)]
        self.blocks = nn.ModuleList(NonLocalBlock(c, max(1, c // settings.reduction)) for c in channels)
        for number, layer in enumerate(layers):
            self.hook(layer, partial(self._widen, number))

    def _widen(self, number: int, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return self.blocks[number](output)

    def class_map(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        net: Any = self.network.net
        # The constructor has checked that the head is linear.
        weight = cast(torch.Tensor, linear_weight(net.get_classifier()))
        gamma = rank_weights(self.network.num_classes, self.settings.combination)
        return combine(encoding.features, weight, self.logits(encoding).float(), labels, gamma)
