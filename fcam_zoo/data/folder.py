"""Data sets of one folder a class."""

from __future__ import annotations

import os
from pathlib import Path

from .base import ImageDataset, Transform, refuse
from .images import images_within


class FolderDataset(ImageDataset):
    """Images in one folder a class: `<root>/<class>/*.jpg`, or `<root>/<split>/<class>/*.jpg`.

    Labels number the class folders in sorted order. Items and attributes are those of `ImageDataset`; there is no
    localization. Pictures are turned upright by their EXIF orientation; hidden files and folders are passed over.

    Args:
        root: Folder of the class folders or, with `split`, of the splits.
        transform: PIL image (RGB) -> item; None takes `EvalTransform()`.
        split: A split below `root`. Where `<root>/train` exists its folders number the classes of every split, so that
            a split without one of the classes keeps the labels that a model was trained on.

    Raises:
        DatasetError: For a missing folder, fewer than two classes, a class folder without images, or a class that
            `<root>/train` does not have.
    """

    def __init__(self, root: str | os.PathLike, transform: Transform | None = None, *, split: str = '') -> None:
        root = Path(root)
        classes, files, problems = scan_folder(root, split)
        refuse(problems)
        ids = [path.relative_to(root / split).as_posix() for paths in files.values() for path in paths]
        label = {name: number for number, name in enumerate(classes)}
        labels = [label[name] for name, paths in files.items() for _ in paths]
        super().__init__(root, root / split, split, ids, labels, dict(enumerate(classes)), transform)


def scan_folder(root: Path, split: str) -> tuple[list[str], dict[str, list[Path]], list[str]]:
    """Class names in order of their labels, image files of each class of the split, and all that is wrong."""
    folder = root / split
    if not folder.is_dir():
        return [], {}, [f'{folder}: no such folder; expected {folder}/<class>/*.jpg']
    present = subfolders(folder)
    classes = subfolders(root / 'train') if split and (root / 'train').is_dir() else present
    problems = []
    if len(classes) < 2:
        problems.append(
            f'{folder}: {len(classes)} class folders, but a classifier needs two; lay out {folder}/<class>/*.jpg'
        )
    problems += [
        f'{folder / name}: no such class in {root / "train"}; add it there or remove it here'
        for name in present
        if name not in classes
    ]
    files = {name: images_within(folder / name) for name in present}
    problems += [
        f'{folder / name}: class folder without images; fill or remove it' for name in present if not files[name]
    ]
    return classes, files, problems


def splits_of(root: Path) -> list[str]:
    """Splits of a data set: the folders of its metadata, or those of train, val, test that exist; possibly none."""
    if (root / 'metadata').is_dir():
        return subfolders(root / 'metadata')
    return [name for name in ('train', 'val', 'test') if (root / name).is_dir()]


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.'))
