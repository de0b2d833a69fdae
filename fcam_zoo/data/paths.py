"""Files and folders of data sets."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from ..errors import DatasetError

# Limits in bytes of file systems: of the name of a file, and of its path below a root.
_MAX_NAME, _MAX_PATH = 255, 2000


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False for a path that no file can have, where `Path.is_dir` raises OSError."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether a path is a file; False as in `is_folder`."""
    return os.path.isfile(path)  # noqa: PTH113


def files_within(folder: Path, *suffixes: str) -> list[Path]:
    """List the files with these suffixes (either case) in a folder and its subfolders, sorted, without hidden ones."""
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in suffixes
        and not any(part.startswith('.') for part in path.relative_to(folder).parts)
        and is_file(path)
    )


def subfolders(folder: Path) -> list[str]:
    """List the names of the folders in a folder, sorted, without hidden ones."""
    try:
        return sorted(path.name for path in folder.iterdir() if is_folder(path) and not path.name.startswith('.'))
    except OSError as e:
        raise DatasetError(f'{folder}: cannot be listed ({e.strerror}); check that it is a folder you may read') from e


def splits_of(root: Path) -> list[str]:
    """List the splits of a data set: the folders of its metadata, or those of train, val and test that exist."""
    if is_folder(root / 'metadata'):
        return subfolders(root / 'metadata')
    return [name for name in ('train', 'val', 'test') if is_folder(root / name)]


def stem_within(folder: Path, path: Path) -> str:
    """Return the path of a file relative to a folder, without suffix and with forward slashes."""
    return path.relative_to(folder).with_suffix('').as_posix()


def leaves_folder(name: str) -> bool:
    """Return whether a relative path from an untrusted file could point outside the folder it is relative to."""
    # Windows rules know both separators and drive letters, so they refuse all that POSIX rules would.
    path = PureWindowsPath(name)
    return bool(path.anchor) or '..' in path.parts or not path.name


def is_too_long(name: str) -> bool:
    """Return whether a relative path is longer than file systems allow."""
    content = os.fsencode(name)
    return len(content) > _MAX_PATH or max(map(len, content.replace(b'\\', b'/').split(b'/'))) > _MAX_NAME
