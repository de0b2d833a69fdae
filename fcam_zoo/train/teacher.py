"""Teachers other than the classifier in training: their maps are computed once, and stored for all epochs."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .. import cams, viz
from .._distributed import barrier, gather, rank
from .._io import atomic_path, write_json
from .._modes import eval_mode
from .._schema import DamagedText, build, read_json, reading
from .._weights import digest
from ..benchmark.map_files import MapFolder
from ..cams.layers import named_layer
from ..data import EvalTransform, normalize
from ..data.base import ImageDataset
from ..data.values import plain
from ..errors import ImageError, TrainingError
from ..models import FCAM, create_model
from .checkpoint import writing
from .config import TeacherConfig, TrainConfig

logger = logging.getLogger(__name__)
BATCH_SIZE = 16
# Images between two records of the progress.
RECORD_EVERY = 32 * BATCH_SIZE
MAPS, RECORD, PICTURE = 'maps.npy', 'maps.json', 'samples.png'
PICTURES = 8


@dataclass
class Record:
    """maps.json: what the maps were computed from, and how many are finished."""

    source: dict[str, Any]
    finished: int = 0


@dataclass
class NetworkTeacher:
    """Class maps, or F-CAMs, of one or several networks.

    Attributes:
        models: The networks.
        classes: For each network, its class of each label of the data (K,).
        config: All settings of the training.
    """

    models: list[FCAM]
    classes: list[torch.Tensor]
    config: TrainConfig

    @torch.no_grad()
    def maps(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B,S,S) in [0,1] of images uint8 (B,3,H,W) and their labels (B,); S is image_size."""
        teacher, found = self.config.teacher, []
        for model, classes in zip(self.models, self.classes):
            own = classes.to(labels.device)[labels]
            with eval_mode(model):
                for side in teacher.sizes or [self.config.image_size]:
                    x = self._view(model, images, side)
                    found.append(self._map(model, x, own))
                    if teacher.flip:
                        found.append(self._map(model, x.flip(3), own).flip(2))
        return cams.fuse(found, 'mean').clamp(0, 1)

    def _view(self, model: FCAM, images: torch.Tensor, side: int) -> torch.Tensor:
        cfg = model.pretrained_cfg
        x = normalize(images, cfg['mean'], cfg['std'])
        return F.interpolate(x, size=(side, side), mode='bilinear', align_corners=False, antialias=True)

    def _map(self, model: FCAM, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the map (B,S,S) of one view; the shift is that of the network, so it comes before any flip."""
        teacher, decoder, side = self.config.teacher, self.config.decoder, self.config.image_size
        if teacher.method == 'fcam':
            low = model.fcam(x)
        elif teacher.layers:
            options: dict[str, Any] = {'variant': decoder.variant, 'fusion': teacher.fusion}
            low = cams.extract(model.backbone, x, labels, teacher.method, teacher.layers, None, **options)
        else:
            low = model.class_map(model.encode(x), labels, teacher.method, decoder.variant)
        down, right = decoder.shift
        return cams.resize(low.float(), (side, side), (down, right))

    def source(self) -> dict[str, Any]:
        """Describe what the maps depend on."""
        teacher, decoder = self.config.teacher, self.config.decoder
        return {
            'weights': [digest(model.state_dict()) for model in self.models],
            'method': teacher.method,
            'layers': teacher.layers,
            'fusion': teacher.fusion,
            'flip': teacher.flip,
            'sizes': teacher.sizes,
            'variant': decoder.variant,
        }


@dataclass
class FolderTeacher:
    """Maps that another tool has written, one `.npy` file for each image."""

    folder: MapFolder
    config: TrainConfig

    def read(self, index: int) -> torch.Tensor:
        """Read the map of an image, (1,S,S) in [0,1].

        Raises:
            TrainingError: When the file is not a map with values in [0,1].
        """
        path = self.folder.path(self.folder.ids[index])
        try:
            values = torch.from_numpy(self.folder[index : index + 1].astype(np.float32))
        except ValueError as e:
            raise TrainingError(f'teacher.maps: {e}') from e
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise TrainingError(f'teacher.maps: {path} has values outside [0,1] or NaN: normalize the maps first')
        side, (down, right) = self.config.image_size, self.config.decoder.shift
        return cams.resize(values, (side, side), (down, right)).clamp(0, 1)

    def source(self) -> dict[str, Any]:
        """Describe what the maps depend on."""
        files = [self.folder.path(i).stat() for i in self.folder.ids]
        return {'maps': _hash([[file.st_size, file.st_mtime_ns] for file in files])}


Teacher = NetworkTeacher | FolderTeacher


def open_teacher(config: TrainConfig, train_set: ImageDataset, student: FCAM) -> Teacher | None:
    """Open the teacher and check it against the data; None for the classifier in training itself.

    Raises:
        TrainingError: When a network, a class, a layer or a map is missing, or the method does not fit the network.
        FcamZooError, FileNotFoundError: As `create_model`.
    """
    teacher = config.teacher
    if not teacher.is_stored:
        check_method(teacher, student, 'the model')
        return None
    if teacher.maps:
        try:
            return FolderTeacher(MapFolder(teacher.maps, train_set.ids), config)
        except ValueError as e:
            raise TrainingError(f'teacher.maps: {e}') from e
    names = teacher.models
    models = [create_model(name, pretrained=':' not in name) for name in names] or [student]
    for name, model in zip(names or ['the model'], models):
        check_method(teacher, model, name)
    identity = torch.arange(train_set.num_classes)
    pairs = list(zip(names, models))
    classes = [identity if teacher.method == 'fcam' else class_indices(*pair, train_set) for pair in pairs]
    return NetworkTeacher(models, classes or [identity], config)


def check_method(teacher: TeacherConfig, model: FCAM, name: str) -> None:
    """Raise TrainingError unless the classifier of a model has the layers and a head that the method needs."""
    if teacher.method == 'cam' and not teacher.layers and not model.pyramid.linear_head:
        raise TrainingError(
            f'teacher cam needs a head of average pooling and one linear layer; {model.model_args["backbone"]} has '
            'another head: choose gradcam, layercam or another teacher'
        )
    try:
        for layer in teacher.layers:
            named_layer(model.backbone, layer)
    except ValueError as e:
        raise TrainingError(f'teacher.layers, {name}: {e}') from e


def class_indices(name: str, model: FCAM, train_set: ImageDataset) -> torch.Tensor:
    """Return the class of the teacher (K,) for each label of the data, by the names of the classes.

    Raises:
        TrainingError: When the teacher lacks a class.
    """
    names = list(model.pretrained_cfg.get('label_names') or ())
    if not names:
        if model.num_classes < train_set.num_classes:
            raise TrainingError(
                f'the teacher {name} has {model.num_classes} classes, the data {train_set.num_classes}: choose one '
                'that was trained on these classes'
            )
        return torch.arange(train_set.num_classes)
    missing = [c for c in train_set.class_names.values() if c not in names]
    if missing:
        raise TrainingError(
            f'the teacher {name} does not know {len(missing)} of {len(train_set.class_names)} classes, the first '
            f"{plain(missing[0])}: choose one that was trained on these classes, or teacher.method='fcam', which needs "
            'no classes'
        )
    found = torch.zeros(train_set.num_classes, dtype=torch.int64)
    for label, own in train_set.class_names.items():
        found[label] = names.index(own)
    return found


def stored_maps(
    teacher: Teacher, config: TrainConfig, train_set: ImageDataset, run_dir: Path, quiet: bool = True
) -> np.ndarray:
    """Compute the maps of all training images, or continue where an interrupted run stopped.

    Args:
        teacher: The teacher.
        config: All settings.
        train_set: The training images.
        run_dir: Output folder of the training; the maps are in its folder `teacher` unless teacher.cache names another.
        quiet: No progress bar.

    Returns:
        uint8 (N,S,S), mapped from the file.

    Raises:
        TrainingError: When the folder holds maps of another teacher or data set, or cannot be written.
        ImageError, OSError: For an unreadable image, unless `skip_bad` is set.
    """
    folder = Path(config.teacher.cache) if config.teacher.cache else run_dir / 'teacher'
    # The other processes wait for the first one, and raise its error.
    gather(lambda: _Storage(teacher, config, train_set, folder).fill(quiet) if rank() == 0 else None)
    barrier()
    with reading(folder / MAPS, TrainingError, 'delete the folder'):
        return np.load(folder / MAPS, mmap_mode='r', allow_pickle=False)


class _Storage:
    """The folder of the stored maps."""

    def __init__(self, teacher: Teacher, config: TrainConfig, train_set: ImageDataset, folder: Path) -> None:
        self.teacher, self.config, self.train_set, self.folder = teacher, config, train_set, folder
        self.shape = (len(train_set), config.image_size, config.image_size)

    def fill(self, quiet: bool) -> None:
        """Compute the missing maps."""
        record = self._open()
        if record.finished == len(self.train_set):
            logger.info('teacher: %d stored maps of %s', record.finished, self.folder)
            return
        with writing(self.folder):
            maps = np.lib.format.open_memmap(self.folder / MAPS, 'r+')
        bar = tqdm(
            desc='teacher', total=len(self.train_set), initial=record.finished, unit='image', disable=quiet, leave=False
        )
        with bar:
            for first, found in self._computed(record.finished):
                maps[first : first + len(found)] = (found * 255).round().to(torch.uint8).numpy()
                bar.update(len(found))
                record.finished = first + len(found)
                if record.finished % RECORD_EVERY == 0 or record.finished == len(self.train_set):
                    self._save(record, maps)
        self._draw(maps)

    def _open(self) -> Record:
        """Read the record of a folder with maps of the same source, or start a new one.

        Raises:
            TrainingError: When the maps have another source, or the folder is damaged.
        """
        source, path = self._source(), self.folder / RECORD
        if not path.exists():
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                np.lib.format.open_memmap(self.folder / MAPS, 'w+', np.uint8, self.shape)
                write_json(path, {'source': source, 'finished': 0})
            return Record(source)
        with reading(path, TrainingError, 'delete the folder'):
            record = build(Record, read_json(path))
        if changed := [key for key in source if record.source.get(key) != source[key]]:
            raise TrainingError(
                f'{self.folder} holds maps of another teacher or data set ({", ".join(changed)} differ): delete the '
                'folder, or choose another teacher.cache'
            )
        with reading(self.folder / MAPS, TrainingError, 'delete the folder'):
            maps = np.load(self.folder / MAPS, mmap_mode='r', allow_pickle=False)
            if maps.shape != self.shape or maps.dtype != np.uint8 or not 0 <= record.finished <= len(maps):
                raise DamagedText(f'it does not hold maps {self.shape}')
        return record

    def _source(self) -> dict[str, Any]:
        data = [[i, int(label)] for i, label in zip(self.train_set.ids, self.train_set.labels)]
        common = {'images': _hash(data), 'image_size': self.config.image_size, 'shift': self.config.decoder.shift}
        return json.loads(json.dumps({**common, **self.teacher.source()}))

    def _computed(self, start: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the maps (B,S,S) from the image `start` on, with the index of the first of each batch."""
        if isinstance(self.teacher, FolderTeacher):
            for index in range(start, len(self.train_set)):
                yield index, self.teacher.read(index)
            return
        device = next(self.teacher.models[0].parameters()).device
        sides = self.config.teacher.sizes or [self.config.image_size]
        loader = DataLoader(
            _WholeImages(self.train_set, max(sides), start),
            BATCH_SIZE,
            num_workers=self.config.workers,
            collate_fn=list,
        )
        for number, items in enumerate(loader):
            first = start + number * BATCH_SIZE
            labels = torch.from_numpy(self.train_set.labels[first : first + len(items)])
            found = torch.zeros(len(items), *self.shape[1:])
            good = [i for i, item in enumerate(items) if isinstance(item, torch.Tensor)]
            for item in items:
                if isinstance(item, Exception) and not self.config.skip_bad:
                    raise type(item)(f'{item}; fix or remove the file, or skip unreadable images with --skip-bad')
            if good:
                images = torch.stack([items[i] for i in good]).to(device)
                found[good] = self.teacher.maps(images, labels[good].to(device)).float().cpu()
            yield first, found

    def _save(self, record: Record, maps: np.memmap) -> None:
        with writing(self.folder):
            maps.flush()
            write_json(self.folder / RECORD, {'source': record.source, 'finished': record.finished})

    def _draw(self, maps: np.ndarray) -> None:
        """Draw some maps over their images, for people."""
        rows = []
        whole = _WholeImages(self.train_set, self.config.image_size, 0)
        for index in np.linspace(0, len(maps) - 1, min(PICTURES, len(maps))).round().astype(int).tolist():
            if isinstance(image := whole[index], torch.Tensor):
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                rows.append([(picture, ''), (viz.blend(picture, maps[index] / 255.0), 'teacher')])
        if rows:
            with writing(self.folder), atomic_path(self.folder / PICTURE) as temporary:
                viz.grid(rows, height=160).save(temporary)


class _WholeImages(Dataset):
    """Images uint8 (3,S,S) without augmentation, from an index on; an unreadable one is returned as its error."""

    def __init__(self, train_set: ImageDataset, side: int, start: int) -> None:
        self.dataset, self.start = copy.copy(train_set), start
        self.dataset.transform = EvalTransform(side)

    def __len__(self) -> int:
        return len(self.dataset) - self.start

    def __getitem__(self, index: int) -> torch.Tensor | Exception:
        try:
            return self.dataset[self.start + index][0]
        except (ImageError, OSError) as error:
            return error


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
