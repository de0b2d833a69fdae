"""Which images a run labels, and what they are called in annotation files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ..data import list_images
from ..errors import FcamZooError

MAX_NAME = 1000
MAX_STEM = 251


@dataclass(frozen=True)
class Inputs:
    """Images of a run.

    Attributes:
        root: The folder that ids are relative to.
        paths: Image files, in the order given; folders are listed sorted. Strings, since a `Path` takes ten times the
            memory.
        ids: Path of each below `root`, with forward slashes.
        problems: What could not be taken, each one line with the mend.
        digest: SHA-256 of the ids, and of the size and time of each file.
    """

    root: Path
    paths: tuple[str, ...]
    ids: tuple[str, ...]
    problems: tuple[str, ...]
    digest: str


def find_inputs(images: str | os.PathLike | Iterable[str | os.PathLike], output: Path) -> Inputs:
    """List image files and the images of folders; what lies in an output folder below one of them is left out.

    Args:
        images: Files and folders.
        output: Folder that the run writes.

    Raises:
        FileNotFoundError: When no image is left.
        NotADirectoryError: When `output` is a file.
        ValueError: When `output` is one of the folders.
    """
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f'{output} is not a folder: choose another output folder')
    given = [Path(p) for p in ([images] if isinstance(images, (str, os.PathLike)) else images)]
    for folder in given:
        if folder.is_dir() and folder.resolve() == _real(output):
            raise ValueError(
                f'{output} is the folder of the images: they would be overwritten or outputs be read as images; '
                'choose another output folder'
            )
    folders = [_absolute(p if p.is_dir() else p.parent) for p in given]
    root = Path(os.path.commonpath(folders)) if folders else Path()
    found: dict[str, str] = {}
    problems: list[str] = []
    written, digest = _real(output), hashlib.sha256()
    for argument in given:
        try:
            listed = list_images(argument)
        except (FcamZooError, OSError) as e:
            problems.append(str(e))
            continue
        if argument.is_dir():
            problems += _unreadable(argument)
        holds_output = argument.is_dir() and written.is_relative_to(argument.resolve())
        for path in listed:
            image_id = _absolute(path).relative_to(root).as_posix()
            if image_id in found or (holds_output and path.parent.resolve().is_relative_to(written)):
                continue
            if not is_writable(image_id):
                problems.append(f'{str(path)!r}: annotation files cannot hold this name; rename the image')
                continue
            try:
                about = path.stat()
            except OSError as e:  # Taken away since the folder was listed.
                problems.append(str(e))
                continue
            found[image_id] = str(path)
            digest.update(f'{image_id}\0{about.st_size}\0{about.st_mtime_ns}\n'.encode())
    if not found:
        raise FileNotFoundError(
            '; '.join([*problems[:3], 'no image to localize: give image files or folders that hold some'])
        )
    return Inputs(root, tuple(found.values()), tuple(found), tuple(problems), digest.hexdigest())


def _real(output: Path) -> Path:
    try:
        return output.resolve()
    except RuntimeError as e:  # Of Python before 3.13.
        raise ValueError(f'{output} is a symbolic link in a circle: choose another output folder') from e


def _absolute(path: Path) -> Path:
    """Absolute and without `..`; links are kept, since ids follow the names that the user sees."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _unreadable(folder: Path) -> list[str]:
    """Folders whose images are not listed because they cannot be read, each one line."""
    errors: list[OSError] = []
    for _, folders, _ in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if not name.startswith('.')]
    return [f'{e.filename}: the folder cannot be read ({e.strerror}); its images are left out' for e in errors]


def is_writable(image_id: str) -> bool:
    """Whether every format, and the readers of this package, can hold a name: printable UTF-8, no backslash, no space
    at either end of it with or without its suffix, and not too long for another suffix.
    """
    stem = PurePosixPath(image_id).stem
    whole = image_id == image_id.strip() and stem == stem.strip() and len(image_id) <= MAX_NAME
    # Last, since what is not printable may have no bytes.
    return whole and image_id.isprintable() and '\\' not in image_id and len(os.fsencode(stem)) <= MAX_STEM


def refuse_clashes(files: Iterable[tuple[str, str]]) -> None:
    """Two images must not share an output file, also where file systems ignore case.

    Args:
        files: Id of each image, and its file below the output folder.

    Raises:
        ValueError: When two would.
    """
    owners: dict[str, str] = {}
    for image_id, file in files:
        other = owners.setdefault(file.casefold(), image_id)
        if other != image_id:
            raise ValueError(f'{other} and {image_id} would share {file}: rename one of the images')


def refuse_overwriting(paths: Iterable[str], output: Path, files: Iterable[str]) -> None:
    """Outputs must not replace inputs.

    Args:
        paths: Images.
        output: Folder of the run; nothing is written outside it.
        files: Files below it.

    Raises:
        ValueError: When one would.
    """
    real = lru_cache(maxsize=None)(os.path.realpath)
    start = os.path.join(real(output), '')  # noqa: PTH118
    inside: set[str] = set()
    for path in paths:
        # A file is replaced where its name stands, also where that is a link.
        folder, name = os.path.split(path)
        places = os.path.realpath(path), os.path.join(real(folder), name)  # noqa: PTH118
        inside.update(place for place in places if place.startswith(start))
    for file in files if inside else ():
        folder, name = os.path.split(output / file)
        if os.path.join(real(folder), name) in inside:  # noqa: PTH118
            raise ValueError(
                f'{output / file} is one of the images and would be overwritten: choose another output folder'
            )
