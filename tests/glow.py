"""A stand-in for an F-CAM whose map is the brightness of the image, so that bright pixels are objects."""

from __future__ import annotations

import torch
import torch.nn as nn

from fcam_zoo import FCAMOutput


class Glow(nn.Module):
    """Predicts class 1 for images with a mean brightness above one half, otherwise class 0."""

    threshold = 0.5
    num_classes = 2

    def __init__(self, size: int = 224) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.pretrained_cfg = {
            'input_size': (3, size, size),
            'mean': (0.0, 0.0, 0.0),
            'std': (1.0, 1.0, 1.0),
            'label_names': ['dim', 'bright'],
        }

    def forward(self, x: torch.Tensor) -> FCAMOutput:
        brightness = (x.mean(1) * self.scale).clamp(1e-4, 1 - 1e-4)
        mean = brightness.mean((1, 2))
        return FCAMOutput(torch.stack([1 - mean, mean], 1).log(), torch.stack([1 - brightness, brightness], 1).log())
