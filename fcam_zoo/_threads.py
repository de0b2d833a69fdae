"""Do work in threads, in order and ahead of the one who uses it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar('T')


def started_early(jobs: Iterable[T], ahead: int) -> Iterator[T]:
    """Yield jobs in order, after the next `ahead` ones have been started by taking them from the iterable."""
    waiting: deque[T] = deque()
    for job in jobs:
        waiting.append(job)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


@contextmanager
def threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Create a pool of threads; after an error, jobs that did not start are left out, and the others finish."""
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
