"""Read and resize images in worker processes; only the network's input is sent to the main process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset

from ..data.images import decode_stored, opened, upright
from ..data.sources import ImageSource
from ..errors import FcamZooError, StoreReadError
from ..inference import InferenceOptions
from .budget import PixelBudget

KEPT_BYTES = 64 * 2**20
"""Encoded images of a batch that wait in memory to be drawn or copied; larger ones are read again."""


@dataclass(frozen=True)
class LoadedImage:
    """An image prepared for the network.

    Attributes:
        index: Position among the images.
        size: Stored width and height.
        orientation: EXIF orientation, 1 to 8.
        views: uint8 (3,s,s) of the upright image per input size. Arrays, because each tensor sent by a worker needs
            shared memory and an open file.
        content: The encoded image, if it was to be kept and takes at most its share of `KEPT_BYTES`.
    """

    index: int
    size: tuple[int, int]
    orientation: int
    views: tuple[np.ndarray, ...]
    content: bytes | None = None


class NotReturned(str):
    """The error of an image that its store did not return; another try may get it."""

    __slots__ = ()


class _Images(Dataset['LoadedImage | str']):
    def __init__(self, source: ImageSource, inference: InferenceOptions, kept: int) -> None:
        self.source, self.inference, self.kept, self.budget = source, inference, kept, PixelBudget()

    def __getitem__(self, index: int) -> LoadedImage | str:
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
        return LoadedImage(index, image.size, orientation, tuple(view.numpy() for view in views), content)

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


def load_batches(
    source: ImageSource,
    inference: InferenceOptions,
    indices: Sequence[int],
    batch_size: int,
    workers: int,
    keep: bool = False,
) -> Generator[list[LoadedImage | str], None, None]:
    """Yield batches of images in order; an image that cannot be read is replaced by its error.

    Closing the generator ends the workers at once.

    Args:
        source: All images.
        inference: Input sizes.
        indices: Images to read.
        batch_size: Images per batch.
        workers: Processes that read; 0 reads in this process.
        keep: Keep the encoded images that are not files of this machine.
    """
    lifeline = _Lifeline()
    loader = DataLoader(
        _Images(source, inference, KEPT_BYTES // batch_size if keep else 0),
        batch_sampler=BatchSampler(indices, batch_size, drop_last=False),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=partial(_init_worker, lifeline),
    )
    batches = iter(loader)
    try:
        yield from batches
    finally:
        # Before the iterator is deleted, which waits for the workers.
        lifeline.cut()


@contextmanager
def explain_worker_death() -> Iterator[None]:
    """Convert torch's error about a dead worker to FcamZooError.

    Surround all work done while `load_batches` runs: a signal handler of torch raises the error wherever the main
    process happens to be.
    """
    try:
        yield
    except RuntimeError as e:
        if 'DataLoader worker' not in str(e):
            raise
        raise FcamZooError(f'{e}: memory may have run out; use fewer workers or a smaller batch') from e


class _Lifeline:
    """Ends worker processes at once, also in the middle of an image, when the main process cuts it or dies."""

    def __init__(self) -> None:
        self._worker_end, main_end = multiprocessing.Pipe(duplex=False)
        self._main_end: Connection | None = main_end

    def __getstate__(self) -> dict[str, Any]:
        """Send only the end of the workers to a process that is not forked."""
        return {'_worker_end': self._worker_end, '_main_end': None}

    def hold(self) -> None:
        """Exit this worker process when the line is cut."""
        if self._main_end is not None:  # A forked process has a copy, which would keep the line alive.
            self._main_end.close()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        with suppress(EOFError, OSError):
            self._worker_end.recv_bytes()
        os._exit(0)  # Torch reports other codes as an error.

    def cut(self) -> None:
        """Let all workers exit."""
        self._worker_end.close()
        if self._main_end is not None:
            self._main_end.close()


def _init_worker(lifeline: _Lifeline, number: int) -> None:
    # Ctrl-C and SIGTERM reach the whole process group; workers end with the main process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lifeline.hold()
