"""Data sets in tar shards or Parquet files, with the labels that are in them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from .._io import is_file, is_folder, one_line
from .._schema import DamagedText, parse_json, show
from ..errors import DatasetError, FcamZooError
from .annotations import Annotations, check_classes
from .base import ImageDataset, Transform, reads_ground_truth
from .coco import parse_bbox, whole_pixels
from .images import image_size
from .paths import subfolders
from .sources import ImageSource, open_source
from .sources.store_reader import find_objects
from .sources.urls import is_url, path_of_url
from .values import Problem, check_image_size, collect_problem, plain

# Names of the split val on the Hub.
_NAMES = {'val': ('val', 'validation', 'valid')}
_SUFFIXES = ('.tar', '.parquet')
_MAX_BOXES = 10_000  # Boxes of an image.


class ShardDataset(ImageDataset):
    """Images and labels of tar shards as WebDataset writes them, or of Parquet files as the Hub has them.

    The shards of a split are `<root>/<split>/*.tar`, `<root>/<split>.tar` or `<root>/<split>-*.tar`, or the same with
    `.parquet`; `val` may also be called `validation` or `valid`. Labels are in the members `.cls`, or in the column
    `label`. Names of numbers are in `<root>/classes.txt`, or in the Hub's metadata; labels that are names are numbered
    as in the split train. A member `.json` may have boxes: `bbox`, or a list `boxes`, of x, y, width, height as in
    COCO, with `width` and `height` of the image if wanted. With boxes, images are not turned by their EXIF
    orientation, and those without box are left out. Items, attributes and errors are those of `ImageDataset`.

    Args:
        root: Folder or URL of the shards.
        split: 'train', 'val', 'test', or another name.
        transform: As for `open_dataset`.
        ground_truth: As for `open_dataset`.

    Raises:
        ImportError: For Parquet files without pyarrow, or a store without its client.
    """

    in_files = False

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        transform: Transform | None = None,
        ground_truth: bool | None = None,
    ) -> None:
        source, data = _read_split(root, split, reads_ground_truth(split, ground_truth))
        super().__init__(data, transform)
        # The name of the data set, also of a URL, from which Path removes a slash.
        self.name = os.fspath(root).rstrip('/').rpartition('/')[2] or self.name
        self.exif = self.boxes is None
        places = {image_id: index for index, image_id in enumerate(source.ids)}
        self.source, self._places = source, array('q', (places[image_id] for image_id in self.ids))

    def path(self, index: int) -> Path:
        """Return the shard and the name of an image in it, for messages."""
        return Path(self.source.describe(self._places[index]))

    def _stored_size(self, index: int) -> tuple[int, int]:
        place = self._places[index]
        with self.source.open(place) as file:
            return image_size(file, self.source.describe(place))

    def _open(self, index: int) -> Image.Image:
        image = self.source.image(self._places[index], exif=self.exif)
        image_id = self.ids[index]
        if self.boxes is not None and image.size != self._annotations.sizes.get(image_id, image.size):
            raise DatasetError(self._annotations.size_problem(image_id, image.size))
        return image


def shards_of(root: str | os.PathLike, split: str) -> list[str]:
    """List the shards of a split; empty if there are none."""
    place = os.fspath(root).rstrip('/')
    names = _NAMES.get(split, (split,))
    if is_url(place):
        return _stored_shards(place, names)
    for name in names if split else ():
        own = Path(place, name)
        if is_folder(own) and subfolders(own):
            return []  # Class folders; shards in or beside them are the archives from which these were extracted.
        found = _files(own) if is_folder(own) else []
        found = found or [path for path in _files(Path(place)) if path.name.startswith((f'{name}-', f'{name}.'))]
        if found:
            return _of_one_kind([str(path) for path in found])
    return []


def _files(folder: Path) -> list[Path]:
    """List the tar and Parquet files in a folder."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and is_file(path))
    except (OSError, ValueError):  # Opening the data set reports it; ValueError is that of a NUL in the path.
        return []


def _stored_shards(url: str, names: Sequence[str]) -> list[str]:
    for name in names:
        for pattern in (f'{name}/*', f'{name}[-.]*'):
            try:
                found = [entry.url for entry in find_objects(f'{url}/{pattern}')[0]]
            except FileNotFoundError:
                continue
            if found := [u for u in found if path_of_url(u).lower().endswith(_SUFFIXES)]:
                return _of_one_kind(found)
    return []


def _of_one_kind(shards: list[str]) -> list[str]:
    """Return the tar shards if there are any, else the Parquet files: data sets may have both."""
    return [shard for shard in shards if shard.lower().endswith('.tar')] or shards


def _open_shards(root: str | os.PathLike, split: str) -> ImageSource:
    shards = shards_of(root, split)
    if not shards:
        raise DatasetError(f'{one_line(os.fspath(root))}: no shards of {show(split)}; add {split}/*.tar or *.parquet')
    try:
        return open_source(shards)
    except FileNotFoundError as e:
        raise DatasetError(str(e)) from e


def _read_split(root: str | os.PathLike, split: str, ground_truth: bool) -> tuple[ImageSource, Annotations]:
    source = _open_shards(root, split)
    place = Path(root)
    data = Annotations(place, split, place / split, place / split, ground_truth)
    data.problems += source.problems
    data.listed = list(source.ids)
    classes = _classes(root, split, source, data)
    numbers = {name: number for number, name in enumerate(classes)}
    for index, image_id in enumerate(source.ids):
        label = source.label(index)
        name = None if label is None or source.class_names is None else source.class_names[label]
        if name in numbers:
            data.labels[image_id] = numbers[name]
        elif not source.label_problem:
            fix = 'has no label' if name is None else f'has the class {plain(name)}, which train does not have'
            data.problems.append(f'{one_line(source.describe(index))}: {fix}; correct it or remove the image')
        if ground_truth:
            with collect_problem(data.problems, one_line(source.describe(index))):
                _add_boxes(data, image_id, source.sidecar_json(index), one_line(source.describe(index)))
    data.classes = dict(enumerate(classes))
    data.ids = [i for i in data.listed if i in data.labels and (not data.boxes or i in data.boxes)]
    check_classes(data)
    return source, data


def _classes(root: str | os.PathLike, split: str, source: ImageSource, data: Annotations) -> tuple[str, ...]:
    """Return the class names: those of the split train, if labels are names."""
    if source.label_problem:
        data.problems.append(source.label_problem)
    names = source.class_names or ()
    numbered = all(name == str(number) for number, name in enumerate(names))
    if numbered or split == 'train' or not shards_of(root, 'train'):
        return names
    return _open_shards(root, 'train').class_names or names


def _add_boxes(data: Annotations, image_id: str, note: bytes | None, where: str) -> None:
    """Add the boxes of a member `.json`."""
    if note is None:
        return
    try:
        content = parse_json(note)
    except DamagedText as e:
        raise Problem(f'its .json is {e}; write it again') from e
    if not isinstance(content, dict):
        return
    boxes = content.get('boxes', [content['bbox']] if 'bbox' in content else [])
    if not isinstance(boxes, list) or len(boxes) > _MAX_BOXES:
        raise Problem('boxes of its .json is not a list of boxes; write [[x, y, width, height], …]')
    for bbox in boxes:
        data.add_box(image_id, whole_pixels(*parse_bbox(bbox, image_id, positive=True)), where)
    width, height = content.get('width'), content.get('height')
    if type(width) is int and type(height) is int:
        data.sizes[image_id] = check_image_size(width, height)


def check_shards(root: str | os.PathLike, splits: Sequence[str], quiet: bool) -> Iterator[str]:
    """Report the problems of a data set of shards, and decode every image; used by `check_dataset`."""
    for split in splits:
        try:
            source, data = _read_split(root, split, split != 'train')
        except DatasetError as e:
            yield str(e)
            continue
        yield from data.problems
        for index, image_id in enumerate(tqdm(source.ids, f'{Path(root).name} {split}', disable=quiet, unit='image')):
            try:
                size = source.image(index, exif=False).size
            except (FcamZooError, OSError) as e:
                yield str(e)
                continue
            if data.sizes.get(image_id, size) != size:
                yield data.size_problem(image_id, size)
            yield from data.boxes_outside(image_id, data.sizes.get(image_id, size))


def shard_splits(root: str | os.PathLike) -> list[str]:
    """List the splits of train, val and test that have shards."""
    return [split for split in ('train', 'val', 'test') if shards_of(root, split)]
