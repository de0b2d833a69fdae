"""Cross-entropy on the few pixels that have a pseudo-label."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .._checks import as_count, check_devices, check_tensor


def partial_cross_entropy(logits: torch.Tensor, seeds: torch.Tensor, ignore_index: int = -255) -> torch.Tensor:
    """Compute -(1/|L|) sum_{p in L} log softmax(logits_p)[seeds_p] over the labelled pixels L of the whole batch.

    F-CAM (WACV 2022), Eq. 3, second term.

    Args:
        logits: (B,K,H,W).
        seeds: Labels int64 (B,H,W); `ignore_index` on unlabelled pixels.
        ignore_index: Label that marks an unlabelled pixel.

    Returns:
        Scalar; a finite zero with zero gradient if no pixel is labelled.

    Raises:
        TypeError: If logits are not floating-point numbers or seeds not integers.
        ValueError: If the shapes do not fit, or a seed is not a class (off the CPU this is not checked, because it
            would wait for the device).
    """
    check_tensor(logits, 'logits', '(B,K,H,W)', 'float')
    check_tensor(seeds, 'seeds', '(B,H,W)', 'int')
    if (logits.shape[0], *logits.shape[2:]) != tuple(seeds.shape) or not logits.shape[1]:
        raise ValueError(
            f'logits {tuple(logits.shape)} and seeds {tuple(seeds.shape)} do not fit: expected (B,K,H,W), (B,H,W)'
        )
    check_devices(logits=logits, seeds=seeds)
    ignore_index, seeds = as_count(ignore_index, 'ignore_index', -(2**31), 2**31), seeds.long()
    if seeds.device.type == 'cpu' and not torch.compiler.is_compiling():
        _check_seeds(seeds, logits.shape[1], ignore_index)
    total = F.cross_entropy(logits.float(), seeds, ignore_index=ignore_index, reduction='sum')
    return total / (seeds != ignore_index).sum().clamp(min=1)


def _check_seeds(seeds: torch.Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise ValueError unless all seeds are classes or `ignore_index`."""
    wrong = ((seeds < 0) | (seeds >= num_classes)) & (seeds != ignore_index)
    if bool(wrong.any()):
        raise ValueError(
            f'seeds hold {int(seeds[wrong][0])}: give classes from 0 to {num_classes - 1}, or {ignore_index} for '
            'unlabelled pixels'
        )
