"""Batches that depend on the seed alone: not on workers, processes, or where a run was interrupted."""

from __future__ import annotations

import copy
import hashlib
import logging
import signal
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from ..data import EvalTransform
from ..data.base import ImageDataset
from ..errors import ImageError, TrainingError

logger = logging.getLogger(__name__)


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits from parts, unrelated for different parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'big') >> 1


class Batch(NamedTuple):
    """Images uint8 (B,3,H,W), labels (B,), positions in the data set (B,), and those whose file was bad."""

    images: torch.Tensor
    labels: torch.Tensor
    index: list[int]
    bad: list[int]


class SeededDataset(Dataset):
    """Items by (epoch, index), augmented from a seed of their own.

    A bad image raises, or with `skip_bad` the next good one stands in for it, so that batches keep their size.
    """

    def __init__(self, dataset: ImageDataset, seed: int, skip_bad: bool) -> None:
        self.dataset, self.seed, self.skip_bad = dataset, seed, skip_bad

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, int, int, list[int]] | Exception:
        epoch, first = key
        bad: list[int] = []
        for step in range(len(self)):
            index = (first + step) % len(self)
            torch.manual_seed(derived_seed(self.seed, 'image', epoch, index))
            try:
                image, label, _ = self.dataset[index]
            except (ImageError, OSError) as error:
                if not self.skip_bad:
                    # Raised by the main process, which says what a person needs and no worker's traceback.
                    return error
                bad.append(index)
            else:
                return image, label, index, bad
        return TrainingError(f'{self.dataset.name}: not one image can be read')


def plain(dataset: ImageDataset, size: int) -> ImageDataset:
    """The data set without augmentation."""
    dataset = copy.copy(dataset)
    dataset.transform = EvalTransform(size)
    return dataset


def items_of(dataset: ImageDataset, index: Iterable[int], skip_bad: bool) -> list[tuple[Any, int, int]]:
    """Items at these positions; with `skip_bad` without those whose image cannot be read.

    Raises:
        ImageError, OSError: For an image that cannot be read, otherwise.
    """
    items = []
    for i in index:
        try:
            items.append(dataset[i])
        except (ImageError, OSError):
            if not skip_bad:
                raise
    return items


def _init_worker(number: int) -> None:
    # Ctrl-C reaches every process of a terminal; the main one finishes its step, for which it needs its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _collate(items: list[Any]) -> Batch | Exception:
    for item in items:
        if isinstance(item, Exception):
            return item
    images, labels, index, bad = zip(*items)
    return Batch(torch.stack(images), torch.tensor(labels), list(index), sorted({i for found in bad for i in found}))


class _Batches:
    """Lists of (epoch, index): this process's consecutive share of each step, cut into `accumulate` parts."""

    def __init__(
        self, dataset: SeededDataset, epoch: int, first_step: int, batch_size: int, parts: int, share: tuple[int, int]
    ) -> None:
        generator = torch.Generator().manual_seed(derived_seed(dataset.seed, 'order', epoch))
        self.order = torch.randperm(len(dataset), generator=generator).tolist()
        self.epoch, self.first_step = epoch, first_step
        self.batch_size, self.accumulate, self.share = batch_size, parts, share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world = self.share
        part = self.batch_size // (world * self.accumulate)
        for step in range(self.first_step, len(self.order) // self.batch_size):
            for i in range(self.accumulate):
                start = step * self.batch_size + (i * world + rank) * part
                yield [(self.epoch, index) for index in self.order[start : start + part]]


def batches(
    dataset: SeededDataset,
    epoch: int,
    first_step: int,
    batch_size: int,
    accumulate: int,
    share: tuple[int, int],
    workers: int,
    reported: set[int],
) -> Iterator[Batch]:
    """Batches of an epoch from a step on; `accumulate` of them make a step.

    Args:
        dataset: The training images.
        epoch: Number that, with the seed, decides order and augmentation.
        first_step: Step at which an interrupted epoch goes on.
        batch_size: Images of a step over all processes.
        accumulate: Backward passes of a step.
        share: Rank and number of processes.
        workers: Processes that load images; 0 loads here.
        reported: Bad images of which a warning was given already; more are added.

    Raises:
        ImageError, OSError: For an image that cannot be read.
    """
    plan = _Batches(dataset, epoch, first_step, batch_size, accumulate, share)
    loader = DataLoader(
        dataset,
        batch_sampler=plan,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_init_worker,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise type(batch)(f'{batch}; mend or remove the file, or leave bad images out with --skip-bad')
        for index in set(batch.bad) - reported:
            reported.add(index)
            logger.warning('%s cannot be read and is left out', dataset.dataset.path(index))
        yield batch
