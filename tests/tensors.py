"""Random images and maps, gradients, and comparison relative to the largest value."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def gradient(value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, at)[0]


def close(got: torch.Tensor, want: np.ndarray | torch.Tensor, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest value, because some maps have tiny values."""
    want = (want.detach() if isinstance(want, torch.Tensor) else torch.tensor(want)).double()
    torch.testing.assert_close(got.detach().double(), want, rtol=0, atol=tolerance * float(want.abs().max()) + 1e-30)


def random_images(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    low = 255 * torch.rand(batch, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(low, (height, width), mode='bilinear').round()


def softmax_maps(batch: int, classes: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    low = 3 * torch.randn(batch, classes, 5, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(low, (height, width), mode='bilinear').softmax(1).requires_grad_()
