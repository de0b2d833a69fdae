"""Atomic writes: a file appears complete or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike, folder: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yield a temporary path; on success sync the file to disk and rename it to `path`, on error remove it.

    The temporary name has the suffix of `path`, from which PIL and OpenCV choose the format. If the process is killed,
    the temporary file remains.

    Args:
        path: Final path; its folder is created if needed.
        folder: Existing folder of the temporary file, on the same file system; default: that of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f'.{path.stem[:40]}.', suffix=path.suffix, dir=folder or path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open('rb+') as f:
            os.fsync(f.fileno())
        # mkstemp creates private files; give the result the permissions of an ordinary open().
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN raises ValueError, because it is not valid JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')
