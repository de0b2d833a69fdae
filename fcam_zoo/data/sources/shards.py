"""What tar shards and Parquet files have in common: their files, the names of their images, and their labels."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from ..._io import one_line, short_path
from ..._schema import show
from ...errors import ImageError
from ..images import open_file
from ..values import MAX_CLASSES
from .base import safe_id
from .local import absolute
from .store_reader import StoredObject, open_object, read_range
from .urls import is_url, path_of_url, public_url, shown

BAR_DELAY = 1.0
"""Seconds after which the progress bar of an index appears."""


@dataclass(frozen=True)
class Shard:
    """A file with many images.

    Attributes:
        place: Path or URL.
        size: Bytes.
        stamp: What changes with its content: modification time or ETag.
        prefix: Before the ids of its images; empty, or a name with a slash.
    """

    place: str
    size: int
    stamp: str
    prefix: str

    @property
    def name(self) -> str:
        """Return the place for messages."""
        return one_line(self.public_place, 300)

    @property
    def public_place(self) -> str:
        """Return the path, or the URL without the parts that may hold keys."""
        return public_url(self.place)

    def open(self) -> BinaryIO:
        """Open the file; errors are those of `open_file` or `open_object`."""
        if is_url(self.place):
            return open_object(StoredObject(self.place, self.size, self.stamp))
        return open_file(self.place, 'shard')

    def read(self, start: int, size: int) -> bytes:
        """Read bytes of the file; errors are those of `open_file` or `read_range`."""
        if is_url(self.place):
            return read_range(self.place, start, size)
        with open_file(self.place, 'shard') as file:
            file.seek(start)
            return file.read(size)


def find_shards(found: Iterable[str | StoredObject], problems: list[str]) -> list[Shard]:
    """Return the shards of files and objects, each once; errors are added to `problems`.

    The prefix of a shard is empty if it is the only one; otherwise its stem or, if stems are not unique, its path
    relative to the common parent.
    """
    files = {str(absolute(Path(f))) if isinstance(f, str) else f.url: f for f in found}
    prefixes = _prefixes([path_of_url(key) if is_url(key) else key for key in files])
    shards = []
    for file, prefix in zip(files.values(), prefixes):
        try:
            shard = _find_shard(file, prefix)
            if prefix and safe_id(f'{prefix}a') is None:
                raise ImageError(f'{shard.name}: annotation files cannot hold the name of this shard; rename the shard')
        except (ValueError, OSError) as e:
            problems.append(str(e))
        else:
            shards.append(shard)
    return shards


def _find_shard(file: str | StoredObject, prefix: str) -> Shard:
    if isinstance(file, StoredObject):
        if file.size < 0:
            raise ImageError(f'{shown(file.url)}: the server does not report its size; download the file')
        return Shard(file.url, file.size, file.stamp, prefix)
    with open_file(file, 'shard'):
        about = Path(file).stat()
    return Shard(file, about.st_size, str(about.st_mtime_ns), prefix)


def _prefixes(paths: Sequence[str]) -> list[str]:
    """Return different prefixes, of as few parts of the paths as possible; equal paths of two stores are numbered."""
    if len(paths) < 2:
        return [''] * len(paths)
    stems = [_parts(path) for path in paths]
    names: list[str] = []
    for number in range(1, max(len(parts) for parts in stems) + 1):
        names = ['/'.join(parts[-number:]) for parts in stems]
        if len(set(names)) == len(names):
            break
    chosen: dict[str, None] = {}
    for name in names:
        ways = (name if number == 1 else f'{name}-{number}' for number in itertools.count(1))
        chosen[next(way for way in ways if way not in chosen and (way == name or way not in names))] = None
    return [f'{name}/' for name in chosen]


def _parts(path: str) -> list[str]:
    """Return the parts of a path without its suffix, and without those that lead out of a folder."""
    parts = PurePosixPath(path.replace('\\', '/')).with_suffix('').parts
    return [clean for part in parts if (clean := part.strip('/:')) not in ('', '.', '..')] or ['shard']


def index_bar(shards: Sequence[Shard], progress: bool) -> tqdm:
    """Return a progress bar on stderr for the bytes of shards, shown if wanted and after `BAR_DELAY`."""
    total = sum(shard.size for shard in shards)
    return tqdm(total=total, desc='index of shards', unit='B', unit_scale=True, disable=not progress, delay=BAR_DELAY)


class UniqueIds:
    """Chooses the ids of the images of shards, so that none repeats or leaves the folder of annotations."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def add(self, shard: Shard, name: str) -> str:
        """Return the id of an image with this name in a shard.

        Raises:
            ImageError: When the name cannot be written, or another image has the id.
        """
        image_id = None if safe_id(name) is None else safe_id(shard.prefix + name)
        place = f'{shard.name}/{one_line(name)}'
        if image_id is None:
            raise ImageError(f'{place}: annotation files cannot hold this name; rename the member')
        if image_id in self._known:
            raise ImageError(f'{place}: there is an earlier image of this name, which is used; rename one')
        self._known.add(image_id)
        return image_id

    def add_all(self, shard: Shard, names: Sequence[str]) -> list[str]:
        """Return the ids of all images of a shard, or raise the errors of `add` without a change."""
        ids: list[str] = []
        try:
            for name in names:
                ids.append(self.add(shard, name))
        except ImageError:
            self._known.difference_update(ids)
            raise
        return ids


def label_text(value: object) -> str | None:
    """Return a label as text; None for null, -1 and empty text, which images without label have."""
    text = '' if value is None else str(value).strip()
    return None if text in ('', '-1') else text


def digest_of(shards: Iterable[Shard], ids: Iterable[str]) -> str:
    """Return the digest of a source of shards."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f'{shard.prefix}\0{shard.size}\0{shard.stamp}\n'.encode())
    for image_id in ids:
        digest.update(f'{image_id}\n'.encode(errors='surrogatepass'))
    return digest.hexdigest()


def number_labels(texts: Sequence[str | None], shards: Sequence[Shard]) -> tuple[tuple[str, ...], list[int]] | None:
    """Number the labels of images; whole numbers are used unchanged, names are numbered in sorted order.

    The names of numbers are the lines of `classes.txt` in the folder of the first shard or in its parent, else the
    numbers. These lines also number names.

    Args:
        texts: Label of each image as text; None for an image without label.
        shards: Their files.

    Returns:
        Class names, and the label of each image, -1 without one; None if no image has a label.

    Raises:
        ValueError: For a number that is too large, or a name that is not in `classes.txt`.
    """
    values = {text for text in texts if text is not None}
    if not values:
        return None
    names = _class_file(shards[0].place)
    if all(value.isascii() and value.isdigit() and len(value) < 10 for value in values):
        numbers = {value: int(value) for value in values}
        largest = max(numbers.values())
        if largest >= (len(names) or MAX_CLASSES):
            raise ValueError(f'{shards[0].name}: the label {largest} is too large; number the classes from 0')
        names = names or [str(number) for number in range(largest + 1)]
    else:
        if names and (unknown := sorted(values - set(names))):
            raise ValueError(f'{shards[0].name}: the class {show(unknown[0])} is not in classes.txt; add it as a line')
        names = names or sorted(values)
        numbers = {name: number for number, name in enumerate(names)}
    return tuple(names), [-1 if text is None else numbers[text] for text in texts]


def _class_file(place: str) -> list[str]:
    """Read `classes.txt` beside a local file or in the parent folder; empty if there is none."""
    if is_url(place):
        return []
    for folder in absolute(Path(place)).parents[:2]:
        file = folder / 'classes.txt'
        if file.is_file():
            with open_file(file, 'text file') as lines:
                names = [line.strip() for line in lines.read().decode('utf-8-sig', 'replace').rstrip().splitlines()]
            if not all(names) or len(set(names)) < len(names):
                raise ValueError(f'{short_path(file)}: has an empty or repeated line; write one class name per line')
            return names
    return []
