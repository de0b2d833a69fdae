"""Report every problem of a data set at once, before a long training fails at the first."""

from __future__ import annotations

import filecmp
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .._io import is_file, is_folder, one_line, short_path
from ..errors import DatasetError, ImageError
from .annotations import Annotations, MaskFiles
from .base import annotation_path
from .folder import read_folder
from .formats import detect_format, is_hub_name
from .images import images_within, open_image, open_levels, open_mask
from .mask_folder import mask_size_problem
from .paths import splits_of, stem_within, subfolders
from .shard_dataset import check_shards, shard_splits
from .sources.urls import is_url
from .table import read_table, table_splits
from .values import Box, plain
from .wsol import LOCALIZATION, read_metadata


def check_dataset(
    root: str | os.PathLike,
    splits: Sequence[str] | None = None,
    *,
    quiet: bool = False,
    annotations: str | os.PathLike | None = None,
) -> list[str]:
    """Check the metadata of a data set of any layout, and decode every image and mask.

    Args:
        root: Folder of the data set, or a CSV file of paths and labels; for one folder per class, the folder of the
            splits or of the classes.
        splits: Splits to check; None checks all.
        quiet: Show no progress bar.
        annotations: Annotation file or folder as for `open_dataset`. Without `{split}` in its path it belongs to one
            split, so `splits` must name that split if the data set has several.

    Returns:
        One line per problem, with the file and the fix; empty if there are none. Problems are missing or malformed
        metadata, ids without label, size or localization, lines with unknown ids, boxes outside their images, images
        that are missing, unreadable, or not of the annotated size, masks that are missing, unreadable, or not of the
        size of their image, masks without image, repeated boxes and annotations, class folders without images, and
        images that are in two splits.

    Raises:
        DatasetError: If `root` is neither a folder nor a CSV file, or the split of the annotations is ambiguous.
    """
    if isinstance(splits, str):
        raise TypeError(f'splits is {splits!r}: give a list, such as [{splits!r}]')
    if is_hub_name(root):
        raise DatasetError(f'{root}: is checked by the datasets library when it is loaded; give a folder or a CSV file')
    shards = shard_splits(root) if annotations is None and not is_file(Path(root)) else []
    if shards:
        return list(check_shards(root, shards if splits is None else splits, quiet))
    if is_url(os.fspath(root)):
        raise DatasetError(f'{one_line(os.fspath(root))}: no shards of train, val or test; check the URL')
    root = Path(root)
    if not is_folder(root) and not is_file(root):
        raise DatasetError(f'{short_path(root)}: no such folder or file; give the folder or CSV file of a data set')
    if is_file(root) and annotations is not None:
        raise DatasetError(
            f'{short_path(root)}: annotations need a folder of images; leave them out, or give the folder'
        )
    problems: list[str] = []
    if splits is not None:
        names = list(splits)
    elif is_file(root):
        names = table_splits(root)
    elif annotations is not None:
        names = _annotated_splits(root, annotations)
    else:
        names = splits_of(root)
        if not names and is_folder(root / 'metadata'):
            return [f'{root / "metadata"}: no split; add {root / "metadata"}/<split>/image_ids.txt']
    members: dict[str, dict[str, Path]] = {}
    for split in names or ['']:
        try:
            data = _load(root, split, annotations)
        except DatasetError as e:
            problems.append(str(e))
            continue
        problems += [*data.problems, *data.warnings, *_masks_without_image(data)]
        read_mask = open_mask if annotations is None else open_levels
        for image_id in tqdm(data.listed, f'{root.name} {split}', disable=quiet, unit='image'):
            problems += _check_image(data, image_id, read_mask)
        members[split] = {image_id: data.images / image_id for image_id in data.listed}
    return problems + list(_in_two_splits(members))


def _load(root: Path, split: str, annotations: str | os.PathLike | None) -> Annotations:
    if is_file(root):
        return read_table(root, split, split != 'train')
    if annotations is None:
        if not is_folder(root / 'metadata'):
            return read_folder(root, split)
        # Training needs no localization, but if it exists it must be correct.
        return read_metadata(root, split, split != 'train' or is_file(root / 'metadata' / split / LOCALIZATION))
    dataset = detect_format(annotation_path(annotations, split))
    data = dataset.load(root, split, annotations, True)
    if split == 'train' and not data.boxes and not data.masks:
        unused, data = data.unused, dataset.load(root, split, annotations, False)
        data.unused = unused
    data.warnings += _repeated_boxes(data)
    return data


def _annotated_splits(root: Path, annotations: str | os.PathLike) -> list[str]:
    found = splits_of(root)
    if '{split}' in str(annotations):
        found = [s for s in dict.fromkeys([*found, *subfolders(root)]) if annotation_path(annotations, s).exists()]
        if not found:
            raise DatasetError(f'{annotations}: does not exist for any split of {root}; give the split')
    elif len(found) > 1:
        raise DatasetError(
            f'{annotations}: {root} has the splits {", ".join(found)}; give the split of these annotations, or write '
            '{split} in the path'
        )
    return found


def _masks_without_image(data: Annotations) -> Iterator[str]:
    # One folder may serve all splits, so the image of a mask may be in any of them.
    folders = [data.root / split for split in splits_of(data.root)] if data.unused else []
    stems = {stem_within(folder, path) for folder in folders for path in images_within(folder)}
    for stem, path in data.unused.items():
        if stem not in stems:
            yield f'{path}: mask without image; name it like its image below {data.images}, or remove it'


def _repeated_boxes(data: Annotations) -> Iterator[str]:
    for image_id, boxes in data.boxes.items():
        first: dict[Box, str] = {}
        for box, where in boxes:
            if first.setdefault(box, where) != where:
                yield f'{where}: the box {box} of {plain(image_id)} is already at {first[box]}; remove one'


def _check_image(data: Annotations, image_id: str, read_mask: Callable[[Path], np.ndarray]) -> list[str]:
    problems: list[str] = []
    path, source, stored = data.images / image_id, data.sources.get(image_id, data.path), None
    with _report_unreadable(problems, path, 'image', source):
        stored = open_image(path, exif=False).size
    size = data.sizes.get(image_id, stored)
    if stored is not None and size != stored:
        problems.append(data.size_problem(image_id, stored))
    if size is not None:
        problems += data.boxes_outside(image_id, size)
    for file in data.masks.get(image_id, MaskFiles(())).files:
        with _report_unreadable(problems, file, 'mask', source):
            mask = read_mask(file)
            if stored is not None and stored != mask.shape[::-1]:
                problems.append(mask_size_problem(file, mask.shape[::-1], stored))
    return problems


@contextmanager
def _report_unreadable(problems: list[str], file: Path, what: str, source: Path) -> Iterator[None]:
    """Add a problem if a file that `source` lists cannot be read in the block."""
    try:
        yield
    except FileNotFoundError:
        problems.append(f'{file}: {what} is missing; restore it, or remove it from {source}')
    except (ImageError, OSError) as e:
        problems.append(str(e))


def _in_two_splits(members: dict[str, dict[str, Path]]) -> Iterator[str]:
    """Report images that two splits share: the same file, or files with the same id and content."""
    for (first, images), (second, others) in itertools.combinations(members.items(), 2):
        for image_id in [i for i in images if i in others]:
            path, other = images[image_id], others[image_id]
            # Missing files were reported before.
            if path == other or (is_file(path) and is_file(other) and filecmp.cmp(path, other, shallow=False)):
                yield f'{path}: in the splits {first} and {second}; remove it from one, or results will be invalid'
