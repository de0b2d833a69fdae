"""One training in several processes, as torchrun starts them, with the result of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..benchmark._parallel import processes
from ..errors import TrainingError


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes of a torchrun, if this is one of them, and leave them at the end.

    Yields:
        The device of this process: that which was asked for, or its own GPU where `auto` or `cuda` was.

    Raises:
        TrainingError: When there is no GPU for this process, or another process ended while this one needed it.
    """
    available = torch.cuda.is_available()
    if device == 'auto':
        device = 'cuda' if available else 'cpu'
    if 'RANK' not in os.environ or dist.is_initialized():
        yield device
        return
    if device == 'cuda':
        local = int(os.environ.get('LOCAL_RANK', 0))
        gpus = torch.cuda.device_count()
        if local >= gpus:
            raise TrainingError(f'process {local} of this machine has no GPU of its own: start {gpus} processes')
        device = f'cuda:{local}'
        torch.cuda.set_device(device)
    dist.init_process_group('nccl' if device.startswith('cuda') else 'gloo')
    try:
        yield device
    except RuntimeError as e:
        # Gloo has no class of its own.
        if isinstance(e, dist.DistBackendError) or '/gloo/' in str(e):
            raise TrainingError('another process of this training ended: its own message says why') from e
        raise
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if processes()[1] > 1:
        dist.barrier()


def total(value: torch.Tensor) -> torch.Tensor:
    """Sum over the processes; no gradient."""
    if processes()[1] > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def union(numbers: list[int]) -> list[int]:
    """The numbers that any of the processes has, sorted."""
    found: list[list[int]] = [numbers] * processes()[1]
    if len(found) > 1:
        dist.all_gather_object(found, numbers)
    return sorted({number for part in found for number in part})


class _Sum(torch.autograd.Function):
    """Sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, value: torch.Tensor) -> torch.Tensor:
        return total(value)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return total(grad.contiguous())


class GlobalBatchNorm(TorchFunctionMode):
    """Within it, batch norm in training normalises by the statistics of all processes' images.

    torch's SyncBatchNorm does so on GPUs alone and replaces the layers; this reaches those of any network, and the
    state dict stays the same. Every process must hold as many images.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


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
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [0, *range(2, x.ndim)]
    wide = x.float()
    world = processes()[1]
    # Two passes, mean first: a difference of squares would cancel.
    mean = _Sum.apply(wide.mean(dims)) / world
    shape = (1, -1, *[1] * (x.ndim - 2))
    variance = _Sum.apply((wide - mean.view(shape)).square().mean(dims)) / world
    if running_mean is not None and running_var is not None:
        n = world * x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (n / max(1, n - 1))).to(running_var.dtype), momentum)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    shift = shift if bias is None else shift + bias
    return (wide * scale.view(shape) + shift.view(shape)).to(x.dtype)
