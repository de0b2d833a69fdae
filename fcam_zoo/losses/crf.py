"""The dense CRF regularizer in PyTorch, without a compiled extension."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch

from .._checks import as_number, check_devices, check_tensor
from .._schema import show
from ._crf_fast import filter_fast

Kernel = Literal['auto', 'exact', 'fast']
# Kernel entries per tile: 2^22 float32 are 16 MB, which fits the last-level cache of most CPUs.
TILE_ENTRIES = 1 << 22
# Range of both standard deviations.
SIGMAS = (0.01, 1e6)


def crf_loss(
    images: torch.Tensor,
    probs: torch.Tensor,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    kernel: Kernel = 'auto',
) -> torch.Tensor:
    """Compute the dense CRF energy -(1/B) sum_b sum_k S_k' W S_k (Tang et al., ECCV 2018; F-CAM, Eq. 3, third term).

    W_ij = exp(-|f_i - f_j|^2 / 2) with f = (x/sigma_xy, y/sigma_xy, RGB/sigma_rgb) and W_ii = 1, neither normalized per
    row nor divided by the number of pixels. Up to a constant per image this is Tang's sum_k S_k' W (1 - S_k).

    The lattice approximation in the published code yields about 0.57 times this exact kernel on photographs: its weight
    2e-9 corresponds to 1.14e-9 here.

    Args:
        images: (B,3,H,W) RGB in 0..255, after the same crop and flip as the input of the network.
        probs: Softmax maps (B,K,H,W).
        sigma_rgb: Standard deviation in gray levels.
        sigma_xy: Standard deviation in pixels.
        kernel: 'exact' computes every pair of the N pixels (N^2 time, linear memory): with Triton on CUDA in one fused
            pass, else in tiles. 'fast' interpolates colors on a grid and approximates the position term with a few
            functions (linear time, which grows with (side/sigma_xy)^2): on photographs of 224x224 its energy was
            within 1 % and the cosine of its gradient at least 0.9998 (benchmarks/results/train.md). 'auto' is 'exact'
            on CUDA, else 'fast'.

    Returns:
        Scalar, negative. Only `probs` gets a gradient.

    Raises:
        TypeError: If images or probs are not tensors of numbers.
        ValueError: If the shapes do not fit, a sigma is out of range, or the kernel is unknown.
    """
    check_tensor(images, 'images', '(B,3,H,W)', 'real')
    check_tensor(probs, 'probs', '(B,K,H,W)', 'float')
    if images.shape[1] != 3 or images.shape[2:] != probs.shape[2:] or not images.numel() or not probs.shape[1]:
        raise ValueError(
            f'images {tuple(images.shape)} and probs {tuple(probs.shape)} do not fit: expected (B,3,H,W), (B,K,H,W)'
        )
    if len(images) != len(probs):
        raise ValueError(f'{len(images)} images and {len(probs)} probability maps: the batches must be equal')
    check_devices(images=images, probs=probs)
    sigma_rgb, sigma_xy = _sigma(sigma_rgb, 'sigma_rgb'), _sigma(sigma_xy, 'sigma_xy')
    check_kernel(kernel)
    if kernel == 'auto':
        kernel = 'exact' if probs.is_cuda else 'fast'
    images, probs = images.detach().float(), probs.float()
    return _DenseEnergy.apply(probs.flatten(2), images, sigma_rgb, sigma_xy, kernel) / len(images)


def check_kernel(kernel: Any) -> None:
    """Raise ValueError for an unknown kernel."""
    if not isinstance(kernel, str) or kernel not in ('auto', 'exact', 'fast'):
        raise ValueError(f"kernel is {show(kernel)}: choose 'auto', 'exact' or 'fast'")


def _sigma(value: float, name: str) -> float:
    """Return a standard deviation; raise ValueError outside the range in which float32 distances are exact enough."""
    sigma = as_number(value, name)
    if not SIGMAS[0] <= sigma <= SIGMAS[1]:
        raise ValueError(f'{name} is {show(value)}: give a number from {SIGMAS[0]} to {SIGMAS[1]}')
    return sigma


class _DenseEnergy(torch.autograd.Function):
    """-sum_b sum_k S_k' W S_k with gradient -2 W S. W is symmetric, and never stored as a whole."""

    @staticmethod
    @torch.amp.custom_fwd(device_type='cuda', cast_inputs=torch.float32)
    def forward(
        ctx: Any, probs: torch.Tensor, images: torch.Tensor, sigma_rgb: float, sigma_xy: float, kernel: str
    ) -> torch.Tensor:
        with torch.autocast(probs.device.type, enabled=False):
            filtered = _filter(images, probs, sigma_rgb, sigma_xy, kernel)
        ctx.save_for_backward(filtered)
        return -(probs.double() * filtered.double()).sum().to(probs.dtype)

    @staticmethod
    @torch.amp.custom_bwd(device_type='cuda')
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (filtered,) = ctx.saved_tensors
        return -2 * grad * filtered, None, None, None, None


def _filter(images: torch.Tensor, probs: torch.Tensor, sigma_rgb: float, sigma_xy: float, kernel: str) -> torch.Tensor:
    """Compute W S of a batch: images (B,3,H,W), probs (B,K,N) -> (B,K,N)."""
    if kernel == 'fast':
        return torch.stack([filter_fast(*pair, sigma_rgb, sigma_xy) for pair in zip(images, probs)])
    features = torch.stack([_features(image, sigma_rgb, sigma_xy) for image in images])
    if probs.is_cuda and find_spec('triton') is not None:
        # Imported here because it is slow, and CPU builds of PyTorch do not include Triton.
        from ._crf_triton import filter_fused

        return filter_fused(features, probs)
    return torch.stack([_filter_tiled(*pair) for pair in zip(features, probs)])


def _filter_tiled(features: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Compute W S of one image: features (N,5), probs (K,N) -> (K,N)."""
    n = len(features)
    # -|f_i - f_j|^2 / 2 = [f_i, -|f_i|^2/2, 1] . [f_j, 1, -|f_j|^2/2], so one matrix product gives the exponent.
    half = features.square().sum(1, keepdim=True) / 2
    one = torch.ones_like(half)
    left, right = torch.cat([features, -half, one], 1), torch.cat([features, one, -half], 1).T.contiguous()
    out = torch.empty_like(probs)
    rows = max(1, TILE_ENTRIES // n)
    for start in range(0, n, rows):
        weights = (left[start : start + rows] @ right).clamp_(max=0).exp_()
        out[:, start : start + rows] = probs @ weights.T
    return out


def _features(image: torch.Tensor, sigma_rgb: float, sigma_xy: float) -> torch.Tensor:
    """Return the kernel features (N,5) of the pixels: scaled position and color."""
    y, x = (torch.arange(n, dtype=torch.float32, device=image.device) / sigma_xy for n in image.shape[-2:])
    grid = torch.stack(torch.meshgrid(y, x, indexing='ij'))
    features = torch.cat([grid, image / sigma_rgb]).flatten(1).T
    # Only differences matter. Centring keeps |f|^2 small, and so the cancellation error in float32.
    return features - features.mean(0)
