"""Tar shards as WebDataset writes them; members are indexed once by their headers, then read by their offset."""

from __future__ import annotations

import io
import logging
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from ..._io import one_line
from ..._threads import started_early, threads
from ...errors import ImageError
from ..images import SUFFIXES, describe_skipped
from .base import MAX_BYTES, ImageSource
from .shards import Shard, UniqueIds, digest_of, index_bar, label_text, number_labels
from .urls import is_url

logger = logging.getLogger(__name__)

COMPRESSED = ('.tar.gz', '.tgz', '.tar.bz2', '.tbz2', '.tar.xz', '.txz', '.tar.zst', '.tar.lz4')
"""Suffixes of compressed archives, whose members cannot be read by their offset."""

THREADS = 16
"""Shards of stores that are indexed at the same time."""

_LABEL, _NOTE = '.cls', '.json'
_MAX_LABEL, _MAX_NOTE, _MAX_HEADER = 1000, 2**20, 2**20  # Bytes.
_TAIL = 2**20  # Bytes after the end mark that are checked.
_MAGIC = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')


class TarShards(ImageSource):
    """The images in tar files, without extracting them.

    An image is a member with the suffix of an image. A member `<key>.cls` holds the label of the images of this key: a
    whole number or a class name. As in WebDataset, a key is the name up to the first dot after the last slash. Ids are
    the names of the members; with several shards, `<stem of the shard>/<name>`.

    Args:
        shards: The files.
        progress: Show a progress bar while they are indexed.
    """

    def __init__(self, shards: Sequence[Shard], progress: bool = False) -> None:
        self.shards = tuple(shards)
        self._shard, self._start, self._size = array('l'), array('q'), array('q')
        self._note_start, self._note_size = array('q'), array('q')
        problems: list[str] = []
        ids: list[str] = []
        texts: list[str | None] = []
        skipped: list[str] = []
        unique = UniqueIds()
        # Threads wait for stores; the headers of files are read as fast by one.
        number_of_threads = THREADS if any(is_url(shard.place) for shard in shards) else 1
        with index_bar(shards, progress) as bar, threads(number_of_threads) as pool:
            jobs = (pool.submit(_ShardIndex(shard, bar).read) for shard in shards)
            for number, job in enumerate(started_early(jobs, 2 * number_of_threads)):
                index = job.result()
                images = index.images(unique)
                ids += images
                self._shard.extend([number] * len(images))
                self._start.extend(start for start, _ in images.values())
                self._size.extend(size for _, size in images.values())
                notes = [index.notes.get(key_of(image_id), (0, -1)) for image_id in images]
                self._note_start.extend(start for start, _ in notes)
                self._note_size.extend(size for _, size in notes)
                texts += [index.labels.get(key_of(image_id)) for image_id in images]
                problems += index.problems
                skipped += index.skipped
        if skipped:
            logger.warning('%s', describe_skipped(skipped))
        self.ids, self.problems = tuple(ids), tuple(problems)
        self._labels: array[int] | None = None
        try:
            if numbered := number_labels(texts, shards):
                self.class_names, self._labels = numbered[0], array('l', numbered[1])
        except ValueError as e:
            self.label_problem = str(e)
        self.digest = digest_of(shards, ids)

    def part(self, images: range) -> TarShards:
        """Return consecutive images as a source of their own, with their shards."""
        part = copy(self)
        chosen = slice(images.start, images.stop)
        part.ids, part.problems = self.ids[chosen], ()
        numbers = self._shard[chosen]
        first, last = (numbers[0], numbers[-1]) if numbers else (0, -1)
        part.shards = self.shards[first : last + 1]
        part._shard = array('l', (number - first for number in numbers))
        part._start, part._size = self._start[chosen], self._size[chosen]
        part._note_start, part._note_size = self._note_start[chosen], self._note_size[chosen]
        part._labels = None if self._labels is None else self._labels[chosen]
        return part

    def open(self, index: int) -> BinaryIO:
        """Read a member into memory."""
        size, name = self._size[index], self.describe(index)
        if size > MAX_BYTES:
            raise ImageError(f'{one_line(name)}: {size} bytes are more than the limit of {MAX_BYTES}; resize the image')
        content = self.shards[self._shard[index]].read(self._start[index], size)
        if len(content) < size:
            raise ImageError(f'{one_line(name)}: the shard became shorter during the run; run again')
        return io.BytesIO(content)

    def describe(self, index: int) -> str:
        """Return the shard and the name of the member."""
        return f'{self.shards[self._shard[index]].public_place}/{self.inner_name(index)}'

    def inner_name(self, index: int) -> str:
        """Return the name of the member."""
        return self.ids[index].removeprefix(self.shards[self._shard[index]].prefix)

    def local_files(self) -> Iterator[str]:
        """List the shards that are files."""
        return (shard.place for shard in self.shards if '://' not in shard.place)

    def label(self, index: int) -> int | None:
        """Return the label of an image."""
        return None if self._labels is None or self._labels[index] < 0 else self._labels[index]

    def sidecar_json(self, index: int) -> bytes | None:
        """Read the member `.json` of an image."""
        size = self._note_size[index]
        return None if size < 0 else self.shards[self._shard[index]].read(self._note_start[index], size)


def key_of(name: str) -> str:
    """Return the key of a member: its path up to the first dot of its name."""
    folder, slash, file = name.rpartition('/')
    return f'{folder}{slash}{file.split(".", 1)[0]}'


class _Headers:
    """A file for tarfile, which would read headers of any size into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Read a header."""
        if size > _MAX_HEADER:
            raise tarfile.ReadError(f'a header of {size} bytes')
        return self._file.read(size)


@dataclass
class _ShardIndex:
    """The members of a shard.

    Attributes:
        shard: The shard.
        bar: Progress bar for the bytes of all shards, which several threads move.
        members: Name, start and size of each image.
        labels: Text of `.cls` by key, with the prefix of the shard.
        notes: Start and size of `.json` by key.
        damage: What is wrong with the shard after these members; empty if nothing is.
        problems: Members that are left out.
        skipped: Names of members that are not images.
        seen: Bytes that the bar knows.
    """

    shard: Shard
    bar: tqdm
    members: list[tuple[str, int, int]] = field(default_factory=list)
    labels: dict[str, str | None] = field(default_factory=dict)
    notes: dict[str, tuple[int, int]] = field(default_factory=dict)
    damage: str = ''
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seen: int = 0

    def read(self) -> _ShardIndex:
        """Read the headers up to the end or to the damage, and return this index."""
        try:
            with self.shard.open() as file:
                self._read_members(file)
        except (ImageError, OSError) as e:
            self.damage = str(e)
        except (tarfile.TarError, ValueError, ArithmeticError, RecursionError) as e:
            reason = one_line(str(e), 200)
            self.damage = f'{self.shard.name}: truncated, damaged or not a tar file: {reason}; write it again'
        self._advance(self.shard.size - self.seen)
        return self

    def images(self, unique: UniqueIds) -> dict[str, tuple[int, int]]:
        """Return start and size of the images by their ids; damage, and images without an id, become problems."""
        images = {}
        for name, start, size in self.members:
            try:
                images[unique.add(self.shard, name)] = start, size
            except ImageError as e:
                self.problems.append(str(e))
        if self.damage:
            self.problems.append(f'{self.damage} ({len(images)} images before the break are used)')
        return images

    def _advance(self, size: int) -> None:
        with self.bar.get_lock():
            self.bar.update(size)
        self.seen += size

    def _read_members(self, file: BinaryIO) -> None:
        start = file.read(8)
        if start.startswith(_MAGIC):
            raise tarfile.ReadError('it is compressed, so members cannot be read by their offset; decompress it')
        file.seek(0)
        with tarfile.TarFile(fileobj=_Headers(file)) as archive:  # type: ignore[arg-type]
            while (member := archive.next()) is not None:
                # The list of all members would need more memory than the index itself.
                archive.members = []  # type: ignore[attr-defined]  # Its list is not public.
                if member.size < 0 or member.offset_data + member.size > self.shard.size:
                    raise tarfile.ReadError(f'{one_line(member.name, 100)} is incomplete')
                self._advance(archive.offset - member.offset)
                if member.isreg() and not member.issparse():
                    self._add(member, file)
                elif not member.isdir():
                    self.problems.append(f'{self.shard.name}/{one_line(member.name)}: a link or special file; left out')
            self._check_end(file, archive.offset)

    def _add(self, member: tarfile.TarInfo, file: BinaryIO) -> None:
        name = PurePosixPath(member.name)
        if any(part.startswith('.') and part != '..' for part in name.parts):
            self.skipped.append(member.name)
            return
        suffix = name.suffix.lower()
        if suffix == _LABEL and member.size <= _MAX_LABEL:
            file.seek(member.offset_data)
            text = label_text(file.read(member.size).decode('utf-8', 'replace'))
            self.labels[key_of(self.shard.prefix + name.as_posix())] = text
        elif suffix == _NOTE and member.size <= _MAX_NOTE:
            self.notes[key_of(self.shard.prefix + name.as_posix())] = (member.offset_data, member.size)
        elif suffix in SUFFIXES:
            self.members.append((member.name, member.offset_data, member.size))
        elif suffix not in (_LABEL, _NOTE, '.txt'):
            self.skipped.append(member.name)

    def _check_end(self, file: BinaryIO, offset: int) -> None:
        """Check that the archive has an end mark of zeros, and nothing after it; tarfile does not."""
        file.seek(offset)
        mark = file.read(tarfile.BLOCKSIZE)
        if mark.strip(b'\0') or len(mark) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError('no end mark after the last member')
        if file.read(_TAIL).strip(b'\0'):
            raise tarfile.ReadError('more data after its end mark, which is not read')
