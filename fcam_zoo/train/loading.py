"""Batches that depend only on the seed: not on workers, processes, or where a run was interrupted."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from .._distributed import rank, world_size
from .._schema import reading
from ..data.base import ImageDataset
from ..errors import ImageError, TrainingError
from ..wsol import WSOLMethod
from .stage_config import StageConfig


def derived_seed(*parts: int | str) -> int:
    """Hash the parts to a 63-bit seed; different parts give unrelated seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'big') >> 1


class Batch(NamedTuple):
    """A batch of training images.

    Attributes:
        images: uint8 (B,3,H,W).
        labels: (B,).
        indices: Their indices in the data set.
        bad: Indices of images that could not be read.
        maps: Stored maps of the teacher, uint8 (B,H,W), if it has any.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: list[int]
    bad: list[int]
    maps: torch.Tensor | None = None


@dataclass(frozen=True)
class Item:
    """An augmented image uint8 (3,H,W), its label and index, the indices of unreadable images, and the stored map."""

    image: torch.Tensor
    label: int
    index: int
    bad: list[int]
    map: torch.Tensor | None


def step_size(stage: str, settings: StageConfig, n_images: int, pairs: bool = False) -> int:
    """Return the number of images of an optimizer step of a stage; a small data set gets smaller steps.

    Raises:
        TrainingError: When they cannot be divided into equal parts, one per process and backward pass, of an even
            number of images with `pairs`.
    """
    parts = settings.accumulate * world_size() * (2 if pairs else 1)
    what = f'processes x accumulate{" x 2 images of a class" if pairs else ""}'
    if settings.batch_size % parts:
        raise TrainingError(f'{stage}.batch_size={settings.batch_size} is not a multiple of {parts} ({what})')
    if n_images < parts:
        raise TrainingError(f'{stage}: {n_images} images are fewer than {parts} parts of a step ({what})')
    return min(settings.batch_size, n_images // parts * parts)


def step_sizes(stage: str, settings: StageConfig, n_images: int, pairs: bool = False) -> list[int]:
    """Return the number of images of each optimizer step of an epoch (see `step_size` for arguments and errors).

    With drop_last = False, the last step has the remaining images, as many as can be divided into equal parts.
    """
    size, parts = step_size(stage, settings, n_images, pairs), settings.accumulate * world_size() * (2 if pairs else 1)
    steps, rest = divmod(n_images, size)
    rest = 0 if settings.drop_last else rest // parts * parts
    return [size] * steps + [rest] * bool(rest)


def check_images_per_pass(settings: StageConfig, size: int, method: WSOLMethod) -> None:
    """Raise TrainingError if a backward pass of the classifier stage, with steps of `size` images, has too few."""
    count = size // (settings.accumulate * world_size())
    if count < method.least_images:
        raise TrainingError(
            f'{method.title} needs at least {method.least_images} images in each process and backward pass, and '
            f'classifier.batch_size={settings.batch_size} gives {count}: raise it (a step has {size} images), or use '
            'fewer processes or a smaller classifier.accumulate, or classifier.drop_last'
        )


class MapFile:
    """Stored maps, uint8 (N,S,S) in a `.npy` file. Each process that loads images opens the file itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._maps: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._opened())

    def __getitem__(self, index: int) -> np.ndarray:
        """Read the map of an image (S,S)."""
        return np.array(self._opened()[index])

    def __reduce__(self) -> tuple[Any, ...]:
        return MapFile, (self.path,)

    def _opened(self) -> np.ndarray:
        if self._maps is None:
            with reading(self.path, TrainingError, 'delete the folder'):
                self._maps = np.load(self.path, mmap_mode='r', allow_pickle=False)
        return self._maps


class SeededDataset(Dataset):
    """Items by (epoch, index), each augmented with its own seed.

    An unreadable image is returned as its error or, with `skip_bad`, replaced by the next readable image, so that
    batches keep their size.

    Args:
        dataset: The training images.
        seed: Seed of the stage.
        skip_bad: Replace unreadable images.
        maps: Maps of the whole images, uint8 (N,S,S), which are cropped and flipped with them.
        pairs: Whether an epoch has pairs of images of one class (see `paired_order`).
    """

    def __init__(
        self,
        dataset: ImageDataset,
        seed: int,
        skip_bad: bool,
        maps: MapFile | np.ndarray | None = None,
        pairs: bool = False,
    ) -> None:
        self.dataset, self.seed, self.skip_bad, self.maps, self.pairs = dataset, seed, skip_bad, maps, pairs

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Item | Exception:
        epoch, first = key
        bad: list[int] = []
        for step in range(len(self)):
            index = (first + step) % len(self)
            seed = derived_seed(self.seed, 'image', epoch, index)
            torch.manual_seed(seed)
            try:
                image, label, _ = self.dataset[index]
            except (ImageError, OSError) as error:
                if not self.skip_bad:
                    # The main process raises it, without a worker's traceback in the message.
                    return error
                bad.append(index)
            else:
                return Item(image, label, index, bad, self._map(index, seed))
        return TrainingError(f'{self.dataset.name}: no image can be read')

    def order(self, epoch: int) -> list[int]:
        """Return the order of the images in an epoch."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, 'order', epoch))
        if self.pairs:
            return paired_order(self.dataset.labels, generator)
        return torch.randperm(len(self), generator=generator).tolist()

    def _map(self, index: int, seed: int) -> torch.Tensor | None:
        """Augment the stored map of an image (H,W) with the random numbers of the image."""
        if self.maps is None:
            return None
        torch.manual_seed(seed)
        return self.dataset.transform(Image.fromarray(self.maps[index]))[0]


def paired_order(labels: np.ndarray, generator: torch.Generator) -> list[int]:
    """Order images so that those at 2j and 2j+1 have the same class, and classes recur as late as possible.

    In a class with an odd number of images, the last is paired with another one, or with itself if it has no other.
    Each such class takes the place of one more image, so other images are left out: if most classes have one image,
    about half of the classes are missing from each epoch.

    Args:
        labels: Class of each image (N,).
        generator: Source of the random order.

    Returns:
        N indices. The last is without its partner if N is odd. Pairs left out are of the classes with the most images.
    """
    shuffled = torch.randperm(len(labels), generator=generator).numpy()
    grouped = shuffled[np.argsort(labels[shuffled], kind='stable')]
    pairs: list[tuple[int, int, int]] = []
    for group in np.split(grouped, np.flatnonzero(np.diff(labels[grouped])) + 1):
        own: list[int] = group.tolist()
        padded = [*own, own[0]] if len(own) % 2 else own
        pairs += [(number, *two) for number, two in enumerate(zip(padded[::2], padded[1::2]))]
    # All first pairs of the classes in random order, then all second ones.
    places = torch.randperm(len(pairs), generator=generator).tolist()
    in_turn = sorted(zip((number for number, *_ in pairs), places, pairs))
    return [index for *_, (_, *two) in in_turn for index in two][: len(labels)]


def items_of(dataset: ImageDataset, count: int, skip_bad: bool) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Yield up to `count` items, spread over the data set, which is usually sorted by class.

    Args:
        dataset: Images uint8 (3,H,W) with labels, not augmented.
        count: Number of items.
        skip_bad: Leave out unreadable images.

    Raises:
        ImageError, OSError: For an unreadable image without `skip_bad`.
    """
    for i in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist():
        try:
            yield dataset[i]
        except (ImageError, OSError):
            if not skip_bad:
                raise


def batches(
    dataset: SeededDataset, sizes: Sequence[int], accumulate: int, epoch: int, first_step: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """Iterate over this process's batches of an epoch, `accumulate` per step.

    Args:
        dataset: The training images.
        sizes: Images of each step, over all processes and backward passes (see `step_sizes`).
        accumulate: Backward passes per step.
        epoch: Number of the epoch; with the seed it determines order and augmentation.
        first_step: Where an interrupted epoch continues.
        workers: Processes that load images; 0 loads in this process.

    Raises:
        ImageError, OSError: For an unreadable image, unless the data set skips them.
        TrainingError: When no image can be read.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=_own_parts(dataset.order(epoch), sizes, accumulate, epoch, first_step),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=init_worker,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise type(batch)(f'{batch}; fix or remove the file, or skip unreadable images with --skip-bad')
        yield batch


def _own_parts(
    order: list[int], sizes: Sequence[int], accumulate: int, epoch: int, first_step: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield the items of each backward pass of this process; the processes take turns."""
    first = sum(sizes[:first_step])
    for size in sizes[first_step:]:
        own = size // (accumulate * world_size())
        for start in range(first + rank() * own, first + size, own * world_size()):
            yield [(epoch, i) for i in order[start : start + own]]
        first += size


def init_worker(number: int) -> None:
    """Leave signals to the main process, which needs its workers to finish the step."""
    # Ctrl-C reaches every process of a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _collate(items: list[Any]) -> Batch | Exception:
    for item in items:
        if isinstance(item, Exception):
            return item
    maps = [item.map for item in items if item.map is not None]
    return Batch(
        torch.stack([item.image for item in items]),
        torch.tensor([item.label for item in items]),
        [item.index for item in items],
        sorted({i for item in items for i in item.bad}),
        torch.stack(maps) if maps else None,
    )
