"""Files and folders of data sets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

from .._io import describe_os_error, is_file, is_folder, short_path
from .._schema import show
from ..errors import DatasetError, ImageError

# Limits in bytes: of file systems for the name of a file, and for its path below a root, so that messages stay short.
_MAX_NAME, _MAX_PATH = 255, 600


def files_within(
    folder: Path, *suffixes: str, unreadable: list[OSError] | None = None, skipped: list[str] | None = None
) -> list[Path]:
    """List the files with these suffixes (either case) in a folder and its subfolders, sorted, without hidden ones.

    Links to files are followed, links to folders are not.

    Args:
        folder: The folder.
        suffixes: Suffixes in lower case.
        unreadable: Gets the errors of folders that cannot be read; without it they count as empty.
        skipped: Gets the paths of the files with other suffixes.
    """
    found: list[Path] = []
    folders = [os.fspath(folder)]
    while folders:  # Not recursive: folders may be nested deeper than Python calls.
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith('.'):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif Path(entry.name).suffix.lower() in suffixes and is_file(path := Path(entry.path)):
                        found.append(path)
                    elif skipped is not None and is_file(Path(entry.path)):
                        skipped.append(entry.path)
        except OSError as e:
            if unreadable is not None:
                unreadable.append(e)
    return sorted(found)


def as_paths(paths: Any) -> list[Path]:
    """Return one path, or several, as a list; raise TypeError for other objects."""
    return [Path(path) for path in as_texts(paths)]


def as_texts(paths: Any) -> list[str]:
    """Return one path or URL, or several, as a list of text; raise TypeError for other objects."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise TypeError(f'images is {show(given)}: give a path, or a list of paths')
    listed = list(given)
    for path in listed:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f'images holds {show(path)}: give paths')
    return [os.fsdecode(path) for path in listed]


def status_of(path: Path, kind: str = 'file or folder') -> os.stat_result:
    """Return the status of a file or folder.

    Raises:
        FileNotFoundError: If it does not exist.
        ImageError: If the system refuses it, for example because its name is too long.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError) as e:
        raise FileNotFoundError(f'{short_path(path)}: no such {kind}; check the path') from e
    except OSError as e:
        raise ImageError(describe_os_error(e)) from e
    except ValueError as e:
        raise ImageError(f'{short_path(path)}: not a path ({e}); correct it') from e


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
