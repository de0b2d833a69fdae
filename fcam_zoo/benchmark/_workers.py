"""Score in several processes: worker processes of one evaluation, and the processes of torchrun."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar

import cv2

from .._distributed import rank, world_size
from .._malloc import keep_freed_memory
from ..errors import BenchmarkError

Item = TypeVar('Item')
# Batches per worker: one that is scored, and one that waits.
_AHEAD = 2
_ENDED = (
    "a worker process ended early: with workers, the code of a script must be under if __name__ == '__main__'; if it "
    'is, memory may have run out (workers=0 needs the least)'
)


def map_in_workers(
    items: Iterable[tuple[Item, list[tuple[Any, ...]]]], function: Callable[..., Any], workers: int
) -> Iterator[tuple[Item, list[Callable[[], Any]]]]:
    """Call a function for each tuple of arguments of each item, in order.

    Args:
        items: Pairs of an item and argument tuples; read as results are consumed, which bounds memory.
        function: At the top level of a module, since workers look it up by its name.
        workers: Number of processes; 0 calls the function in this one.

    Yields:
        The item, and for each result a callable that returns it, or raises the error of the function.

    Raises:
        BenchmarkError: When a worker process ends early.
    """
    if workers < 1:
        for item, calls in items:
            yield item, [partial(function, *arguments) for arguments in calls]
        return
    methods = multiprocessing.get_all_start_methods()
    # Plain fork would copy the locks of the threads of torch and OpenCV, but not the threads.
    context = multiprocessing.get_context('forkserver' if 'forkserver' in methods else 'spawn')
    context.set_forkserver_preload([__package__])
    waiting: deque[tuple[Item, list[Callable[[], Any]]]] = deque()
    with ProcessPoolExecutor(workers, context, initializer=_init_worker) as pool:
        try:
            for item, calls in items:
                waiting.append((item, [partial(_result, pool.submit(function, *arguments)) for arguments in calls]))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft()
            yield from waiting
        except BrokenProcessPool as e:
            raise BenchmarkError(_ENDED) from e
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _init_worker() -> None:
    cv2.setNumThreads(1)  # The processes fill the cores.
    keep_freed_memory()  # Workers do not inherit it, because they are not forked from this process.


def _result(future: Future) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as e:
        raise BenchmarkError(_ENDED) from e


def share_of(total: int, batch_size: int) -> range:
    """Return the consecutive images that this process scores; joined by rank they are in order.

    Processes score whole batches, the same as a single process, because the last bits of a network's output depend on
    the batch.
    """
    batches = -(-total // batch_size)
    start, stop = (min(batch_size * (batches * r // world_size()), total) for r in (rank(), rank() + 1))
    return range(start, stop)
