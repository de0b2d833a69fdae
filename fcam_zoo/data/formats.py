"""The choice between the layouts and formats of data sets."""

from __future__ import annotations

import os
from pathlib import Path

from .._io import is_file, is_folder, short_path
from .._schema import reading, show
from ..errors import DatasetError
from .base import AnnotatedDataset, ImageDataset, Transform, annotation_path
from .box_csv import HEADER, CsvDataset
from .coco import CocoDataset
from .folder import FolderDataset
from .hub_dataset import PREFIX, HubDataset, find_split
from .images import has_images, images_within
from .mask_folder import MaskDataset
from .paths import files_within, splits_of, subfolders
from .shard_dataset import ShardDataset, shards_of
from .sources.urls import is_url
from .table import TableDataset, table_splits
from .voc import VocDataset
from .wsol import WSOLDataset

# Folders of images or annotations that are not classes.
OTHER_FOLDERS = {'images', 'masks', 'labels', 'annotations', 'jpegimages', 'training', 'valid', 'validation', 'testing'}


def open_dataset(
    root: str | os.PathLike,
    split: str,
    transform: Transform | None = None,
    ground_truth: bool | None = None,
    annotations: str | os.PathLike | None = None,
) -> ImageDataset:
    """Open a split of a data set: with an annotation file, in the WSOL layout, or with one folder per class.

    Args:
        root: Folder of the data set; or a CSV file of paths and labels (see `TableDataset`), or `hf-dataset:org/name`
            (see `HubDataset`); or the folder or URL of tar shards or Parquet files (see `ShardDataset`).
        split: 'train', 'val', 'test', or another name of the folder of the split; '' for a data set without splits: one
            with `annotations`, or a folder of class folders.
        transform: PIL image (RGB) -> item; None uses `EvalTransform()`.
        ground_truth: Whether to read boxes or masks. None reads them in every split but 'train': weak supervision must
            not use the boxes of its training images.
        annotations: A COCO instances file (.json), a CSV file of boxes, a folder of Pascal VOC XML files or a folder of
            masks, recognized by their content; `{split}` in the path stands for the split. See `AnnotatedDataset`.
            Without it, the layout is the WSOL layout if `<root>/metadata/<split>` exists, else one folder per class.

    Raises:
        DatasetError: If the split does not exist in either layout, the annotations have an unknown format, or the data
            set has problems (see the classes).
    """
    if is_hub_name(root) or is_url(os.fspath(root)) or is_file(Path(root)):
        if annotations is not None:
            raise DatasetError(
                f'{short_path(root)}: annotations need a folder of images; leave them out, or give the folder'
            )
        if is_hub_name(root):
            return HubDataset(hub_name(root), split, transform)
        if is_url(os.fspath(root)):
            return ShardDataset(root, split, transform, ground_truth)
        if Path(root).suffix.lower() in ('.tar', '.parquet'):
            raise DatasetError(f'{short_path(root)}: a data set is the folder of its shards; give the folder')
        return TableDataset(root, split, transform, ground_truth)
    root = Path(root)
    if annotations is not None:
        return detect_format(annotation_path(annotations, split))(root, split, annotations, transform, ground_truth)
    if split and is_folder(root / 'metadata' / split):
        return WSOLDataset(root, split, transform, ground_truth)
    if shards_of(root, split):
        return ShardDataset(root, split, transform, ground_truth)
    if is_folder(root / split) and (split or not splits_of(root)):
        return FolderDataset(root, transform, split=split)
    found = f' (found: {", ".join(splits_of(root))})' if splits_of(root) else ''
    if not is_folder(root):
        found = ' (the folder does not exist)'
    raise DatasetError(
        f'{short_path(root)}: no split {show(split)}{found}. Use the layout '
        '<split>/<class>/*.jpg in it (one folder per class), or images/ and metadata/<split>/image_ids.txt '
        '(WSOL layout), or <split>/*.tar or *.parquet (shards), or give annotations (COCO, Pascal VOC, CSV or masks)'
    )


def train_split(root: str | os.PathLike) -> str:
    """Return the split of the training images: '' for a folder that has only class folders, otherwise 'train'.

    Raises:
        DatasetError: If some of the folders look like classes and others do not.
    """
    name, root = root, Path(root)
    if is_hub_name(name) or not is_folder(root) or splits_of(root) or shards_of(root, 'train'):
        return 'train'
    classes = [name for name in subfolders(root) if name.lower() not in OTHER_FOLDERS and images_within(root / name)]
    if not classes:
        return 'train'
    others = [f'the folder {show(name)}' for name in subfolders(root) if name not in classes]
    if has_images(root):
        others.append('images outside of folders')
    if others:
        raise DatasetError(
            f'{short_path(root)}: has no train folder, and besides class folders such as {show(classes[0])} it has '
            f'{others[0]}: use the layout train/<class>/*.jpg, or only <class>/*.jpg'
        )
    return ''


def is_hub_name(root: str | os.PathLike) -> bool:
    """Return whether a data set is one of the `datasets` library."""
    return os.fspath(root).startswith(PREFIX)


def hub_name(root: str | os.PathLike) -> str:
    """Return the name of a data set of the `datasets` library."""
    return os.fspath(root).removeprefix(PREFIX)


def has_split(root: str | os.PathLike, split: str) -> bool:
    """Return whether a data set without annotation file has a split. Errors are those of `open_dataset`."""
    if is_hub_name(root):
        return find_split(hub_name(root), split) is not None
    if is_url(os.fspath(root)):
        return bool(shards_of(root, split))
    root = Path(root)
    if is_file(root):
        return split in table_splits(root)
    return is_folder(root / 'metadata' / split) or is_folder(root / split) or bool(shards_of(root, split))


def detect_format(path: Path) -> type[AnnotatedDataset]:
    """Choose the class that reads an annotation file or folder; raise `DatasetError` if its content is unknown."""
    if is_folder(path):
        if files_within(path, '.xml'):
            return VocDataset
        if files_within(path, '.png'):
            return MaskDataset
        raise DatasetError(
            f'{path}: contains neither XML files (Pascal VOC) nor masks (PNG); give the folder that does'
        )
    if not is_file(path):  # Reading a pipe or a device might never end.
        raise DatasetError(f'{short_path(path)}: annotations cannot be read (no such file); check the path')
    with reading(path, DatasetError, 'write the annotations again'), path.open('rb') as file:
        start = file.read(4096)
    start = start.removeprefix(b'\xef\xbb\xbf').lstrip()
    if start.startswith((b'{', b'[')):
        return CocoDataset
    if path.suffix.lower() == '.csv' or start.startswith(b'image,'):
        return CsvDataset
    raise DatasetError(
        f'{path}: neither COCO instances (JSON) nor boxes with the header {",".join(HEADER)} (CSV); convert it, or '
        'give a folder of Pascal VOC XML files or of masks'
    )
