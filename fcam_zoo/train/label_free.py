"""Select a decoder epoch without boxes: how well the classifier recognises the object with the background removed."""

from __future__ import annotations

import numpy as np
import torch

from .._modes import eval_mode
from ..data.base import ImageDataset
from .loading import items_of
from .stages import Stage, image_size

# Number of images, spread over the data set.
IMAGES = 200


@torch.no_grad()
def kept_probability(
    stage: Stage, dataset: ImageDataset, skip_bad: bool = False, images: int = IMAGES, batch_size: int = 16
) -> float:
    """Compute the mean probability, in percent, of the label of images whose background is removed.

    Of ten criteria measured on cub50, within a run it loses least against selection by boxes
    (benchmarks/results/label_free.md). It cannot compare settings, since larger maps keep more of the image.

    Args:
        stage: The decoder stage.
        dataset: Images uint8 (3,H,W) with labels, not augmented.
        skip_bad: Leave out unreadable images.
        images: Largest number of images used.
        batch_size: Images per forward pass.

    Raises:
        ImageError, OSError: For an unreadable image without `skip_bad`.
    """
    device = next(stage.model.parameters()).device
    index = np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int).tolist()
    found: list[float] = []
    with eval_mode(stage.model):
        for start in range(0, len(index), batch_size):
            items = items_of(dataset, index[start : start + batch_size], skip_bad)
            if items:
                pixels = torch.stack([item[0] for item in items]).to(device)
                labels = torch.tensor([item[1] for item in items], device=device)
                maps = stage.model.decoder(stage.encode(pixels).levels, image_size(pixels)).softmax(1)[:, 1]
                found += label_probability(stage, remove_background(pixels, maps), labels).tolist()
    return 100 * sum(found) / max(1, len(found))


def remove_background(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Blend images uint8 (B,3,H,W) with their mean colour, keeping what maps (B,H,W) in [0,1] mark as foreground."""
    colours = images.float()
    mean = colours.mean((2, 3), keepdim=True)
    return (mean + maps[:, None] * (colours - mean)).round().to(torch.uint8)


def label_probability(stage: Stage, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the probability (B,) of the labels (B,) of images uint8 (B,3,H,W)."""
    logits = stage.model.classify(stage.encode(images)).float()
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]
