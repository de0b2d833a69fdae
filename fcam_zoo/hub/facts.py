"""What is known of a model: data, teacher, figures, how it was chosen. Config, model card and index say it alike."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import timm

from .. import _index
from ..errors import TrainingError

FACTS = ('backbone', 'dataset', 'teacher', 'metrics', 'epochs', 'selection', 'recipe', 'license')
# Settings that are of a machine and of no use to others.
PRIVATE_SETTINGS = (
    'data',
    'annotations',
    'init',
    'backbone_checkpoint',
    'workers',
    'device',
    'checkpoint_minutes',
    'keep_epochs',
)


def check_facts(facts: dict[str, Any]) -> None:
    """Refuse facts of which no model card could be made.

    Raises:
        ValueError: Naming the fact.
    """
    unknown = sorted(facts.keys() - set(FACTS))
    if unknown:
        raise ValueError(f'unknown facts {", ".join(unknown)}: give {", ".join(FACTS)}')
    dataset = facts.get('dataset') or {'title': ''}
    if not isinstance(dataset, dict) or not isinstance(dataset.get('title'), str):
        raise ValueError(f'dataset is {dataset!r}: give a dict of title, license and note')
    try:
        splits = (facts.get('metrics') or {}).values()
        sound = all(math.isfinite(v) for kinds in splits for figures in kinds.values() for v in figures.values())
    except (AttributeError, TypeError):
        sound = False
    if not sound:
        raise ValueError(
            "metrics must be numbers by split, maps and name: {'test': {'fcam': {'max_box_acc_50': 81.5}}}"
        )


def facts_of_release(name: str) -> dict[str, Any]:
    """Facts of a released model, from the index.

    Raises:
        UnknownModelError: When the model is not released.
    """
    entry = _index.released(name).to_dict()
    return {key: entry[key] for key in FACTS if key in entry}


def facts_of_run(
    run_dir: str | os.PathLike,
    data_title: str | None = None,
    data_license: str = 'unknown',
    license: str | None = None,
) -> dict[str, Any]:
    """Facts of a finished training, from its config.json and summary.json.

    Args:
        run_dir: Folder of the training.
        data_title: Of the data set; default: the name of its folder.
        data_license: Under which its images may be used.
        license: Of the weights, as the Hub writes it; default: that of the backbone.

    Raises:
        TrainingError: When the folder holds no finished training.
    """
    run_dir = Path(run_dir)
    try:
        recipe = json.loads((run_dir / 'config.json').read_text(encoding='utf-8'))
        summary = json.loads((run_dir / 'summary.json').read_text(encoding='utf-8'))
        model = json.loads((run_dir / 'best' / 'config.json').read_text(encoding='utf-8'))
        backbone = model['model_args']['backbone']
        stage = next(reversed(summary))
        final = summary[stage]
        measured = {split: _figures(final[which]) for split, which in (('val', 'best'), ('val_last_epoch', 'last'))}
        return {
            'backbone': _tagged(backbone) if recipe.get('backbone_pretrained') else backbone,
            'dataset': {'title': data_title or Path(recipe['data']).name, 'license': data_license, 'note': ''},
            'teacher': recipe['teacher'],
            'metrics': {split: {'fcam': figures} for split, figures in measured.items() if figures},
            'epochs': {name: {k: r[k]['epoch'] for k in ('best', 'last')} for name, r in summary.items()},
            'selection': _selection(measured['val'], recipe.get(stage, {}).get('select') == 'accuracy'),
            'recipe': {k: v for k, v in recipe.items() if k not in PRIVATE_SETTINGS},
            'license': license,
        }
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RuntimeError) as e:
        raise TrainingError(
            f'{run_dir} holds no finished training ({type(e).__name__}: {e}): it must have config.json, '
            'summary.json and best/, as fcam-zoo train writes them'
        ) from e


def _tagged(backbone: str) -> str:
    """A timm name with the tag of the weights that it stands for."""
    cfg = timm.get_pretrained_cfg(backbone)
    return f'{cfg.architecture}.{cfg.tag}' if cfg and cfg.tag else backbone


def _selection(val: dict[str, float], by_accuracy: bool) -> str:
    """How the epoch was chosen, and from which annotations of val."""
    if not val:
        return 'the last epoch, since val has no boxes or masks'
    if 'kept' in val:
        return 'best epoch by labels alone: the probability of the label where the background is painted over'
    if val.keys() == {'cls'}:
        return 'best epoch on val, by its labels'
    shapes = 'masks' if 'pxap' in val else 'boxes'
    if by_accuracy:
        return f'best epoch on val, by its labels; figures by its {shapes}'
    return f'best epoch and threshold on val, by its {shapes}'


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {k: round(v, 3) for k, v in row.get('val', {}).items() if isinstance(v, (int, float))}
