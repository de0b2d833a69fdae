"""How good a model is after an epoch: by boxes or masks of val, else by what labels alone can tell."""

from __future__ import annotations

import logging
from functools import partial

import torch

from ..benchmark import evaluate_many
from ..data.base import ImageDataset
from .config import TrainConfig
from .loop import Validation
from .stages import Stage

logger = logging.getLogger(__name__)
# Of the validation after each epoch, as the reference does for boxes; the final figures use step 0.001.
VAL_THRESHOLDS = [i * 0.004 for i in range(250)]


def selection_of(val_set: ImageDataset | None) -> str:
    """How the best epoch of the decoder is chosen, in words."""
    if val_set is not None and (val_set.boxes is not None or val_set.masks is not None):
        return f'by {"boxes" if val_set.boxes is not None else "masks"} of val'
    return 'the last one, since val has no boxes or masks'


def validator(
    stage: Stage, config: TrainConfig, train_set: ImageDataset, val_set: ImageDataset | None, quiet: bool
) -> Validation:
    """What measures the model after each epoch of a stage."""
    if val_set is not None and (val_set.boxes is not None or val_set.masks is not None):
        # Workers take seconds to start, each epoch anew.
        workers = config.workers if len(val_set) >= 1000 else 0
        return partial(_by_localization, val_set, workers, quiet)
    logger.warning('%s has no val split with boxes or masks: the last epoch is taken as the best', config.data)
    return lambda stage: None


@torch.no_grad()
def _by_localization(val_set: ImageDataset, workers: int, quiet: bool, stage: Stage) -> dict[str, float]:
    reports = evaluate_many(
        stage.model,
        val_set,
        (stage.val_maps,),
        batch_size=16,
        workers=workers,
        thresholds=VAL_THRESHOLDS,
        rows=False,
        quiet=quiet,
    )
    return reports[stage.val_maps].metrics
