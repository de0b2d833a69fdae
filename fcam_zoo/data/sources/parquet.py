"""Parquet files with the bytes of images, as data sets of the Hugging Face Hub have them."""

from __future__ import annotations

import io
import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from threading import Lock
from types import ModuleType
from typing import Any, BinaryIO

from ..._io import one_line
from ..._schema import parse_json
from ...errors import FcamZooError, ImageError, install_hint
from .base import MAX_NAME, ImageSource, safe_id
from .shards import Shard, UniqueIds, digest_of, index_bar, label_text, number_labels
from .store_reader import check_bytes

KEPT_GROUPS = 2
"""Row groups that a process keeps, because the threads of a run read neighboring images."""

MAX_GROUP = 2 * 2**30
"""Largest size in bytes of a column of a row group; the images of a row group are read as a whole."""


MAX_ROWS = 20_000_000
"""Largest number of rows of a file; the ids of so many need 2 GB of memory."""

MAX_TEXT = 256 * 2**20
"""Bytes of paths and labels that are in memory at a time."""


@dataclass(frozen=True)
class _Columns:
    """The columns of a file.

    Attributes:
        image: Column of the image bytes.
        is_struct: Whether it is a struct with the fields `bytes` and `path`.
        label: Column of labels; empty without one.
        names: Names of the classes of whole numbers, if the file has them.
    """

    image: str
    is_struct: bool
    label: str = ''
    names: tuple[str, ...] = ()

    @property
    def leaf(self) -> str:
        return f'{self.image}.bytes' if self.is_struct else self.image

    @property
    def texts(self) -> list[str]:
        return [f'{self.image}.path'] * self.is_struct + [self.label] * bool(self.label)


class ParquetFiles(ImageSource):
    """The images in Parquet files (extra `parquet`), which are read one row group at a time.

    The images are a struct column with the fields `bytes` and `path`, or a binary column: the image column of the Hub's
    metadata, else `image`, else the only such column. Labels are the column `label`, if there is one: whole numbers,
    whose names are in the Hub's metadata, or class names. Ids are the paths of a file, if they are unique and can be
    written, else the numbers of the rows; with several files, `<stem of the file>/<id>`.

    Args:
        shards: The files.
        progress: Show a progress bar, which moves after each file, while their names and labels are read.

    Raises:
        ImportError: Without pyarrow.
    """

    def __init__(self, shards: Sequence[Shard], progress: bool = False) -> None:
        import_pyarrow()
        self.shards: tuple[Shard, ...] = ()
        self._columns: list[_Columns] = []
        self._groups: list[list[int]] = []  # First row of each row group, and the number of rows, for each file.
        self._first = [0]  # First image of each file, and the number of images.
        problems: list[str] = []
        ids: list[str] = []
        texts: list[str | None] = []
        unique = UniqueIds()
        with index_bar(shards, progress) as bar:
            for shard in shards:
                try:
                    columns, groups, paths, labels = _read_index(shard)
                    new = _ids(unique, shard, paths)
                except (FcamZooError, OSError) as e:
                    problems.append(str(e))
                    continue
                finally:
                    bar.update(shard.size)
                self.shards += (shard,)
                self._columns.append(columns)
                self._groups.append(groups)
                ids += new
                texts += labels
                self._first.append(len(ids))
        self.ids, self.problems = tuple(ids), tuple(problems)
        self._labels: array[int] | None = None
        try:
            self._number(texts)
        except ValueError as e:
            self.label_problem = str(e)
        self.digest = digest_of(self.shards, ids)
        self._caches: dict[int, _GroupCache] = {}  # By process: after a fork, a lock might be held forever.

    def _number(self, texts: Sequence[str | None]) -> None:
        """Set class names and labels."""
        known = {columns.names for columns in self._columns if columns.names}
        if len(known) > 1:
            raise ValueError(f'{self.shards[0].name}: the files have different class names; label them separately')
        if not (numbered := number_labels(texts, self.shards)):
            return
        names = known.pop() if known else numbered[0]
        if max(numbered[1]) >= len(names):
            raise ValueError(f'{self.shards[0].name}: {len(names)} class names for larger labels; correct them')
        self.class_names, self._labels = names, array('l', numbered[1])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the row groups that this process keeps."""
        return {**self.__dict__, '_caches': {}}

    def part(self, images: range) -> ParquetFiles:
        """Return consecutive images as a source of their own, with their files."""
        part = copy(self)
        part._caches = {}
        chosen = slice(images.start, images.stop)
        part.ids, part.problems = self.ids[chosen], ()
        first, last = (self._row(index)[0] for index in (images[0], images[-1])) if images else (0, -1)
        files = slice(first, last + 1)
        part.shards, part._columns, part._groups = self.shards[files], self._columns[files], self._groups[files]
        # Negative if the part begins in the middle of its first file.
        part._first = [number - images.start for number in self._first[first : last + 2]]
        part._labels = None if self._labels is None else self._labels[chosen]
        return part

    def open(self, index: int) -> BinaryIO:
        """Read an image into memory, with the images of its row group."""
        number, row = self._row(index)
        group = bisect_right(self._groups[number], row) - 1
        # The threads of a process get the same one: `setdefault` is atomic.
        cache = self._caches.setdefault(os.getpid(), _GroupCache())
        column = cache.get(self.shards[number], self._columns[number].leaf, group)
        name = self.describe(index)
        row -= self._groups[number][group]
        if row >= len(column):
            raise ImageError(f'{one_line(name)}: the file became shorter during the run; run again')
        value = column[row]
        if not value.is_valid:
            raise ImageError(f'{one_line(name)}: the row has no image bytes; remove it')
        content = value.as_buffer()
        check_bytes(content.size, name)
        return io.BytesIO(content)

    def _row(self, index: int) -> tuple[int, int]:
        """Return the number of the file, and the row in it."""
        index = range(len(self))[index]
        number = bisect_right(self._first, index) - 1
        return number, index - self._first[number]

    def describe(self, index: int) -> str:
        """Return the file and the id in it."""
        return f'{self.shards[self._row(index)[0]].public_place}/{self.inner_name(index)}'

    def inner_name(self, index: int) -> str:
        """Return the id in the file."""
        return self.ids[index].removeprefix(self.shards[self._row(index)[0]].prefix)

    def local_files(self) -> Iterator[str]:
        """List the files of this machine."""
        return (shard.place for shard in self.shards if '://' not in shard.place)

    def label(self, index: int) -> int | None:
        """Return the label of an image."""
        return None if self._labels is None or self._labels[index] < 0 else self._labels[index]


class _GroupCache:
    """The image columns of the row groups that were read last."""

    def __init__(self) -> None:
        self._lock, self._kept = Lock(), OrderedDict[tuple[str, int], Any]()

    def get(self, shard: Shard, leaf: str, group: int) -> Any:
        """Return the image column of a row group."""
        key = (shard.place, group)
        with self._lock:  # Threads wait for a group, instead of reading it several times.
            if key not in self._kept:
                while len(self._kept) >= KEPT_GROUPS:
                    self._kept.popitem(last=False)
                self._kept[key] = _read_group(shard, leaf, group)
            self._kept.move_to_end(key)
            return self._kept[key]


def import_pyarrow(extra: str = 'parquet') -> ModuleType:
    """Import PyArrow with its reader of Parquet files.

    Raises:
        ImportError: When it is not installed; the message says how to install the extra.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise ImportError(f'Parquet files need PyArrow: {install_hint(extra)}') from e
    return pyarrow


def _read_group(shard: Shard, leaf: str, group: int) -> list[Any]:
    """Read the image column of a row group."""

    def read(file: Any) -> list[Any]:
        values: list[Any] = []
        size = 0
        # Few bytes in a dictionary may be the values of many rows, so rows are read one by one. Without threads of
        # Arrow: this may be a forked process.
        for batch in file.iter_batches(batch_size=1, row_groups=[group], columns=[leaf], use_threads=False):
            column = batch.column(0)
            size += batch.nbytes
            if size > MAX_GROUP:
                raise _group_error(shard, leaf, size)
            values += column.field('bytes') if leaf.endswith('.bytes') and hasattr(column, 'field') else column
        return values

    found: list[Any] = _with_file(shard, read)
    return found


def _with_file(shard: Shard, read: Any) -> Any:
    """Call a function with an opened Parquet file, and convert the errors of Arrow."""
    try:
        with shard.open() as raw, import_pyarrow().parquet.ParquetFile(raw, pre_buffer=False) as file:
            return read(file)
    except (FcamZooError, FileNotFoundError, ImportError):
        raise
    except Exception as e:  # Damaged files raise many kinds of errors.
        problem = one_line((str(e).splitlines() or [''])[0], 200) or type(e).__name__
        raise ImageError(f'{shard.name}: cannot be read as Parquet ({problem}); write the file again') from e


def _read_index(shard: Shard) -> tuple[_Columns, list[int], list[str | None], list[str | None]]:
    """Return the columns, first rows of the groups, paths and labels of a file."""

    def read(file: Any) -> tuple[_Columns, list[int], list[str | None], list[str | None]]:
        columns = _find_columns(file.schema_arrow, shard)
        groups, paths, labels = [0], list[str | None](), list[str | None]()
        for group in range(file.num_row_groups):
            _check_group(file.metadata.row_group(group), columns, shard)
            groups.append(groups[-1] + file.metadata.row_group(group).num_rows)
            if groups[-1] > MAX_ROWS:
                raise ImageError(f'{shard.name}: has more than {MAX_ROWS} rows; write several files')
            _add_texts(file, group, columns, (paths, labels))
            if not len(paths) == len(labels) == groups[-1]:
                raise ImageError(f'{shard.name}: a row group has another number of rows than it says; write it again')
        return columns, groups, paths, labels

    index: tuple[_Columns, list[int], list[str | None], list[str | None]] = _with_file(shard, read)
    return index


def _add_texts(file: Any, group: int, columns: _Columns, texts: tuple[list[str | None], list[str | None]]) -> None:
    """Add the paths and labels of a row group, in batches of limited size, to two lists."""
    paths, labels = texts
    about = file.metadata.row_group(group)
    sizes = [
        about.column(n).total_uncompressed_size
        for n in range(about.num_columns)
        if about.column(n).path_in_schema in columns.texts
    ]
    if not sizes:
        paths += [None] * about.num_rows
        labels += [None] * about.num_rows
        return
    # No value is larger than its column, but each row may have this value of a dictionary.
    rows = min(max(1, MAX_TEXT // max(1, *sizes)), 10_000)
    for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=columns.texts, use_threads=False):
        found = dict(zip(batch.schema.names, batch.columns))
        values = found[columns.image].to_pylist() if columns.image in found else []
        paths += [_short((value or {}).get('path')) for value in values] or [None] * batch.num_rows
        values = found[columns.label].to_pylist() if columns.label in found else [None] * batch.num_rows
        labels += [label_text(_short(value)) for value in values]


def _short(value: Any) -> Any:
    """Return a path or label; None for one that is too long to be used."""
    return None if isinstance(value, str) and len(value) > MAX_NAME else value


def _check_group(group: Any, columns: _Columns, shard: Shard) -> None:
    """Refuse a row group that says it is too large. PyArrow does not show what its pages say, see docs/label.md."""
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema in (columns.leaf, *columns.texts) and column.total_uncompressed_size > MAX_GROUP:
            raise _group_error(shard, column.path_in_schema, column.total_uncompressed_size)


def _group_error(shard: Shard, column: str, size: int) -> ImageError:
    return ImageError(
        f'{shard.name}: a row group has {size} bytes in the column {one_line(column)}, more than the limit of '
        f'{MAX_GROUP}; write row groups of about 100 images'
    )


def _ids(unique: UniqueIds, shard: Shard, paths: Sequence[str | None]) -> list[str]:
    """Return ids: the paths if they are unique and can be written, else the numbers of the rows."""
    names = [safe_id(path) if isinstance(path, str) and path else None for path in paths]
    with suppress(ImageError):
        if None not in names:
            return unique.add_all(shard, [name for name in names if name is not None])
    return unique.add_all(shard, [f'{row:08d}' for row in range(len(paths))])


def _find_columns(schema: Any, shard: Shard) -> _Columns:
    """Choose the columns of images and labels."""
    import pyarrow as pa

    def is_binary(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    kinds = dict(zip(schema.names, schema.types))
    structs = {name for name, kind in kinds.items() if pa.types.is_struct(kind) and _has_bytes(kind, is_binary)}
    images = [name for name, kind in kinds.items() if name in structs or is_binary(kind)]
    features = _features(schema)
    marked = [name for name in images if features.get(name, {}).get('_type') == 'Image']
    image = marked[0] if marked else 'image' if 'image' in images else images[0] if len(images) == 1 else ''
    if not image:
        raise ImageError(
            f'{shard.name}: no column with the bytes of images among {one_line(", ".join(kinds), 200)}; name it image'
        )
    classes = [name for name, feature in features.items() if feature.get('_type') == 'ClassLabel' and name in kinds]
    label = 'label' if 'label' in kinds else classes[0] if classes else ''
    if label and not (pa.types.is_integer(kinds[label]) or pa.types.is_string(kinds[label])):
        label = ''
    names = features.get(label, {}).get('names') or []
    return _Columns(image, image in structs, label, tuple(map(str, names)))


def _has_bytes(kind: Any, is_binary: Any) -> bool:
    return any(kind.field(i).name == 'bytes' and is_binary(kind.field(i).type) for i in range(kind.num_fields))


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return the Hub's description of the columns; empty if there is none, or it is damaged."""
    try:
        features = parse_json((schema.metadata or {}).get(b'huggingface', b'{}'))['info']['features']
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
