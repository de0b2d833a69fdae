"""From raw class maps to score maps: min-max normalisation and resizing."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .geometry import CellGeometry


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


def resize(
    maps: torch.Tensor,
    size: tuple[int, int],
    shift: tuple[float, float] = (0.0, 0.0),
    geometry: CellGeometry | None = None,
) -> torch.Tensor:
    """Bilinear resize that keeps [0,1]; no second normalisation (F-CAM's convention).

    Args:
        maps: (B,h,w).
        size: Output (H,W).
        shift: Pixels of the output (down, right) by which the maps are moved. A cell seldom looks where a plain resize
            draws it: padding, and kernels that lean to one side, move it by up to half a cell.
        geometry: Where the cells look, in pixels of the output: each is drawn there, and `shift` moves them further.
            None draws them as align_corners=False does. Outside the outermost centres the border is repeated.

    Returns:
        (B,H,W).
    """
    if geometry is not None:
        for dim in (0, 1):
            maps = _sample(maps, dim + 1, size[dim], geometry.offset[dim] + shift[dim], geometry.stride[dim])
        return maps
    if shift == (0.0, 0.0):
        return F.interpolate(maps[:, None], size=size, mode='bilinear', align_corners=False)[:, 0]
    # The sampling grid moves the other way; cells beyond the border repeat the last one.
    theta = maps.new_tensor([[1, 0, -2 * shift[1] / size[1]], [0, 1, -2 * shift[0] / size[0]]])
    grid = F.affine_grid(theta.expand(len(maps), 2, 3), [len(maps), 1, *size], align_corners=False)
    return F.grid_sample(maps[:, None], grid, mode='bilinear', padding_mode='border', align_corners=False)[:, 0]


def _sample(maps: torch.Tensor, dim: int, size: int, offset: float, stride: float) -> torch.Tensor:
    """Linear interpolation along one dimension at pixels 0..size-1, cell i standing at pixel offset + stride * i."""
    last = maps.shape[dim] - 1
    # In double precision on the CPU, which all devices can take from there.
    cells = ((torch.arange(size, dtype=torch.float64) - offset) / stride).clamp(0, last)
    low = cells.floor()
    weight = (cells - low).to(maps.device, maps.dtype)
    low = low.long().to(maps.device)
    below, above = maps.index_select(dim, low), maps.index_select(dim, (low + 1).clamp(max=last))
    # lerp, unlike a sum of two products, never leaves the range of its two ends.
    return torch.lerp(below, above, weight.view(-1, *[1] * (maps.ndim - 1 - dim)))
