"""A fast approximation of the CRF kernel: a few smooth functions of position, and a grid of colors.

W_ij = exp(-|x_i - x_j|^2 / (2 sigma_xy^2)) exp(-|c_i - c_j|^2 / (2 sigma_rgb^2)). If the image is a few sigma_xy wide,
the first factor is a sum of a few products phi_r(x_i) phi_r(x_j) of its eigenfunctions. The second is a Gaussian blur G
on a grid of colors, with linear interpolation P' to and P from the grid. W = sum_r phi_r P G P' phi_r is symmetric, so
-2 W S is the gradient of -S' W S up to rounding.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch

# Side of a color cell, in units of sigma_rgb.
CELL = 2 / 3
# Smallest eigenvalue that is kept, relative to the largest.
TOLERANCE = 1e-2
# Values per chunk of functions (16 MB in float32).
CHUNK_ENTRIES = 1 << 22
# Largest grid of colors; beyond it the exact kernel is cheaper.
MAX_CELLS = 1 << 22


def filter_fast(image: torch.Tensor, probs: torch.Tensor, sigma_rgb: float, sigma_xy: float) -> torch.Tensor:
    """Compute W S of one image approximately.

    Args:
        image: (3,H,W).
        probs: (K,N), N = H*W.
        sigma_rgb: Standard deviation in gray levels.
        sigma_xy: Standard deviation in pixels.

    Returns:
        (K,N).

    Raises:
        ValueError: If sigma_rgb is so small that the grid of colors is too large.
    """
    corners, kernels = _color_grid(image.flatten(1) / (sigma_rgb * CELL))
    n_cells = kernels[0].shape[0] * kernels[1].shape[0] * kernels[2].shape[0]
    rows, columns, weights = (t.to(probs) for t in _position_functions(*image.shape[1:], sigma_xy))
    out = torch.zeros_like(probs)
    step = max(1, CHUNK_ENTRIES // (len(probs) * max(n_cells, probs.shape[1])))
    for start in range(0, len(weights), step):
        part = slice(start, start + step)
        phi = (rows[:, None, part] * columns[:, part]).flatten(0, 1)  # (N,r)
        source = (phi[:, :, None] * probs.T[:, None]).flatten(1)
        grid = source.new_zeros(n_cells, source.shape[1])
        for cells, shares in corners:
            grid.index_add_(0, cells, source * shares)
        grid = _blur(grid, kernels)
        found = torch.zeros_like(source)
        for cells, shares in corners:
            found.addcmul_(grid.index_select(0, cells), shares)
        out += torch.einsum('nrk,nr->kn', found.unflatten(1, (-1, len(probs))), phi * weights[part])
    return out


def _color_grid(colors: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[torch.Tensor]]:
    """Return the eight cells (N,) around each pixel with its shares (N,1), and the Gaussian (n,n) along each color.

    Both interpolations also blur, with variance f (1 - f) at the fraction f of a cell. The Gaussians are made narrower
    by its mean; pixels with more than the mean lose height and are scaled up. Exact for a flat image.
    """
    colors = colors - colors.amin(1, keepdim=True)
    places = colors.floor()
    fractions = colors - places
    dims = [int(n) + 2 for n in places.amax(1)]
    n_cells = dims[0] * dims[1] * dims[2]
    if n_cells > MAX_CELLS:
        raise ValueError(
            f"sigma_rgb is too small for kernel 'fast', which would need {n_cells} color cells: choose "
            "kernel='exact', or a sigma_rgb of at least 4"
        )
    strides = (dims[1] * dims[2], dims[2], 1)
    first = sum(place.long() * stride for place, stride in zip(places, strides))
    blurs = fractions * (1 - fractions) * CELL**2
    mean = blurs.mean(1, keepdim=True)
    gains = (1 + 2 * (blurs - mean)).pow(0.25).prod(0)
    corners = []
    for corner in itertools.product((0, 1), repeat=3):
        shares = [f if upper else 1 - f for f, upper in zip(fractions, corner)]
        offset = sum(upper * stride for upper, stride in zip(corner, strides))
        corners.append((first + offset, (gains * shares[0] * shares[1] * shares[2])[:, None]))
    kernels = []
    for n, blurred in zip(dims, mean.flatten()):
        variance = 1 - 2 * blurred
        place = torch.arange(n, device=colors.device, dtype=colors.dtype) * CELL
        kernels.append(torch.exp((place[:, None] - place).square() / (-2 * variance)) / variance.sqrt())
    return corners, kernels


def _blur(grid: torch.Tensor, kernels: list[torch.Tensor]) -> torch.Tensor:
    """Convolve the grid (cells,C) along the three colors."""
    a, b, c = (len(kernel) for kernel in kernels)
    grid = kernels[0] @ grid.view(a, -1)
    grid = kernels[1] @ grid.view(a, b, -1)
    return (kernels[2] @ grid.view(a * b, c, -1)).view(a * b * c, -1)


@lru_cache(maxsize=8)
def _position_functions(height: int, width: int, sigma: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return functions of the row (H,R) and column (W,R), and weights (R,): sum_r weight phi phi is the Gaussian."""
    (row_weights, rows), (column_weights, columns) = _eigenfunctions(height, sigma), _eigenfunctions(width, sigma)
    weights = row_weights[:, None] * column_weights
    i, j = torch.nonzero(weights > TOLERANCE * weights.max(), as_tuple=True)
    return rows[:, i].float(), columns[:, j].float(), weights[i, j].float()


def _eigenfunctions(n: int, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the eigenvalues (n,) and eigenfunctions (n,n) of a Gaussian on 0..n-1."""
    place = torch.arange(n, dtype=torch.float64)
    return torch.linalg.eigh(torch.exp((place[:, None] - place).square() / (-2 * sigma**2)))
