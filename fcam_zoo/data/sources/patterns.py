"""Patterns, ranges and lists of paths and URLs."""

from __future__ import annotations

import glob
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..._io import short_path
from ...errors import ImageError
from ..images import open_file
from .store_reader import read_object
from .urls import is_url, public_url

MAX_RANGE = 1_000_000
"""Largest number of names that ranges in braces stand for."""

_RANGE = re.compile(r'\{(\d{1,9})\.\.(\d{1,9})\}')


def expand_range(text: str) -> Iterator[str]:
    """Expand ranges of numbers as shells do: `a-{08..10}.tar` is `a-08.tar`, `a-09.tar`, `a-10.tar`.

    Raises:
        ImageError: For a range that is empty or has too many numbers.
    """
    parts = _RANGE.split(text)
    if len(parts) == 1 or os.path.lexists(text):
        yield text
        return
    bounds = list(zip(parts[1::3], parts[2::3]))
    sizes = [int(last) - int(first) + 1 for first, last in bounds]
    total = 1
    for size in sizes:
        total *= max(0, size)
    if not 0 < total <= MAX_RANGE:
        raise ImageError(
            f'{short_path(public_url(text))}: the range has {total} numbers; give 1 to {MAX_RANGE}, the smaller first'
        )
    # Leading zeros are kept.
    choices = [[f'{n:0{len(first)}d}' for n in range(int(first), int(last) + 1)] for first, last in bounds]
    for chosen in itertools.product(*choices):
        yield parts[0] + ''.join(number + rest for number, rest in zip(chosen, parts[3::3]))


def is_local_pattern(text: str) -> bool:
    """Return whether text is a pattern of paths; a file that has this very name is not."""
    return glob.has_magic(text) and not os.path.lexists(text)


def matches(pattern: str) -> list[Path]:
    """List the files and folders that match a pattern, sorted, without hidden ones; `**` is any number of folders."""
    return sorted(Path(path) for path in glob.glob(pattern, recursive=True))  # noqa: PTH207


def fixed_folder(pattern: str) -> str:
    """Return the folder before the first part of a pattern that is not fixed; '.' if there is none."""
    scheme, separator, path = pattern.rpartition('://')
    parts = path.replace(os.sep, '/').split('/')
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts[:-1]))
    if not fixed:
        return '.'
    return scheme + separator + ('/'.join(fixed) or '/')


def read_list(place: str) -> tuple[str, list[tuple[str, str]]]:
    """Read a text file with one path or URL per line.

    Args:
        place: Path or URL of the file, or '-' for standard input.

    Returns:
        The folder that lines are relative to, and for each line that is not empty its text and the path or URL.

    Raises:
        FileNotFoundError, ImageError: When the file cannot be read.
    """
    if place == '-':
        folder, content = '.', sys.stdin.buffer.read()
    elif is_url(place):
        folder, content = place.rpartition('/')[0], read_object(place)
    else:
        folder = str(Path(place).parent)
        with open_file(place, 'text file') as file:
            content = file.read()
    if b'\0' in content:
        raise ImageError(f'{short_path(public_url(place))}: not a text file of paths, one per line')
    lines = [line.strip() for line in os.fsdecode(content.removeprefix(b'\xef\xbb\xbf')).splitlines()]
    return folder, [(line, _join(folder, line)) for line in lines if line]


def _join(folder: str, line: str) -> str:
    if is_url(line):
        return line
    return f'{folder}/{line}' if is_url(folder) else str(Path(folder) / line)
