"""Choosing a decoder without boxes: what the classifier still sees when only the object is left of the image."""

from __future__ import annotations

import numpy as np
import torch

from .._modes import eval_mode
from ..data.base import ImageDataset
from .loading import items_of
from .stages import Stage

# Images on which an epoch is judged, spread over the data set.
IMAGES = 200


@torch.no_grad()
def kept_probability(
    stage: Stage, dataset: ImageDataset, skip_bad: bool = False, images: int = IMAGES, batch_size: int = 16
) -> float:
    """Mean probability in percent of an image's label where its background is painted over.

    Of ten criteria measured on cub50 it loses least against the choice by boxes within a run (benchmarks/results/
    label_free.md). It cannot compare settings: larger maps keep more.

    Args:
        stage: The decoder stage.
        dataset: Images uint8 (3,H,W) with labels, not augmented.
        skip_bad: Leave out images that cannot be read.
        images: At most so many of them.
        batch_size: Images at once.

    Raises:
        ImageError, OSError: For an image that cannot be read, without `skip_bad`.
    """
    device = next(stage.model.parameters()).device
    index = np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int).tolist()
    found = []
    with eval_mode(stage.model):
        for start in range(0, len(index), batch_size):
            items = items_of(dataset, index[start : start + batch_size], skip_bad)
            if items:
                pixels = torch.stack([item[0] for item in items]).to(device)
                labels = torch.tensor([item[1] for item in items], device=device)
                maps = stage.model.decoder(stage.encode(pixels).levels, tuple(pixels.shape[-2:])).softmax(1)[:, 1]
                found += probability(stage, shown(pixels, maps), labels).tolist()
    return 100 * sum(found) / max(1, len(found))


def shown(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Images uint8 (B,3,H,W) of which only what maps (B,H,W) in [0,1] show is left, the rest their mean colour."""
    colours = images.float()
    mean = colours.mean((2, 3), keepdim=True)
    return (mean + maps[:, None] * (colours - mean)).round().to(torch.uint8)


def probability(stage: Stage, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Probability (B,) of the labels (B,) of images uint8 (B,3,H,W)."""
    logits = stage.model.classify(stage.encode(images)).float()
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]
