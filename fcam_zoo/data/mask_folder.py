"""A folder of masks, one PNG per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .annotations import Annotations, MaskFiles
from .base import AnnotatedDataset, check_problems
from .images import image_size, images_within, open_levels, resize_mask
from .paths import files_within, stem_within
from .values import Problem


class MaskDataset(AnnotatedDataset):
    """Masks of a folder; arguments, attributes and errors are those of `AnnotatedDataset`.

    The mask of `<class>/a.jpg` is `<class>/a.png` in the folder. It has the size of the stored image and is 8-bit gray
    or palette. 0 is background. If a file contains only 0 and 255, 255 is the object; otherwise 1 to 254 are objects
    and 255 is not scored, as in the segmentations of Pascal VOC. `mask` raises `DatasetError` if the sizes differ.
    """

    @staticmethod
    def _read(data: Annotations) -> None:
        masks = data.path.absolute()
        if data.images.absolute().is_relative_to(masks):
            raise Problem(f'contains the images too ({data.images}); put the masks in a separate folder')
        ids: dict[str, str] = {}
        for path in images_within(data.images):
            if path.absolute().is_relative_to(masks):
                continue
            image_id, stem = path.relative_to(data.images).as_posix(), stem_within(data.images, path)
            if stem in ids:
                data.problems.append(
                    f'{data.path}: {ids[stem]} and {image_id} would share the mask {stem}.png; rename one'
                )
            ids[stem] = image_id
            data.listed.append(image_id)
        if not data.ground_truth:
            return
        for path in files_within(data.path, '.png'):
            stem = stem_within(data.path, path)
            if stem not in ids:
                data.unused[stem] = path
            elif ids[stem] in data.masks:
                other = data.masks[ids[stem]].objects[0].name
                data.problems.append(f'{data.path}: {other} and {path.name} are both masks of {ids[stem]}; remove one')
            else:
                data.masks[ids[stem]] = MaskFiles((path,))
        if data.listed and not data.masks:
            image = Path(data.listed[0])
            fix = f'for example, the mask of {image} must be {image.with_suffix(".png")}'
            raise Problem(f'no mask matches an image of {data.images}; {fix}')

    def _read_mask(self, index: int, files: MaskFiles, size: tuple[int, int]) -> np.ndarray:
        levels = open_levels(files.objects[0])
        check_problems(self._mask_problems(files.objects[0], levels.shape[::-1], image_size(self.path(index))))
        # The levels are interpreted before resizing, which may remove some of them.
        between = (levels > 0) & (levels < 255)
        mask = np.where(between, 1, levels) if between.any() else levels == 255
        return resize_mask(mask.astype(np.uint8), size)

    def _mask_problems(self, file: Path, size: tuple[int, int], image: tuple[int, int]) -> list[str]:
        return [] if size == image else [mask_size_problem(file, size, image)]


def mask_size_problem(path: Path, mask: tuple[int, int], size: tuple[int, int]) -> str:
    """Describe a mask of a (width, height) whose image has another."""
    return f'{path}: mask of {mask[0]}x{mask[1]} for an image of {size[0]}x{size[1]}; give it the same size'
