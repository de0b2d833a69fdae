"""A lock on a file, which the system releases when the process ends, however it ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform == 'win32':
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)
_held: set[IO] = set()


def _close_held() -> None:
    for file in _held:
        file.close()


# Forked workers outlive a killed run by seconds; their copy of the lock would block a resumed run.
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_close_held)


@contextmanager
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Lock a file, which is created if needed, while a folder is written.

    Raises:
        BlockingIOError: When another process holds the lock.
    """
    with path.open('ab') as file:
        try:
            if sys.platform == 'win32':
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as e:
            raise BlockingIOError(
                f'{folder} is being written by another run: wait until it ends, or choose another output folder'
            ) from e
        except OSError as e:
            logger.warning('%s: the file system does not support locks (%s); do not start a second run', folder, e)
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
