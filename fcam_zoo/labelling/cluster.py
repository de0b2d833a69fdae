"""Ray: connect to a cluster, and share its devices among workers."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .._checks import MAX_WORKERS
from .._schema import as_whole, describe_error, show
from ..errors import FcamZooError, install_hint

logger = logging.getLogger(__name__)

# Ray's loggers, which repeat every error that this package reports.
_LOGGERS = ('ray', 'ray.data')
# Of a Ray that this package starts: it holds the model, the names of the images and small rows.
_STORE_BYTES = 2**30
# Time limit of the connection to a cluster.
_SECONDS = 10.0


class RayError(FcamZooError, RuntimeError):
    """A cluster that cannot be used, or a job that it cannot continue."""


@dataclass(frozen=True)
class ClusterOptions:
    """Where a job runs, and how it is divided.

    Attributes:
        address: 'local' starts Ray on this machine for the job; 'auto' is the running cluster of this machine;
            otherwise `host:port` of a cluster, of which this machine must be a node. A Ray to which the process is
            already connected is used in any case.
        workers: Processes with a copy of the model each. Default: one per GPU, or one per CPU core without GPUs.
        device: 'cuda' uses the GPUs of the cluster, 'cpu' none, 'auto' those that it has.
        shard_size: Images per part, rounded up to whole batches. Default: 1024, or fewer if each worker would get less
            than four parts.
        readers: Threads that read images, for each worker; 0 reads in the worker. Default: up to 4 beside a GPU, if
            it has as many CPU cores, otherwise 0.

    Raises:
        ValueError: For a value out of range.
    """

    address: str = 'local'
    workers: int | None = None
    device: str = 'auto'
    shard_size: int | None = None
    readers: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not self.address:
            raise ValueError(f"address is {show(self.address)}: give 'local', 'auto' or host:port")
        if self.address.startswith('ray://'):
            raise ValueError(
                f'address is {show(self.address)}: Ray Data has no actors over Ray Client; run on a node of the '
                "cluster with the address 'auto', for example with ray job submit"
            )
        if self.device not in ('auto', 'cpu', 'cuda'):
            raise ValueError(f'device is {show(self.device)}: workers of a cluster run on cpu, cuda or auto')
        if self.workers is not None and as_whole(self.workers, 1, MAX_WORKERS) is None:
            raise ValueError(f'workers is {show(self.workers)}: give 1 to {MAX_WORKERS} workers')
        if self.shard_size is not None and as_whole(self.shard_size, 1, 10**7) is None:
            raise ValueError(f'shard_size is {show(self.shard_size)}: give 1 to 10000000 images per part')
        if self.readers is not None and as_whole(self.readers, 0, MAX_WORKERS) is None:
            raise ValueError(f'readers is {show(self.readers)}: give 0 to {MAX_WORKERS} threads')


@dataclass(frozen=True)
class Share:
    """The share of each worker.

    Attributes:
        workers: Number of workers.
        cpus: CPU cores per worker; below 1 when there are more workers than cores.
        gpus: GPUs per worker, 0 or 1.
    """

    workers: int
    cpus: float
    gpus: int

    @property
    def device(self) -> str:
        """Return the device of a worker."""
        return 'cuda' if self.gpus else 'cpu'

    @property
    def threads(self) -> int:
        """Return the threads of torch and OpenCV per worker."""
        return max(1, int(self.cpus))

    @property
    def readers(self) -> int:
        """Return the number of threads that read images for a worker."""
        return min(4, max(0, int(self.cpus) - 1)) if self.gpus else 0


def share_devices(nodes: Sequence[dict[str, float]], workers: int | None, device: str) -> Share:
    """Divide the devices of a cluster.

    Args:
        nodes: Resources of each node, as Ray reports them: 'CPU' and 'GPU'.
        workers: Number of workers; None is one per device.
        device: As in `ClusterOptions`.

    Raises:
        RayError: When the cluster has no GPU for 'cuda', or fewer than workers, or no CPU core.
    """
    cores = [int(node.get('CPU', 0)) for node in nodes]
    gpus = [int(node.get('GPU', 0)) for node in nodes]
    if device == 'cuda' and not sum(gpus):
        raise RayError('the cluster has no GPU: choose the device cpu')
    if sum(gpus) and device != 'cpu':
        if workers is not None and workers > sum(gpus):
            raise RayError(f'{workers} workers for {sum(gpus)} GPUs: each needs its own, give fewer --ray-workers')
        per_gpu = min(cpu // gpu for cpu, gpu in zip(cores, gpus) if gpu)
        return Share(workers or sum(gpus), per_gpu, 1)
    if not sum(cores):
        raise RayError('the cluster has no CPU core for workers: add a node')
    wanted = workers or sum(cores)
    # The largest share of which all workers fit on the nodes.
    whole = next((n for n in range(max(cores), 0, -1) if sum(cpu // n for cpu in cores) >= wanted), None)
    return Share(wanted, whole or sum(cores) / wanted / 2, 0)


def import_ray() -> ModuleType:
    """Import Ray Data.

    Raises:
        ImportError: When it is not installed; the message says how to install it.
    """
    try:
        import ray
        import ray.data
    except ImportError as e:
        raise ImportError(f'a cluster needs Ray Data: {install_hint("ray")}') from e
    return ray


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Connect to a cluster for the block, unless the process is connected already; see `ClusterOptions.address`.

    Raises:
        RayError: When there is no cluster at this address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    _check_reachable(address)
    options: dict[str, Any] = {'log_to_driver': False, 'logging_level': logging.CRITICAL}
    if address == 'local':
        options |= {'include_dashboard': False, 'object_store_memory': _STORE_BYTES}
    with _environment(address):
        try:
            ray.init(address, **options)
        except Exception as e:  # Ray raises ConnectionError, ValueError, RuntimeError and errors of gRPC.
            raise RayError(f'no Ray cluster at {address} ({describe_error(e)}): check the address, or omit it') from e
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _environment(address: str) -> Iterator[None]:
    """Set the variables that Ray reads when it starts, for the block, unless they are set already."""
    # No report of usage, and no lines of its C++ code about what this package reports.
    values = {
        'RAY_USAGE_STATS_ENABLED': '0',
        'RAY_BACKEND_LOG_LEVEL': 'fatal',
        'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO': '0',
    }
    if address == 'local':  # Ray's default is a low priority.
        values['RAY_worker_niceness'] = '0'
    added = values.keys() - os.environ.keys()
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def warn_if_busy(available: dict[str, float], share: Share) -> None:
    """Log how many workers have to wait for devices that other programs on the cluster use.

    Args:
        available: Free resources of the cluster, as Ray reports them.
        share: The share of each worker.
    """
    free = available.get('GPU', 0.0) / share.gpus if share.gpus else available.get('CPU', 0.0) / share.cpus
    # Ray's sums of shares are not exact.
    if (waiting := share.workers - int(free + 1e-6)) > 0:
        logger.warning('waiting for the devices of %d of %d workers: the cluster is busy', waiting, share.workers)


def _check_reachable(address: str) -> None:
    """Raise RayError when nothing listens at a host and port; Ray would try for minutes, then end the process."""
    host, colon, port = address.rpartition(':')
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip('[]'), int(port)), _SECONDS).close()
    except (OSError, OverflowError) as e:
        raise RayError(f'no Ray cluster at {address} ({describe_error(e)}): check the address, or omit it') from e


@contextmanager
def tolerant(ray: ModuleType) -> Iterator[None]:
    """Let Ray Data continue without the parts whose workers died repeatedly, and without output of its own."""
    context = ray.data.DataContext.get_current()
    settings = {'enable_progress_bars': False, 'max_errored_blocks': -1}
    before = {name: getattr(context, name) for name in settings}
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in _LOGGERS}
    for name, value in settings.items():
        setattr(context, name, value)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for logger, level in loggers.items():
            logger.setLevel(level)


def actor_options(ray: ModuleType, share: Share) -> dict[str, Any]:
    """Return the arguments of `Dataset.map_batches` for one actor per device.

    An actor has one task at a time: when its process dies, no other task is tried again. By default, Ray Data starts
    dead actors again and repeats their tasks.
    """
    pool = ray.data.ActorPoolStrategy(size=share.workers, max_tasks_in_flight_per_actor=1)
    return {
        'compute': pool,
        'num_cpus': share.cpus,
        **({'num_gpus': share.gpus} if share.gpus else {}),
    }


def count_tries(ray: ModuleType, limit: int) -> Any:
    """Start an actor that counts the tries of each part, because Ray Data repeats without end what kills a worker.

    Its method `begin(part)` counts a try, and returns why the part is given up, or an empty text. `note(part, error)`
    keeps the error of a try.
    """

    class Tries:  # Defined here, Ray sends the class itself: its process does not import torch.
        def __init__(self) -> None:
            self.begun: dict[int, int] = {}
            self.errors: dict[int, str] = {}

        def begin(self, part: int) -> str:
            self.begun[part] = self.begun.get(part, 0) + 1
            if self.begun[part] <= limit:
                return ''
            unknown = 'its process died; memory may have run out, use a smaller batch'
            return f'{limit} tries ended early: {self.errors.get(part, unknown)}'

        def note(self, part: int, error: str) -> None:
            self.errors[part] = error

    # If its node is lost, it starts again elsewhere, and counts from 1.
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tries).remote()
