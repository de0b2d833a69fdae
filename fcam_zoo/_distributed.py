"""The process group of torchrun: ranks, barriers, reductions, and exchange of results between processes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ._device import resolve_auto
from .errors import DistributedError

T = TypeVar('T')


@contextmanager
def process_group(device: str, backend: str | None = None) -> Iterator[str]:
    """Join the process group of torchrun, and leave it at the end. Does nothing when not started by torchrun.

    Args:
        device: 'cpu', 'cuda', 'cuda:1', ...; 'auto' is CUDA if available, otherwise the CPU.
        backend: Backend of torch.distributed; default: NCCL on CUDA, otherwise Gloo.

    Yields:
        The device of this process. Under torchrun, 'cuda' becomes the GPU of its local rank.

    Raises:
        DistributedError: When there is no GPU for this process, or another process ended early.
    """
    device = resolve_auto(device)
    if 'RANK' not in os.environ or _is_initialized():
        yield device
        return
    backend = backend or ('nccl' if device.startswith('cuda') else 'gloo')
    if device == 'cuda':
        device = f'cuda:{_local_gpu(shared=backend != "nccl")}'
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    try:
        yield device
    except RuntimeError as e:
        # Gloo raises plain RuntimeErrors.
        if isinstance(e, dist.DistBackendError) or '/gloo/' in str(e):
            raise DistributedError('another process ended early: see its own error message') from e
        raise
    finally:
        dist.destroy_process_group()


def _local_gpu(shared: bool) -> int:
    local, gpus = int(os.environ.get('LOCAL_RANK', 0)), torch.cuda.device_count()
    if local < gpus:
        return local
    if gpus and shared:
        return local % gpus
    fix = f'start at most {gpus} processes on this machine' if gpus else 'choose the device cpu'
    raise DistributedError(f'there is no GPU for local rank {local}: {fix}')


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the rank of this process, 0 outside a process group."""
    return dist.get_rank() if _is_initialized() else 0


def world_size() -> int:
    """Return the number of processes, 1 outside a process group."""
    return dist.get_world_size() if _is_initialized() else 1


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def all_reduce(value: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, without gradient. The argument is not changed."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def mean_count(count: torch.Tensor) -> torch.Tensor:
    """Average a count of pixels or images over all processes, with a total of at least 1.

    If each process divides its sum by this, the mean over the processes is the mean of one process. Dividing by the own
    count would give pixels of processes with few of them more weight.
    """
    return all_reduce(count).clamp(min=1) / world_size()


def gather(make: Callable[[], T]) -> list[T]:
    """Call a function in every process and return all results, by rank, in every process.

    Raises:
        Exception: In every process, the error of the lowest rank whose call failed, so that no process hangs.
    """
    if world_size() == 1:
        return [make()]
    result: Any = None
    failure: Exception | None = None
    try:
        result = make()
    except Exception as error:
        failure = picklable(error)
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, (result, failure))
    for _, failed in gathered:
        if failed is not None:
            raise failed
    return [result for result, _ in gathered]


def run_on_all_ranks(make: Callable[[], T]) -> T:
    """Call a function in every process and return this process's own result; raises as `gather`."""
    results: list[T] = []
    gather(lambda: results.append(make()))
    return results[0]


def picklable(error: Exception) -> Exception:
    """Return the error, or one with the same message if it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return DistributedError(f'{type(error).__name__}: {error}')
    return error
