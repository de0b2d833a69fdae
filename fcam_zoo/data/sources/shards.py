"""What tar shards and Parquet files have in common: their files, the names of their images, and their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..._io import one_line, short_path
from ..._schema import show
from ..images import open_file
from ..values import MAX_CLASSES
from .local import absolute
from .store import StoredObject, is_url, open_object, path_of_url, read_range


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
        return one_line(self.place, 300)

    def open(self) -> BinaryIO:
        """Open the file; errors are those of `open_file` or `open_object`."""
        if is_url(self.place):
            return open_object(StoredObject(self.place, self.size, self.stamp))
        return open_file(self.place)

    def read(self, start: int, size: int) -> bytes:
        """Read bytes of the file; errors are those of `open_file` or `read_range`."""
        if is_url(self.place):
            return read_range(self.place, start, size)
        with open_file(self.place) as file:
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
        if isinstance(file, StoredObject):
            if file.size < 0:
                problems.append(f'{one_line(file.url)}: the server does not report its size; download the file')
            else:
                shards.append(Shard(file.url, file.size, file.stamp, prefix))
            continue
        try:
            with open_file(file):
                about = Path(file).stat()
        except (ValueError, OSError) as e:
            problems.append(str(e))
        else:
            shards.append(Shard(file, about.st_size, str(about.st_mtime_ns), prefix))
    return shards


def _prefixes(paths: Sequence[str]) -> list[str]:
    if len(paths) < 2:
        return [''] * len(paths)
    stems = [PurePosixPath(path.replace('\\', '/')).with_suffix('') for path in paths]
    for parts in range(1, max(len(stem.parts) for stem in stems) + 1):
        names = ['/'.join(part.strip('/:') for part in stem.parts[-parts:]) for stem in stems]
        if len(set(names)) == len(names):
            break
    return [f'{name}/' for name in names]


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
            with open_file(file) as lines:
                names = [line.strip() for line in lines.read().decode('utf-8-sig', 'replace').rstrip().splitlines()]
            if not all(names) or len(set(names)) < len(names):
                raise ValueError(f'{short_path(file)}: has an empty or repeated line; write one class name per line')
            return names
    return []
