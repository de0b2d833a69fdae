"""The size prior: log-barriers keep the background and the object from becoming empty."""

from __future__ import annotations

import math

import torch

from .._checks import as_positive, check_tensor


def log_barrier(fx: torch.Tensor, t: float) -> torch.Tensor:
    """Compute the extended log-barrier of the constraint f(x) <= 0 (Kervadec et al., 2019, Eq. 4), averaged.

    -(1/t) ln(-f) where f <= -1/t^2, else its tangent t f - (1/t) ln(1/t^2) + 1/t, which is defined where the constraint
    is violated.

    Args:
        fx: Constraint values, any shape.
        t: Sharpness, > 0.

    Returns:
        Scalar mean.

    Raises:
        TypeError: If fx is not a floating-point tensor.
        ValueError: If t is not from 1e-6 to 1e6, or fx is empty.
    """
    check_tensor(fx, 'fx', '', 'float')
    if not fx.numel():
        raise ValueError(f'fx has the shape {tuple(fx.shape)}: give at least one value')
    t = _sharpness(t)
    inside = fx <= -1 / t**2
    # torch.where keeps the gradient of the unused branch finite.
    barrier = -torch.log(torch.where(inside, -fx, 1.0)) / t
    linear = t * fx - math.log(1 / t**2) / t + 1 / t
    return torch.where(inside, barrier, linear).mean()


def _sharpness(t: float) -> float:
    """Return t as a number; raise ValueError where 1/t^2 and t f would overflow."""
    t = as_positive(t, 't')
    if not 1e-6 <= t <= 1e6:
        raise ValueError(f't is {t}: the sharpness of the log-barrier is from 1e-6 to 1e6')
    return t


def size_loss(logits: torch.Tensor, t: float) -> torch.Tensor:
    """Compute 1/2 sum_r log_barrier(-area_r) over r = background, foreground (F-CAM, WACV 2022, Eq. 3).

    area_r = sum over the pixels of softmax(logits)_r is the size of a region in pixels; the constraint is area_r >= 0.

    Args:
        logits: (B,2,H,W).
        t: Sharpness of the log-barrier.

    Returns:
        Scalar, averaged over the batch.

    Raises:
        TypeError: If logits are not a floating-point tensor.
        ValueError: If they have another shape, or t is not from 1e-6 to 1e6.
    """
    check_tensor(logits, 'logits', '(B,2,H,W)', 'float')
    if logits.shape[1] != 2:
        raise ValueError(f'logits have the shape {tuple(logits.shape)}: expected (B,2,H,W)')
    background, foreground = logits.float().softmax(1).sum((2, 3)).unbind(1)
    return 0.5 * (log_barrier(-background, t) + log_barrier(-foreground, t))
