"""The output folder of a run: its lock, its unfinished results, and their publication."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

from .._lock import locked
from ..errors import FcamZooError, OutputError

STATE = '.fcam_zoo'
"""Folder in the output folder that holds the lock and the unfinished run."""

MARKER = '.fcam_zoo.txt'
"""File in each format folder; only folders that hold it are replaced."""

logger = logging.getLogger(__name__)


@contextmanager
def lock(output: Path) -> Iterator[None]:
    """Lock an output folder, which is created if needed. The system releases the lock when the process ends.

    Raises:
        BlockingIOError: When another run holds the lock.
        ValueError: When the state folder is or contains a symbolic link.
    """
    state = output / STATE
    inside = (Path(root, name) for root, folders, files in os.walk(state) for name in folders + files)
    for path in (state, *inside):
        if path.is_symlink():
            raise ValueError(f'{path} is a symbolic link: remove it')
    state.mkdir(parents=True, exist_ok=True)
    with locked(state / 'lock', output):
        yield


@contextmanager
def output_errors() -> Iterator[None]:
    """Convert the system's errors in the block to `OutputError`; those with their own message pass unchanged."""
    try:
        yield
    except FcamZooError:
        raise
    except OSError as e:
        if e.errno is None:
            raise
        raise OutputError(e.errno, e.strerror, e.filename) from e


@contextmanager
def sync_file(file: IO) -> Iterator[None]:
    """Flush a file to disk after the block; errors of the block name the file."""
    try:
        yield
        file.flush()
        os.fsync(file.fileno())
    except OSError as e:
        if e.filename is not None:
            raise
        raise type(e)(e.errno, e.strerror or str(e), str(file.name)) from e


class OutputFolder:
    """The format folders of a run, which are written below `.fcam_zoo/unfinished` and moved into place at the end.

    Args:
        path: Output folder.
        formats: Names of the formats; each has a folder of this name.

    Attributes:
        journal: File of the journal.
        new: Folder of the format folders that are being written.
        complete: The folder that `new` is renamed to when all its files are written.
    """

    def __init__(self, path: Path, formats: Iterable[str]) -> None:
        self.path, self.formats = path, tuple(dict.fromkeys(formats))
        self._unfinished = path / STATE / 'unfinished'
        self._old = self._unfinished / 'old'
        self.journal = self._unfinished / 'journal.jsonl'
        self.new, self.complete = self._unfinished / 'new', self._unfinished / 'complete'

    def check_inputs(self, images: Iterable[str]) -> None:
        """Raise ValueError when an image, or a link to one, is in a folder that the run writes."""
        real = lru_cache(maxsize=None)(os.path.realpath)
        written = tuple(os.path.join(real(self.path / name), '') for name in (*self.formats, STATE))  # noqa: PTH118
        for image in images:
            folder, name = os.path.split(image)
            places = os.path.realpath(image), os.path.join(real(folder), name)  # noqa: PTH118
            if any(place.startswith(written) for place in places):
                raise ValueError(f'{image} is in a folder that would be replaced: choose another output folder')

    def check_results(self, overwrite: bool, resume: bool = False) -> None:
        """Refuse to replace results.

        Raises:
            FileExistsError: When results exist and `overwrite` is False, or a folder was not written by `label_images`.
        """
        choose = 'choose another output folder'
        for folder in (self.path / name for name in self.formats):
            if not os.path.lexists(folder):
                continue
            if folder.is_symlink() or not (folder / MARKER).is_file():
                raise FileExistsError(f'{folder} was not written by fcam_zoo: move it away, or {choose}')
            if not overwrite:
                nothing = ', and there is no unfinished run to resume' if resume else ''
                raise FileExistsError(
                    f'{folder} already holds results{nothing}: replace them with --overwrite (in Python '
                    f'overwrite=True), or {choose}'
                )

    def discard_unfinished(self) -> None:
        """Remove the unfinished run. Results that it was replacing return to their place."""
        if not self._unfinished.exists():
            return
        for old in self._old.glob('*'):
            if not os.path.lexists(self.path / old.name):
                old.rename(self.path / old.name)
        shutil.rmtree(self._unfinished)

    def publish(self) -> None:
        """Move the complete format folders into place, then remove the results that they replace."""
        self._old.mkdir(exist_ok=True)
        for name in self.formats:
            source, target = self.complete / name, self.path / name
            if not source.exists():  # Moved before the run was killed.
                continue
            if os.path.lexists(target):
                self.check_results(overwrite=True)
                target.rename(self._old / name)
            source.rename(target)
        shutil.rmtree(self._unfinished)
