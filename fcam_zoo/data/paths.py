"""Files and folders of data sets."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath


def files_within(folder: Path, *suffixes: str) -> list[Path]:
    """List the files with these suffixes (either case) in a folder and its subfolders, sorted, without hidden ones."""
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in suffixes
        and not any(part.startswith('.') for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def subfolders(folder: Path) -> list[str]:
    """List the names of the folders in a folder, sorted, without hidden ones."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.'))


def splits_of(root: Path) -> list[str]:
    """List the splits of a data set: the folders of its metadata, or those of train, val and test that exist."""
    if (root / 'metadata').is_dir():
        return subfolders(root / 'metadata')
    return [name for name in ('train', 'val', 'test') if (root / name).is_dir()]


def stem_within(folder: Path, path: Path) -> str:
    """Return the path of a file relative to a folder, without suffix and with forward slashes."""
    return path.relative_to(folder).with_suffix('').as_posix()


def leaves_folder(name: str) -> bool:
    """Return whether a relative path from an untrusted file could point outside the folder it is relative to."""
    # Windows rules know both separators and drive letters, so they refuse all that POSIX rules would.
    path = PureWindowsPath(name)
    return bool(path.anchor) or '..' in path.parts or not path.name
