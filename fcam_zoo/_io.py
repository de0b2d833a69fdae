"""Files and text: atomic writes, cells of CSV files, and names and errors of the system in messages."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# What spreadsheets evaluate as a formula (OWASP, "CSV injection"), also in full width, after any number of apostrophes.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
# Line breaks, what controls terminals or reverses the direction of text, unpaired surrogates, and what XML forbids.
_CONTROL = re.compile('[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]')

# How to fix errors of the system, by number.
_FIXES = {
    errno.ENOSPC: 'free disk space and run again',
    errno.EDQUOT: 'free disk space within your quota and run again',
    errno.EACCES: 'change its permissions, or choose another path',
    errno.EPERM: 'change its permissions, or choose another path',
    errno.EROFS: 'choose another folder',
    errno.ENAMETOOLONG: 'use a shorter path',
    errno.ENOENT: 'check the path',
    errno.ENOTDIR: 'a part of the path is a file, choose another path',
    errno.EISDIR: 'give a file instead',
    errno.EEXIST: 'choose another path',
    errno.ELOOP: 'remove the circular link',
    errno.EMFILE: 'raise the limit of open files (ulimit -n), or use fewer workers',
    errno.ENOMEM: 'free memory, or use fewer workers and a smaller batch',
    errno.EIO: 'check the disk',
}


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False for a path that no file can have, where `Path.is_dir` raises OSError."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether a path is a file; False as in `is_folder`."""
    return os.path.isfile(path)  # noqa: PTH113


@contextmanager
def atomic_path(path: str | os.PathLike, folder: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yield a temporary path; on success sync the file to disk and rename it to `path`, on error remove it.

    The temporary name has the suffix of `path`, from which PIL and OpenCV choose the format. If the process is killed,
    the temporary file remains.

    Args:
        path: Final path; its folder is created if needed.
        folder: Existing folder of the temporary file, on the same file system; default: that of `path`.

    Raises:
        FileExistsError: When `path` is a device or a pipe, which the renamed file would replace.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FileExistsError(f'{short_path(path)} is a device or a pipe: choose another path')
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


class CsvWriter:
    """Writes rows of a CSV file; numbers stay numbers, and no text is a formula in a spreadsheet.

    Text that a spreadsheet would evaluate gets a leading apostrophe, which `csv_text` removes again.

    Args:
        file: Text file opened with newline=''.
    """

    def __init__(self, file: IO[str]) -> None:
        self._rows = csv.writer(file, lineterminator='\n')

    def write(self, cells: Iterable[object]) -> None:
        """Write a row."""
        self._rows.writerow([f"'{c}" if isinstance(c, str) and _FORMULA.match(c) else c for c in cells])


def csv_text(cell: str) -> str:
    """Return the text that `CsvWriter` wrote into a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def describe_os_error(error: OSError) -> str:
    """Describe an error of the system in one line: the file, what happened and how to fix it.

    An error without a number is one of this package, or of a library, and has its own message.
    """
    if error.errno is None:
        return str(error)
    files = ' and '.join(short_path(f) for f in (error.filename, error.filename2) if isinstance(f, (str, bytes)))
    fix = _FIXES.get(error.errno, 'check the path, then run again')
    return f'{files}{": " * bool(files)}{error.strerror or f"error {error.errno}"}; {fix}'


def printable(text: str) -> str:
    """Return text on one line: control characters, and others that outputs cannot hold, are replaced by escapes."""
    return _CONTROL.sub(lambda found: found[0].encode('unicode_escape').decode(), text)


def one_line(text: str, limit: int = 900) -> str:
    """Return text for a message: as `printable`, and shortened in the middle."""
    text = printable(text)
    return text if len(text) <= limit else f'{text[: limit // 3]}…{text[limit // 3 + 1 - limit :]}'


def duration(seconds: float) -> str:
    """Return a time for people: '0.4 s', '45 s', '12 min' or '3.5 h'."""
    if seconds < 60:
        return f'{seconds:.1f} s' if seconds < 9.95 else f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 3570 else f'{seconds / 3600:.1f} h'


def short_path(path: str | bytes | os.PathLike) -> str:
    """Return a path for a message, as `one_line` does."""
    return one_line(os.fsdecode(path), 300)
