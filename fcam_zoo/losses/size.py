"""The size prior: neither the background nor the object may be empty, as log-barriers."""

from __future__ import annotations

import math

import torch


def log_barrier(fx: torch.Tensor, t: float) -> torch.Tensor:
    """Extended log-barrier of the constraint f(x) <= 0 (Kervadec et al., 2019, Eq. 4), averaged.

    -(1/t) ln(-f) where f <= -1/t^2, and its tangent t f - (1/t) ln(1/t^2) + 1/t beyond: defined everywhere, twice as
    steep where the constraint is violated more.

    Args:
        fx: Constraint values, any shape.
        t: Sharpness, > 0.

    Returns:
        Scalar mean.

    Raises:
        ValueError: When t is not positive.
    """
    if t <= 0:
        raise ValueError(f't is {t}: the log-barrier needs t > 0')
    inside = fx <= -1 / t**2
    # The clamp keeps the unused branch's gradient finite.
    barrier = -torch.log(torch.where(inside, -fx, 1.0)) / t
    linear = t * fx - math.log(1 / t**2) / t + 1 / t
    return torch.where(inside, barrier, linear).mean()


def size_loss(logits: torch.Tensor, t: float) -> torch.Tensor:
    """Absolute size constraint on both maps (F-CAM, Eq. 3): sum of S^r >= 0 for r = background, foreground.

    Args:
        logits: (B,2,H,W).
        t: Sharpness of the log-barrier.

    Returns:
        Scalar: half the sum of the two log-barriers of minus the area in pixels, averaged over the batch.
    """
    area = logits.float().softmax(1).sum((2, 3))
    return 0.5 * sum(log_barrier(-area[:, r], t) for r in range(area.shape[1]))
