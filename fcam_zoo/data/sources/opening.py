"""Open any source: what its arguments are is recognized by their form."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..._io import is_folder, short_path
from ...errors import FcamZooError, ImageError
from ..images import SUFFIXES, describe_skipped
from ..paths import as_texts
from .base import ImageSource
from .joined import JoinedSource
from .local import Argument, LocalFiles, shard_hint
from .parquet import ParquetFiles
from .patterns import expand_range, fixed_folder, is_local_pattern, matches, read_list
from .remote import RemoteFiles
from .shards import find_shards
from .store_reader import StoredObject, check_client, find_objects
from .tar import COMPRESSED, TarShards
from .urls import is_pattern, is_url, path_of_url, public_url, suffix_of

logger = logging.getLogger(__name__)

NOTHING = 'no image to localize: give image files or folders of images'


def open_source(
    where: ImageSource | str | os.PathLike | Iterable[str | os.PathLike],
    *,
    leave_out: str | os.PathLike | None = None,
    progress: bool = False,
) -> ImageSource:
    """Find images, without reading them.

    Args:
        where: One or more of: image files and folders; patterns such as `photos/**/*.jpg`; text files (`.txt`) with a
            path or URL per line, or `-` for standard input; URLs of objects, folders or patterns that fsspec knows
            (`s3://`, `gs://`, `hf://datasets/…`, `https://`); tar shards (`.tar`) and Parquet files (`.parquet`), also
            by URL, as a pattern, or with a range (`shard-{000..012}.tar`). A source is returned unchanged.
        leave_out: Images of folders and patterns are left out if they are in this folder.
        progress: Show a progress bar on stderr while shards are indexed, if it takes more than a second.

    Raises:
        FileNotFoundError: When no image is left.
        ImageError: For a range (`{000..012}`) that is empty or too large.
        ImportError: When a source needs a library that is not installed.
        TypeError: When `where` holds other objects than paths.
        ValueError: For a compressed tar file.
    """
    if isinstance(where, ImageSource):
        return where
    plan = SourcePlan()
    for text in as_texts(where):
        plan.add_argument(text)
    source = plan.open(None if leave_out is None else Path(leave_out), progress)
    source.problems = (*plan.problems, *source.problems)
    if plan.skipped:
        logger.warning('%s', describe_skipped(plan.skipped))
    if not source.ids:
        raise FileNotFoundError('; '.join(source.problems[:3]) or NOTHING)
    return source


@dataclass
class SourcePlan:
    """What the arguments of a source stand for."""

    local: list[Argument] = field(default_factory=list)
    remote: list[tuple[StoredObject, str]] = field(default_factory=list)
    tars: list[str | StoredObject] = field(default_factory=list)
    parquets: list[str | StoredObject] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _schemes: set[str] = field(default_factory=set)

    def add_argument(self, text: str) -> None:
        """Add an argument; one that cannot be found becomes a problem."""
        text = text.removeprefix('file://') if text.startswith('file:///') else text
        for place in expand_range(text):
            self._try(self._add_place, place)

    def _try(self, add: Callable[..., None], *arguments: Any) -> None:
        try:
            add(*arguments)
        except (ImportError, _CompressedTar):
            raise
        except (FcamZooError, OSError) as e:
            self.problems.append(str(e))

    def _add_place(self, place: str) -> None:
        if place == '-' or is_list(place):
            self._add_list(place)
        elif is_url(place):
            self._add_url(place)
        elif is_local_pattern(place):
            self._add_pattern(place)
        else:
            self._add_file(place, Argument.of(Path(place)))

    def _add_list(self, place: str) -> None:
        """Add the lines of a list; URLs are not looked up, so that a list of millions opens at once."""
        folder, lines = read_list(place)
        for line, entry in lines:
            self._try(self._add_line, folder, line, entry)

    def _add_line(self, folder: str, line: str, entry: str) -> None:
        if is_url(entry):
            if (scheme := entry.partition('://')[0]) not in self._schemes:
                check_client(entry)
                self._schemes.add(scheme)
            self._add_object(StoredObject(entry), entry.rpartition('/')[0] if is_url(line) else folder)
        else:
            path = Path(entry)
            inside = not Path(line).is_absolute() and '..' not in Path(line).parts
            self._add_file(entry, Argument(path, Path(folder) if inside else Argument.of(path).root))

    def _add_url(self, url: str) -> None:
        check_not_compressed(url)
        found, is_object = find_objects(url)
        if is_object:
            self._add_object(found[0], url.rpartition('/')[0])
            return
        folder = fixed_folder(url) if is_pattern(url) else url
        if not is_pattern(url):
            check_not_only_shards(url, found)
        for entry in found:
            if suffix_of(entry.url) in SUFFIXES or (is_pattern(url) and suffix_of(entry.url) in ('.tar', '.parquet')):
                self._add_object(entry, folder)
            else:
                self.skipped.append(public_url(entry.url))

    def _shards_of(self, suffix: str) -> list[str | StoredObject] | None:
        return {'.tar': self.tars, '.parquet': self.parquets}.get(suffix)

    def _add_object(self, entry: StoredObject, folder: str) -> None:
        check_not_compressed(entry.url)
        shards = self._shards_of(suffix_of(entry.url))
        if shards is not None:
            shards.append(find_objects(entry.url)[0][0] if entry.size < 0 else entry)
        else:
            self.remote.append((entry, folder))

    def _add_pattern(self, pattern: str) -> None:
        found = matches(pattern)
        if not found:
            name = short_path(pattern)
            raise FileNotFoundError(f'{name}: no file has this name or matches this pattern; check the path')
        root = Path(fixed_folder(pattern))
        for path in found:
            if is_folder(path) or path.suffix.lower() in (*SUFFIXES, '.tar', '.parquet'):
                self._add_file(str(path), Argument(path, root, named=False))
            else:
                self.skipped.append(str(path))

    def _add_file(self, place: str, argument: Argument) -> None:
        if not is_folder(argument.path):
            check_not_compressed(place)
            shards = self._shards_of(argument.path.suffix.lower())
            if shards is not None:
                shards.append(place)
                return
        self.local.append(argument)

    def open(self, leave_out: Path | None, progress: bool) -> ImageSource:
        """Open the sources, in the order files, objects, tar shards, Parquet files; see `open_source`."""
        problems: list[str] = []
        tars, parquets = find_shards(self.tars, problems), find_shards(self.parquets, problems)
        self.problems += problems
        sources: list[ImageSource] = []
        if self.remote:
            sources.append(RemoteFiles(self.remote))
        if tars:
            sources.append(TarShards(tars, progress))
        if parquets:
            sources.append(ParquetFiles(parquets, progress))
        if self.local or not sources:
            sources.insert(0, LocalFiles(self.local, leave_out))
        return sources[0] if len(sources) == 1 else JoinedSource(sources)


class _CompressedTar(ValueError):
    """A compressed tar file."""


def check_not_compressed(place: str) -> None:
    """Raise ValueError for a compressed tar file."""
    name = path_of_url(place) if is_url(place) else place
    if name.lower().endswith(COMPRESSED):
        raise _CompressedTar(
            f'{short_path(public_url(place))}: a compressed tar file, whose images cannot be read in any order; '
            'decompress it to .tar'
        )


def check_not_only_shards(url: str, found: Sequence[StoredObject]) -> None:
    """Raise ImageError for a folder with shards and without images: shards in folders are left out."""
    suffixes = {suffix_of(entry.url) for entry in found}
    if suffixes.isdisjoint(SUFFIXES) and (hint := shard_hint(public_url(url), suffixes)):
        raise ImageError(f'{short_path(public_url(url))}: no images in this folder; {hint}')


def is_list(place: str) -> bool:
    """Return whether a path or URL is that of a text file."""
    if is_url(place):
        return suffix_of(place) == '.txt' and not is_pattern(place)
    return Path(place).suffix.lower() == '.txt' and not is_folder(Path(place)) and not is_local_pattern(place)
