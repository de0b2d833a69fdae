"""The interface of all sources of images, and their names."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import BinaryIO

from PIL import Image

from ..images import open_image
from ..paths import leaves_folder

MAX_NAME = 1000
"""Longest id in characters, so that paths stay below the 4096 bytes of most systems."""

MAX_STEM = 251
"""Longest file name in bytes without its suffix: with `.png` it has the 255 bytes of most file systems."""

MAX_BYTES = 512 * 2**20
"""Largest encoded image that is read into memory; `MAX_PIXELS` pixels of 16-bit RGB have 480 MB."""


class ImageSource(ABC):
    """Images that can be read in any order, by several processes and threads; base of all sources.

    Sources are pickled with their ids, but without images, open files or connections.

    Attributes:
        ids: Name of each image in annotations: a relative path with forward slashes, unique.
        problems: One line for each image, shard or argument that is left out, with the fix.
        digest: SHA-256 of the ids and of what the source reports about its content: sizes, times and ETags.
        class_names: Names of the classes; None for a source without labels.
        label_problem: Why the labels of the source cannot be used; empty if they can, or there are none.
    """

    ids: Sequence[str] = ()
    problems: tuple[str, ...] = ()
    digest: str = ''
    class_names: tuple[str, ...] | None = None
    label_problem: str = ''

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def open(self, index: int) -> BinaryIO:
        """Open the bytes of an image for reading; the file can seek. Several threads call it at the same time.

        Raises:
            FileNotFoundError: When the image has disappeared.
            ImageError: When it cannot be read, or has more than `MAX_BYTES`.
        """

    @abstractmethod
    def describe(self, index: int) -> str:
        """Return where an image is: its path, its URL, or its shard and the name inside."""

    def part(self, images: range) -> ImageSource | None:
        """Return consecutive images as a source that holds nothing about the others; None if it cannot be divided.

        The indices of the part begin at 0. Ids, labels, class names and digest are those of the whole; problems are
        left out. A class that inherits this method from another source, and has further attributes for each image,
        must divide them, too.

        Args:
            images: Consecutive indices, in steps of 1; an empty range gives an empty source.
        """
        return None

    def image(self, index: int, *, exif: bool = True) -> Image.Image:
        """Read an image as `open_image` does, with the same errors and those of `open`."""
        with self.open(index) as file:
            return open_image(file, exif=exif, name=self.describe(index))

    def local_path(self, index: int) -> str | None:
        """Return the path of an image that is a file of this machine, otherwise None."""
        return None

    def local_files(self) -> Iterator[str]:
        """List the files of this machine that the source reads."""
        return iter(())

    def label(self, index: int) -> int | None:
        """Return the label of an image, an index of `class_names`; None when it has none."""
        return None

    def inner_name(self, index: int) -> str:
        """Return the id of an image without the name of its shard; its first folder may be a class."""
        return self.ids[index]

    def sidecar_json(self, index: int) -> bytes | None:
        """Read the JSON that the source has about an image; None when it has none."""
        return None


def is_writable(image_id: str) -> bool:
    """Return whether all annotation formats and the readers of this package can hold an id.

    It must be printable UTF-8 without a backslash, without a space at either end of the name or of its stem, and short
    enough for another suffix.
    """
    stem = PurePosixPath(image_id).stem
    trimmed = image_id == image_id.strip() and stem == stem.strip() and len(image_id) <= MAX_NAME
    # The length in bytes is checked last, because names that are not printable may not be encodable.
    return trimmed and image_id.isprintable() and '\\' not in image_id and len(os.fsencode(stem)) <= MAX_STEM


def safe_id(name: str) -> str | None:
    """Return the name of an image in a store or shard as an id; None for one that is not a writable path below it."""
    image_id = PurePosixPath(name).as_posix()
    return None if leaves_folder(image_id) or not is_writable(image_id) else image_id
