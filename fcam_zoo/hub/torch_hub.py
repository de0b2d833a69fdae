"""torch.hub entry points: one for each backbone and data set of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._index import Metrics, ModelName, index
from ..models import FCAM, create_model
from ..models.names import hub_names


def entry_points() -> dict[str, Callable[..., FCAM]]:
    """Return the entry points by name, `fcam_<backbone>_<dataset>`; their docstrings list the measured metrics."""
    return {name: _entry_point(name, models) for name, models in hub_names().items()}


def _entry_point(hub_name: str, models: list[str]) -> Callable[..., FCAM]:
    def load(pretrained: bool = True, **kwargs: Any) -> FCAM:
        return create_model(hub_name, pretrained=pretrained, **kwargs)

    load.__name__ = load.__qualname__ = hub_name
    load.__doc__ = _describe(models)
    return load


def _describe(models: list[str]) -> str:
    entry = index().get(models[0])
    if entry is None:
        teachers = ', '.join(ModelName.parse(m).teacher for m in models)
        return (
            f'F-CAM, no weights released (teachers: {teachers}).\n\n'
            'Args:\n    pretrained: must be False.\n    **kwargs: arguments of fcam_zoo.create_model.'
        )
    found = {'test': entry.metrics['test'], **{place: splits['test'] for place, splits in entry.elsewhere.items()}}
    lines = ''.join(f'On {place}: {_metrics_text(metrics)}.\n' for place, metrics in found.items())
    return (
        f'F-CAM {models[0]}.\n\nData set: {entry.dataset.title}. Teacher: {entry.teacher}.\n{lines}'
        f'License of the weights: {entry.license}; of the data: {entry.dataset.license}.\n\n'
        'Args:\n    pretrained: load the released weights, checked against their SHA-256.\n'
        '    **kwargs: arguments of fcam_zoo.create_model.'
    )


def _metrics_text(metrics: Metrics) -> str:
    """List the metrics of F-CAM and CAM; a data set with image labels only has the accuracy alone."""
    return '; '.join(
        f'{kind}: ' + ', '.join(f'{k} {v:.1f}' for k, v in metrics[kind].items() if not k.startswith(('best', 'top5')))
        for kind in ('fcam', 'cam')
        if kind in metrics
    )
