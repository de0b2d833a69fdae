"""Classify and localize images: labels, boxes and masks in one call."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from . import _drawing
from ._catalog import MIN_AREA
from ._checks import as_flag
from ._schema import show
from .errors import FcamZooError
from .inference import InferenceOptions, check_batch_size, check_model, warn_if_untrained
from .inputs import ImageLike, as_image, single_images
from .models import FCAM
from .objects import (
    Region,
    Threshold,
    as_share,
    as_threshold,
    find_regions,
    foreground,
    resize_map,
)


@dataclass(frozen=True, eq=False, repr=False)
class Localization:
    """The class, boxes and mask of one image.

    A notebook displays it as a picture: the photograph, and its map with the boxes. Two localizations are equal only if
    they are the same object; compare `to_dict()`, `map` and `mask` for equal results.

    Attributes:
        label: Name of the predicted class.
        score: Its probability.
        box: x0, y0, x1, y1 of the largest object in pixels of the original image; x1 and y1 are exclusive.
            (0, 0, 0, 0) when no pixel is above the threshold.
        mask: bool (H,W), all pixels above the threshold.
        map: F-CAM, float32 (H,W) in [0,1].
        size: (width, height) of the original image.
        class_index: Index of the predicted class.
        objects: Connected regions of the mask, largest first: all that are large enough with `multi`, otherwise only
            the largest. Empty when the mask is empty.
        image: The localized image: its path, or a RGB picture. None if unknown; then `plot` and `save` need it.
    """

    label: str
    score: float
    box: tuple[int, int, int, int]
    mask: np.ndarray
    map: np.ndarray
    size: tuple[int, int]
    class_index: int
    objects: tuple[Region, ...] = ()
    image: str | os.PathLike | Image.Image | None = None

    def __repr__(self) -> str:
        return (
            f'Localization(label={show(self.label)}, score={self.score:.3f}, box={self.box}, '
            f'objects={len(self.objects)}, size={self.size})'
        )

    def plot(self, image: ImageLike | None = None, opacity: float = 0.5) -> Image.Image:
        """Draw the map over the image, with the boxes of all objects, the label and its probability.

        Args:
            image: The localized image; default: `image` of the result. A file is read again.
            opacity: Share of the heat map in the colors, in [0,1].

        Returns:
            RGB, of the size of the image.

        Raises:
            ValueError: When the image is unknown or has another size.
            FileNotFoundError, ImageError: When its file no longer exists, or cannot be read.
        """
        return _drawing.overlay(self._photo(image), self, opacity)

    def save(self, path: str | os.PathLike, image: ImageLike | None = None) -> Path:
        """Write the picture of `plot` in the format of the suffix: .png, .jpg or .webp.

        Returns:
            The path.

        Raises:
            ValueError: As `plot`; for an unknown suffix, or an image that is too large for its format.
        """
        _drawing.check_suffix(path, _drawing.SUFFIXES)
        _drawing.save_picture(self.plot(image), path)
        return Path(path)

    def to_dict(self) -> dict[str, Any]:
        """Return label, class_index, score, box, objects (box, score, area), size and image as JSON values.

        The score of an object is the probability of the label times the mean of the map in the object, as in the files
        of `label_images`. `image` is the path, or None. Map and mask are left out; they are arrays.
        """
        return {
            'image': os.fspath(self.image) if isinstance(self.image, (str, os.PathLike)) else None,
            'label': self.label,
            'class_index': self.class_index,
            'score': self.score,
            'box': list(self.box),
            'objects': [
                {'box': list(region.box), 'score': self.score * region.strength, 'area': region.area}
                for region in self.objects
            ],
            'size': list(self.size),
        }

    def _repr_png_(self) -> bytes | None:
        """Return the picture that a notebook displays; None when the image is unknown or cannot be read again."""
        try:
            photo = self._photo(None)
        except (FcamZooError, OSError, ValueError):
            return None
        picture = io.BytesIO()
        _drawing.row(photo, [('F-CAM', self)]).save(picture, 'PNG')
        return picture.getvalue()

    def _photo(self, image: ImageLike | None) -> Image.Image:
        """Return the localized image; see `plot` for errors."""
        image = self.image if image is None else image
        if image is None:
            raise ValueError('the image of this localization is unknown: give it, as in plot(image)')
        photo = as_image(image)
        if photo.size != self.size:
            raise ValueError(
                f'the image has {photo.width}x{photo.height} pixels, its localization {self.size[0]}x{self.size[1]}: '
                'give the localized image'
            )
        return photo

    def object_mask(self) -> np.ndarray:
        """Return the pixels of `objects`, bool (H,W); `mask` may hold further, smaller regions."""
        mask = np.zeros(self.mask.shape, bool)
        for region in self.objects:
            x0, y0, x1, y1 = region.box
            mask[y0:y1, x0:x1] |= region.mask
        return mask


@dataclass(frozen=True)
class Postprocessor:
    """Turn score maps and class probabilities into localizations.

    Attributes:
        threshold: tau in [0,1), relative to the largest gray level of the map, or 'otsu'.
        class_names: Class names by index.
        multi: Keep all regions that are large enough, not only the largest.
        min_area: Smallest area of a further region as a share of the image.
    """

    threshold: Threshold
    class_names: tuple[str, ...]
    multi: bool = False
    min_area: float = MIN_AREA

    @classmethod
    def for_model(
        cls,
        model: FCAM,
        threshold: Threshold | None = None,
        class_names: Sequence[str] | None = None,
        multi: bool = False,
        min_area: float = MIN_AREA,
    ) -> Postprocessor:
        """Validate the settings; threshold and class names default to those of the model.

        Raises:
            ValueError, TypeError: As `localize`.
        """
        check_model(model)
        threshold = as_threshold(model.threshold if threshold is None else threshold)
        min_area = as_share(min_area, 'min_area')
        if class_names is not None and not isinstance(class_names, (list, tuple)):
            raise TypeError(f'class_names is {show(class_names)}: give a list of names')
        names = class_names or model.pretrained_cfg.get('label_names') or [str(i) for i in range(model.num_classes)]
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise TypeError(f'class_names is {show(names)}: give a list of names')
        if len(names) != model.num_classes:
            raise ValueError(
                f'{len(names)} class names for a model of {model.num_classes} classes: give one name per class'
            )
        return cls(threshold, tuple(names), as_flag(multi, 'multi'), min_area)

    def __call__(
        self, score_map: np.ndarray, probs: np.ndarray, image: str | os.PathLike | Image.Image | None = None
    ) -> Localization:
        """Localize the objects of a map float32 (H,W) of the image's size, given class probabilities (K,)."""
        mask = foreground(score_map, self.threshold)
        objects = find_regions(mask, score_map, self.multi, self.min_area)
        best = int(probs.argmax())
        return Localization(
            label=self.class_names[best],
            score=float(probs[best]),
            box=objects[0].box if objects else (0, 0, 0, 0),
            mask=mask,
            map=score_map,
            size=(score_map.shape[1], score_map.shape[0]),
            class_index=best,
            objects=objects,
            image=image,
        )


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
        model: Runs on its own device in eval mode; its mode is restored.
        images: One or several of these, of any size up to 80 million pixels:
            - a path: an image file, or a folder, whose images come in the order of `fcam_zoo.data.list_images`. A file
              is turned upright by its EXIF orientation;
            - a PIL image. It is used as it is, so that boxes are in its own pixels: for an upright one call
              `PIL.ImageOps.exif_transpose` first;
            - an array, uint8 (H,W,3), (H,W,4) or (H,W), or a batch of them (B,H,W,3);
            - a tensor, RGB (3,H,W) or a batch (B,3,H,W), uint8 or floats in [0,1], on any device, not normalized.
            Their pixels are converted alike, see `fcam_zoo.data.to_rgb`.
        threshold: tau in [0,1): a pixel belongs to an object when its 8-bit map value is above int(tau * max). 'otsu'
            computes Otsu's threshold per map. Default: the threshold of the model, chosen on its validation data.
        class_names: Class names by index. Default: the names stored in the model.
        batch_size: Images per forward pass.
        multi: Return every connected region that is large enough in `objects`, not only the largest.
        min_area: With `multi`, smallest area of a further region as a share of the image, in [0,1).
        sizes: Sides in pixels to which images are resized for the network; the maps of several sizes are averaged.
            Default: the input size of the model.
        flip: Average with the map of the mirrored image.

    Returns:
        One localization per image, in order.

    Raises:
        FileNotFoundError, ImageError: For an image that is missing, unreadable, empty or too large.
        ValueError: For a threshold or min_area outside [0,1), a size below 32 or above 2048 pixels, a batch_size below
            1, a wrong number of class names, or a tensor with floats outside [0,1].
        TypeError: For an input of another type.
        FcamZooError: When the model returns NaN, or its inputs need more memory than there is.

    Examples:
        An image of 300x200 pixels and an untrained model:

        >>> import numpy as np, torch, fcam_zoo
        >>> _ = torch.manual_seed(0)
        >>> model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
        >>> image = np.zeros((200, 300, 3), np.uint8)
        >>> image[50:150, 100:200] = 255
        >>> (found,) = fcam_zoo.localize(model, image, class_names=['square', 'disc'])
        >>> found.size, found.map.shape, found.label in ('square', 'disc')
        ((300, 200), (200, 300), True)
        >>> x0, y0, x1, y1 = found.box
        >>> found.mask[y0:y1, x0:x1].any().item()
        True

        Several objects per image, with Otsu's threshold:

        >>> (found,) = fcam_zoo.localize(model, image, 'otsu', multi=True, min_area=0.001)
        >>> found.objects[0].box == found.box
        True
        >>> all(region.area >= 0.001 * 300 * 200 for region in found.objects[1:])
        True

        An argument out of range:

        >>> fcam_zoo.localize(model, image, threshold=1.5)
        Traceback (most recent call last):
        ValueError: threshold is 1.5: choose a value in [0,1), or 'otsu'
    """
    check_batch_size(batch_size)
    postprocess = Postprocessor.for_model(model, threshold, class_names, multi, min_area)
    inference = InferenceOptions.for_model(model, sizes, flip)
    warn_if_untrained(model)
    source, results = single_images(images), []
    # Only one image is decoded at a time.
    while batch := [_prepared(image, inference) for image in islice(source, batch_size)]:
        maps, probs = inference.run(model, [item.views for item in batch])
        for item, score_map, p in zip(batch, maps.numpy(), probs.numpy()):
            results.append(postprocess(resize_map(score_map, item.size), p, item.image))
    return results


@dataclass(frozen=True)
class _Prepared:
    """An image for the network: its (width, height), the views of `InferenceOptions.prepare`, and what plots read."""

    size: tuple[int, int]
    views: tuple[torch.Tensor, ...]
    image: str | os.PathLike | Image.Image


def _prepared(image: ImageLike, inference: InferenceOptions) -> _Prepared:
    rgb = as_image(image)
    # Files are read again for a plot; pictures and arrays are copied, because the caller may change or close them.
    return _Prepared(rgb.size, inference.prepare(rgb), image if isinstance(image, (str, os.PathLike)) else rgb)
