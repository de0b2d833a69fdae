"""The metric on val that selects the best epoch of a stage, and the best run of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from ..benchmark.descriptions import describe
from .records import EpochMetrics


def localization_score(metrics: dict[str, float], select: str = 'localization') -> float:
    """Return MaxBoxAcc averaged over the IoU levels, or PxAP, or without ground truth `validation.kept_probability`.

    Args:
        metrics: Metrics on val.
        select: 'localization_50' for MaxBoxAcc at IoU 50 instead of the average.
    """
    if 'kept' in metrics:
        return metrics['kept']
    description = describe(metrics)
    return metrics[description.primary if select == 'localization_50' else description.overall]


def selection_score(metrics: dict[str, float], select: str) -> float:
    """Return the metric that a setting `select` names: 'accuracy', or as `localization_score`.

    Without an accuracy (if val has other classes than the model) or a localization, it is the metric that there is.
    """
    by_accuracy = metrics.keys() == {'cls'} or (select == 'accuracy' and 'cls' in metrics)
    return metrics['cls'] if by_accuracy else localization_score(metrics, select)


def best_epochs(history: Sequence[EpochMetrics], select: str) -> dict[str, EpochMetrics]:
    """Return the epochs with the best localization and with the best accuracy, the first on ties.

    The tables of the F-CAM paper have both. Empty if val does not measure both.

    Args:
        history: Metrics of all epochs.
        select: Metric of the stage; 'localization_50' also chooses the metric of localization.
    """
    if not all('cls' in epoch.val and len(epoch.val) > 1 for epoch in history):
        return {}
    return {
        'localization': max(history, key=lambda epoch: localization_score(epoch.val, select)),
        'accuracy': max(history, key=lambda epoch: epoch.val['cls']),
    }


def metric_name(select: str, kind: str) -> str:
    """Describe the metric of a setting `select` on a val split with 'boxes' or 'masks'."""
    if select == 'accuracy':
        return 'accuracy'
    names = {'localization': 'mean of MaxBoxAcc at IoU 30, 50 and 70', 'localization_50': 'MaxBoxAcc at IoU 50'}
    return names[select] if kind == 'boxes' else 'PxAP'
