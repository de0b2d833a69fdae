"""From images to labels, boxes and masks in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from PIL import Image

from .data.images import open_image
from .inference import Passes
from .models import FCAM
from .objects import Region, Threshold, check_min_area, check_threshold, find_regions, foreground

ImageLike = str | os.PathLike | Image.Image | np.ndarray

MIN_AREA = 0.01
"""Share of an image's pixels below which a further region is taken for noise."""


@dataclass(frozen=True)
class Localization:
    """What was found in one image.

    Attributes:
        label: Name of the predicted class.
        score: Its probability.
        box: x0, y0, x1, y1 of the largest object in pixels of the original image; x1 and y1 are one past the last
            pixel. (0, 0, 0, 0) where the map is empty.
        mask: bool (H,W), all pixels above the threshold.
        map: F-CAM, float32 (H,W) in [0,1].
        size: (width, height) of the original image.
        class_index: Index of the predicted class.
        objects: Connected regions of the mask, largest first: with `multi` all that are large enough, otherwise one;
            none where the map is empty.
    """

    label: str
    score: float
    box: tuple[int, int, int, int]
    mask: np.ndarray
    map: np.ndarray
    size: tuple[int, int]
    class_index: int
    objects: tuple[Region, ...] = ()

    def object_mask(self) -> np.ndarray:
        """Pixels of the objects alone, bool (H,W); `mask` may hold further, smaller regions."""
        mask = np.zeros(self.mask.shape, bool)
        for region in self.objects:
            x0, y0, x1, y1 = region.box
            mask[y0:y1, x0:x1] |= region.mask
        return mask


@dataclass(frozen=True)
class Cut:
    """How maps become objects, and classes get their names.

    Attributes:
        threshold: tau in [0,1), relative to the map's largest grey level, or 'otsu'.
        names: Class names by index.
        multi: Keep all regions that are large enough, not only the largest.
        min_area: Smallest share of the image that a further region has.
    """

    threshold: Threshold
    names: tuple[str, ...]
    multi: bool = False
    min_area: float = MIN_AREA

    @classmethod
    def of(
        cls,
        model: FCAM,
        threshold: Threshold | None = None,
        class_names: Sequence[str] | None = None,
        multi: bool = False,
        min_area: float = MIN_AREA,
    ) -> Cut:
        """Checked settings; threshold and names are the model's by default.

        Raises:
            ValueError: As `localize`.
        """
        threshold = model.threshold if threshold is None else threshold
        check_threshold(threshold)
        check_min_area(min_area)
        names = class_names or model.pretrained_cfg.get('label_names') or [str(i) for i in range(model.num_classes)]
        if len(names) != model.num_classes:
            raise ValueError(f'{len(names)} class names for a model of {model.num_classes} classes: give one a class')
        return cls(threshold, tuple(names), multi, min_area)

    def localization(self, score_map: np.ndarray, probs: np.ndarray) -> Localization:
        """A map float32 (H,W) of the image's size and class probabilities (K,) -> what was found."""
        mask = foreground(score_map, self.threshold)
        objects = find_regions(mask, score_map, self.multi, self.min_area)
        best = int(probs.argmax())
        box = objects[0].box if objects else (0, 0, 0, 0)
        size = score_map.shape[1], score_map.shape[0]
        return Localization(self.names[best], float(probs[best]), box, mask, score_map, size, best, objects)


def localize(
    model: FCAM,
    images: ImageLike | Iterable[ImageLike],
    threshold: Threshold | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 8,
    *,
    multi: bool = False,
    min_area: float = MIN_AREA,
    sizes: Sequence[int] | None = None,
    flip: bool = False,
) -> list[Localization]:
    """Classify and localize images.

    Args:
        model: An F-CAM; runs where it is, in eval mode (its mode is restored).
        images: Paths, PIL images or uint8 arrays (H,W,3) or (H,W), of any size; or a single one.
        threshold: tau in [0,1): a pixel is object where its 8-bit map is above int(tau * max). 'otsu' takes Otsu's
            threshold of each map. Default: the model's, chosen on its validation data.
        class_names: Names by index; default: the model's.
        batch_size: Images a forward pass.
        multi: List every connected region that is large enough in `objects`, not only the largest.
        min_area: Smallest share of the image's pixels that a further region has, in [0,1).
        sizes: Sides in pixels to which images are resized for the network; maps of several are averaged. Default: the
            model's input size.
        flip: Average with the map of the mirrored image.

    Returns:
        One result an image, in order.

    Raises:
        FileNotFoundError, ImageError: For an image that is missing or unreadable.
        ValueError: For a threshold or min_area outside [0,1), a size below 32, or class names of another number.
        TypeError: For something that is no image.

    Examples:
        A picture of 300x200 pixels, and a model that is not trained:

        >>> import numpy as np, torch, fcam_zoo
        >>> _ = torch.manual_seed(0)
        >>> model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
        >>> picture = np.zeros((200, 300, 3), np.uint8)
        >>> picture[50:150, 100:200] = 255
        >>> (found,) = fcam_zoo.localize(model, picture, class_names=['square', 'disc'])
        >>> found.size, found.map.shape, found.label in ('square', 'disc')
        ((300, 200), (200, 300), True)
        >>> x0, y0, x1, y1 = found.box
        >>> found.mask[y0:y1, x0:x1].any().item()
        True

        Several objects an image, cut by Otsu's threshold of its map:

        >>> (found,) = fcam_zoo.localize(model, picture, 'otsu', multi=True, min_area=0.001)
        >>> found.objects[0].box == found.box
        True
        >>> all(region.area >= 0.001 * 300 * 200 for region in found.objects[1:])
        True

        An argument out of its range:

        >>> fcam_zoo.localize(model, picture, threshold=1.5)
        Traceback (most recent call last):
        ValueError: threshold is 1.5: choose a value in [0,1), or 'otsu'
    """
    if isinstance(images, (str, os.PathLike, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    options = {'multi': multi, 'min_area': min_area, 'sizes': sizes, 'flip': flip}
    return list(localize_stream(model, images, threshold, class_names, batch_size, **options))


def localize_stream(
    model: FCAM,
    images: Iterable[ImageLike],
    threshold: Threshold | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 8,
    *,
    multi: bool = False,
    min_area: float = MIN_AREA,
    sizes: Sequence[int] | None = None,
    flip: bool = False,
) -> Iterator[Localization]:
    """`localize` for any number of images in flat memory: results come as they are made."""
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}: at least one image a forward pass')
    cut, passes = Cut.of(model, threshold, class_names, multi, min_area), Passes.of(model, sizes, flip)
    source = iter(images)
    while batch := [as_image(image) for image in islice(source, batch_size)]:
        maps, probs = passes.run(model, [passes.prepare(image) for image in batch])
        for image, score_map, p in zip(batch, maps.numpy(), probs.numpy()):
            yield cut.localization(resize_map(score_map, image.size), p)


def as_image(image: ImageLike) -> Image.Image:
    """Path, PIL image or array -> RGB PIL image."""
    if isinstance(image, (str, os.PathLike)):
        return open_image(image)
    if isinstance(image, Image.Image):
        return image.convert('RGB')
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise TypeError(f'array of {image.dtype} {image.shape}: expected uint8 (H,W), (H,W,3) or (H,W,4)')
        return Image.fromarray(image).convert('RGB')
    raise TypeError(f'{type(image).__name__} is no image: give a path, a PIL image or a uint8 array')


def resize_map(score_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h,w) of the network, drawn at the (width, height) of the image: float32 (H,W) in [0,1]."""
    return cv2.resize(score_map, size, interpolation=cv2.INTER_LINEAR).clip(0, 1)
