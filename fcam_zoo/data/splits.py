"""Which images of annotations belong to the split that is opened, when one file describes several splits."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .._io import is_file
from ..errors import DatasetError
from .annotations import Annotations
from .images import images_within
from .paths import splits_of
from .values import plain, read_text

logger = logging.getLogger(__name__)


def leave_out_other_splits(data: Annotations) -> None:
    """Leave out the listed images that belong to another split of the data set, and log their number.

    Which split an image belongs to is known from the folders of the splits, or from the metadata of the WSOL layout.
    """
    others = [name for name in splits_of(data.root) if name != data.split]
    if not data.split or not others:
        return
    elsewhere = _images_elsewhere(data, others)
    if not elsewhere:
        return
    counts = ', '.join(f'{count} of {split}' for split, count in sorted(Counter(elsewhere.values()).items()))
    data.listed = [i for i in data.listed if i not in elsewhere]
    if data.listed:
        logger.info('%s: describes images of other splits too, which are left out: %s', data.path, counts)
    else:
        data.problems.append(
            f'{data.path}: describes no image of {data.split} (but {counts}); give the annotations of {data.split}, '
            'or write {split} in the path'
        )


def _images_elsewhere(data: Annotations, others: Sequence[str]) -> dict[str, str]:
    """Return the listed images of other splits: id -> split."""
    first = {i: i.split('/', 1)[0] for i in data.listed}
    if data.images == data.root:
        return {i: split for i, split in first.items() if split in others}
    if data.images != data.root / data.split:
        own = _wsol_ids(data.root, data.split)
        listed: dict[str, str] = {}
        for split in others:
            listed |= dict.fromkeys(_wsol_ids(data.root, split), split)
        return {i: listed[i] for i in data.listed if i in listed and i not in own}
    missing = [i for i in data.listed if not is_file(data.images / i)]
    known: dict[str, str] = {}
    for split in others if missing else ():
        folder = data.root / split
        for path in images_within(folder):
            # VOC files often name an image without its folder or suffix.
            names = (path.relative_to(folder).as_posix(), path.name, path.stem)
            known |= dict.fromkeys(names, split)
    found = {i: first[i] if first[i] in others else known.get(i) for i in missing}
    return {i: split for i, split in found.items() if split is not None}


def _wsol_ids(root: Path, split: str) -> set[str]:
    """Return the ids of a split in the WSOL layout; empty if there is no such metadata."""
    file = root / 'metadata' / split / 'image_ids.txt'
    lines = read_text(file, 'check its permissions').splitlines() if is_file(file) else []
    return {PurePosixPath(line.strip()).as_posix() for line in lines if line.strip()}


def check_not_of_test(root: Path, ids: Sequence[str], annotations: str | os.PathLike) -> None:
    """Check that annotations of images of val cannot be those of test.

    Args:
        root: Folder of the data set.
        ids: Ids of the images of val.
        annotations: As for `open_dataset`.

    Raises:
        DatasetError: When val and test have an image of the same path, and the annotations do not say which is meant.
    """
    if '{split}' in str(annotations):
        return
    shared = [i for i in ids if is_file(root / 'val' / i) and is_file(root / 'test' / i)]
    if shared:
        raise DatasetError(
            f'{annotations}: {plain(shared[0])} is an image of val and of test ({len(shared)} such images), so these '
            'may be the annotations of test, which must not select the epoch; write {split} in the path, such as '
            'annotations/{split}'
        )
