"""Read and resize images in threads, ahead of the network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

import torch
from PIL import Image

from .._threads import started_early
from ..data.images import decode_stored, opened, upright
from ..data.sources import ImageSource
from ..errors import FcamZooError, StoreReadError
from ..inference import InferenceOptions
from .budget import PixelBudget


@dataclass(frozen=True)
class LoadedImage:
    """An image prepared for the network.

    Attributes:
        index: Position among the images.
        size: Stored width and height.
        orientation: EXIF orientation, 1 to 8.
        views: uint8 (3,s,s) of the upright image per input size.
        content: The encoded image, if it was to be kept.
    """

    index: int
    size: tuple[int, int]
    orientation: int
    views: tuple[torch.Tensor, ...]
    content: bytes | None = None


class NotReturned(str):
    """The error of an image that its store did not return; another try may get it."""

    __slots__ = ()


@dataclass(frozen=True)
class ImageReader:
    """Reads images of a source for the network.

    Attributes:
        source: All images.
        inference: Input sizes.
        budget: Limit of the pixels that are decoded at the same time.
        kept: Size in bytes of the largest encoded image that is kept; files of this machine are not kept.
    """

    source: ImageSource
    inference: InferenceOptions
    budget: PixelBudget
    kept: int = 0

    def read(self, index: int) -> LoadedImage | str:
        """Read an image; returns the error of one that cannot be read."""
        name = self.source.describe(index)
        try:
            with self.source.open(index) as file:
                with ExitStack() as reserved:
                    image, orientation = self._decode(file, name, reserved)
                    views = self.inference.prepare(upright(image, orientation))
                content = self._content(index, file)
        except StoreReadError as e:
            return NotReturned(e)
        except (FcamZooError, OSError) as e:
            return str(e)
        except MemoryError:
            return f'{name}: not enough memory to scale it; make the file smaller, or use fewer workers'
        return LoadedImage(index, image.size, orientation, views, content)

    def read_batches(
        self, indices: Sequence[int], batch_size: int, pool: ThreadPoolExecutor | None, ahead: int
    ) -> Iterator[list[LoadedImage | str]]:
        """Yield batches of images in order.

        Args:
            indices: Images to read.
            batch_size: Images per batch.
            pool: Threads that read: Pillow decodes and resizes without Python's lock, so they do it at the same time.
                Without them, this thread reads a batch when it is asked for.
            ahead: Batches that the threads are ahead by.
        """
        batches = (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))
        if pool is None:
            yield from ([self.read(index) for index in batch] for batch in batches)
            return
        jobs = ([pool.submit(self.read, index) for index in batch] for batch in batches)
        for batch in started_early(jobs, ahead):
            yield [job.result() for job in batch]

    def _decode(self, file: BinaryIO, name: str, reserved: ExitStack) -> tuple[Image.Image, int]:
        """Decode an image and find its EXIF orientation; its pixels stay reserved."""
        with opened(file, name=name) as header:
            reserved.enter_context(self.budget.reserve(header.width * header.height))
            return decode_stored(header)

    def _content(self, index: int, file: BinaryIO) -> bytes | None:
        if not self.kept or self.source.local_path(index) is not None:
            return None
        if file.seek(0, os.SEEK_END) > self.kept:
            return None
        file.seek(0)
        return file.read()
