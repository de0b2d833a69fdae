"""Measure finished trainings, and release them: float16 weights, an entry of the index, rows of results/*.csv.

    python -m fcam_zoo.hub.release RUN NAME --base BACKBONE [--decoder-only | --record] [--also DATA ...] [--remark ...]

Run in a checkout. A release goes to weights/; with --record nothing but the figures is kept, in results/measured.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .. import _index
from .._index import ReleaseEntry
from .._io import atomic_path, write_json
from .._names import ModelName
from .._weights import digest, fingerprint
from ..benchmark import evaluate_many
from ..data import EvalTransform, open_dataset
from ..data.base import ImageDataset
from ..errors import UnknownModelError, WeightsError
from ..models import FCAM, create_model
from ..models.zoo import ARCHITECTURES
from .facts import facts_of_run
from .results import MEASURED, cost_of, measured, write_tables
from .save import state_to_save

# What may be said of the data sets, by the name of their folder.
DATASETS = {
    'cub50': {
        'title': 'CUB-200-2011, first 50 classes',
        'license': 'images for non-commercial research',
        'note': 'not comparable with published 200-class figures',
    },
    'pets3': {
        'title': 'Oxford-IIIT Pet, Abyssinian, Bengal, american bulldog',
        'license': 'CC BY-SA 4.0',
        'note': '',
    },
    'imagenette': {
        'title': 'ImageNet, 10 classes (Imagenette)',
        'license': 'images for non-commercial research',
        'note': 'labels of ImageNet-1k; pictures squashed to 224x224',
    },
}


def measure(
    run_dir: str | os.PathLike,
    name: str,
    base: str,
    decoder_only: bool = False,
    also: Sequence[str | os.PathLike] = (),
    remark: str | None = None,
    quiet: bool = False,
) -> ReleaseEntry:
    """Figures of `run_dir/best` and `run_dir/last` on val and test, as float16 files hold them.

    Args:
        run_dir: Folder of a finished training.
        name: `fcam_<backbone>.<teacher>_<dataset>`; what follows another underscore tells runs of one name apart.
        base: timm name of the weights from which the backbone started.
        decoder_only: The classifier is as timm's weights `base` have it, and is not stored.
        also: Roots of other data sets whose test split shall be scored.
        remark: What the recipe does not say of the training.
        quiet: No progress bars.

    Returns:
        An entry of the index without its file.

    Raises:
        TrainingError: When the run is not finished.
        UnknownModelError: For a name that is not of the zoo.
    """
    if ModelName.parse(name).architecture not in ARCHITECTURES:
        raise UnknownModelError(f'{name!r} is not an architecture of the zoo: use one of {", ".join(ARCHITECTURES)}')
    run_dir = Path(run_dir)
    facts = facts_of_run(run_dir)
    recipe = json.loads((run_dir / 'config.json').read_text(encoding='utf-8'))
    root = Path(recipe['data'])
    transform = EvalTransform(recipe['image_size'])
    metrics: dict[str, dict[str, Any]] = {}
    elsewhere: dict[str, dict[str, Any]] = {}
    for which in ('last', 'best'):
        model = create_model(f'local-dir:{run_dir / which}')
        # The figures are those of the weights as they are stored.
        model.load_state_dict(_stored(model, decoder_only), strict=not decoder_only)
        maps = ('cam', recipe['teacher'], 'fcam', 'center') if which == 'best' else ('fcam',)
        for split in ('val', 'test'):
            found = _figures(model, open_dataset(root, split, transform), maps, quiet)
            metrics[split if which == 'best' else f'{split}_last_epoch'] = found
    for other in map(Path, also):
        elsewhere[other.name] = {'test': _figures(model, open_dataset(other, 'test', transform), maps, quiet)}
    return ReleaseEntry.from_dict(
        {
            **facts,
            'name': name,
            'backbone': base,
            'dataset': DATASETS.get(root.name, facts['dataset']),
            'num_classes': model.num_classes,
            'class_names': list(model.pretrained_cfg['label_names']),
            'model_args': {k: v for k, v in model.model_args.items() if k != 'backbone'},
            'metrics': {key: metrics[key] for key in ('val', 'test', 'val_last_epoch', 'test_last_epoch')},
            'elsewhere': elsewhere,
            'cost': cost_of(model, recipe['image_size']),
            'remark': remark or '',
            'commit': _commit(),
            'license': 'apache-2.0',
        }
    )


def _stored(model: FCAM, decoder_only: bool) -> dict[str, torch.Tensor]:
    """What a release of the model holds."""
    state = state_to_save(model, half=True)
    return {k: v for k, v in state.items() if k.startswith('decoder.') or not decoder_only}


def _figures(model: FCAM, dataset: ImageDataset, maps: Sequence[str], quiet: bool) -> dict[str, dict[str, float]]:
    """Metrics by kind of map."""
    reports = evaluate_many(model, dataset, tuple(dict.fromkeys(maps)), rows=False, quiet=quiet)
    return {kind: {k: round(v, 3) for k, v in report.metrics.items()} for kind, report in reports.items()}


def release(
    run_dir: str | os.PathLike,
    name: str,
    base: str,
    decoder_only: bool = False,
    **options: Any,
) -> ReleaseEntry:
    """Measure a training, write its best model to the weights folder and its entry to the index.

    Args:
        run_dir: Folder of a finished training.
        name: `fcam_<backbone>.<teacher>_<dataset>`.
        base: timm name of the weights from which the backbone started.
        decoder_only: Leave the classifier out, which is as timm's weights `base` have it.
        **options: Those of `measure`: also, remark, quiet.

    Returns:
        The index entry.

    Raises:
        TrainingError: When the run is not finished.
        UnknownModelError: For a name that is not of the zoo.
        WeightsError: When float16 cannot hold a weight.
    """
    entry = measure(run_dir, name, base, decoder_only, **options)
    model = create_model(f'local-dir:{Path(run_dir) / "best"}')
    state = _stored(model, decoder_only)
    if decoder_only:
        entry.holds = 'decoder'
        entry.classifier_sha256 = digest(model.backbone.state_dict())
    entry = dataclasses.replace(entry, **_write(name, state))
    _write_measured({k: v for k, v in measured().items() if k != name})
    entries = {**_index.index(), name: entry}
    write_json(_index.weights_dir() / 'index.json', [entries[k].to_dict() for k in sorted(entries)])
    _index.index.cache_clear()
    return entry


def record(run_dir: str | os.PathLike, name: str, base: str, **options: Any) -> ReleaseEntry:
    """Measure a training whose weights are not released, and keep its entry in results/measured.json.

    Raises:
        ValueError: For the name of a released model.
        TrainingError, UnknownModelError: As `measure`, whose options also, remark and quiet are taken.
    """
    if name in _index.index():
        raise ValueError(f'{name} is released: record another training as {name}_<what it differs in>')
    entry = measure(run_dir, name, base, **options)
    _write_measured({**measured(), name: entry})
    return entry


def _write_measured(entries: dict[str, ReleaseEntry]) -> None:
    if entries or MEASURED.is_file():
        write_json(MEASURED, [entries[k].to_dict() for k in sorted(entries)])


def _write(name: str, state: dict[str, Any]) -> dict[str, Any]:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f'{key} of {name} does not fit float16: it has infinite values')
    path = _index.weights_dir() / f'{name}.safetensors'
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={'format': 'pt'})
    return fingerprint(path)


def _commit() -> str:
    """Of the checkout that measured."""
    done = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=False)
    return done.stdout.strip() or 'unknown'


def main(argv: list[str] | None = None) -> int:
    """The command of this module."""
    parser = argparse.ArgumentParser('python -m fcam_zoo.hub.release', description=__doc__.split('\n')[0])
    parser.add_argument('run', help='folder of a finished training')
    parser.add_argument('name', help='fcam_<backbone>.<teacher>_<dataset>')
    parser.add_argument('--base', required=True, help='timm name of the weights from which the backbone started')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--decoder-only', action='store_true', help='the classifier is as downloaded and is left out')
    what.add_argument('--record', action='store_true', help='keep the figures, not the weights')
    parser.add_argument('--remark', help='what the recipe does not say of the training, for the model card')
    parser.add_argument('--also', nargs='+', default=[], metavar='DATA', help='other data sets to score, test split')
    args = parser.parse_args(argv)
    if args.record:
        record(args.run, args.name, args.base, also=args.also, remark=args.remark)
    else:
        release(args.run, args.name, args.base, args.decoder_only, also=args.also, remark=args.remark)
    write_tables()
    return 0


if __name__ == '__main__':
    sys.exit(main())
