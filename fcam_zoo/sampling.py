"""Pseudo-labels for the decoder: Otsu's threshold, foreground and background regions, random seeds.

F-CAM (WACV 2022), Sec. 3: pixels of the CAM above Otsu's threshold are foreground candidates, the fraction n- of pixels
with the lowest activation are background candidates, and each training step draws a few of each. All functions are
batched and stay on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from ._checks import as_count, as_number, check_devices, check_generator, check_tensor

FOREGROUND, BACKGROUND, IGNORE = 1, 0, -255
Generators = torch.Generator | Sequence[torch.Generator] | None
# Largest erosion and dilation in pixels, and largest number of erosions.
MAX_EROSION, MAX_DILATION, MAX_ITERATIONS = 4095, 255, 1000


def _to_uint8(maps: torch.Tensor) -> torch.Tensor:
    """Convert to gray levels uint8 (B,H,W), truncated as in the F-CAM code. Raises ValueError for invalid maps."""
    check_tensor(maps, 'maps', '(B,H,W)', 'real')
    if maps.is_meta:
        raise ValueError('maps are on the meta device, which holds no values: move them to another device')
    if 0 in maps.shape[1:]:
        raise ValueError(f'maps have shape {tuple(maps.shape)}: expected (B,H,W) with H, W > 0')
    low, high = maps.flatten(1).amin(1), maps.flatten(1).amax(1)  # NaN if a map contains NaN
    if not bool(((low >= 0) & (high <= 1)).all()):
        raise ValueError('maps contain NaN or values outside [0,1]: normalize them first (fcam_zoo.cams.normalize)')
    return (maps * 255).to(torch.uint8)


def otsu_threshold(maps: torch.Tensor) -> torch.Tensor:
    """Compute Otsu's threshold (Otsu, 1979) of each map in 256 gray levels.

    The level maximizes the between-class variance w1 w2 (m1 - m2)^2, computed in float64 from integer counts; on
    ties, the first one is used. Levels 0 and 255 become 1 and 254.

    Args:
        maps: (B,H,W) in [0,1].

    Returns:
        (B,) int64 gray level T in [1,254]; foreground is gray > T. A constant map gives 1.

    Raises:
        TypeError: If maps are not a dense tensor of numbers.
        ValueError: If maps contain NaN or values outside [0,1].
    """
    return _otsu(_histogram(_to_uint8(maps)))


def _histogram(gray: torch.Tensor) -> torch.Tensor:
    """Count the pixels of each gray level, int64 (B,256)."""
    batch = len(gray)
    offset = 256 * torch.arange(batch, device=gray.device, dtype=torch.int32)[:, None]
    levels = (gray.flatten(1).int() + offset).flatten()
    return torch.bincount(levels, minlength=256 * batch).view(batch, 256)


def _otsu(counts: torch.Tensor) -> torch.Tensor:
    counts = counts.double()
    levels = torch.arange(256, device=counts.device, dtype=torch.float64)
    below = counts.cumsum(1)
    sum_below = (counts * levels).cumsum(1)
    above, sum_above = below[:, -1:] - below, sum_below[:, -1:] - sum_below
    difference = sum_below / below.clamp(min=1) - sum_above / above.clamp(min=1)
    variance = torch.where((below > 0) & (above > 0), below * above * difference.square(), -1.0)
    return variance.argmax(1).clamp(1, 254)


def regions(
    maps: torch.Tensor,
    background_fraction: float = 0.1,
    erosion: int = 11,
    erosion_iterations: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the foreground and background candidates C+ and C- of each map (F-CAM, Sec. 3).

    Foreground: gray level above Otsu's threshold, eroded by a square. The image border does not erode, and an iteration
    that would empty the region is undone. Background: the fraction of pixels with the lowest values; ties are broken in
    raster order. A constant map has no candidates.

    Args:
        maps: (B,H,W) in [0,1].
        background_fraction: n- in [0,1].
        erosion: Side of the square kernel in pixels, odd; 1 erodes nothing.
        erosion_iterations: Number of erosions.

    Returns:
        (foreground, background), bool (B,H,W). They may overlap if n- is large.

    Raises:
        TypeError: If maps are not a dense tensor of numbers.
        ValueError: If maps contain NaN or values outside [0,1], or an argument is out of range.
    """
    background_fraction = as_number(background_fraction, 'background_fraction')
    if not 0 <= background_fraction <= 1:
        raise ValueError(f'background_fraction is {background_fraction}: choose a value in [0,1]')
    erosion = _odd(erosion, 'erosion', MAX_EROSION)
    erosion_iterations = as_count(erosion_iterations, 'erosion_iterations', 0, MAX_ITERATIONS)
    gray = _to_uint8(maps)
    counts = _histogram(gray)
    varied = ((counts > 0).sum(1) > 1)[:, None, None]
    foreground = (gray > _otsu(counts).to(torch.uint8)[:, None, None]) & varied
    for _ in range(erosion_iterations if erosion > 1 else 0):
        eroded = _erode(foreground, erosion)
        foreground = torch.where(eroded.flatten(1).any(1)[:, None, None], eroded, foreground)
    count = int(background_fraction * maps.shape[1] * maps.shape[2])
    return foreground, _lowest(maps, count) & varied


def _odd(value: int, name: str, high: int) -> int:
    """Return the side of a square kernel; raise ValueError unless it is odd and from 1 to `high`."""
    side = as_count(value, name, 1, high)
    if side % 2 == 0:
        raise ValueError(f'{name} is {side}: give an odd number of pixels')
    return side


def _erode(mask: torch.Tensor, kernel: int) -> torch.Tensor:
    """Erode by a square, separably; each pass combines two windows, so that the window about doubles."""
    pad = kernel // 2
    mask = F.pad(mask, (pad, pad, pad, pad), value=True)
    for dim in (1, 2):
        window = 1
        while window < kernel:
            step = min(window, kernel - window)
            length = mask.shape[dim] - step
            mask = mask.narrow(dim, 0, length) & mask.narrow(dim, step, length)
            window += step
    return mask


def _lowest(maps: torch.Tensor, count: int) -> torch.Tensor:
    """Mark exactly `count` lowest pixels of each map."""
    if count == 0:
        return torch.zeros_like(maps, dtype=torch.bool)
    cut = maps.flatten(1).kthvalue(count, dim=1).values[:, None, None]
    below, tied = maps < cut, maps == cut
    last = _nth(tied, count - 1 - below.sum((1, 2), dtype=torch.int32))
    position = torch.arange(maps.shape[1] * maps.shape[2], device=maps.device).view(maps.shape[1:])
    return below | (tied & (position <= last[:, None, None]))


def _nth(mask: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """Return the raster position (B,) of the set pixel of each mask that has `rank` (B,) set pixels before it.

    The position is arbitrary if the mask has too few set pixels.
    """
    height, width = mask.shape[1:]
    per_row = mask.sum(2, dtype=torch.int32)  # Half the memory of int64, for speed.
    ends = per_row.cumsum(1)
    row = torch.searchsorted(ends, rank[:, None], right=True).clamp(max=height - 1)
    rank = rank[:, None] - (ends - per_row).gather(1, row)
    line = mask.gather(1, row[:, :, None].expand(-1, -1, width))[:, 0]
    column = torch.searchsorted(line.cumsum(1), rank, right=True).clamp(max=width - 1)
    return (row * width + column)[:, 0]


def seeds(
    foreground: torch.Tensor,
    background: torch.Tensor,
    n_foreground: int = 1,
    n_background: int = 1,
    dilation: int = 3,
    ignore_index: int = IGNORE,
    generator: Generators = None,
) -> torch.Tensor:
    """Draw pseudo-labelled pixels uniformly, without replacement, from the candidates (F-CAM, Eq. 1 and 2).

    Each set of drawn pixels is dilated by a square; a pixel in both dilated sets is ignored.

    Args:
        foreground: Candidates, bool (B,H,W).
        background: Candidates, bool (B,H,W).
        n_foreground: Pixels to draw per image; fewer if there are fewer candidates.
        n_background: The same for the background.
        dilation: Side of the square in pixels, odd; 1 dilates nothing.
        ignore_index: Label of all other pixels.
        generator: Source of randomness, on the device of the masks; default: torch's global generator. With one
            generator per image, on any device, the draws do not depend on the other images of the batch.

    Returns:
        Labels int64 (B,H,W): 1 foreground, 0 background, else `ignore_index`.

    Raises:
        TypeError: If the candidates are not bool tensors, or a generator is not one.
        ValueError: If the shapes differ or an argument is out of range.
    """
    _check_candidates(foreground, background, generator)
    dilation = _odd(dilation, 'dilation', MAX_DILATION)
    pixels = foreground.shape[1] * foreground.shape[2]
    # More than all pixels are all of them.
    n_foreground = min(as_count(n_foreground, 'n_foreground', 0, 2**53), pixels)
    n_background = min(as_count(n_background, 'n_background', 0, 2**53), pixels)
    ignore_index = as_count(ignore_index, 'ignore_index', -(2**31), 2**31)
    if ignore_index in (FOREGROUND, BACKGROUND):
        raise ValueError(f'ignore_index is {ignore_index}: choose another number, 0 and 1 are labels')
    size = foreground.shape[1:]
    labels = torch.full((len(foreground), size.numel()), ignore_index, dtype=torch.int64, device=foreground.device)
    fg, found = _draw(foreground, n_foreground, generator)
    fg = _dilate(fg, size, dilation)
    labels.scatter_(1, fg, torch.where(found, FOREGROUND, ignore_index).expand_as(fg))
    bg, found = _draw(background, n_background, generator)
    bg = _dilate(bg, size, dilation)
    before = labels.gather(1, bg)
    drawn = torch.where(before == FOREGROUND, ignore_index, BACKGROUND)
    return labels.scatter_(1, bg, torch.where(found, drawn, before)).view_as(foreground)


def _check_candidates(foreground: torch.Tensor, background: torch.Tensor, generator: Generators) -> None:
    """Check masks and generators of `seeds`; see there for errors."""
    for name, mask in {'foreground': foreground, 'background': background}.items():
        check_tensor(mask, name, '(B,H,W)', 'bool')
    if foreground.shape != background.shape or 0 in foreground.shape[1:]:
        raise ValueError(
            f'foreground {tuple(foreground.shape)} and background {tuple(background.shape)} must both be (B,H,W) with '
            'H, W > 0'
        )
    check_devices(foreground=foreground, background=background)
    if isinstance(generator, Sequence) and len(generator) != len(foreground):
        raise ValueError(f'{len(generator)} generators for {len(foreground)} images: give one, or one per image')
    for each in generator if isinstance(generator, Sequence) else [generator]:
        check_generator(each)


def _draw(mask: torch.Tensor, count: int, generator: Generators) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw `count` set pixels of each image uniformly; return positions (B,n) and whether any pixel is set (B,1).

    If fewer pixels are set, positions are repeated.
    """
    flat = mask.flatten(1)
    count = min(count, flat.shape[1])
    total = flat.sum(1, keepdim=True, dtype=torch.int32)
    if count == 1:
        rank = _random(partial(torch.randint, 1 << 48), total, generator) % total.clamp(min=1)
        return _nth(mask, rank[:, 0])[:, None], total > 0
    # The pixels with the largest random keys are a uniform sample.
    index = torch.where(flat, _random(torch.rand, flat, generator), -1.0).topk(count, dim=1).indices
    order = torch.arange(count, device=mask.device)
    return index.gather(1, torch.where(order < total, order, 0)), total > 0


def _random(function: Callable[..., torch.Tensor], like: torch.Tensor, generator: Generators) -> torch.Tensor:
    """Draw random numbers with the shape and device of a tensor (B,n)."""
    if isinstance(generator, Sequence):
        rows = [function(like.shape[1:], generator=g, device=g.device) for g in generator]
        return torch.stack(rows).to(like.device)
    return function(like.shape, generator=generator, device=like.device)


def _dilate(index: torch.Tensor, size: torch.Size, side: int) -> torch.Tensor:
    """Return the positions (B,n*side^2) of squares around positions (B,n), clamped to the image."""
    offset = torch.arange(side, device=index.device) - side // 2
    y = (index // size[1])[:, :, None, None] + offset[:, None]
    x = (index % size[1])[:, :, None, None] + offset
    return (y.clamp(0, size[0] - 1) * size[1] + x.clamp(0, size[1] - 1)).flatten(1)
