"""How good a model is after an epoch: by boxes or masks of val, else by what labels alone can tell."""

from __future__ import annotations

import logging
from functools import partial

import torch

from .._modes import eval_mode
from ..benchmark import evaluate_many
from ..data.base import ImageDataset
from .config import TrainConfig
from .label_free import kept_probability
from .loading import items_of, plain
from .loop import Validation
from .stages import Stage

logger = logging.getLogger(__name__)
# Of the validation after each epoch, as the reference does for boxes; the final figures use step 0.001.
VAL_THRESHOLDS = [i * 0.004 for i in range(250)]


def selection_of(val_set: ImageDataset | None) -> str:
    """How the best epoch of the decoder is chosen, in words."""
    if has_ground_truth(val_set):
        return f'by {"boxes" if val_set.boxes is not None else "masks"} of val'
    return f'label-free, on images of {"train" if val_set is None else "val"}'


def has_ground_truth(val_set: ImageDataset | None) -> bool:
    """Whether there is a val split with boxes or masks."""
    return val_set is not None and (val_set.boxes is not None or val_set.masks is not None)


def validator(
    stage: Stage, config: TrainConfig, train_set: ImageDataset, val_set: ImageDataset | None, quiet: bool
) -> Validation:
    """What measures the model after each epoch of a stage.

    Boxes or masks of val where there are any. Otherwise the accuracy on val for the classifier, without val nothing;
    and for the decoder what the classifier still sees of the objects (`label_free`), on val or else on train.
    """
    # Workers take seconds to start, each epoch anew.
    workers = config.workers if val_set is not None and len(val_set) >= 1000 else 0
    if has_ground_truth(val_set):
        return partial(_by_localization, val_set, workers, quiet)
    if stage.name == 'decoder':
        logger.info('no boxes or masks on val: the best epoch is that of whose objects the classifier sees most')
        probe = plain(train_set, config.image_size) if val_set is None else val_set
        return lambda stage: {'kept': kept_probability(stage, probe, config.skip_bad)}
    if val_set is not None:
        return lambda stage: {'cls': accuracy(stage, val_set, config.skip_bad)}
    logger.warning('%s has no val split: the last epoch of the classifier is taken as the best', config.data)
    return lambda stage: None


@torch.no_grad()
def accuracy(stage: Stage, dataset: ImageDataset, skip_bad: bool = False, batch_size: int = 32) -> float:
    """Top-1 accuracy in percent, of the images that can be read or, without `skip_bad`, of all."""
    device, found = next(stage.model.parameters()).device, []
    with eval_mode(stage.model):
        for start in range(0, len(dataset), batch_size):
            items = items_of(dataset, range(start, min(start + batch_size, len(dataset))), skip_bad)
            if items:
                logits = stage.model.classify(stage.encode(torch.stack([item[0] for item in items]).to(device)))
                found += (logits.argmax(1).cpu() == torch.tensor([item[1] for item in items])).tolist()
    return 100 * sum(found) / max(1, len(found))


@torch.no_grad()
def _by_localization(val_set: ImageDataset, workers: int, quiet: bool, stage: Stage) -> dict[str, float]:
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
