"""From raw class maps to score maps: min-max normalization and resizing."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def normalize(maps: torch.Tensor) -> torch.Tensor:
    """Scale each map to [0,1] by its own minimum and maximum; a constant map becomes all zeros, never NaN.

    Args:
        maps: (B,h,w), any values.

    Returns:
        (B,h,w) in [0,1].
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1.0), 0.0)


def resize(maps: torch.Tensor, size: tuple[int, int], shift: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """Resize bilinearly (align_corners=False), keeping [0,1]. Maps are not normalized again (F-CAM's convention).

    Args:
        maps: (B,h,w).
        size: Output (H,W).
        shift: Pixels of the output (down, right) by which the maps are moved; the border is repeated. Asymmetric
            padding and kernels can put a cell up to half its size away from where a plain resize draws it.

    Returns:
        (B,H,W).
    """
    if shift == (0.0, 0.0):
        return F.interpolate(maps[:, None], size=size, mode='bilinear', align_corners=False)[:, 0]
    # To move the map, sample from the opposite direction.
    theta = maps.new_tensor([[1, 0, -2 * shift[1] / size[1]], [0, 1, -2 * shift[0] / size[0]]])
    grid = F.affine_grid(theta.expand(len(maps), 2, 3), [len(maps), 1, *size], align_corners=False)
    return F.grid_sample(maps[:, None], grid, mode='bilinear', padding_mode='border', align_corners=False)[:, 0]
