"""Validation after an epoch: localization on the boxes or masks of val, otherwise a label-free criterion."""

from __future__ import annotations

import logging

import torch

from .._modes import eval_mode
from ..benchmark import evaluate_many
from ..data.base import ImageDataset
from .label_free import kept_probability
from .loading import items_of, without_augmentation
from .loop import Validation
from .setup import Setup
from .stages import Stage

logger = logging.getLogger(__name__)
# As in the published code; final metrics use steps of 0.001.
VAL_THRESHOLDS = [i * 0.004 for i in range(250)]


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
    (nothing without val), and the decoder by `label_free.kept_probability`, on val or else on train.
    """
    config, val_set = setup.config, setup.val_set
    if val_set is not None and has_ground_truth(val_set):
        dataset = val_set
        # Workers take seconds to start in each epoch.
        workers = config.workers if len(dataset) >= 1000 else 0
        return lambda stage: localization(stage, dataset, workers, quiet)
    if stage.name == 'decoder':
        logger.info('val has no boxes or masks: the best epoch is selected label-free (docs/training.md)')
        probe = without_augmentation(setup.train_set, config.image_size) if val_set is None else val_set
        return lambda stage: {'kept': kept_probability(stage, probe, config.skip_bad)}
    if val_set is not None:
        labelled = val_set
        return lambda stage: {'cls': accuracy(stage, labelled, config.skip_bad)}
    logger.warning('%s has no val split: the last epoch of the classifier is used as the best', config.data)
    return lambda stage: {}


@torch.no_grad()
def accuracy(stage: Stage, dataset: ImageDataset, skip_bad: bool = False, batch_size: int = 32) -> float:
    """Compute the top-1 accuracy in percent; with `skip_bad`, unreadable images are left out.

    Raises:
        ImageError, OSError: For an unreadable image without `skip_bad`.
    """
    device = next(stage.model.parameters()).device
    found: list[bool] = []
    with eval_mode(stage.model):
        for start in range(0, len(dataset), batch_size):
            items = items_of(dataset, range(start, min(start + batch_size, len(dataset))), skip_bad)
            if items:
                logits = stage.model.classify(stage.encode(torch.stack([item[0] for item in items]).to(device)))
                found += (logits.argmax(1).cpu() == torch.tensor([item[1] for item in items])).tolist()
    return 100 * sum(found) / max(1, len(found))


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
        threshold={},
        rows=False,
        quiet=quiet,
    )
    return reports[stage.val_maps].metrics
