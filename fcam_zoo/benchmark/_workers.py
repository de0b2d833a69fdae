"""Scoring in several processes: workers beside one evaluation, and the processes of a torchrun."""

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
from ..errors import BenchmarkError

Item = TypeVar('Item')
# Batches under way for each worker: one that is scored, and one that waits.
_AHEAD = 2
_ENDED = (
    "a worker process ended: with workers, the code of a script must stand under if __name__ == '__main__'; otherwise "
    'memory may have run out (workers=0 needs the least)'
)


def map_in_workers(
    items: Iterable[tuple[Item, list[tuple[Any, ...]]]], function: Callable[..., Any], workers: int
) -> Iterator[tuple[Item, list[Callable[[], Any]]]]:
    """Each item with the results of a function for each of its tuples of arguments, in order.

    Args:
        items: Pairs of anything and argument tuples; drawn as results are wanted, so that memory stays flat.
        function: Of the arguments; one of a module, since workers look it up by its name.
        workers: Processes; 0 calls the function here.

    Yields:
        The item, and a call for each result, which raises what the function raised.
    """
    if workers < 1:
        for item, calls in items:
            yield item, [partial(function, *arguments) for arguments in calls]
        return
    methods = multiprocessing.get_all_start_methods()
    # A plain fork would copy the locks of torch's and OpenCV's threads, but not the threads.
    context = multiprocessing.get_context('forkserver' if 'forkserver' in methods else 'spawn')
    context.set_forkserver_preload([__package__])
    waiting: deque[tuple[Item, list[Any]]] = deque()
    # One thread each: the processes are there to fill the cores.
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            for item, calls in items:
                waiting.append((item, [pool.submit(function, *arguments) for arguments in calls]))
                if len(waiting) > _AHEAD * workers:
                    done, futures = waiting.popleft()
                    yield done, [partial(_result, future) for future in futures]
            while waiting:
                done, futures = waiting.popleft()
                yield done, [partial(_result, future) for future in futures]
        except BrokenProcessPool as e:
            raise BenchmarkError(_ENDED) from e
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as e:
        raise BenchmarkError(_ENDED) from e


def share_of(total: int, batch_size: int) -> range:
    """The images that this process scores: consecutive ones, so that shares joined by rank are in order.

    Shares are whole batches, those of one process: a network's last bits depend on what is computed together.
    """
    batches = -(-total // batch_size)
    start, stop = (min(batch_size * (batches * r // world_size()), total) for r in (rank(), rank() + 1))
    return range(start, stop)
