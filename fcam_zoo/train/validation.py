"""Validation after an epoch: localization on the boxes or masks of val, otherwise label-free criteria."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch

from .._modes import eval_mode
from ..benchmark import evaluate_many
from ..benchmark.classes import labels_for
from ..data.base import ImageDataset
from .config import STAGES
from .loading import items_of
from .selection import localization_score, metric_name
from .setup import Setup, has_ground_truth
from .stages import Stage, image_size

BATCH_SIZE = 16
# For boxes, as in the published code; masks and final metrics have steps of 0.001.
BOX_THRESHOLDS = [i * 0.004 for i in range(250)]
# Images of `kept_probability`, spread over the data set.
KEPT_IMAGES = 200


def selection_text(setup: Setup) -> str:
    """Describe how the best epoch of each stage is selected, for the log."""
    val_set = setup.val_set
    if val_set is None:
        found = 'there is no val split'
    elif not has_ground_truth(val_set):
        found = 'val has no boxes or masks'
    else:
        found = f'val has {_truth(val_set)}'
    stages = [stage for stage in STAGES if getattr(setup.config, stage).epochs]
    return '; '.join([found, *(f'{stage}: {selection_of(setup, stage)}' for stage in stages)])


def selection_of(setup: Setup, stage: str) -> str:
    """Describe how the best epoch of a stage is selected and, with boxes or masks, the threshold of the decoder."""
    val_set, select = setup.val_set, getattr(setup.config, stage).select
    if val_set is not None and has_ground_truth(val_set):
        # Without an accuracy, localization selects (see `selection.selection_score`).
        if select == 'accuracy' and labels_for(setup.model, val_set, 'auto').reason:
            select = 'localization'
        text = f'best epoch by {metric_name(select, _truth(val_set))} on val'
        return f'{text}, threshold by its {_truth(val_set)}' if stage == 'decoder' else text
    if stage == 'decoder':
        split = 'train' if val_set is None else 'val'
        return (
            f'best epoch by image labels only, on images of {split}: the probability of the label with the background '
            'removed'
        )
    return 'the last epoch' if val_set is None else 'best epoch by accuracy on val'


def _truth(val_set: ImageDataset) -> str:
    return 'boxes' if val_set.boxes is not None else 'masks'


def _thresholds(val_set: ImageDataset) -> list[float] | None:
    """Return the thresholds of metrics on val; None for those of the final metrics."""
    return BOX_THRESHOLDS if val_set.boxes is not None else None


@torch.no_grad()
def validate(stage: Stage, setup: Setup, quiet: bool = True) -> dict[str, float]:
    """Measure the model after an epoch.

    Args:
        stage: Stage with the model.
        setup: Data and settings.
        quiet: No progress bar.

    Returns:
        With boxes or masks on val, the metrics of `benchmark.evaluate`. Otherwise for the decoder 'kept', the
        `kept_probability` on val or else on train, and for the classifier 'cls', its accuracy on val (empty without
        val).
    """
    config, val_set = setup.config, setup.val_set
    if val_set is not None and has_ground_truth(val_set):
        reports = evaluate_many(
            stage.model,
            val_set,
            (stage.val_maps,),
            batch_size=BATCH_SIZE,
            # Workers take seconds to start in each epoch.
            workers=config.workers if len(val_set) >= 1000 else 0,
            thresholds=_thresholds(val_set),
            threshold={},  # The model has no selected threshold yet.
            rows=False,
            quiet=quiet,
        )
        return reports[stage.val_maps].metrics
    if stage.name == 'decoder':
        return {'kept': kept_probability(stage, setup.eval_set, config.skip_bad)}
    return {} if val_set is None else {'cls': accuracy(stage, val_set, config.skip_bad)}


def center_score(setup: Setup) -> float | None:
    """Return the score on val of the center baseline, a Gaussian in the middle; None without boxes or masks."""
    val_set = setup.val_set
    if val_set is None or not has_ground_truth(val_set):
        return None
    found = evaluate_many(None, val_set, ('center',), thresholds=_thresholds(val_set), rows=False, quiet=True)
    return localization_score(found['center'].metrics, setup.config.decoder.select)


def accuracy(stage: Stage, dataset: ImageDataset, skip_bad: bool) -> float:
    """Compute the top-1 accuracy in percent."""
    found: list[bool] = []
    for images, labels in _batches(stage, items_of(dataset, len(dataset), skip_bad)):
        found += (stage.model.classify(stage.encode(images)).argmax(1) == labels).tolist()
    return 100 * sum(found) / max(1, len(found))


def kept_probability(stage: Stage, dataset: ImageDataset, skip_bad: bool) -> float:
    """Compute the mean probability, in percent, of the label of images whose background is removed.

    Of ten criteria measured on cub50, it is the closest to selection by boxes within a run
    (benchmarks/results/label_free.md). It cannot compare settings, since larger maps keep more of the image.

    Args:
        stage: The decoder stage.
        dataset: Images uint8 (3,H,W) with labels, not augmented.
        skip_bad: Leave out unreadable images.
    """
    found: list[float] = []
    for images, labels in _batches(stage, items_of(dataset, KEPT_IMAGES, skip_bad)):
        maps = stage.model.decoder(stage.encode(images).levels, image_size(images)).softmax(1)[:, 1]
        found += label_probability(stage, remove_background(images, maps), labels).tolist()
    return 100 * sum(found) / max(1, len(found))


def remove_background(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Blend images uint8 (B,3,H,W) with their mean color, keeping what maps (B,H,W) in [0,1] mark as foreground."""
    colors = images.float()
    mean = colors.mean((2, 3), keepdim=True)
    return (mean + maps[:, None] * (colors - mean)).round().to(torch.uint8)


def label_probability(stage: Stage, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the probability (B,) of the labels (B,) of images uint8 (B,3,H,W)."""
    logits = stage.model.classify(stage.encode(images)).float()
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def _batches(
    stage: Stage, items: Iterator[tuple[torch.Tensor, int, int]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images and labels on the device of the model, which is in eval mode meanwhile."""
    device = next(stage.model.parameters()).device
    with eval_mode(stage.model):
        while batch := list(islice(items, BATCH_SIZE)):
            images, labels, _ = zip(*batch)
            yield torch.stack(images).to(device), torch.tensor(labels, device=device)
