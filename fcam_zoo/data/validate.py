"""Every fault of a data set at once, before hours of training meet the first."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from ..errors import DatasetError, ImageError
from .annotated import annotation_path, size_fault
from .annotations import Annotations
from .folder import scan_folder, splits_of, subfolders
from .formats import recognise
from .images import images_within, open_image, open_levels, open_mask
from .mask_folder import mask_size_fault
from .metadata import LABELS, LOCALIZATION, SIZES, Metadata, read_metadata


def check_dataset(
    root: str | os.PathLike,
    splits: Sequence[str] | None = None,
    *,
    quiet: bool = False,
    annotations: str | os.PathLike | None = None,
) -> list[str]:
    """Check a data set of any layout: its metadata, and that every image and mask decodes whole.

    Args:
        root: Folder of the data set; for one folder a class, the folder of the splits or of the classes.
        splits: Splits to check; None for all there are.
        quiet: Show no progress bar.
        annotations: Annotation file or folder as `open_dataset` takes it. Without `{split}` in its path it is that of
            one split, so `splits` must name one where the data set has several.

    Returns:
        One line a fault, naming the file and the mend; empty for a sound data set. Faults are missing or malformed
        metadata, ids without label, size or localization, lines of ids that no list has, boxes outside their images,
        images that are missing, unreadable, or not of the size in the metadata, masks that are missing, unreadable, or
        not of the size of their image, masks without image, boxes and annotations given twice, class folders without
        images, and images that are in two splits.

    Raises:
        DatasetError: When `root` is not a folder, or it is open which split the annotations belong to.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f'{root}: no such folder; name the folder of a data set')
    if annotations is not None:
        problems, members = _check_annotated(root, _annotated_splits(root, splits, annotations), annotations, quiet)
        return problems + list(_in_two_splits(members))
    wsol = (root / 'metadata').is_dir()
    names = list(splits if splits is not None else splits_of(root))
    if wsol:
        problems, members = _check_wsol(root, names, quiet)
    else:
        problems, members = _check_folders(root, names or [''], quiet)
    return problems + list(_in_two_splits(members))


def _check_wsol(root: Path, splits: list[str], quiet: bool) -> tuple[list[str], dict[str, dict[str, Path]]]:
    problems, members = [], {}
    if not splits:
        problems.append(f'{root / "metadata"}: no split; add {root / "metadata"}/<split>/image_ids.txt')
    for split in splits:
        # Training needs no localization, but where it is given it is to be right.
        located = split != 'train' or (root / 'metadata' / split / LOCALIZATION).is_file()
        data = read_metadata(root, split, located)
        problems += data.problems
        problems += _strays(data)
        for image_id in tqdm(data.ids, f'{root.name} {split}', disable=quiet, unit='image'):
            problems += _check_wsol_image(root, data, image_id)
        members[split] = {image_id: data.images / image_id for image_id in data.ids}
    return problems, members


def _strays(data: Metadata) -> Iterator[str]:
    ids = set(data.ids)
    for file, table in ((LABELS, data.labels), (SIZES, data.sizes), (LOCALIZATION, {**data.boxes, **data.masks})):
        for image_id in table:
            if image_id not in ids:
                yield f'{data.folder / file}: {image_id} is not in image_ids.txt; add it there or remove its lines here'


def _check_wsol_image(root: Path, data: Metadata, image_id: str) -> Iterator[str]:
    path = data.images / image_id
    known = data.sizes.get(image_id)
    try:
        size = open_image(path, exif=False).size
        if known is not None and size != known:
            yield (
                f'{path}: {size[0]}x{size[1]} pixels, but {data.folder / SIZES} says {known[0]}x{known[1]}; '
                'correct the line, and the boxes if the image was resized'
            )
    except FileNotFoundError:
        yield f'{path}: image is missing; restore it, or remove its lines from {data.folder}'
        size = known
    except ImageError as e:
        yield str(e)
        size = known
    files, ignore = data.masks.get(image_id, ([], ''))
    for file in [*files, *filter(None, [ignore])]:
        yield from _check_mask(root / 'masks' / file, size, data)


def _check_mask(path: Path, size: tuple[int, int] | None, data: Metadata) -> Iterator[str]:
    try:
        mask = open_mask(path)
    except FileNotFoundError:
        yield f'{path}: mask is missing; restore it, or remove it from {data.folder / LOCALIZATION}'
    except ImageError as e:
        yield str(e)
    else:
        if size is not None and mask.shape[::-1] != size:
            yield mask_size_fault(path, mask, size)


def _annotated_splits(root: Path, splits: Sequence[str] | None, annotations: str | os.PathLike) -> list[str]:
    if splits is not None:
        return list(splits)
    found = splits_of(root)
    if '{split}' in str(annotations):
        found = [s for s in dict.fromkeys([*found, *subfolders(root)]) if annotation_path(annotations, s).exists()]
        if not found:
            raise DatasetError(f'{annotations}: there is none for any split of {root}; name the split')
    elif len(found) > 1:
        raise DatasetError(
            f'{annotations}: of which split ({", ".join(found)}) of {root}? Name it, or write {{split}} in the path'
        )
    return found or ['']


def _check_annotated(
    root: Path, splits: list[str], annotations: str | os.PathLike, quiet: bool
) -> tuple[list[str], dict[str, dict[str, Path]]]:
    problems, members = [], {}
    for split in splits:
        try:
            dataset = recognise(annotation_path(annotations, split))
        except DatasetError as e:
            problems.append(str(e))
            continue
        data = dataset.load(root, split, annotations, True)
        if split == 'train' and not data.boxes and not data.masks:  # Training needs no localization.
            unused, data = data.unused, dataset.load(root, split, annotations, False)
            data.unused = unused
        problems += [*data.problems, *data.strays, *data.repeated_boxes(), *_masks_without_image(data)]
        for image_id in tqdm(data.listed, f'{root.name} {split}', disable=quiet, unit='image'):
            problems += _check_annotated_image(data, image_id)
        members[split] = {image_id: data.images / image_id for image_id in data.listed}
    return problems, members


def _masks_without_image(data: Annotations) -> Iterator[str]:
    # One folder may serve all splits, so an image of any of them owns its mask.
    folders = {data.root / split for split in splits_of(data.root)} if data.unused else set()
    stems = {p.relative_to(f).with_suffix('').as_posix() for f in folders if f.is_dir() for p in images_within(f)}
    for stem, path in data.unused.items():
        if stem not in stems:
            yield f'{path}: mask without image; name it as its image below {data.images}, or remove it'


def _check_annotated_image(data: Annotations, image_id: str) -> Iterator[str]:
    path, size = data.images / image_id, data.sizes.get(image_id)
    try:
        stored = open_image(path, exif=False).size
        if size not in (None, stored):
            yield size_fault(data, image_id, stored)
    except FileNotFoundError:
        stored = None
        yield f'{path}: image is missing; restore it, or remove it from {data.sources.get(image_id, data.path)}'
    except (ImageError, OSError) as e:
        stored = None
        yield str(e)
    if size or stored:
        yield from data.faults_of_boxes(image_id, size or stored)
    if image_id in data.masks:
        try:
            mask = open_levels(data.masks[image_id])
            if stored and mask.shape[::-1] != stored:
                yield mask_size_fault(data.masks[image_id], mask, stored)
        except (ImageError, OSError) as e:
            yield str(e)


def _check_folders(root: Path, splits: list[str], quiet: bool) -> tuple[list[str], dict[str, dict[str, Path]]]:
    problems, members = [], {}
    for split in splits:
        _, files, found = scan_folder(root, split)
        problems += found
        paths = [path for group in files.values() for path in group]
        for path in tqdm(paths, f'{root.name} {split}', disable=quiet, unit='image'):
            try:
                open_image(path)
            except ImageError as e:
                problems.append(str(e))
        members[split] = {path.relative_to(root / split).as_posix(): path for path in paths}
    return problems, members


def _in_two_splits(members: dict[str, dict[str, Path]]) -> Iterable[str]:
    """Images that two splits share: the same file, or files of the same id and content."""
    splits = list(members)
    for k, first in enumerate(splits):
        for second in splits[k + 1 :]:
            for image_id, path in members[first].items():
                other = members[second].get(image_id)
                if other is not None and (other == path or _same_content(path, other)):
                    yield f'{path}: in the splits {first} and {second}; remove it from one, or results are worthless'


def _same_content(first: Path, second: Path) -> bool:
    # Missing files are reported on their own.
    return first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False)
