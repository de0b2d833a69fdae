"""The pixel-alignment loss, which trains the decoder while the classifier is frozen."""

from __future__ import annotations

import torch
import torch.nn as nn

from .._checks import as_number, as_positive
from .crf import Kernel, check_kernel, crf_loss
from .partial_cross_entropy import partial_cross_entropy
from .size import size_loss


class PixelAlignmentLoss(nn.Module):
    """seed_weight * partial cross-entropy + crf_weight * CRF + size_weight * size.

    This is Eq. 3 of F-CAM (WACV 2022) without the classification term.

    The default weights are those of training (`fcam_zoo.train.DecoderConfig`), the best in docs/experiments.md. The
    paper's are crf_weight=1.14e-9 and size_weight=0.1. (1.14e-9 is its 2e-9 on a lattice that yields about 0.57 times
    the exact kernel.)

    Args:
        seed_weight: Weight of `partial_cross_entropy`.
        crf_weight: Weight of `crf_loss`.
        size_weight: Weight of `size_loss`.
        t0: Initial sharpness t of the log-barrier.
        t_factor: Growth of t per epoch.
        t_max: Largest t.
        kernel: Kernel of `crf_loss`.

    Raises:
        ValueError: For an argument that is not a number, a t that is not positive, or an unknown kernel.

    Attributes:
        t: Current sharpness; part of `state_dict`, so that a resumed run continues with it.
    """

    def __init__(
        self,
        seed_weight: float = 1.0,
        crf_weight: float = 1e-8,
        size_weight: float = 0.0,
        t0: float = 1.0,
        t_factor: float = 1.01,
        t_max: float = 10.0,
        kernel: Kernel = 'auto',
    ) -> None:
        super().__init__()
        check_kernel(kernel)
        self.seed_weight = as_number(seed_weight, 'seed_weight')
        self.crf_weight = as_number(crf_weight, 'crf_weight')
        self.size_weight = as_number(size_weight, 'size_weight')
        self.t_factor, self.t_max = as_positive(t_factor, 't_factor'), as_positive(t_max, 't_max')
        self.t, self.kernel = as_positive(t0, 't0'), kernel

    def forward(self, logits: torch.Tensor, seeds: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the weighted terms by name ('partial_ce', 'crf', 'size'); their sum is the loss.

        A term of weight 0 is not computed.

        Args:
            logits: Decoder output (B,2,H,W).
            seeds: Labels int64 (B,H,W) from `sampling.seeds`.
            images: RGB (B,3,H,W) in 0..255.
        """
        terms = {}
        if self.seed_weight:
            terms['partial_ce'] = self.seed_weight * partial_cross_entropy(logits, seeds)
        if self.crf_weight:
            terms['crf'] = self.crf_weight * crf_loss(images, logits.float().softmax(1), kernel=self.kernel)
        if self.size_weight:
            terms['size'] = self.size_weight * size_loss(logits, self.t)
        return terms

    def step_epoch(self) -> None:
        """Sharpen the barrier after an epoch: t <- min(t * t_factor, t_max)."""
        self.t = min(self.t * self.t_factor, self.t_max)

    def get_extra_state(self) -> dict[str, float]:
        return {'t': self.t}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.t = float(state['t'])
