"""Add a finished training to the released weights: measure it, store it in float16, write its index entry."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from .. import _index
from .._io import atomic_path, write_json
from ..benchmark import evaluate_many
from ..data import EvalTransform, open_dataset
from ..errors import UnknownModelError, WeightsError
from ..models import create_model
from ..models.zoo import ARCHITECTURES
from .facts import PRIVATE_SETTINGS
from .save import state_to_save

# What may be said of the data sets, by the name of their folder.
DATASETS = {
    'cub50': {
        'title': 'CUB-200-2011, first 50 classes',
        'licence': 'images for non-commercial research',
        'note': 'not comparable with published 200-class figures',
    },
    'pets3': {
        'title': 'Oxford-IIIT Pet, Abyssinian, Bengal, american bulldog',
        'licence': 'CC BY-SA 4.0',
        'note': '',
    },
}


def release(run_dir: str | os.PathLike, name: str, base: str, quiet: bool = False) -> dict[str, Any]:
    """Measure `run_dir/best` and `run_dir/last` on val and test, and write the best one to the weights folder.

    Args:
        run_dir: Folder of a finished training.
        name: `fcam_<backbone>.<teacher>_<dataset>`.
        base: timm name of the weights from which the backbone started.
        quiet: No progress bars.

    Returns:
        The index entry.

    Raises:
        FileNotFoundError: When the run is not finished.
        UnknownModelError: For a name that is not of the zoo.
        WeightsError: When float16 cannot hold a weight.
    """
    if not re.fullmatch(r'fcam_[a-z0-9_]+\.[a-z]+_[a-z0-9]+', name) or name.split('.')[0] not in ARCHITECTURES:
        raise UnknownModelError(
            f'{name!r} is no name of the zoo: use fcam_<backbone>.<teacher>_<dataset> with one of '
            f'{", ".join(ARCHITECTURES)}'
        )
    run_dir = Path(run_dir)
    recipe = json.loads((run_dir / 'config.json').read_text(encoding='utf-8'))
    summary = json.loads((run_dir / 'summary.json').read_text(encoding='utf-8'))
    root = Path(recipe['data'])
    metrics: dict[str, dict[str, Any]] = {}
    for which in ('best', 'last'):
        model = create_model(f'local-dir:{run_dir / which}')
        # The figures are those of the weights as they are stored.
        model.load_state_dict(state_to_save(model, half=True))
        for split in ('val', 'test'):
            dataset = open_dataset(root, split, EvalTransform(recipe['image_size']))
            maps = ('cam', recipe['teacher'], 'fcam') if which == 'best' else ('fcam',)
            reports = evaluate_many(model, dataset, tuple(dict.fromkeys(maps)), rows=False, quiet=quiet)
            measured = {k: {m: round(v, 3) for m, v in r.metrics.items()} for k, r in reports.items()}
            metrics[split if which == 'best' else f'{split}_last_epoch'] = measured
    model = create_model(f'local-dir:{run_dir / "best"}')
    entry = {
        'name': name,
        **_write(name, state_to_save(model, half=True)),
        'backbone': base,
        'dataset': DATASETS.get(root.name, {'title': root.name, 'licence': 'unknown', 'note': ''}),
        'teacher': recipe['teacher'],
        'num_classes': model.num_classes,
        'class_names': list(model.pretrained_cfg['label_names']),
        'model_args': {k: v for k, v in model.model_args.items() if k != 'backbone'},
        'metrics': metrics,
        'epochs': {stage: {k: r[k]['epoch'] for k in ('best', 'last')} for stage, r in summary.items()},
        'selection': 'best epoch on val, by its boxes or masks',
        # Paths of a machine are of no use to others.
        'recipe': {k: v for k, v in recipe.items() if k not in PRIVATE_SETTINGS},
        'licence': 'apache-2.0',
    }
    entries = {**_index.index(), name: entry}
    write_json(_index.weights_dir() / 'index.json', [entries[k] for k in sorted(entries)])
    _index.index.cache_clear()
    return entry


def _write(name: str, state: dict[str, Any]) -> dict[str, Any]:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f'{key} of {name} does not fit float16: it has infinite values')
    path = _index.weights_dir() / f'{name}.safetensors'
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={'format': 'pt'})
    return {
        'file': path.name,
        'size': path.stat().st_size,
        'sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
    }
