"""CutMix (Yun et al., ICCV 2019): paste a box of another image, and mix the labels by area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch

from .._schema import Rule, Share
from .base import Generators, MethodSettings, Targets, WSOLMethod


def mix(
    images: torch.Tensor, lam0: float, centre: tuple[int, int], partner: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Paste the same box of its partner into each image.

    The box has the sides int(H * sqrt(1 - lam0)) and int(W * sqrt(1 - lam0)) (odd ones are one shorter) around the
    centre, and is cut off at the border of the image.

    Args:
        images: (B,C,H,W).
        lam0: Share of the image outside the box before the cut, in [0,1].
        centre: Row and column of the centre of the box.
        partner: Index of the image from which each image gets its box, int64 (B,).

    Returns:
        The images (B,C,H,W), and the share of their own pixels, which is that of the own label.
    """
    size = images.shape[-2:]
    spans = []
    for side, middle in zip(size, centre):
        half = int(side * (1 - lam0) ** 0.5) // 2
        spans.append((max(middle - half, 0), min(middle + half, side)))
    (top, bottom), (left, right) = spans
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner.to(images.device), :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (size[0] * size[1])


@dataclass
class CutMixSettings(MethodSettings):
    """probability: share of the steps with mixed images; beta: lam0 is drawn from the distribution Beta(beta, beta)."""

    probability: Share = 1.0
    beta: Annotated[float, Rule(lambda value: 0.01 <= value <= 100, 'give a number from 0.01 to 100')] = 1.0


class CutMixDraws(NamedTuple):
    """The arguments of `mix`."""

    lam0: float
    centre: tuple[int, int]
    partner: torch.Tensor


class CutMix(WSOLMethod):
    """Cross-entropy on mixed images and labels: share * CE(label) + (1 - share) * CE(partner's label).

    All images of a batch get the same box, each from a partner in a random permutation. The class map is CAM.
    `classifier.cutmix` adds this method to another one.
    """

    name = 'cutmix'
    title = 'CutMix'
    Settings = CutMixSettings
    settings: CutMixSettings

    def draw(self, shape: torch.Size, generators: Generators) -> CutMixDraws | None:
        """Draw the box and the partners; None for a step without mixed images."""
        generator = generators.step
        if torch.rand((), generator=generator).item() >= self.settings.probability:
            return None
        a, b = torch._standard_gamma(torch.full((2,), self.settings.beta, dtype=torch.float64), generator).tolist()
        row, column = (int(torch.randint(side, (), generator=generator)) for side in shape[-2:])
        # Both may be 0 in float64 if beta is small.
        return CutMixDraws(a / (a + b) if a + b else 0.5, (row, column), torch.randperm(shape[0], generator=generator))

    def augment(
        self, images: torch.Tensor, targets: Targets, draws: CutMixDraws | None
    ) -> tuple[torch.Tensor, Targets]:
        if draws is None:
            return images, targets
        mixed, share = mix(images, *draws)
        return mixed, targets._replace(other=targets.labels[draws.partner.to(targets.labels.device)], share=share)
