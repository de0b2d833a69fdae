"""Where score maps come from: a model, a function, an array, or nothing but the size of the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from ..cams import resize

# Standard deviation of the centre baseline, in units of the sides of the map.
CENTER_SIGMA = 0.25

Source: TypeAlias = nn.Module | Callable[[torch.Tensor, torch.Tensor], Any] | np.ndarray | torch.Tensor | None
Found: TypeAlias = tuple[dict[str, Any], torch.Tensor | None]


def center_map(size: tuple[int, int]) -> np.ndarray:
    """Centre baseline of Choe et al. (CVPR 2020): a Gaussian around the middle, (H,W) in [0,1].

    Its standard deviation is a quarter of each side, so that thresholds reach from the whole image to its middle pixel.
    """
    y, x = (((np.arange(n) + 0.5) / n - 0.5) / CENTER_SIGMA for n in size)
    return np.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2))


def is_array(source: Source) -> bool:
    """Whether the source is an array of maps."""
    return isinstance(source, (np.ndarray, torch.Tensor))


def score(
    source: Source,
    names: Sequence[str],
    images: torch.Tensor,
    labels: torch.Tensor,
    device: str | torch.device | None,
) -> Found:
    """Maps (B,H,W) of each kind, and logits (B,K) where the source gives any, of a batch of uint8 images (B,3,H,W)."""
    if isinstance(source, nn.Module):
        return _score_model(source, names, images, labels)
    if device is not None:
        images, labels = images.to(device), labels.to(device)
    result = source(images, labels)
    maps, logits = result if isinstance(result, tuple) else (result, None)
    return {names[0]: maps}, logits


def _score_model(model: nn.Module, names: Sequence[str], images: torch.Tensor, labels: torch.Tensor) -> Found:
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
        low = None if name == 'fcam' else model.class_map(encoding, labels, name)
        maps[name] = _fcam(model.decoder(encoding.levels, size)) if low is None else resize(low, size)
    return maps, model.classify(encoding)


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
