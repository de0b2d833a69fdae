"""The stored maps of a teacher: computed once for all training images, in 8 bits, and resumed after an interruption."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .. import viz
from .._distributed import gather, rank
from .._io import atomic_path, write_json
from .._lock import locked
from .._schema import DamagedText, build, read_json, reading
from ..data import EvalTransform
from ..data.base import ImageDataset
from ..errors import ImageError, TrainingError
from .checkpoint import writing
from .config import TrainConfig
from .loading import MapFile, init_worker
from .teacher import NetworkTeacher, Teacher

logger = logging.getLogger(__name__)
BATCH_SIZE = 16
# Images between two records of the progress, and between two exchanges of the processes.
CHUNK = 32 * BATCH_SIZE
MAPS, RECORD, PICTURE, LOCK = 'maps.npy', 'maps.json', 'samples.png', 'maps.lock'
PICTURES = 8
AGAIN = 'delete the folder'


@dataclass
class CacheRecord:
    """maps.json: what the maps were computed from, and how many are finished."""

    source: dict[str, Any]
    finished: int = 0


def stored_maps(
    teacher: Teacher, config: TrainConfig, train_set: ImageDataset, run_dir: Path, device: torch.device, quiet: bool
) -> MapFile:
    """Compute the maps of all training images, or continue where an interrupted run stopped.

    Args:
        teacher: The teacher.
        config: All settings.
        train_set: The training images.
        run_dir: Output folder of the training; the maps are in its folder `teacher` unless teacher.cache names another.
        device: Where the networks run.
        quiet: No progress bar.

    Returns:
        The maps, uint8 (N,S,S).

    Raises:
        TrainingError: When the folder holds maps of another teacher or data set, is in use, or cannot be written.
        ImageError, OSError: For an unreadable image, unless `skip_bad` is set.
    """
    folder = Path(config.teacher.cache) if config.teacher.cache else run_dir / 'teacher'
    cache = MapCache(teacher, config, train_set, folder)
    first = rank() == 0
    # One process computes; the others wait for each chunk, not longer than the process group allows, and get its error.
    start = gather(lambda: cache.open().finished if first else 0)[0]
    if first and start == len(train_set):
        logger.info('teacher: %d stored maps of %s', start, folder)
    with tqdm(
        desc='teacher', total=len(train_set), initial=start, unit='image', disable=quiet or not first, leave=False
    ) as bar:
        for begin in range(start, len(train_set), CHUNK):
            end = min(begin + CHUNK, len(train_set))
            gather(partial(cache.fill, begin, end, device) if first else lambda: None)
            bar.update(end - begin)
    return MapFile(folder / MAPS)


class MapCache:
    """The folder of the stored maps."""

    def __init__(self, teacher: Teacher, config: TrainConfig, train_set: ImageDataset, folder: Path) -> None:
        self.teacher, self.config, self.train_set, self.folder = teacher, config, train_set, folder
        self.shape = (len(train_set), config.image_size, config.image_size)

    def open(self) -> CacheRecord:
        """Read the record of a folder with maps of the same source, or start a new one.

        Raises:
            TrainingError: When the maps have another source, or the folder is damaged or full.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            return self._start() if not (self.folder / RECORD).exists() else self._read()

    def fill(self, begin: int, end: int, device: torch.device) -> None:
        """Compute the maps of the images from `begin` to `end`, and record them; draw some after the last one."""
        with self._locked():
            record = self._read()
            with writing(self.folder):
                maps = np.lib.format.open_memmap(self.folder / MAPS, 'r+')
            for first, found in self._computed(begin, end, device):
                maps[first : first + len(found)] = (found * 255).round().to(torch.uint8).numpy()
            with writing(self.folder):
                maps.flush()
                write_json(self.folder / RECORD, {'source': record.source, 'finished': end})
            if end == len(self.train_set):
                self._draw(maps)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other trainings from writing the folder."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / LOCK, self.folder))
            except BlockingIOError as e:
                raise TrainingError(str(e)) from e
            yield

    def _start(self) -> CacheRecord:
        needed = math.prod(self.shape)
        with writing(self.folder):
            free = shutil.disk_usage(self.folder).free
            if free < needed:
                raise TrainingError(
                    f'{self.folder} has {free / 2**20:.0f} MiB free and the maps need {needed / 2**20:.0f} MiB: make '
                    'room or choose another teacher.cache'
                )
            np.lib.format.open_memmap(self.folder / MAPS, 'w+', np.uint8, self.shape)
            write_json(self.folder / RECORD, {'source': self.source, 'finished': 0})
        return CacheRecord(self.source)

    def _read(self) -> CacheRecord:
        path = self.folder / RECORD
        with reading(path, TrainingError, AGAIN):
            record = build(CacheRecord, read_json(path))
        if changed := [key for key, value in self.source.items() if record.source.get(key) != value]:
            raise TrainingError(
                f'{self.folder} holds maps of another teacher or data set ({", ".join(changed)} differ): delete the '
                'folder, or choose another teacher.cache'
            )
        with reading(self.folder / MAPS, TrainingError, AGAIN):
            maps = np.load(self.folder / MAPS, mmap_mode='r', allow_pickle=False)
            if maps.shape != self.shape or maps.dtype != np.uint8 or not 0 <= record.finished <= len(maps):
                raise DamagedText(f'it does not hold maps {self.shape}')
        return record

    @cached_property
    def source(self) -> dict[str, str]:
        """Return a hash of each thing that the maps depend on."""
        ids = range(len(self.train_set))
        files = [self.train_set.path(i) for i in ids]
        sizes = [path.stat().st_size if path.exists() else 0 for path in files]
        images = list(zip(self.train_set.ids, self.train_set.labels.tolist(), sizes))
        common = {'images': images, 'image_size': self.config.image_size, 'shift': self.config.decoder.shift}
        return {key: _hash(value) for key, value in {**common, **self.teacher.source()}.items()}

    def _computed(self, begin: int, end: int, device: torch.device) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield maps (B,S,S) with the index of the first of each batch."""
        if not isinstance(self.teacher, NetworkTeacher):
            for index in range(begin, end):
                yield index, self.teacher.read(index)
            return
        self.teacher.to(device)
        side = max(self.config.teacher.sizes or [self.config.image_size])
        loader = DataLoader(
            _WholeImages(self.train_set, side, begin, end),
            BATCH_SIZE,
            num_workers=self.config.workers,
            collate_fn=list,
            worker_init_fn=init_worker,
        )
        for first, items in zip(range(begin, end, BATCH_SIZE), loader):
            labels = torch.from_numpy(self.train_set.labels[first : first + len(items)])
            found = torch.zeros(len(items), *self.shape[1:])
            for item in items:
                if isinstance(item, Exception) and not self.config.skip_bad:
                    raise type(item)(f'{item}; fix or remove the file, or skip unreadable images with --skip-bad')
            good = [i for i, item in enumerate(items) if isinstance(item, torch.Tensor)]
            if good:
                images = torch.stack([items[i] for i in good]).to(device)
                found[good] = self.teacher.maps(images, labels[good].to(device)).float().cpu()
            yield first, found

    def _draw(self, maps: np.ndarray) -> None:
        """Save overlays of some maps, for a look at them."""
        rows = []
        whole = _WholeImages(self.train_set, self.config.image_size, 0, len(maps))
        for index in np.linspace(0, len(maps) - 1, min(PICTURES, len(maps))).round().astype(int).tolist():
            if isinstance(image := whole[index], torch.Tensor):
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                rows.append([(picture, ''), (viz.blend(picture, maps[index] / 255.0), 'teacher')])
        if rows:
            with writing(self.folder), atomic_path(self.folder / PICTURE) as temporary:
                viz.grid(rows, height=160).save(temporary)


class _WholeImages(Dataset):
    """Some images uint8 (3,S,S) without augmentation; an unreadable one is returned as its error."""

    def __init__(self, train_set: ImageDataset, side: int, begin: int, end: int) -> None:
        self.dataset, self.begin, self.end = copy.copy(train_set), begin, end
        self.dataset.transform = EvalTransform(side)

    def __len__(self) -> int:
        return self.end - self.begin

    def __getitem__(self, index: int) -> torch.Tensor | Exception:
        try:
            return self.dataset[self.begin + index][0]
        except (ImageError, OSError) as error:
            return error


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
