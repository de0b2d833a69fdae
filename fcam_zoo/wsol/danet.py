"""DANet, Divergent Activation (Xue et al., ICCV 2019): maps of a class that differ, at three levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from .._schema import InvalidValue, NotNegative, between, length
from ..errors import UnknownModelError
from .acol import branch
from .base import Channels, Encoding, Generators, MethodSettings, Network, Targets, TrainingOutput, WSOLMethod

# Weight of the cross-entropy of each level.
LEVEL_WEIGHT = 0.5
Coarse = Annotated[list[Annotated[int, between(0, 100_000)]], length(0, 100_000)]


def divergence(maps: torch.Tensor) -> torch.Tensor:
    """Compute |sum_{i<j} cos(map_i, map_j)| of each image, averaged over images and pairs: a scalar in [0,1].

    The absolute value is outside of the sum, as published, so positive and negative cosines cancel.

    Args:
        maps: (B,M,h,w), M at least 2.
    """
    count = maps.shape[1]
    unit = F.normalize(maps.float().flatten(2), dim=2)
    first, second = torch.triu_indices(count, count, 1, device=maps.device)
    return (unit[:, first] * unit[:, second]).sum((1, 2)).abs().mean() / len(first)


def mean_map(maps: torch.Tensor) -> torch.Tensor:
    """Average the rectified maps of each class: (...,m,h,w) -> (...,h,w)."""
    return maps.relu().mean(-3)


def enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize maps (B,M,h,w) bilinearly with aligned corners, as published."""
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)


@dataclass
class DANetSettings(MethodSettings):
    """parents, roots: the coarser and the coarsest class of each class, as indices from 0.

    Without roots there are two levels; without both only one, and the method is the divergence alone. maps: maps per
    class. weight: of the divergence. channels: widths of the heads of the classes, parents and roots. coarse: whether
    the class map of a label adds those of its 'ancestors', or of the parent and root that are 'predicted'.
    """

    parents: Coarse = field(default_factory=list)
    roots: Coarse = field(default_factory=list)
    maps: Annotated[int, between(2, 64)] = 8
    weight: Annotated[float, NotNegative] = 0.01
    channels: Annotated[list[Channels], length(3, 3)] = field(default_factory=lambda: [1024, 1024, 512])
    coarse: Literal['ancestors', 'predicted'] = 'ancestors'


class DANet(WSOLMethod):
    """Heads for classes, parents and roots at three depths of the network, each with several maps per class.

    A head is two 3x3 convolutions with ReLU, and a 1x1 convolution to m maps per class. It reads the last features for
    the classes, and the maps of the stages before for parents and roots. The map of a class is the mean of its m maps;
    logits are the averages of the maps.

    Loss: 0.5 * the sum of the cross-entropies of all levels + weight * `divergence` of half of the maps of the true
    classes of all levels, drawn at random for each batch and resized to the largest. The class map of label y is the
    sum of mean_m ReLU(maps) of y, its parent and its root, resized to the largest.

    The published code predicts each level by itself and adds the maps of equal rank (coarse='predicted' for rank 1),
    which need not be of one branch of the tree. Its tree of CUB has 11 orders, 37 families and 200 species; trees of
    other data sets are not part of the method. The version with one level is a reduction for data sets without a tree.
    The published training has SGD with learning rate 0.001, 10 times that for new layers, for 100 epochs of CUB.

    Raises:
        InvalidValue: When parents or roots do not have one entry for each class.
        UnknownModelError: When the backbone is not convolutional or has too few stages.
    """

    name = 'danet'
    title = 'DANet'
    Settings = DANetSettings
    settings: DANetSettings
    own_head = own_map = True
    mixes = False

    def __init__(self, network: Network, settings: DANetSettings) -> None:
        super().__init__(network, settings)
        self.check_maps()
        coarser = self._coarser()
        if len(network.channels) <= len(coarser):
            raise UnknownModelError(
                f'DANet needs {len(coarser) + 1} stages for its levels of classes, and {type(network.net).__name__} '
                f'has {len(network.channels)}: choose another backbone'
            )
        inputs = [network.num_features, *network.channels[-2::-1]]
        counts = [network.num_classes, *(max(level) + 1 for level in coarser)]
        widths = zip(inputs, settings.channels, counts)
        self.heads = nn.ModuleList(branch(channels, width, count * settings.maps) for channels, width, count in widths)
        # The class of each level for each label.
        self._ancestors = [list(range(network.num_classes)), *coarser]

    def _coarser(self) -> list[list[int]]:
        """Return parents and roots, if there are any."""
        parents, roots, count = self.settings.parents, self.settings.roots, self.network.num_classes
        if roots and not parents:
            raise InvalidValue('method.roots are the parents of method.parents: give both, or parents only')
        for name, level in (('parents', parents), ('roots', roots)):
            if level and len(level) != count:
                raise InvalidValue(
                    f'method.{name} has {len(level)} entries for {count} classes: give the coarser class of each class'
                )
        return [level for level in (parents, roots) if level]

    def draw(self, shape: torch.Size, generators: Generators) -> torch.Tensor:
        """Draw half of the maps of all levels."""
        total = len(self.heads) * self.settings.maps
        return torch.randperm(total, generator=generators.step)[: max(2, total // 2)]

    def forward(self, encoding: Encoding, targets: Targets, draws: torch.Tensor) -> TrainingOutput:
        levels, true = self.maps(encoding), list[torch.Tensor]()
        terms: dict[str, torch.Tensor] = {}
        scores = [maps.mean((2, 3, 4)).float() for maps in levels]
        for number, (maps, logits) in enumerate(zip(levels, scores)):
            own = targets._replace(labels=self.ancestors(targets.labels, number))
            terms[('ce', 'ce_parents', 'ce_roots')[number]] = LEVEL_WEIGHT * own.cross_entropy(logits)
            true.append(maps[torch.arange(len(maps), device=maps.device), own.labels])
        size = self._largest(levels)
        picked = torch.cat([enlarge(maps, size) for maps in true], 1)[:, draws.to(true[0].device)]
        return TrainingOutput(scores[0], {**terms, 'divergence': self.settings.weight * divergence(picked)})

    def logits(self, encoding: Encoding) -> torch.Tensor:
        return self._level(encoding, 0).mean((2, 3, 4))

    def class_map(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        levels, found = self.maps(encoding), list[torch.Tensor]()
        for number, maps in enumerate(levels):
            own = self.ancestors(labels, number)
            if number and self.settings.coarse == 'predicted':
                own = maps.mean((2, 3, 4)).argmax(1)
            found.append(mean_map(maps[torch.arange(len(maps), device=maps.device), own]))
        size = self._largest(levels)
        return torch.cat([enlarge(maps[:, None], size) for maps in found], 1).sum(1)

    def ancestors(self, labels: torch.Tensor, level: int) -> torch.Tensor:
        """Return the classes (B,) of labels (B,) at a level: 0 for the labels, 1 for parents, 2 for roots."""
        return torch.tensor(self._ancestors[level], device=labels.device)[labels]

    def maps(self, encoding: Encoding) -> list[torch.Tensor]:
        """Compute the maps of all levels, (B,n,m,h,w) each, for n classes of the level."""
        return [self._level(encoding, number) for number in range(len(self.heads))]

    def _level(self, encoding: Encoding, number: int) -> torch.Tensor:
        features = encoding.levels[-1 - number] if number else encoding.features
        return self.heads[number](features).unflatten(1, (-1, self.settings.maps))

    @staticmethod
    def _largest(levels: list[Any]) -> tuple[int, int]:
        return levels[-1].shape[-2], levels[-1].shape[-1]
