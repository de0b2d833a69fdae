"""A limit of the pixels that threads and processes work on at the same time, so that memory stays bounded."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawValue

from ..data import MAX_PIXELS

PIXELS = MAX_PIXELS * 5 // 4
"""Limit of the pixels in flight: the largest image, and small ones beside it."""

_POLL_SECONDS = 0.01


class PixelBudget:
    """Pixels shared by the threads or the worker processes of a run.

    Args:
        limit: Pixels in flight. A larger image waits until it is the only one.
    """

    def __init__(self, limit: int = PIXELS) -> None:
        self.limit = limit
        self._lock = multiprocessing.Lock()
        self._used = RawValue('q', 0)

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Wait until the pixels are free, and use them in the block."""
        # No condition variable: in multiprocessing, a killed process that waits for it would block all others.
        while not self._take(pixels):
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            with self._lock:
                self._used.value -= pixels

    def _take(self, pixels: int) -> bool:
        with self._lock:
            free = self._used.value == 0 or self._used.value + pixels <= self.limit
            if free:
                self._used.value += pixels
            return free
