"""The size prior: log-barriers keep the background and the object from becoming empty."""

from __future__ import annotations

import math

import torch


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
        ValueError: If t is not positive.
    """
    if t <= 0:
        raise ValueError(f't is {t}: the log-barrier needs t > 0')
    inside = fx <= -1 / t**2
    # torch.where keeps the gradient of the unused branch finite.
    barrier = -torch.log(torch.where(inside, -fx, 1.0)) / t
    linear = t * fx - math.log(1 / t**2) / t + 1 / t
    return torch.where(inside, barrier, linear).mean()


def size_loss(logits: torch.Tensor, t: float) -> torch.Tensor:
    """Compute 1/2 sum_r log_barrier(-area_r) over r = background, foreground (F-CAM, WACV 2022, Eq. 3).

    area_r = sum over the pixels of softmax(logits)_r is the size of a region in pixels; the constraint is area_r >= 0.

    Args:
        logits: (B,2,H,W).
        t: Sharpness of the log-barrier.

    Returns:
        Scalar, averaged over the batch.
    """
    background, foreground = logits.float().softmax(1).sum((2, 3)).unbind(1)
    return 0.5 * (log_barrier(-background, t) + log_barrier(-foreground, t))
