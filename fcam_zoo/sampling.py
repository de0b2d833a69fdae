"""Pseudo-labels for the decoder: Otsu's threshold, foreground and background regions, random seeds.

F-CAM (WACV 2022), Sec. 3: pixels above Otsu's threshold of the CAM are foreground candidates, a fraction n- of lowest
activation are background candidates, and each step draws a few of each. All functions are batched and stay on device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

FOREGROUND, BACKGROUND, IGNORE = 1, 0, -255


def _to_uint8(maps: torch.Tensor) -> torch.Tensor:
    """Grey levels as int64 (B,H,W); truncated, not rounded. Raises ValueError on NaN or values outside [0,1]."""
    if maps.ndim != 3:
        raise ValueError(f'maps have shape {tuple(maps.shape)}: expected (B,H,W)')
    if not bool(((maps >= 0) & (maps <= 1)).all()):
        raise ValueError('maps hold NaN or values outside [0,1]: normalise them first (fcam_zoo.cams.normalize)')
    return (maps * 255).long()


def otsu_threshold(maps: torch.Tensor) -> torch.Tensor:
    """Otsu's threshold (Otsu, 1979) of each map's 256 grey levels.

    The level maximises the between-class variance w1 w2 (m1 - m2)^2, computed exactly on integer counts in float64; the
    first maximum wins. Levels 0 and 255 are moved to 1 and 254, so that neither class is forced to be empty.

    Args:
        maps: (B,H,W) in [0,1].

    Returns:
        (B,) int64 grey level T in [1,254]; foreground is grey > T. A constant map gives 1.

    Raises:
        ValueError: On NaN or values outside [0,1].
    """
    return _otsu(_to_uint8(maps))


def _otsu(grey: torch.Tensor) -> torch.Tensor:
    batch = len(grey)
    offset = 256 * torch.arange(batch, device=grey.device)[:, None]
    counts = torch.bincount((grey.flatten(1) + offset).flatten(), minlength=256 * batch).view(batch, 256).double()
    levels = torch.arange(256, device=grey.device, dtype=torch.float64)
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
    """Foreground and background candidates C+ and C- of each map (F-CAM, Sec. 3).

    Foreground: grey level above Otsu's threshold, eroded by a full square; the image border does not erode, and an
    iteration that would empty the region is undone. Background: the fraction of pixels with the lowest values, ties cut
    in raster order. A constant map has neither.

    Args:
        maps: (B,H,W) in [0,1].
        background_fraction: n- in [0,1].
        erosion: Side of the square kernel in pixels, odd; 1 erodes nothing.
        erosion_iterations: How often to erode.

    Returns:
        (foreground, background), bool (B,H,W). They may overlap where n- is large.

    Raises:
        ValueError: On NaN or values outside [0,1], or an argument out of its range.
    """
    if not 0 <= background_fraction <= 1:
        raise ValueError(f'background_fraction is {background_fraction}: choose a value in [0,1]')
    if erosion < 1 or erosion % 2 == 0 or erosion_iterations < 0:
        raise ValueError(
            f'erosion={erosion}, erosion_iterations={erosion_iterations}: the kernel is odd and positive, '
            'iterations are not negative'
        )
    grey = _to_uint8(maps)
    flat = grey.flatten(1)
    varied = (flat.amin(1) != flat.amax(1))[:, None, None]
    foreground = (grey > _otsu(grey)[:, None, None]) & varied
    for _ in range(erosion_iterations if erosion > 1 else 0):
        eroded = _erode(foreground, erosion)
        foreground = torch.where(eroded.flatten(1).any(1)[:, None, None], eroded, foreground)
    return foreground, _lowest(maps, int(background_fraction * maps.shape[1] * maps.shape[2])) & varied


def _erode(mask: torch.Tensor, kernel: int) -> torch.Tensor:
    # Max-pooling of the complement; its implicit -inf padding leaves the border alone. A square is separable.
    outside = (~mask).float()[:, None]
    pad = kernel // 2
    outside = F.max_pool2d(outside, (kernel, 1), 1, (pad, 0))
    return F.max_pool2d(outside, (1, kernel), 1, (0, pad))[:, 0] == 0


def _lowest(maps: torch.Tensor, count: int) -> torch.Tensor:
    """Exactly `count` lowest pixels of each map."""
    flat = maps.flatten(1)
    if count == 0:
        return torch.zeros_like(maps, dtype=torch.bool)
    cut = flat.kthvalue(count, dim=1, keepdim=True).values
    below, tied = flat < cut, flat == cut
    room = count - below.sum(1, keepdim=True)
    return (below | (tied & (tied.cumsum(1) <= room))).view_as(maps)


def seeds(
    foreground: torch.Tensor,
    background: torch.Tensor,
    n_foreground: int = 1,
    n_background: int = 1,
    dilation: int = 3,
    ignore_index: int = IGNORE,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw pseudo-labelled pixels uniformly, without replacement, from the candidates (F-CAM, Eq. 1 and 2).

    Each drawn set is dilated by a square; a pixel in both dilated sets is ignored.

    Args:
        foreground: Candidates, bool (B,H,W).
        background: Candidates, bool (B,H,W).
        n_foreground: Pixels to draw an image; fewer where there are fewer candidates.
        n_background: The same for the background.
        dilation: Side of the square in pixels, odd; 1 dilates nothing.
        ignore_index: Label of all other pixels.
        generator: Source of randomness, on the device of the masks; default: torch's own.

    Returns:
        Labels int64 (B,H,W): 1 foreground, 0 background, else `ignore_index`.

    Raises:
        ValueError: When the shapes differ or an argument is out of its range.
    """
    if foreground.shape != background.shape or foreground.ndim != 3:
        raise ValueError(
            f'foreground {tuple(foreground.shape)} and background {tuple(background.shape)} must both be (B,H,W)'
        )
    if dilation < 1 or dilation % 2 == 0 or n_foreground < 0 or n_background < 0:
        raise ValueError(
            f'dilation={dilation}, n_foreground={n_foreground}, n_background={n_background}: the square is odd '
            'and positive, counts are not negative'
        )
    fg = _dilate(_draw(foreground, n_foreground, generator), dilation)
    bg = _dilate(_draw(background, n_background, generator), dilation)
    labels = torch.full(foreground.shape, ignore_index, dtype=torch.int64, device=foreground.device)
    labels[fg & ~bg] = FOREGROUND
    labels[bg & ~fg] = BACKGROUND
    return labels


def _draw(mask: torch.Tensor, count: int, generator: torch.Generator | None) -> torch.Tensor:
    """A uniform sample of `count` set pixels of each image: those with the largest random keys."""
    drawn = torch.zeros_like(mask).flatten(1)
    count = min(count, drawn.shape[1])
    if count == 0:
        return drawn.view_as(mask)
    keys = torch.rand(drawn.shape, generator=generator, device=mask.device)
    keys = torch.where(mask.flatten(1), keys, -1.0)
    value, index = keys.topk(count, dim=1) if count > 1 else keys.max(1, keepdim=True)
    return drawn.scatter_(1, index, value >= 0).view_as(mask)


def _dilate(mask: torch.Tensor, size: int) -> torch.Tensor:
    return F.max_pool2d(mask[:, None].float(), size, 1, size // 2)[:, 0] > 0
