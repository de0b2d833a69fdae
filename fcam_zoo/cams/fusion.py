"""Fuse score maps of the same images: those of several layers, views or networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .._checks import check_tensor
from .._schema import show

# Lower bound: a single 0 would make the geometric mean 0.
SMALLEST = 1e-3

FUSIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    'geometric_mean': lambda maps: maps.clamp(min=SMALLEST).log().mean(0).exp(),
    'mean': lambda maps: maps.mean(0),
    'max': lambda maps: maps.amax(0),
}


def check_fusion(fusion: str) -> None:
    """Raise ValueError for a fusion that does not exist."""
    if not isinstance(fusion, str) or fusion not in FUSIONS:
        raise ValueError(f'fusion is {show(fusion)}: choose one of {", ".join(FUSIONS)}')


def fuse(maps: Sequence[torch.Tensor], fusion: str = 'geometric_mean') -> torch.Tensor:
    """Combine maps pixel by pixel. A geometric mean is high only where all maps are.

    Args:
        maps: Tensors (B,H,W) in [0,1] of one shape, at least one. A single map is returned unchanged.
        fusion: 'geometric_mean' (values below 0.001 count as 0.001, so that a single 0 is not the result), 'mean' or
            'max'.

    Returns:
        (B,H,W) in [0,1].

    Raises:
        TypeError: If a map is not a floating-point tensor.
        ValueError: If maps are empty, their shapes differ, or the fusion does not exist.
    """
    check_fusion(fusion)
    if not maps:
        raise ValueError('maps are empty: give at least one tensor (B,H,W)')
    for i, each in enumerate(maps):
        check_tensor(each, f'maps[{i}]', '(B,H,W)', 'float')
        if each.shape != maps[0].shape:
            raise ValueError(f'maps[{i}] has the shape {tuple(each.shape)}, maps[0] {tuple(maps[0].shape)}: resize one')
    return maps[0] if len(maps) == 1 else FUSIONS[fusion](torch.stack(list(maps)))
