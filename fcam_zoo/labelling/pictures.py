"""Images read and resized in worker processes: only what the network sees travels to the main one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import util

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..data.images import open_stored, upright
from ..errors import FcamZooError
from ..inference import Passes


@dataclass(frozen=True)
class Picture:
    """An image on its way to the network.

    Attributes:
        index: Position among the images.
        size: Stored width and height.
        orientation: EXIF orientation, 1 to 8.
        views: uint8 (3,s,s) of the upright picture for each size of the passes; arrays, since tensors would need shared
            memory and an open file each to come from a worker.
        error: Why it cannot be read; then the rest is empty.
    """

    index: int
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    views: tuple[np.ndarray, ...] = ()
    error: str = ''


class _Pictures(Dataset[Picture]):
    def __init__(self, paths: tuple[str, ...], passes: Passes) -> None:
        self.paths, self.passes = paths, passes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:
        try:
            image, orientation = open_stored(self.paths[index])
            views = self.passes.prepare(upright(image, orientation))
            return Picture(index, image.size, orientation, tuple(view.numpy() for view in views))
        except (FcamZooError, OSError) as e:
            return Picture(index, error=str(e))


def batches(
    paths: tuple[str, ...], passes: Passes, first: int, batch_size: int, workers: int
) -> Iterator[list[Picture]]:
    """Batches of consecutive images.

    Args:
        paths: All images.
        passes: What the network is to see.
        first: Image to begin with, a multiple of the batch size.
        batch_size: Images a batch.
        workers: Processes that read; 0 reads here.
    """
    order = range(first, len(paths))
    loader = DataLoader(
        _Pictures(paths, passes),
        batch_sampler=[order[start : start + batch_size] for start in range(0, len(order), batch_size)],
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_init_worker,
    )
    yield from loader


@contextmanager
def dead_workers_told() -> Iterator[None]:
    """A block around all that is done while `batches` run, since torch tells the end of a worker by a signal, which
    interrupts whatever it meets.

    Raises:
        FcamZooError: When a worker died.
    """
    try:
        yield
    except RuntimeError as e:
        if 'DataLoader worker' not in str(e):
            raise
        raise FcamZooError(f'{e}: memory may have run out; give fewer workers or a smaller batch') from e


def _init_worker(number: int) -> None:
    # Ctrl-C, and the end of a service or a job, reach every process; workers end with the main one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    util.Finalize(None, _leave, (os.getppid(),), exitpriority=100)


def _leave(main: int) -> None:
    # Where the main process was killed, nobody takes what is left in the queue, and its end would be waited for.
    if os.getppid() != main:
        os._exit(1)
