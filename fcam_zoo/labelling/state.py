"""What a run keeps in its output folder beside the annotations: a lock, and the list of the files that it wrote."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .._io import atomic_path

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

STATE = '.fcam_zoo'
"""Folder in the output folder: the lock, the list, and what an unfinished run goes on from."""

UNFINISHED = 'unfinished'
"""Folder in it, there as long as the run is not finished: the journal, and files being written."""

logger = logging.getLogger(__name__)

_held: set[int] = set()


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


# A forked reader outlives a killed run by seconds; its copy of the lock would block whoever goes on.
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def sole_run(output: Path) -> Iterator[None]:
    """Hold the lock of an output folder, which is made if needed. The system frees it when the process ends, however
    that comes.

    Raises:
        BlockingIOError: When another run holds it.
        ValueError: When the folder of the state is a link.
    """
    folder = output / STATE
    if folder.is_symlink() or (folder / 'lock').is_symlink():
        raise ValueError(f'{folder} holds or is a symbolic link: remove it')
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(descriptor, output)
        _held.add(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _take(descriptor: int, output: Path) -> None:
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as e:
        if e.errno not in (errno.EAGAIN, errno.EACCES):
            logger.warning('%s: its file system has no locks (%s); do not start a second run there', output, e)
            return
        raise BlockingIOError(
            f'{output} is being written by another run: wait for its end, or choose another output folder'
        ) from e


def append(file: BinaryIO, text: str) -> None:
    """Write text to a file, down to the disk.

    Raises:
        OSError: With the file's name.
    """
    try:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    except OSError as e:
        raise type(e)(e.errno, e.strerror, str(file.name)) from e


class Written:
    """Which files of an output folder are a run's own, by format; nothing else in the folder is overwritten or removed.

    A name is on the list before its file is written: a line of format and path, separated by a tab.

    Args:
        output: Folder of the run, locked.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output / STATE / 'files.txt'
        if self.path.is_symlink():
            raise ValueError(f'{self.path} is a symbolic link: remove it')
        self._file = self.path.open('ab+')
        self._file.seek(0)
        whole = 0
        for line in self._file:
            whole += len(line) if line.endswith(b'\n') else 0
        self._file.truncate(whole)  # The process was killed as it wrote.

    def _lines(self) -> Iterator[tuple[str, str]]:
        with self.path.open(encoding='utf-8', newline='\n') as lines:
            for line in lines:
                kind, _, file = line.rstrip('\n').partition('\t')
                yield kind, file

    def check(self, kind: str, files: Iterable[str]) -> None:
        """Refuse to overwrite what others wrote.

        Raises:
            FileExistsError: When one of the files is there and not on the list.
        """
        unknown = dict.fromkeys(files)
        for there, file in self._lines():
            if there == kind:
                unknown.pop(file, None)
        for file in unknown:
            if os.path.lexists(self.output / file):
                raise FileExistsError(
                    f'{self.output / file} is there, and not known as a file of an earlier run: move it away, or '
                    'choose another output folder'
                )

    def add(self, names: Iterable[tuple[str, str]]) -> None:
        """Put files, each (format, path below the output folder), on the list."""
        append(self._file, ''.join(f'{kind}\t{file}\n' for kind, file in names))

    def settle(self, kind: str, files: Iterable[str], inputs: Iterable[str]) -> int:
        """Remove the files of a format that are on the list and no longer wanted, and list what is left.

        Args:
            kind: Name of the format.
            files: All its files that are wanted.
            inputs: Images, which are never removed.

        Returns:
            Number of files removed.
        """
        wanted = set(files)
        stale = {file for there, file in self._lines() if there == kind} - wanted
        removed = 0
        if stale:
            # By identity, since file systems may hold two names for the same: a link, other case.
            kept = {
                _identity(path) for paths in ((self.output / f for f in wanted), map(Path, inputs)) for path in paths
            }
            removed = sum(self._remove(file, kept) for file in sorted(stale))
        with (
            atomic_path(self.path, self.path.parent / UNFINISHED) as temporary,
            temporary.open('w', encoding='utf-8', newline='\n') as f,
        ):
            f.writelines(f'{there}\t{file}\n' for there, file in self._lines() if there != kind)
            f.writelines(f'{kind}\t{file}\n' for file in sorted(wanted))
        self._file.close()
        self._file = self.path.open('ab+')
        return removed

    def _remove(self, file: str, kept: set[tuple[int, int] | None]) -> bool:
        path, name = self.output / file, PurePosixPath(file)
        if name.is_absolute() or '..' in name.parts or not path.parent.resolve().is_relative_to(self.output.resolve()):
            return False
        if path.is_symlink() or not path.is_file() or _identity(path) in kept:
            return False
        path.unlink()
        return True

    def close(self) -> None:
        """Let go of the file."""
        with suppress(OSError):  # Of a write that failed before.
            self._file.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino
