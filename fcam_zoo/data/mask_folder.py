"""A folder of masks, one PNG an image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..errors import DatasetError
from .annotated import AnnotatedDataset
from .annotations import Annotations, files_within
from .images import image_size, images_within, open_levels


class MaskDataset(AnnotatedDataset):
    """Masks of a folder; arguments, attributes and errors are those of `AnnotatedDataset`.

    The mask of `<class>/a.jpg` is `<class>/a.png` in the folder, of the size of the stored image, 8-bit grey or
    palette. 0 is background. Where a file holds nothing but 0 and 255, 255 is the object; otherwise 1 to 254 are
    objects and 255 is ignored, as in the segmentations of Pascal VOC.
    """

    @staticmethod
    def _read(data: Annotations, ground_truth: bool) -> None:
        if data.images.absolute().is_relative_to(data.path.absolute()):
            return data.note('', f'holds the images too ({data.images}); give the masks a folder of their own')
        stems: dict[str, str] = {}
        for path in images_within(data.images):
            if path.absolute().is_relative_to(data.path.absolute()):
                continue
            image_id, stem = _relative(path, data.images)
            if stem in stems:
                data.note('', f'{stems[stem]} and {image_id} would share the mask {stem}.png; rename one')
            stems[stem] = image_id
            data.listed.append(image_id)
        if not ground_truth:
            return None
        for path in files_within(data.path, '.png'):
            _, stem = _relative(path, data.path)
            if stem not in stems:
                data.unused[stem] = path
            elif stems[stem] in data.masks:
                data.note('', f'{data.masks[stems[stem]].name} and {path.name} are both of {stems[stem]}; remove one')
            else:
                data.masks[stems[stem]] = path
        if data.listed and not data.masks:
            image = Path(data.listed[0])
            data.note('', f'no mask of an image of {data.images}; that of {image} is {image.with_suffix(".png")}')
        return None

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Ground-truth mask of an image, resized by nearest neighbour.

        Args:
            index: Index of the image.
            size: (w,h) of the result in pixels.

        Returns:
            uint8 (h,w): 0 background, 1 object, 255 not scored.

        Raises:
            DatasetError: When the split was opened without masks, or the mask is not of the size of its image.
            FileNotFoundError, ImageError: When the image or the mask is missing or unreadable.
        """
        if self.masks is None:
            raise DatasetError(f'{self.name}, {self.split}: opened without masks; open it with ground_truth=True')
        ((path,), _) = self.masks[index]
        mask = object_mask(open_levels(path))
        if mask.shape[::-1] != image_size(self.path(index)):
            raise DatasetError(mask_size_fault(path, mask, image_size(self.path(index))))
        return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)


def object_mask(levels: np.ndarray) -> np.ndarray:
    """Levels of a mask file, uint8 (H,W) -> uint8 (H,W): 0 background, 1 object, 255 not scored."""
    between = (levels > 0) & (levels < 255)
    return np.where(between, np.uint8(1), levels) if between.any() else (levels == 255).astype(np.uint8)


def mask_size_fault(path: Path, mask: np.ndarray, size: tuple[int, int]) -> str:
    """What to say of a mask (H,W) whose image is of another (width, height)."""
    height, width = mask.shape
    return f'{path}: mask of {width}x{height} for an image of {size[0]}x{size[1]}; give it the same size'


def _relative(path: Path, folder: Path) -> tuple[str, str]:
    relative = path.relative_to(folder)
    return relative.as_posix(), relative.with_suffix('').as_posix()
