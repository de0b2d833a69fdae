"""What `localize` accepts as images: paths, folders, PIL images, arrays and tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ._checks import check_tensor
from ._io import is_folder
from .data.images import check_size, decode, list_images, open_image

ImageLike = str | os.PathLike | Image.Image | np.ndarray | torch.Tensor

_KINDS = 'give a path, a PIL image, a uint8 array or a tensor'


def single_images(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """Yield images one by one: also those of a folder (`data.list_images`) and of a batch of four dimensions.

    Raises:
        TypeError: For an object that is neither an image nor iterable.
        FileNotFoundError, ImageError: For a folder without images.
    """
    if not _is_image(images):
        if not isinstance(images, Iterable) or isinstance(images, (bytes, dict)):
            raise TypeError(f'{type(images).__name__} is not an image: {_KINDS}')
        for image in images:
            # `as_image` reports objects that are not images.
            yield from single_images(image) if _is_image(image) else [image]
    elif isinstance(images, (str, os.PathLike)) and os.fspath(images) and is_folder(Path(images)):
        yield from list_images(images)
    elif isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        yield from images
    else:
        yield images  # type: ignore[misc]  # _is_image checked its type.


def _is_image(image: object) -> bool:
    return isinstance(image, (str, os.PathLike, Image.Image, np.ndarray, torch.Tensor))


def as_image(image: ImageLike) -> Image.Image:
    """Convert an image to an RGB PIL image; see `localize` for what it can be, and for errors."""
    if isinstance(image, (str, os.PathLike)):
        return open_image(image)
    if isinstance(image, Image.Image):
        return decode(image)
    if isinstance(image, torch.Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise TypeError(f'array of {image.dtype} {image.shape}: expected uint8 (H,W), (H,W,3) or (H,W,4)')
        check_size((image.shape[1], image.shape[0]), 'array')
        return decode(Image.fromarray(image))
    raise TypeError(f'{type(image).__name__} is not an image: {_KINDS}')


def _from_tensor(image: torch.Tensor) -> Image.Image:
    """Convert a tensor (3,H,W), uint8 or floating-point numbers in [0,1].

    Raises:
        TypeError: For another type or shape.
        ValueError: For values outside [0,1].
    """
    check_tensor(image, 'image', '', 'real')
    is_float = image.is_floating_point()
    if image.ndim != 3 or len(image) != 3 or not (is_float or image.dtype == torch.uint8) or image.is_meta:
        kind = str(image.dtype).removeprefix('torch.')
        raise TypeError(f'tensor of {kind} {tuple(image.shape)}: expected RGB (3,H,W), uint8 or floats in [0,1]')
    check_size((image.shape[2], image.shape[1]), 'tensor')
    pixels = image.detach().cpu()
    if is_float:
        low, high = (value.item() for value in pixels.float().aminmax())
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f'tensor of floats from {low:.3g} to {high:.3g}: give RGB in [0,1]; for normalized images call model(x)'
            )
        pixels = pixels.float().mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
