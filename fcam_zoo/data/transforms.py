"""PIL image -> uint8 tensor. Normalisation is left to the device, since the CRF needs the raw colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image -> uint8 (3,H,W)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(B,3,H,W) in 0..255 -> float32 (x/255 - mean) / std, on the device of the images."""
    mean_, std_ = (torch.tensor(v, device=images.device, dtype=torch.float32).view(1, -1, 1, 1) for v in (mean, std))
    return (images.float() / 255 - mean_) / std_


class EvalTransform:
    """Resize straight to size x size, bilinear, aspect ratio ignored (F-CAM, Sec. 4.1)."""

    def __init__(self, size: int = 224) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return to_tensor(image.resize((self.size, self.size), Image.Resampling.BILINEAR))


class TrainTransform:
    """Resize to resize x resize, random crop to size x size, random flip (F-CAM, Sec. 4.1); draws from torch's RNG."""

    def __init__(self, size: int = 224, resize: int | None = None, hflip: float = 0.5) -> None:
        self.size, self.resize, self.hflip = size, resize or round(size * 256 / 224), hflip
        if self.resize < size:
            raise ValueError(f'resize={resize} is smaller than the crop of {size}')

    def __call__(self, image: Image.Image) -> torch.Tensor:
        x = to_tensor(image.resize((self.resize, self.resize), Image.Resampling.BILINEAR))
        top, left = torch.randint(self.resize - self.size + 1, (2,)).tolist()
        x = x[:, top : top + self.size, left : left + self.size]
        return x.flip(2) if torch.rand(()) < self.hflip else x.contiguous()
