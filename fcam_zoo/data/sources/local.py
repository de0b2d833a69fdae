"""Files and folders of this machine."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..._io import describe_os_error, is_folder, short_path
from ...errors import FcamZooError, ImageError
from ..images import describe_skipped, list_images, open_file
from .base import ImageSource, is_writable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Argument:
    """A file or folder that was given.

    Attributes:
        path: The file or folder.
        root: Folder that the id of the image is relative to, as far as the other arguments allow it.
        named: Whether the path itself was given, not a pattern that it matches.
    """

    path: Path
    root: Path
    named: bool = True

    @classmethod
    def of(cls, path: Path) -> Argument:
        """Return a path that was given by its name."""
        return cls(path, path if is_folder(path) else path.parent)


class LocalFiles(ImageSource):
    """Image files, and the images of folders, without those in one folder.

    Ids are relative to the folder, or to the common parent of several; a file that is given twice is listed once.

    Args:
        arguments: Files and folders.
        leave_out: Images of folders are left out if they are in this folder.

    Attributes:
        root: Folder that ids are relative to.
        paths: Image files in the order given; folders are sorted. Strings, because a `Path` needs ten times the memory.
    """

    def __init__(self, arguments: Sequence[Argument], leave_out: Path | None = None) -> None:
        folders = [absolute(argument.root) for argument in arguments]
        self.root = Path(os.path.commonpath(folders)) if folders else Path()
        found: dict[str, str] = {}
        problems: list[str] = []
        skipped: list[str] = []
        digest = hashlib.sha256()
        hidden = real_path(leave_out) if leave_out is not None else None
        for path in (path for argument in arguments for path in _images_of(argument, hidden, problems, skipped)):
            image_id = absolute(path).relative_to(self.root).as_posix()
            if image_id in found:
                continue
            if not is_writable(image_id):
                problems.append(f"'{short_path(path)}': annotation files cannot hold this name; rename the image")
                continue
            try:
                about = path.stat()
            except OSError as e:  # Removed after the folder was listed.
                problems.append(describe_os_error(e))
                continue
            found[image_id] = str(path)
            digest.update(f'{image_id}\0{about.st_size}\0{about.st_mtime_ns}\n'.encode())
        if skipped:
            logger.warning('%s', describe_skipped(skipped))
        self.ids, self.paths = tuple(found), tuple(found.values())
        self.problems, self.digest = tuple(problems), digest.hexdigest()

    def open(self, index: int) -> BinaryIO:
        """Open an image file."""
        return open_file(self.paths[index])

    def describe(self, index: int) -> str:
        """Return the path as given."""
        return self.paths[index]

    def local_path(self, index: int) -> str:
        """Return the path as given."""
        return self.paths[index]

    def local_files(self) -> Iterator[str]:
        """List all images."""
        return iter(self.paths)

    def part(self, images: range) -> LocalFiles:
        """Return consecutive images as a source of their own."""
        part = copy(self)
        chosen = slice(images.start, images.stop)
        part.ids, part.paths, part.problems = self.ids[chosen], self.paths[chosen], ()
        return part


def _images_of(argument: Argument, leave_out: Path | None, problems: list[str], skipped: list[str]) -> Iterable[Path]:
    """List the images of a file or folder, without those that are left out.

    Errors are added to `problems`, and files that are not images to `skipped`.
    """
    unreadable: list[OSError] = []
    others: list[str] = []
    path = argument.path
    try:
        listed = list_images(path, unreadable, others)
    except (FcamZooError, OSError) as e:
        hint = shard_hint(str(path), _suffixes_in(path)) if isinstance(e, ImageError) else ''
        problems.append('; '.join(filter(None, (str(e), hint))))
        return []
    finally:
        problems += [
            f'{short_path(e.filename)}: the folder cannot be read ({e.strerror}); its images are left out'
            for e in unreadable
        ]
    inside = is_folder(path) and leave_out is not None and leave_out.is_relative_to(real_path(path))
    if leave_out is not None and (inside or not argument.named):
        listed = [path for path in listed if not real_path(path.parent).is_relative_to(leave_out)]
        others = [path for path in others if not real_path(Path(path).parent).is_relative_to(leave_out)]
    skipped += others
    return listed


def _suffixes_in(folder: Path) -> set[str]:
    try:
        return {name.suffix.lower() for name in folder.iterdir()}
    except OSError:  # A file, or a folder that cannot be read.
        return set()


def shard_hint(folder: str, suffixes: Container[str]) -> str:
    """Return how to give the shards of a folder that has files with these suffixes; empty if it has no shards."""
    kind = next((suffix for suffix in ('.tar', '.parquet') if suffix in suffixes), '')
    return f"give '{short_path(folder.rstrip('/'))}/*{kind}' for its shards" if kind else ''


def real_path(path: Path) -> Path:
    """Resolve symbolic links; `Path.resolve` raises RuntimeError for circular links before Python 3.13."""
    return Path(os.path.realpath(path))


def absolute(path: Path) -> Path:
    """Make a path absolute and remove `..`, but keep symbolic links, so that ids match the names the user sees."""
    return Path(os.path.abspath(path))  # noqa: PTH100
