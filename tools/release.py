"""Release or record a finished training, measure the released models again, or time all models.

    python -m tools.release add RUN NAME --base BACKBONE [--decoder-only | --record] [--epoch last] [--overwrite]
        [--also DATA ...]
    python -m tools.release remeasure DATA_ROOT [NAME ...]
    python -m tools.release speeds

Each command ends by writing the tables (`python -m tools.tables`).
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

from fcam_zoo import _index, hub
from fcam_zoo._index import DatasetFacts, Metrics, ModelName, ReleaseEntry
from fcam_zoo._io import atomic_path
from fcam_zoo._weights import digest, fingerprint
from fcam_zoo.data import EvalTransform, open_dataset
from fcam_zoo.errors import UnknownModelError, WeightsError
from fcam_zoo.hub.save import state_to_save
from fcam_zoo.models import FCAM, create_model
from fcam_zoo.models.names import ARCHITECTURES, released
from fcam_zoo.train.setup import has_ground_truth

from . import records
from .measure import cost_of, measure_labels, measure_metrics, val_thresholds
from .recipes import write_recipe
from .tables import write_tables

# Facts about the data sets, by folder name.
DATASETS = {
    'cub50': DatasetFacts(
        'CUB-200-2011, first 50 classes',
        'images for non-commercial research',
        'not comparable with published 200-class results',
    ),
    'pets3': DatasetFacts('Oxford-IIIT Pet, Abyssinian, Bengal, american bulldog', 'CC BY-SA 4.0'),
    'imagenette': DatasetFacts(
        'ImageNet, 10 classes (Imagenette)',
        'images for non-commercial research',
        'labels of ImageNet-1k; images squashed to 224x224',
    ),
    'caltech101': DatasetFacts('Caltech-101, 100 categories', 'CC BY 4.0', 'Li et al., 2022, doi:10.22002/D1.20086'),
}
SPLITS = ('val', 'test', 'val_last_epoch', 'test_last_epoch')


def measure(
    run_dir: str | os.PathLike,
    name: str,
    base: str,
    decoder_only: bool = False,
    *,
    epoch: str = 'best',
    also: Sequence[str | os.PathLike] = (),
    remark: str = '',
    quiet: bool = False,
) -> ReleaseEntry:
    """Measure `run_dir/best` and `run_dir/last` on val and test, with weights rounded to float16 as a release has them.

    On a data set without boxes and masks, only the classes are measured, and the maps on the data sets `also`: at their
    best thresholds, and at that of the model.

    Args:
        run_dir: Folder of a finished training.
        name: `fcam_<backbone>.<teacher>_<dataset>`, optionally with `_<variant>`.
        base: timm name of the weights from which the backbone started.
        decoder_only: The classifier has the unchanged weights `base`, and its values are not rounded.
        epoch: 'best' or 'last', the model that is released; with 'last', the best one is not measured.
        also: Roots of other data sets whose test split is scored.
        remark: What the recipe does not say about the training.
        quiet: Show no progress bars.

    Returns:
        An entry without a file.

    Raises:
        TrainingError: If the training is not finished.
        UnknownModelError: If the architecture is not in the zoo.
    """
    if ModelName.parse(name).architecture not in ARCHITECTURES:
        raise UnknownModelError(f'{name!r} is not an architecture of the zoo: use one of {", ".join(ARCHITECTURES)}')
    run_dir = Path(run_dir)
    facts = hub.facts_of_run(run_dir)
    recipe = json.loads((run_dir / 'config.json').read_text(encoding='utf-8'))
    root, size, teacher = Path(recipe['data']), recipe['image_size'], ModelName.parse(name).teacher
    metrics: dict[str, Metrics] = {}
    for which in dict.fromkeys(('last', epoch)):
        model = create_model(f'local-dir:{run_dir / which}')
        model.load_state_dict(_released_state(model, decoder_only), strict=not decoder_only)
        maps = _kinds_of_map(teacher) if which == epoch else ('fcam',)
        suffix = '' if which == epoch else '_last_epoch'
        metrics |= {f'{split}{suffix}': m for split, m in _val_and_test(model, root, size, maps, quiet).items()}
    if epoch == 'last':
        stage = list(facts['epochs'])[-1]
        facts['epochs'][stage]['best'] = facts['epochs'][stage]['last']
        facts['selection'] = 'the last epoch'
    entry = ReleaseEntry.from_dict(
        {
            **facts,
            'teacher': teacher,
            'name': name,
            'backbone': base,
            'num_classes': model.num_classes,
            'class_names': list(model.pretrained_cfg['label_names']),
            'model_args': {k: v for k, v in model.model_args.items() if k != 'backbone'},
            'metrics': {key: metrics[key] for key in SPLITS if key in metrics},
            'remark': remark,
            'commit': _commit(),
            'license': 'apache-2.0',
        }
    )
    entry.dataset = DATASETS.get(root.name, entry.dataset)
    entry.elsewhere = {Path(p).name: {'test': _elsewhere(model, entry, Path(p), size, quiet)} for p in also}
    # This changes the memory format of the model, and with it the last bits of its maps.
    entry.cost = cost_of(model, size)
    return entry


def release(
    run_dir: str | os.PathLike,
    name: str,
    base: str,
    decoder_only: bool = False,
    *,
    overwrite: bool = False,
    **options: Any,
) -> ReleaseEntry:
    """Measure a training, and write its model, its entry in the index, and its recipe.

    Args:
        run_dir: Folder of a finished training.
        name: `fcam_<backbone>.<teacher>_<dataset>`.
        base: timm name of the weights from which the backbone started.
        decoder_only: Store the decoder only; the classifier has the unchanged weights `base`.
        overwrite: Replace a recipe that exists (see `write_recipe`).
        **options: `epoch`, `also`, `remark`, `quiet` of `measure`.

    Raises:
        ValueError: As `write_recipe`.
        TrainingError: If the training is not finished.
        UnknownModelError: If the architecture is not in the zoo.
        WeightsError: If a weight does not fit float16.
    """
    entry = measure(run_dir, name, base, decoder_only, **options)
    model = create_model(f'local-dir:{Path(run_dir) / options.get("epoch", "best")}')
    if decoder_only:
        entry.holds = 'decoder'
        entry.classifier_sha256 = digest(model.backbone.state_dict())
    write_recipe(name, Path(run_dir), base, overwrite)
    stored = _write_weights(name, _released_state(model, decoder_only))
    entry = dataclasses.replace(entry, recipe={}, **stored)
    recorded = records.recorded()
    if recorded.pop(name, None):
        records.write_recorded(recorded)
    records.write_index({**_index.index(), name: entry})
    return entry


def record(run_dir: str | os.PathLike, name: str, base: str, **options: Any) -> ReleaseEntry:
    """Measure a training whose weights are not released, and write its entry to results/measured.json.

    Args and errors are those of `measure`.

    Raises:
        ValueError: If a released model has this name.
    """
    if name in _index.index():
        raise ValueError(f'{name} is released: record another training as {name}_<variant>')
    entry = measure(run_dir, name, base, **options)
    records.write_recorded({**records.recorded(), name: entry})
    return entry


def remeasure(data_root: str | os.PathLike, names: Sequence[str] = (), quiet: bool = False) -> list[str]:
    """Measure released models again, without their training, and update the index.

    The metrics of the last epoch, whose weights are not stored, stay as recorded.

    Args:
        data_root: Folder that contains the data sets, named as in the model names and in `elsewhere`.
        names: Released models; default: all.
        quiet: Show no progress bars.

    Returns:
        One line per metric whose value changed.

    Raises:
        UnknownModelError: If a model is not released.
    """
    changes = []
    for name in names or list(_index.index()):
        entry = dataclasses.replace(released(name))
        model, size = create_model(name, pretrained=True), _index.recipe_of(entry)['image_size']
        root = Path(data_root) / ModelName.parse(name).dataset
        found = _val_and_test(model, root, size, _kinds_of_map(entry.teacher), quiet)
        changes += _changes(name, entry.metrics, found)
        entry.metrics = {**entry.metrics, **found}
        other = {
            place: {'test': _elsewhere(model, entry, Path(data_root) / place, size, quiet)} for place in entry.elsewhere
        }
        for place, metrics in other.items():
            changes += _changes(f'{name} on {place}', entry.elsewhere[place], metrics)
        entry.elsewhere, entry.commit = other, _commit()
        records.write_index({**_index.index(), name: entry})
    return changes


def write_speeds() -> None:
    """Time all models in one run, so that their speeds compare, and store them in the index and in measured.json."""
    costs: dict[str, dict[str, Any]] = {}
    for write, found in ((records.write_index, _index.index()), (records.write_recorded, records.recorded())):
        for entry in found.values():
            arguments = {k: v for k, v in entry.model_args.items() if k != 'threshold'}
            network, size = {'num_classes': entry.num_classes, **arguments}, _index.recipe_of(entry)['image_size']
            key = f'{entry.backbone} {network} {size}'
            if key not in costs:
                costs[key] = cost_of(create_model('fcam', backbone=entry.backbone.split('.')[0], **network), size)
            entry.cost = costs[key]
        write(found)


def _kinds_of_map(teacher: str) -> tuple[str, ...]:
    return ('cam', teacher, 'fcam', 'center')


def _val_and_test(model: FCAM, root: Path, size: int, maps: Sequence[str], quiet: bool) -> dict[str, Metrics]:
    """Return metrics on val, and on test, also at the thresholds of val; without boxes and masks, of classes only."""
    val_set, test_set = (open_dataset(root, split, EvalTransform(size)) for split in ('val', 'test'))
    if not has_ground_truth(val_set):
        return {'val': measure_labels(model, val_set), 'test': measure_labels(model, test_set)}
    val = measure_metrics(model, val_set, maps, quiet=quiet)
    return {'val': val, 'test': measure_metrics(model, test_set, maps, val_thresholds(model, val), quiet)}


def _elsewhere(model: FCAM, entry: ReleaseEntry, root: Path, size: int, quiet: bool) -> Metrics:
    """Return metrics on the test split of another data set, also at thresholds chosen without it.

    These are the best ones on the model's own val split or, if that has image labels only, the one of the model.
    """
    dataset, kinds = open_dataset(root, 'test', EvalTransform(size)), _kinds_of_map(entry.teacher)
    own = dict.fromkeys(kinds, model.threshold)
    thresholds = own if entry.labels_only else val_thresholds(model, entry.metrics['val'])
    return measure_metrics(model, dataset, kinds, thresholds, quiet)


def _changes(name: str, before: dict[str, Metrics], after: dict[str, Metrics]) -> list[str]:
    return [
        f'{name}, {split}, {kind}: {key} was {before[split][kind][key]}, is {value}'
        for split, kinds in after.items()
        for kind, metrics in kinds.items()
        for key, value in metrics.items()
        if before.get(split, {}).get(kind, {}).get(key, value) != value
    ]


def _released_state(model: FCAM, decoder_only: bool) -> dict[str, torch.Tensor]:
    """Return the tensors that a release of the model stores."""
    state = state_to_save(model, half=True)
    return {k: v for k, v in state.items() if k.startswith('decoder.') or not decoder_only}


def _write_weights(name: str, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f'{key} of {name} does not fit float16: it has infinite values')
    path = _index.weights_dir() / f'{name}.safetensors'
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={'format': 'pt'})
    return fingerprint(path)


def _commit() -> str:
    """Return the commit of the code that measures."""
    command = ['git', '-C', str(records.ROOT), 'rev-parse', '--short', 'HEAD']
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or 'unknown'


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of this command."""
    parser = argparse.ArgumentParser('python -m tools.release', description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--quiet', action='store_true', help='show no progress bars')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    add = commands.add_parser('add', help='release or record a finished training')
    add.add_argument('run', help='folder of a finished training')
    add.add_argument('name', help='fcam_<backbone>.<teacher>_<dataset>')
    add.add_argument('--base', required=True, help='timm name of the weights from which the backbone started')
    what = add.add_mutually_exclusive_group()
    what.add_argument('--decoder-only', action='store_true', help='store the decoder only: the classifier is unchanged')
    what.add_argument('--record', action='store_true', help='keep the metrics, not the weights')
    add.add_argument('--epoch', choices=('best', 'last'), default='best', help='model to release (default: best)')
    add.add_argument('--overwrite', action='store_true', help='replace a recipe of this name that exists')
    add.add_argument('--remark', default='', help='what the recipe does not say about the training')
    add.add_argument('--also', nargs='+', default=[], metavar='DATA', help='other data sets to score, test split')
    again = commands.add_parser('remeasure', help='measure released models again')
    again.add_argument('data_root', help='folder that contains the data sets')
    again.add_argument('names', nargs='*', help='released models (default: all)')
    commands.add_parser('speeds', help='time all models')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    if args.command == 'remeasure':
        print(*remeasure(args.data_root, args.names, args.quiet), sep='\n')
    elif args.command == 'speeds':
        write_speeds()
    else:
        options = {'epoch': args.epoch, 'also': args.also, 'remark': args.remark, 'quiet': args.quiet}
        if args.record:
            record(args.run, args.name, args.base, **options)
        else:
            release(args.run, args.name, args.base, args.decoder_only, overwrite=args.overwrite, **options)
    write_tables()
    return 0


if __name__ == '__main__':
    sys.exit(main())
