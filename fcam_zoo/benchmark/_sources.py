"""Where score maps come from: a model, a function, an array, or nothing but the size of the image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
import torch
from torch import nn

from ..cams import resize

# Standard deviation of the centre baseline, in units of the sides of the map.
CENTER_SIGMA = 0.25

Source: TypeAlias = (
    nn.Module | Callable[[torch.Tensor, torch.Tensor], Any] | np.ndarray | torch.Tensor | str | os.PathLike | None
)
# How low-resolution maps become score maps: F-CAM's way, and that of Choe et al. (CVPR 2020).
Convention = Literal['bilinear', 'bicubic']
CONVENTIONS = get_args(Convention)
Found: TypeAlias = tuple[dict[str, Any], torch.Tensor | None]


def center_map(size: tuple[int, int]) -> np.ndarray:
    """Centre baseline of Choe et al. (CVPR 2020): a Gaussian around the middle, (H,W) in [0,1].

    Its standard deviation is a quarter of each side, so that thresholds reach from the whole image to its middle pixel.
    """
    y, x = (((np.arange(n) + 0.5) / n - 0.5) / CENTER_SIGMA for n in size)
    return np.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2))


class MapFolder:
    """Maps in the layout of the published WSOL evaluator: `<folder>/<image id>.npy`, (H,W) in [0,1] each.

    Raises:
        ValueError: When maps are missing, or the folder is none.
    """

    def __init__(self, folder: str | os.PathLike, ids: Sequence[str]) -> None:
        self.folder, self.ids = Path(folder), ids
        self._shape: tuple[int, ...] | None = None
        if not self.folder.is_dir():
            raise ValueError(f'{self.folder}: no such folder; expected <image id>.npy in it')
        missing = [i for i in ids if not self.path(i).is_file()]
        if missing:
            raise ValueError(
                f'{len(missing)} of {len(ids)} maps are missing in {self.folder}, the first {missing[0]}.npy: save one '
                'for each image of the data set'
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Maps (B,H,W) of some images.

        Raises:
            ValueError: For a file that is no plain array, or maps of different sizes.
        """
        if self._shape is None:
            self._shape = self._load(self.ids[0]).shape
        maps = []
        for image_id in self.ids[part]:
            maps.append(self._load(image_id))
            if maps[-1].ndim != 2 or maps[-1].shape != self._shape:
                raise ValueError(
                    f'{self.path(image_id)} has the shape {maps[-1].shape}, others {self._shape}: save all maps as '
                    '(H,W) of one size'
                )
        return np.stack(maps)

    def _load(self, image_id: str) -> np.ndarray:
        path = self.path(image_id)
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as e:
            raise ValueError(f'{path} is no map that can be read ({e}): save it with numpy.save') from e

    def path(self, image_id: str) -> Path:
        return self.folder / f'{image_id}.npy'


def is_array(source: Source | MapFolder) -> bool:
    """Whether the source is an array of maps, in memory or in files."""
    return isinstance(source, (np.ndarray, torch.Tensor, MapFolder))


def score(
    source: Source,
    names: Sequence[str],
    images: torch.Tensor,
    labels: torch.Tensor,
    device: str | torch.device | None,
    convention: Convention,
) -> Found:
    """Maps (B,H,W) of each kind, and logits (B,K) where the source gives any, of a batch of uint8 images (B,3,H,W)."""
    if isinstance(source, nn.Module):
        return _score_model(source, names, images, labels, convention)
    if device is not None:
        images, labels = images.to(device), labels.to(device)
    result = source(images, labels)
    maps, logits = result if isinstance(result, tuple) else (result, None)
    return {names[0]: maps}, logits


def _score_model(
    model: nn.Module, names: Sequence[str], images: torch.Tensor, labels: torch.Tensor, convention: Convention
) -> Found:
    weight = next(model.parameters())
    mean, std = (
        torch.tensor(model.pretrained_cfg[key], device=weight.device).view(1, -1, 1, 1) for key in ('mean', 'std')
    )
    x = ((images.to(weight.device) / 255 - mean) / std).to(weight.dtype)
    labels = labels.to(weight.device)
    if not hasattr(model, 'class_map'):
        output = model(x)
        maps = {name: _fcam(output.maps) if name == 'fcam' else model.cam(x, labels, method=name) for name in names}
        return maps, output.logits
    # A model in parts, as FCAM is, runs its backbone once for all kinds of map.
    size = tuple(x.shape[-2:])
    encoding = model.encode(x)
    maps = {}
    for name in names:
        if name == 'fcam':
            found = _fcam(model.decoder(encoding.levels, size))
        else:
            found = model.class_map(encoding, labels, name)
        if convention == 'bicubic':
            maps[name] = _bicubic(found, size)
        else:
            maps[name] = found if name == 'fcam' else resize(found, size)
    return maps, model.classify(encoding)


def _bicubic(maps: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Score maps (B,H,W) of Choe et al.: OpenCV's bicubic resize, then min-max; a constant map becomes zeros."""
    large = np.stack([cv2.resize(m, size[::-1], interpolation=cv2.INTER_CUBIC) for m in maps.double().cpu().numpy()])
    low, high = (f((1, 2), keepdims=True) for f in (large.min, large.max))
    span = high - low
    return np.divide(large - low, span, out=np.zeros_like(large), where=span > 0)


def _fcam(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().softmax(1)[:, 1]


@contextmanager
def scoring_mode(source: Source, device: str | torch.device | None) -> Iterator[None]:
    """No gradients, and a model on the device and in eval mode; its modules return to their modes afterwards."""
    modes = {}
    if isinstance(source, nn.Module):
        modes = {module: module.training for module in source.modules()}
        source.eval()
        if device is not None:
            source.to(device)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
