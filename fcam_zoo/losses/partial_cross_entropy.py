"""Cross-entropy on the few pixels that have a pseudo-label."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def partial_cross_entropy(logits: torch.Tensor, seeds: torch.Tensor, ignore_index: int = -255) -> torch.Tensor:
    """Compute -(1/|L|) sum_{p in L} log softmax(logits_p)[seeds_p] over the labelled pixels L of the whole batch.

    F-CAM (WACV 2022), Eq. 3, second term.

    Args:
        logits: (B,K,H,W).
        seeds: Labels int64 (B,H,W); `ignore_index` on unlabelled pixels.
        ignore_index: Label that marks an unlabelled pixel.

    Returns:
        Scalar; a finite zero with zero gradient if no pixel is labelled.
    """
    total = F.cross_entropy(logits.float(), seeds, ignore_index=ignore_index, reduction='sum')
    return total / (seeds != ignore_index).sum().clamp(min=1)
