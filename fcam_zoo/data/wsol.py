"""The WSOL metadata layout of Choe et al. (CVPR 2020): CUB, ILSVRC, OpenImages, and sets laid out like them.

    root/images/<id>                                   the pictures
    root/masks/<png>                                   for sets with masks
    root/metadata/<split>/image_ids.txt                <id>
                          class_labels.txt             <id>,<label>
                          image_sizes.txt              <id>,<width>,<height>     (may be empty)
                          localization.txt             <id>,<x0>,<y0>,<x1>,<y1>  or  <id>,<mask png>,<ignore png>
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..errors import DatasetError
from .images import open_image
from .transforms import EvalTransform

Transform = Callable[[Image.Image], torch.Tensor]


class WSOLDataset(Dataset):
    """Images, labels and ground truth of one split.

    Items are (image uint8 (3,H,W), label, index). Pictures keep their stored orientation, to which boxes refer.

    Args:
        root: Folder of the layout above.
        split: 'train', 'val' or 'test'.
        transform: PIL image -> uint8 tensor; default: direct resize to 224 x 224.
        ground_truth: Read localization.txt. Training does not need it and must not use it.

    Attributes:
        name: Name of the root folder.
        ids, labels: (N) image ids and int64 labels.
        sizes: (N,2) int64 width, height, or None where image_sizes.txt is empty.
        boxes: N arrays (n,4) of x0, y0, x1, y1 in original pixels, or None.
        masks: N lists of mask files with their ignore file, or None.
        class_names: Label -> name of its folder.
        num_classes: Largest label + 1.

    Raises:
        FileNotFoundError: When a metadata file is missing.
        DatasetError: When the metadata contradict themselves; the message names file and line.
    """

    def __init__(
        self, root: str | os.PathLike, split: str, transform: Transform | None = None, ground_truth: bool = True
    ) -> None:
        self.root, self.split = Path(root), split
        self.name = self.root.resolve().name
        self.transform = transform or EvalTransform()
        self.metadata = self.root / 'metadata' / split
        self.ids = [fields[0] for _, fields in self._rows('image_ids.txt', 1)]
        if not self.ids:
            raise DatasetError(f'{self.metadata / "image_ids.txt"} lists no image')
        seen: set[str] = set()
        for image_id in self.ids:
            if image_id in seen:
                raise DatasetError(f'{self.metadata / "image_ids.txt"}: {image_id} is listed twice; remove one')
            seen.add(image_id)
            _refuse_escape(image_id, self.metadata / 'image_ids.txt')
        self.labels = self._read_labels()
        self.num_classes = int(self.labels.max()) + 1
        self.class_names = {
            int(label): PurePosixPath(i).parts[0] if '/' in i else str(label) for i, label in zip(self.ids, self.labels)
        }
        self.sizes = self._read_sizes()
        self.boxes: list[np.ndarray] | None = None
        self.masks: list[tuple[list[str], str | None]] | None = None
        if ground_truth:
            self._read_localization()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        image = open_image(self.path(index), exif=False)
        return self.transform(image), int(self.labels[index]), index

    def path(self, index: int) -> Path:
        """File of an image."""
        return self.root / 'images' / self.ids[index]

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Ground-truth mask, uint8 (h,w): 1 object, 0 background, 255 not scored.

        Instances are united, and what is both object and to be ignored counts as object (Choe et al., CVPR 2020).

        Args:
            index: Of the image.
            size: (w,h) to which the masks are resized, nearest neighbour.

        Raises:
            DatasetError: When the set has no masks.
            FileNotFoundError: When a mask file is missing.
        """
        if self.masks is None:
            raise DatasetError(f'{self.name}/{self.split} has boxes or no ground truth, not masks')
        files, ignore = self.masks[index]
        foreground = np.zeros(size[::-1], bool)
        for file in files:
            foreground |= self._read_mask(file, size)
        ignored = self._read_mask(ignore, size) & ~foreground if ignore else np.zeros_like(foreground)
        return np.where(ignored, 255, foreground).astype(np.uint8)

    def _read_mask(self, file: str, size: tuple[int, int]) -> np.ndarray:
        path = self.root / 'masks' / file
        grey = open_image(path, exif=False).convert('L')
        return cv2.resize(np.asarray(grey, np.float32), size, interpolation=cv2.INTER_NEAREST) > 0.5

    def _rows(self, file: str, *counts: int) -> Iterator[tuple[int, list[str]]]:
        """Numbered lines of a metadata file, split so that commas within an id survive."""
        path = self.metadata / file
        if not path.is_file():
            raise FileNotFoundError(f'metadata file {path} is missing: the WSOL layout needs it')
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            if not line.strip():
                continue
            for count in sorted(counts, reverse=True):
                fields = line.strip().rsplit(',', count - 1)
                if len(fields) == count:
                    break
            else:
                raise DatasetError(f'{path}, line {number}: {line!r} has not {" or ".join(map(str, counts))} fields')
            yield number, fields

    def _integers(self, file: str, number: int, fields: list[str]) -> list[int]:
        try:
            return [int(f) for f in fields]
        except ValueError:
            raise DatasetError(
                f'{self.metadata / file}, line {number}: {",".join(fields)} must be whole numbers'
            ) from None

    def _read_labels(self) -> np.ndarray:
        file = 'class_labels.txt'
        labels = {f[0]: self._integers(file, n, f[1:])[0] for n, f in self._rows(file, 2)}
        for image_id in self.ids:
            if image_id not in labels:
                raise DatasetError(f'{self.metadata / file}: image {image_id} has no label; add a line for it')
            if labels[image_id] < 0:
                raise DatasetError(f'{self.metadata / file}: label {labels[image_id]} of {image_id} is negative')
        return np.array([labels[i] for i in self.ids], np.int64)

    def _read_sizes(self) -> np.ndarray | None:
        file = 'image_sizes.txt'
        sizes = {f[0]: self._integers(file, n, f[1:]) for n, f in self._rows(file, 3)}
        if not sizes:
            return None
        for image_id in self.ids:
            if image_id not in sizes:
                raise DatasetError(f'{self.metadata / file}: image {image_id} has no size; add id,width,height')
            if min(sizes[image_id]) < 1:
                raise DatasetError(f'{self.metadata / file}: size {sizes[image_id]} of {image_id} is not positive')
        return np.array([sizes[i] for i in self.ids], np.int64)

    def _read_localization(self) -> None:
        file = 'localization.txt'
        index = {image_id: i for i, image_id in enumerate(self.ids)}
        boxes: list[list[list[int]]] = [[] for _ in self.ids]
        masks: list[tuple[list[str], str | None]] = [([], None) for _ in self.ids]
        kinds = set()
        for number, fields in self._rows(file, 3, 5):
            if fields[0] not in index:
                raise DatasetError(f'{self.metadata / file}, line {number}: {fields[0]} is not in image_ids.txt')
            i = index[fields[0]]
            kinds.add(len(fields))
            if len(fields) == 5:
                box = self._integers(file, number, fields[1:])
                self._check_box(box, i, number)
                boxes[i].append(box)
            else:
                for name in filter(None, fields[1:]):
                    _refuse_escape(name, self.metadata / file)
                masks[i] = ([*masks[i][0], fields[1]], fields[2] or masks[i][1])
        if not kinds:
            return
        if len(kinds) > 1:
            raise DatasetError(f'{self.metadata / file} mixes boxes and masks: keep one kind')
        found = boxes if kinds == {5} else [m[0] for m in masks]
        for image_id, entries in zip(self.ids, found):
            if not entries:
                raise DatasetError(f'{self.metadata / file}: image {image_id} has no box or mask; add a line for it')
        if kinds == {5}:
            if self.sizes is None:
                raise DatasetError(f'{self.metadata / "image_sizes.txt"} is empty: boxes need the sizes of the images')
            self.boxes = [np.array(b, np.int64) for b in boxes]
        else:
            self.masks = masks

    def _check_box(self, box: list[int], index: int, number: int) -> None:
        if self.sizes is None:
            return
        width, height = self.sizes[index]
        x0, y0, x1, y1 = box
        if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
            raise DatasetError(
                f'{self.metadata / "localization.txt"}, line {number}: box {box} is not inside {self.ids[index]} of '
                f'{width}x{height} pixels (x0,y0,x1,y1); correct it'
            )


def _refuse_escape(name: str, source: Path) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or '\\' in name:
        raise DatasetError(f'{source}: {name!r} leads out of the data set; use a path inside it')
