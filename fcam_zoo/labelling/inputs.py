"""Find the images of a run, and their names in annotation files."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .._io import describe_os_error, is_folder, short_path
from ..data import list_images
from ..data.images import describe_skipped
from ..data.paths import as_paths
from ..errors import FcamZooError

logger = logging.getLogger(__name__)

MAX_NAME = 1000
"""Longest id in characters, so that paths stay below the 4096 bytes of most systems."""

MAX_STEM = 251
"""Longest file name in bytes without its suffix: with `.png` it has the 255 bytes of most file systems."""


@dataclass(frozen=True)
class Inputs:
    """Images of a run.

    Attributes:
        root: Folder that ids are relative to.
        paths: Image files in the order given; folders are sorted. Strings, because a `Path` needs ten times the memory.
        ids: Path of each image relative to `root`, with forward slashes.
        problems: One line for each image or folder that is left out, with the fix.
        digest: SHA-256 of the ids and of the size and modification time of each file.
    """

    root: Path
    paths: tuple[str, ...]
    ids: tuple[str, ...]
    problems: tuple[str, ...]
    digest: str


def find_inputs(images: str | os.PathLike | Iterable[str | os.PathLike], output: Path) -> Inputs:
    """List image files and the images of folders, except those in the output folder.

    Args:
        images: Files and folders.
        output: Output folder of the run.

    Raises:
        FileNotFoundError: When no image is left.
        NotADirectoryError: When `output` is a file.
        ValueError: When `output` is one of the folders.
        TypeError: When `images` holds other objects than paths.
    """
    if os.path.lexists(output) and not is_folder(output):
        raise NotADirectoryError(f'{output} is not a folder: choose another output folder')
    given = as_paths(images)
    written = _real(output)
    if any(is_folder(path) and _real(path) == written for path in given):
        raise ValueError(
            f'{output} is the folder of the images, so outputs would be read as images: choose another output folder, '
            'for example one inside it'
        )
    folders = [_absolute(p if is_folder(p) else p.parent) for p in given]
    root = Path(os.path.commonpath(folders)) if folders else Path()
    found: dict[str, str] = {}
    problems: list[str] = []
    skipped: list[str] = []
    digest = hashlib.sha256()
    for path in (path for argument in given for path in _images_of(argument, written, problems, skipped)):
        image_id = _absolute(path).relative_to(root).as_posix()
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
    if not found:
        raise FileNotFoundError(
            '; '.join(problems[:3]) or 'no image to localize: give image files or folders of images'
        )
    return Inputs(root, tuple(found.values()), tuple(found), tuple(problems), digest.hexdigest())


def _images_of(argument: Path, output: Path, problems: list[str], skipped: list[str]) -> list[Path]:
    """List the images of a file or folder, without those in the output folder.

    Errors are added to `problems`, and files that are not images to `skipped`.
    """
    unreadable: list[OSError] = []
    others: list[str] = []
    try:
        listed = list_images(argument, unreadable, others)
    except (FcamZooError, OSError) as e:
        problems.append(str(e))
        return []
    finally:
        problems += [
            f'{short_path(e.filename)}: the folder cannot be read ({e.strerror}); its images are left out'
            for e in unreadable
        ]
    if is_folder(argument) and output.is_relative_to(_real(argument)):
        listed = [path for path in listed if not _real(path.parent).is_relative_to(output)]
        others = [path for path in others if not _real(Path(path).parent).is_relative_to(output)]
    skipped += others
    return listed


def _real(path: Path) -> Path:
    # Path.resolve raises RuntimeError for circular links before Python 3.13.
    return Path(os.path.realpath(path))


def _absolute(path: Path) -> Path:
    """Make a path absolute and remove `..`, but keep symbolic links, so that ids match the names the user sees."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def is_writable(image_id: str) -> bool:
    """Whether all formats and the readers of this package can hold a name.

    It must be printable UTF-8 without a backslash, without a space at either end of the name or of its stem, and short
    enough for another suffix.
    """
    stem = PurePosixPath(image_id).stem
    trimmed = image_id == image_id.strip() and stem == stem.strip() and len(image_id) <= MAX_NAME
    # The length in bytes is checked last, because names that are not printable may not be encodable.
    return trimmed and image_id.isprintable() and '\\' not in image_id and len(os.fsencode(stem)) <= MAX_STEM
