"""A limit of the pixels that threads work on at the same time, so that memory stays bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..data import MAX_PIXELS

PIXELS = MAX_PIXELS * 5 // 4
"""Limit of the pixels in flight: the largest image, and small ones beside it."""


class PixelBudget:
    """Pixels shared by the threads of a run.

    Args:
        limit: Pixels in flight. A larger image waits until it is the only one.
    """

    def __init__(self, limit: int = PIXELS) -> None:
        self.limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Wait until the pixels are free, and use them in the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + pixels <= self.limit)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()
