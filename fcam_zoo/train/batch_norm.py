"""Batch norm over the images of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .._distributed import all_reduce, world_size


class GlobalBatchNorm(TorchFunctionMode):
    """Context in which training-mode batch norm uses the statistics of all processes' images.

    Unlike torch's SyncBatchNorm it works on the CPU, and layers and state dict stay unchanged. All processes must have
    the same number of images.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


class _Sum(torch.autograd.Function):
    """Sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return all_reduce(value)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return all_reduce(grad.contiguous())


def _batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Replace `F.batch_norm`, with its arguments."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [0, *range(2, x.ndim)]
    x32 = x.float()
    world = world_size()
    # Two passes: mean of squares minus squared mean would lose precision.
    mean = _Sum.apply(x32.mean(dims)) / world
    shape = (1, -1, *[1] * (x.ndim - 2))
    variance = _Sum.apply((x32 - mean.view(shape)).square().mean(dims)) / world
    if running_mean is not None and running_var is not None:
        n = world * x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (n / max(1, n - 1))).to(running_var.dtype), momentum)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    shift = shift if bias is None else shift + bias
    return (x32 * scale.view(shape) + shift.view(shape)).to(x.dtype)
