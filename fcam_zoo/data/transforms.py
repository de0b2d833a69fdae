"""Transforms from PIL images to uint8 tensors.

Normalization happens later on the device of the model (`normalize`), since the CRF loss needs raw colors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from .._schema import as_whole, show

MAX_SIDE = 2**14


class EvalTransform:
    """Resize to size x size, bilinear, ignoring the aspect ratio.

    Source: the evaluation protocol of Choe et al. (CVPR 2020), used by F-CAM (Belharbi et al., WACV 2022).

    Args:
        size: Side of the result in pixels.
    """

    def __init__(self, size: int = 224) -> None:
        self.size = _side('size', size)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Convert a PIL image of any size to uint8 (3,size,size) in 0..255."""
        return _to_tensor(_resized(image, self.size))

    def __repr__(self) -> str:
        return f'EvalTransform(size={self.size})'


class TrainTransform:
    """Resize to resize x resize, crop size x size at a random place, flip horizontally at random.

    Random numbers come from torch's global generator: `torch.manual_seed` makes them reproducible, and workers of a
    DataLoader differ.
    Source: the training recipe of Choe et al. (CVPR 2020), used by F-CAM (Belharbi et al., WACV 2022).

    Args:
        size: Side of the crop in pixels.
        resize: Side before the crop, ignoring the aspect ratio; None uses the published ratio, 256 for a crop of 224.
        hflip: Probability of the flip, 0 to 1.

    Raises:
        ValueError: If a side is below 1, the crop larger than `resize`, or the probability outside [0,1].
    """

    def __init__(self, size: int = 224, resize: int | None = None, hflip: float = 0.5) -> None:
        self.size = _side('size', size)
        self.resize = round(size * 256 / 224) if resize is None else _side('resize', resize)
        if self.resize < self.size:
            raise ValueError(f'resize={self.resize} is less than the crop size={self.size}; raise resize')
        if not isinstance(hflip, (int, float)) or not 0 <= hflip <= 1:
            raise ValueError(f'hflip={show(hflip)} is not a probability; use a value from 0 to 1')
        self.hflip = hflip

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Convert a PIL image of any size to uint8 (3,size,size) in 0..255."""
        image = self._crop(_resized(image, self.resize))
        flip = torch.rand(()).item() < self.hflip
        return _to_tensor(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)

    def _crop(self, image: Image.Image) -> Image.Image:
        left, top = torch.randint(self.resize - self.size + 1, (2,)).tolist()
        return image.crop((left, top, left + self.size, top + self.size))

    def __repr__(self) -> str:
        return f'TrainTransform(size={self.size}, resize={self.resize}, hflip={self.hflip})'


class ScaleTransform(TrainTransform):
    """Resize as `TrainTransform`, crop a random area of random aspect ratio (3/4 to 4/3), resize it, flip at random.

    A stronger augmentation than `TrainTransform`, for the classifier of a small data set (RandomResizedCrop: Szegedy et
    al., CVPR 2015).

    Args:
        size: Side of the result in pixels.
        scale: Smallest and largest fraction of the area in a crop, 0 < smallest <= largest <= 1.
        hflip: Probability of the flip, 0 to 1.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, size: int = 224, scale: Sequence[float] = (0.4, 1.0), hflip: float = 0.5) -> None:
        super().__init__(size, hflip=hflip)
        numbers = isinstance(scale, (list, tuple)) and all(isinstance(share, (int, float)) for share in scale)
        if not numbers or len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f'scale={show(scale)} must be two fractions of the area, 0 < smallest <= largest <= 1')
        self.scale = tuple(scale)
        self._resized_crop = RandomResizedCrop(self.size, self.scale, interpolation=InterpolationMode.BILINEAR)

    def _crop(self, image: Image.Image) -> Image.Image:
        return self._resized_crop(image)

    def __repr__(self) -> str:
        return f'ScaleTransform(size={self.size}, scale={self.scale}, hflip={self.hflip})'


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalize raw colors for a network: (x / 255 - mean) / std.

    Args:
        images: uint8 (B,3,H,W) in 0..255, on any device and in any memory format.
        mean: Mean of each channel, for colors in 0..1.
        std: Standard deviation of each channel, for colors in 0..1.

    Returns:
        float32 (B,3,H,W) on the same device, in the same memory format.

    Raises:
        TypeError: If the images are not uint8, since the range of other types is ambiguous.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f'images are {images.dtype}: normalize needs raw colors, uint8 in 0..255')
    shift, scale = (_per_channel(v, images) for v in (mean, std))
    return images.to(torch.float32).div_(255).sub_(shift).div_(scale)


def denormalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return the raw colors, uint8 (B,3,H,W), of images (B,3,H,W) that `normalize` made; values are rounded."""
    shift, scale = (_per_channel(v, images) for v in (mean, std))
    return images.to(torch.float32).mul(scale).add_(shift).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _per_channel(values: Sequence[float], images: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)


def _resized(image: Image.Image, side: int) -> Image.Image:
    # Converting RGB to RGB would copy the image.
    return (image if image.mode == 'RGB' else image.convert('RGB')).resize((side, side), Image.Resampling.BILINEAR)


def _to_tensor(image: Image.Image) -> torch.Tensor:
    # Pillow writes each channel by itself, in a quarter of the time of an array (H,W,3) and its transposition.
    channels = bytearray().join(image.tobytes('raw', channel) for channel in 'RGB')
    return torch.frombuffer(channels, dtype=torch.uint8).view(3, image.height, image.width)


def _side(name: str, value: int) -> int:
    side = as_whole(value, 1, MAX_SIDE)
    if side is None:
        raise ValueError(f'{name}={show(value)} is not a side in pixels; use a whole number above 0, up to {MAX_SIDE}')
    return side
