"""Validation after an epoch: localization on the boxes or masks of val, otherwise label-free criteria."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch

from .._modes import eval_mode
from ..benchmark import evaluate_many
from ..data.base import ImageDataset
from .loading import items_of, without_augmentation
from .loop import Validation
from .setup import Setup
from .stages import Stage, image_size

logger = logging.getLogger(__name__)
# As in the published code; final metrics use steps of 0.001.
VAL_THRESHOLDS = [i * 0.004 for i in range(250)]
# Images of `kept_probability`, spread over the data set.
KEPT_IMAGES = 200


def selection_of(val_set: ImageDataset | None) -> str:
    """Describe how the best epoch of the decoder is selected."""
    if val_set is None or not has_ground_truth(val_set):
        return f'label-free, on images of {"train" if val_set is None else "val"}'
    return f'by {"boxes" if val_set.boxes is not None else "masks"} of val'


def has_ground_truth(dataset: ImageDataset) -> bool:
    """Return whether the data set has boxes or masks."""
    return dataset.boxes is not None or dataset.masks is not None


def validator(stage: Stage, setup: Setup, quiet: bool) -> Validation:
    """Return a function that measures the model after each epoch of a stage.

    With boxes or masks on val, it measures localization. Otherwise it measures the classifier by its accuracy on val
    (nothing without val), and the decoder by `kept_probability`, on val or else on train.
    """
    config, val_set = setup.config, setup.val_set
    if val_set is not None and has_ground_truth(val_set):
        truth = val_set
        # Workers take seconds to start in each epoch.
        workers = config.workers if len(truth) >= 1000 else 0
        return lambda stage: localization(stage, truth, workers, quiet)
    if stage.name == 'decoder':
        logger.info('val has no boxes or masks: the best epoch is selected label-free (docs/training.md)')
        images = without_augmentation(setup.train_set, config.image_size) if val_set is None else val_set
        return lambda stage: {'kept': kept_probability(stage, images, config.skip_bad)}
    if val_set is not None:
        labelled = val_set
        return lambda stage: {'cls': accuracy(stage, labelled, config.skip_bad)}
    logger.warning('%s has no val split: the last epoch of the classifier is used as the best', config.data)
    return lambda stage: {}


@torch.no_grad()
def localization(stage: Stage, val_set: ImageDataset, workers: int, quiet: bool) -> dict[str, float]:
    """Compute the metrics of the stage's kind of maps on boxes or masks."""
    reports = evaluate_many(
        stage.model,
        val_set,
        (stage.val_maps,),
        batch_size=16,
        workers=workers,
        thresholds=VAL_THRESHOLDS,
        threshold={},  # The model has no selected threshold yet.
        rows=False,
        quiet=quiet,
    )
    return reports[stage.val_maps].metrics


@torch.no_grad()
def accuracy(stage: Stage, dataset: ImageDataset, skip_bad: bool = False) -> float:
    """Compute the top-1 accuracy in percent; with `skip_bad`, unreadable images are left out.

    Raises:
        ImageError, OSError: For an unreadable image without `skip_bad`.
    """
    found: list[bool] = []
    for images, labels in _batches(stage, dataset, list(range(len(dataset))), skip_bad):
        found += (stage.model.classify(stage.encode(images)).argmax(1) == labels).tolist()
    return 100 * sum(found) / max(1, len(found))


@torch.no_grad()
def kept_probability(stage: Stage, dataset: ImageDataset, skip_bad: bool = False) -> float:
    """Compute the mean probability, in percent, of the label of images whose background is removed.

    Of ten criteria measured on cub50, within a run it loses least against selection by boxes
    (benchmarks/results/label_free.md). It cannot compare settings, since larger maps keep more of the image.

    Args:
        stage: The decoder stage.
        dataset: Images uint8 (3,H,W) with labels, not augmented.
        skip_bad: Leave out unreadable images.

    Raises:
        ImageError, OSError: For an unreadable image without `skip_bad`.
    """
    index = np.linspace(0, len(dataset) - 1, min(KEPT_IMAGES, len(dataset))).round().astype(int).tolist()
    found: list[float] = []
    for images, labels in _batches(stage, dataset, index, skip_bad):
        maps = stage.model.decoder(stage.encode(images).levels, image_size(images)).softmax(1)[:, 1]
        found += label_probability(stage, remove_background(images, maps), labels).tolist()
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


def _batches(
    stage: Stage, dataset: ImageDataset, index: list[int], skip_bad: bool, batch_size: int = 16
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images and labels on the device of the model, which is in eval mode meanwhile."""
    device = next(stage.model.parameters()).device
    with eval_mode(stage.model):
        for start in range(0, len(index), batch_size):
            items = items_of(dataset, index[start : start + batch_size], skip_bad)
            if items:
                labels = torch.tensor([item[1] for item in items], device=device)
                yield torch.stack([item[0] for item in items]).to(device), labels
