"""The pixel-alignment loss: what trains the decoder while the classifier is frozen."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn as nn

from .crf import crf_loss
from .partial_cross_entropy import partial_cross_entropy
from .size import size_loss


class PixelAlignmentLoss(nn.Module):
    """Partial cross-entropy, CRF and size terms of F-CAM (WACV 2022, Eq. 3, without the classification term).

    Args:
        alpha: Weight of the partial cross-entropy.
        crf: Weight of the CRF energy; 2e-9 is the paper's, for a lattice that answers about 0.57 of the exact kernel.
        size: Weight of the size term.
        t0: Initial sharpness t of the log-barrier.
        t_factor: Growth of t an epoch.
        t_max: Largest t.
        kernel: Kernel of `crf_loss`.

    Attributes:
        t: Current sharpness; part of `state_dict`, so a resumed run goes on with it.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        crf: float = 2e-9,
        size: float = 0.1,
        t0: float = 1.0,
        t_factor: float = 1.01,
        t_max: float = 10.0,
        kernel: Literal['auto', 'exact', 'fast'] = 'auto',
    ) -> None:
        super().__init__()
        self.alpha, self.crf, self.size = alpha, crf, size
        self.t_factor, self.t_max, self.kernel = t_factor, t_max, kernel
        self.t = t0

    def forward(self, logits: torch.Tensor, seeds: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms by name; their sum is the loss. A term of weight 0 is not computed.

        Args:
            logits: Decoder output (B,2,H,W).
            seeds: Labels int64 (B,H,W) of `sampling.seeds`.
            images: RGB (B,3,H,W) in 0..255.
        """
        terms = {}
        if self.alpha:
            terms['partial_ce'] = self.alpha * partial_cross_entropy(logits, seeds)
        if self.crf:
            terms['crf'] = self.crf * crf_loss(images, logits.float().softmax(1), kernel=self.kernel)
        if self.size:
            terms['size'] = self.size * size_loss(logits, self.t)
        return terms

    def step_epoch(self) -> None:
        """Sharpen the barrier after an epoch: t <- min(t * t_factor, t_max)."""
        self.t = min(self.t * self.t_factor, self.t_max)

    def get_extra_state(self) -> dict[str, float]:
        return {'t': self.t}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.t = float(state['t'])
