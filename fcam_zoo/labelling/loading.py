"""Read and resize images in worker processes; only the network's input is sent to the main process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import util

import numpy as np
from torch.utils.data import BatchSampler, DataLoader, Dataset

from ..data.images import open_stored, upright
from ..errors import FcamZooError
from ..inference import InferenceOptions


@dataclass(frozen=True)
class LoadedImage:
    """An image prepared for the network.

    Attributes:
        index: Position among the images.
        size: Stored width and height.
        orientation: EXIF orientation, 1 to 8.
        views: uint8 (3,s,s) of the upright image per input size. Arrays, because each tensor sent by a worker needs
            shared memory and an open file.
    """

    index: int
    size: tuple[int, int]
    orientation: int
    views: tuple[np.ndarray, ...]


class _ImageFiles(Dataset['LoadedImage | str']):
    def __init__(self, paths: tuple[str, ...], inference: InferenceOptions) -> None:
        self.paths, self.inference = paths, inference

    def __getitem__(self, index: int) -> LoadedImage | str:
        try:
            image, orientation = open_stored(self.paths[index])
            views = self.inference.prepare(upright(image, orientation))
        except (FcamZooError, OSError) as e:
            return str(e)
        return LoadedImage(index, image.size, orientation, tuple(view.numpy() for view in views))


def load_batches(
    paths: tuple[str, ...], inference: InferenceOptions, first: int, batch_size: int, workers: int
) -> Iterator[list[LoadedImage | str]]:
    """Yield batches of consecutive images; an image that cannot be read is replaced by its error.

    Args:
        paths: All images.
        inference: Input sizes.
        first: Index of the first image.
        batch_size: Images per batch.
        workers: Processes that read; 0 reads in this process.
    """
    yield from DataLoader(
        _ImageFiles(paths, inference),
        batch_sampler=BatchSampler(range(first, len(paths)), batch_size, drop_last=False),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_init_worker,
    )


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


def _init_worker(number: int) -> None:
    # Ctrl-C and SIGTERM reach the whole process group; workers end with the main process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    util.Finalize(None, _exit_if_orphaned, (os.getppid(),), exitpriority=100)


def _exit_if_orphaned(main: int) -> None:
    # After a SIGKILL of the main process nobody reads the queue, and a normal exit would wait for it forever.
    if os.getppid() != main:
        os._exit(1)
