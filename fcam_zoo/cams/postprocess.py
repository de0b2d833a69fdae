"""From raw class maps to score maps: min-max normalization and resizing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .._checks import as_count, check_tensor
from .._schema import show

# Largest maps.
MAX_SIDE, MAX_PIXELS = 2**16, 80_000_000


def normalize(maps: torch.Tensor) -> torch.Tensor:
    """Scale each map to [0,1] by its own minimum and maximum; a constant map becomes all zeros, never NaN.

    Args:
        maps: (B,h,w), any values.

    Returns:
        (B,h,w) in [0,1].

    Raises:
        TypeError: If maps are not a floating-point tensor.
        ValueError: If they have another shape.
    """
    check_tensor(maps, 'maps', '(B,h,w)', 'float')
    if 0 in maps.shape[1:]:
        raise ValueError(f'maps have the shape {tuple(maps.shape)}: expected (B,h,w) with h, w > 0')
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1.0), 0.0)


def check_size(size: Any) -> tuple[int, int]:
    """Return (height, width); raise ValueError unless they are two whole numbers of pixels."""
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ValueError(f'size is {show(size)}: give (height, width) in pixels')
    height, width = (as_count(side, 'a side of size', 1, MAX_SIDE) for side in size)
    if height * width > MAX_PIXELS:
        raise ValueError(f'size is {show(size)}: give at most {MAX_PIXELS:,} pixels')
    return height, width


def resize(maps: torch.Tensor, size: tuple[int, int], shift: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """Resize bilinearly (align_corners=False), keeping [0,1]. Maps are not normalized again (F-CAM's convention).

    Args:
        maps: (B,h,w).
        size: Output (H,W).
        shift: Pixels of the output (down, right) by which the maps are moved; the border is repeated. Asymmetric
            padding and kernels can put a cell up to half its size away from where a plain resize draws it.

    Returns:
        (B,H,W).

    Raises:
        TypeError: If maps are not a floating-point tensor.
        ValueError: If they have another shape, or a side of `size` is not a whole number of pixels, or it is too large.
    """
    check_tensor(maps, 'maps', '(B,h,w)', 'float')
    if 0 in maps.shape[1:]:
        raise ValueError(f'maps have the shape {tuple(maps.shape)}: expected (B,h,w) with h, w > 0')
    size = check_size(size)
    if shift == (0.0, 0.0):
        return F.interpolate(maps[:, None], size=size, mode='bilinear', align_corners=False)[:, 0]
    # To move the map, sample from the opposite direction.
    theta = maps.new_tensor([[1, 0, -2 * shift[1] / size[1]], [0, 1, -2 * shift[0] / size[0]]])
    grid = F.affine_grid(theta.expand(len(maps), 2, 3), [len(maps), 1, *size], align_corners=False)
    return F.grid_sample(maps[:, None], grid, mode='bilinear', padding_mode='border', align_corners=False)[:, 0]
