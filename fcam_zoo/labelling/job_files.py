"""The files of a job, in a folder of this machine, or in a store with a URL such as `s3://bucket/labels`.

They are written, listed and removed, unlike images (`data.sources.store_reader`), which are only read. Both send their
requests to stores with the same tries.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from .._io import atomic_path, one_line
from ..data.sources.store_reader import attempt, describe_failure, file_system
from ..data.sources.urls import is_url, public_url
from ..errors import FcamZooError
from .output import output_errors

T = TypeVar('T')


class StoreError(FcamZooError, OSError):
    """A file in a store that cannot be read or written."""


class JobFiles:
    """A folder, or the objects below a URL. Each file is written whole or not at all.

    Args:
        where: A path, or a URL that fsspec knows.

    Attributes:
        where: The absolute path, or the URL, without a final slash.
        is_local: Whether it is a folder of this machine.
    """

    def __init__(self, where: str | os.PathLike) -> None:
        text = os.fspath(where).removeprefix('file://')
        self.is_local = not is_url(text)
        self.where = os.path.abspath(text) if self.is_local else text.rstrip('/')  # noqa: PTH100

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connection."""
        return {'where': self.where, 'is_local': self.is_local}

    @cached_property
    def _fs(self) -> Any:
        try:
            return file_system(self.where, 'ray,stores')[0]
        except ValueError as e:
            raise StoreError(f'{self.name} is not the URL of a known store ({one_line(str(e))})') from e

    @property
    def name(self) -> str:
        """Return the place for messages and files, without keys."""
        return public_url(self.where)

    def name_of(self, name: str) -> str:
        """Return the path or URL of a file for messages."""
        return f'{self.name}/{name}' if name else self.name

    def path(self, name: str) -> str:
        """Return the path or URL of a file."""
        return f'{self.where}/{name}' if name else self.where

    def read(self, name: str) -> bytes:
        """Read a file; a store is tried several times.

        Raises:
            FileNotFoundError: When it does not exist.
            OSError: When it cannot be read; `StoreError` for a store.
        """
        if self.is_local:
            return Path(self.path(name)).read_bytes()
        return cast(bytes, self._attempt(name, lambda: self._fs.cat_file(self.path(name))))

    def read_end(self, name: str, size: int) -> bytes:
        """Read the last bytes of a file, or the whole file if it has fewer; errors as `read`."""
        if self.is_local:
            with Path(self.path(name)).open('rb') as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read()
        return self._attempt(name, lambda: self._read_end(self.path(name), size))

    def _read_end(self, url: str, size: int) -> bytes:
        total = int(self._fs.info(url)['size'])
        return bytes(self._fs.cat_file(url, start=max(0, total - size), end=total))

    def exists(self, name: str) -> bool:
        """Return whether there is a file, a folder, or an object below this name."""
        if self.is_local:
            return os.path.lexists(self.path(name))
        self._fs.invalidate_cache()
        return bool(self._attempt(name, lambda: self._fs.exists(self.path(name))))

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, also to the disk; a store is tried several times.

        Raises:
            OutputError: When the system refuses it.
            StoreError: When a store refuses it.
        """
        if self.is_local:
            with output_errors(), atomic_path(self.path(name)) as temporary:
                temporary.write_bytes(content)
            return
        self._attempt(name, lambda: self._fs.pipe_file(self.path(name), content))

    def names(self, folder: str) -> list[str]:
        """List the names of the files directly in a folder, sorted; none when it does not exist."""
        with suppress(FileNotFoundError):
            if self.is_local:
                return sorted(entry.name for entry in os.scandir(self.path(folder)) if entry.is_file())
            self._fs.invalidate_cache()
            listed = self._attempt(folder, lambda: self._fs.ls(self.path(folder), detail=False))
            return sorted(str(path).rstrip('/').rpartition('/')[2] for path in listed)
        return []

    def remove(self, folder: str) -> None:
        """Remove a folder with all its files, if it exists."""
        with suppress(FileNotFoundError):
            if self.is_local:
                shutil.rmtree(self.path(folder))
            else:
                self._attempt(folder, lambda: self._fs.rm(self.path(folder), recursive=True))

    def remove_file(self, name: str) -> None:
        """Remove a file, if it exists."""
        with suppress(FileNotFoundError):
            if self.is_local:
                Path(self.path(name)).unlink()
            else:
                self._attempt(name, lambda: self._fs.rm_file(self.path(name)))

    def remove_temporary(self, folder: str) -> None:
        """Remove the files in a folder that killed processes had not finished; stores have none."""
        for name in self.names(folder) if self.is_local else ():
            if name.startswith('.'):  # As `atomic_path` names them.
                Path(self.path(folder), name).unlink(missing_ok=True)

    def _attempt(self, name: str, action: Callable[[], T]) -> T:
        """Send a request to the store with the tries of `attempt`; errors that remain are `StoreError`."""

        def failure(error: Exception, number: int) -> StoreError:
            return StoreError(
                f'{self.name_of(name)}: the store refuses it ({describe_failure(error)}); check the URL and the '
                'credentials, then run again'
            )

        return attempt(action, failure)
