"""Files in a folder of this machine, or in a store with a URL such as `s3://bucket/labels`."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from .._io import atomic_path, one_line
from .._schema import describe_error
from ..errors import FcamZooError, install_hint
from .output import output_errors

_URL = re.compile(r'[a-z][a-z0-9+.-]+://')
# Seconds before another try to write; clients of stores retry on their own before they raise an error.
_PAUSES = (1.0, 4.0)


class StoreError(FcamZooError, OSError):
    """A file in a store that cannot be read or written."""


class Store:
    """A folder, or the objects below a URL. Each file is written whole or not at all.

    Args:
        where: A path, or a URL that fsspec knows.

    Attributes:
        where: The absolute path, or the URL, without a final slash.
        is_local: Whether it is a folder of this machine.
    """

    def __init__(self, where: str | os.PathLike) -> None:
        text = os.fspath(where).removeprefix('file://')
        self.is_local = _URL.match(text) is None
        self.where = os.path.abspath(text) if self.is_local else text.rstrip('/')  # noqa: PTH100

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connection."""
        return {'where': self.where, 'is_local': self.is_local}

    @cached_property
    def _fs(self) -> Any:
        try:
            import fsspec
        except ImportError as e:
            raise ImportError(f'{self.where} needs fsspec: {install_hint("ray")}') from e
        try:
            return fsspec.core.url_to_fs(self.where)[0]
        except ImportError as e:
            raise ImportError(f'{self.where}: {one_line(str(e))}') from e
        except ValueError as e:
            raise StoreError(f'{self.where} is not the URL of a known store ({one_line(str(e))})') from e

    def path(self, name: str) -> str:
        """Return the path or URL of a file."""
        return f'{self.where}/{name}' if name else self.where

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; it can seek.

        Raises:
            FileNotFoundError: When it does not exist.
            OSError: When it cannot be read.
        """
        with self._errors(name):
            return cast(BinaryIO, Path(self.path(name)).open('rb') if self.is_local else self._fs.open(self.path(name)))

    def read(self, name: str) -> bytes:
        """Read a file; errors as `open`."""
        with self._errors(name):
            if self.is_local:
                return Path(self.path(name)).read_bytes()
            return cast(bytes, self._fs.cat_file(self.path(name)))

    def exists(self, name: str) -> bool:
        """Return whether there is a file, a folder, or an object below this name."""
        with self._errors(name):
            if self.is_local:
                return os.path.lexists(self.path(name))
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self.path(name)))

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
        for pause in (*_PAUSES, None):
            try:
                with self._errors(name):
                    self._fs.pipe_file(self.path(name), content)
                return
            except StoreError:
                if pause is None:
                    raise
                time.sleep(pause)

    def names(self, folder: str) -> list[str]:
        """List the names of the files directly in a folder, sorted; none when it does not exist."""
        with self._errors(folder), suppress(FileNotFoundError):
            if self.is_local:
                return sorted(entry.name for entry in os.scandir(self.path(folder)) if entry.is_file())
            self._fs.invalidate_cache()
            listed = self._fs.ls(self.path(folder), detail=False)
            return sorted(str(path).rstrip('/').rpartition('/')[2] for path in listed)
        return []

    def remove(self, folder: str) -> None:
        """Remove a folder with all its files, if it exists."""
        with self._errors(folder), suppress(FileNotFoundError):
            if self.is_local:
                shutil.rmtree(self.path(folder))
            else:
                self._fs.rm(self.path(folder), recursive=True)

    def remove_temporary(self, folder: str) -> None:
        """Remove the files in a folder that killed processes had not finished; stores have none."""
        for name in self.names(folder) if self.is_local else ():
            if name.startswith('.'):  # As `atomic_path` names them.
                Path(self.path(folder), name).unlink(missing_ok=True)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Convert the errors of a store in the block, which are of many kinds, to `StoreError`."""
        try:
            yield
        except (FcamZooError, FileNotFoundError, ImportError):
            raise
        except Exception as e:
            if self.is_local:
                raise
            raise StoreError(
                f'{self.path(name)}: the store refuses it ({describe_error(e)}); check the URL and the credentials, '
                'then run again'
            ) from e
