"""Data sets with one folder per class."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from .._io import is_folder, short_path
from .._schema import show
from .annotations import Annotations, check_classes
from .base import ImageDataset, Transform
from .images import describe_skipped, images_within
from .paths import subfolders
from .values import is_printable

logger = logging.getLogger(__name__)


class FolderDataset(ImageDataset):
    """Images in one folder per class: `<root>/<class>/*.jpg`, or `<root>/<split>/<class>/*.jpg`.

    Labels number the class folders in sorted order. As in torchvision's `ImageFolder`, the first level of folders has
    the classes, and their subfolders hold more images of the class; a warning is logged if these look like the classes.
    Items, attributes and errors are those of `ImageDataset`; there is no localization. Images are turned upright by
    their EXIF orientation; hidden files and folders are skipped.

    Args:
        root: Folder of the class folders or, with `split`, of the splits.
        transform: As for `open_dataset`.
        split: A split below `root`. If `<root>/train` exists its folders number the classes of every split, so that a
            split without one of the classes has the labels that a model was trained on.

    Raises:
        DatasetError: If a folder is missing, there are fewer than two classes, a class folder has no images, or a class
            is not in `<root>/train`.
    """

    exif = True

    def __init__(self, root: str | os.PathLike, transform: Transform | None = None, *, split: str = '') -> None:
        super().__init__(read_folder(Path(root), split), transform)


def read_folder(root: Path, split: str) -> Annotations:
    """List the images of the class folders of a split and collect the problems."""
    folder, train = root / split, root / 'train'
    data = Annotations(root, split, folder, folder)
    if not is_folder(folder):
        data.problems.append(f'{short_path(folder)}: no such folder; expected <class>/*.jpg in it')
        return data
    present = subfolders(folder)
    classes = subfolders(train) if split and is_folder(train) else present
    if len(classes) < 2:
        data.problems.append(
            f'{folder}: {len(classes)} class folders, but a classifier needs two; use the layout {folder}/<class>/*.jpg'
        )
    skipped: list[str] = []
    for name in present:
        if name not in classes:
            data.problems.append(f'{folder / name}: no such class in {train}; add it there or remove it here')
        images = [path.relative_to(folder).as_posix() for path in images_within(folder / name, skipped=skipped)]
        if not images:
            data.problems.append(f'{folder / name}: class folder without images; add images or remove it')
        elif name in classes:
            data.labels |= dict.fromkeys(images, classes.index(name))
        data.listed += images
    if folder == train or not split or not is_folder(train):
        _warn_of_sets(folder, data.listed)
    if skipped:
        logger.warning('%s: %s', folder, describe_skipped(skipped))
    data.ids, data.classes = data.listed, dict(enumerate(classes))
    for name in (i for i in data.ids if not is_printable(i)):
        data.problems.append(f'{folder}: the path {show(name)} has characters that cannot be printed; rename it')
    check_classes(data)
    return data


def _warn_of_sets(folder: Path, images: list[str]) -> None:
    """Warn when two class folders have images only in folders of the same names, so that they may be sets, not classes.

    Args:
        folder: Folder of the class folders.
        images: Paths of the images relative to it.
    """
    inside: dict[str, set[str]] = {}
    for image in images:
        name, *between = image.split('/')[:-1]
        inside.setdefault(name, set()).add(between[0] if between else '')
    first: dict[frozenset[str], str] = {}
    for name, found in inside.items():
        # One folder in each class, such as images/, is common.
        if '' in found or len(found) < 2:
            continue
        if (other := first.setdefault(frozenset(found), name)) != name:
            logger.warning(
                '%s: the classes are the folders %s and %s, which both have all images in folders named %s: if these '
                'are the classes, use the layout train/<class>/*.jpg and val/<class>/*.jpg',
                folder,
                show(other),
                show(name),
                ', '.join(map(show, sorted(found)[:3])),
            )
            return
