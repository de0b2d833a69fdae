"""Tables of what was measured, as results/<data set>.csv: released models of the index, and others of measured.json.

    python -m fcam_zoo.hub.results [--speed]

Run in a checkout. A row is one kind of map of one model on one split. results/tables.md has the same in the form of the
paper's tables. With --speed all models are timed anew, one after the other, so that their speeds compare.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import _index
from .._index import ReleaseEntry
from .._io import write_json, write_text
from .._names import ModelName
from ..errors import WeightsError
from ..models import FCAM, create_model
from .paper_form import page

RESULTS = Path('results')
MEASURED = RESULTS / 'measured.json'
FIGURES = (
    'max_box_acc_30',
    'max_box_acc_50',
    'max_box_acc_70',
    'mean',
    'top1_50',
    'top5_50',
    'pxap',
    'cls',
    'robustness_50',
    'best_threshold_50',
    'best_threshold',
)
COSTS = ('parameters', 'gmacs', 'images_per_second', 'threads')
COLUMNS = ('model', 'teacher', 'maps', 'split', *FIGURES, *COSTS, 'selection', 'commit', 'sha256', 'command')


def measured() -> dict[str, ReleaseEntry]:
    """Entries by name of models that were measured and are not released.

    Raises:
        WeightsError: When results/measured.json is damaged.
    """
    if not MEASURED.is_file():
        return {}
    try:
        return _index.read_entries(MEASURED)
    except ValueError as e:
        raise WeightsError(f'{MEASURED} is damaged ({e}): restore it from git') from e


def cost_of(model: FCAM, size: int, batch_size: int = 16) -> dict[str, Any]:
    """Parameters, multiplications of a forward pass in 10^9 (an image of size x size), and speed where it runs."""
    x = torch.rand(batch_size, model.in_chans, size, size).to(next(model.parameters()))
    x = x.contiguous(memory_format=torch.channels_last)
    model = model.eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(x[:1])
        model(x)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - started)
    return {
        'parameters': sum(p.numel() for p in model.parameters()),
        'gmacs': round(counter.get_total_flops() / 2e9, 3),
        'images_per_second': round(batch_size / sorted(times)[1], 2),
        'threads': torch.get_num_threads(),
    }


def tables() -> dict[str, str]:
    """Text of the CSV of each data set, by its name."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for entry in entries():
        dataset = ModelName.parse(entry.name).dataset
        for place, metrics in {dataset: entry.metrics, **entry.elsewhere}.items():
            rows.setdefault(place, []).extend(_rows(entry, metrics))
    return {dataset: _csv(found) for dataset, found in rows.items()}


def entries() -> list[ReleaseEntry]:
    """All that was measured, released or not, by name."""
    return sorted([*_index.index().values(), *measured().values()], key=lambda entry: entry.name)


def write_tables() -> None:
    """Write results/<data set>.csv and results/tables.md."""
    for dataset, text in tables().items():
        write_text(RESULTS / f'{dataset}.csv', text)
    write_text(RESULTS / 'tables.md', page(entries()))


def write_speeds() -> None:
    """Time all models in one run and store it in the index and in measured.json."""
    costs: dict[str, dict[str, Any]] = {}
    for path, found in ((_index.weights_dir() / 'index.json', _index.index()), (MEASURED, measured())):
        for entry in found.values():
            network = {'num_classes': entry.num_classes, **entry.model_args}
            network.pop('threshold', None)  # Of no weight in speed.
            key = f'{entry.backbone} {network} {entry.recipe["image_size"]}'
            if key not in costs:
                model = create_model('fcam', backbone=entry.backbone.split('.')[0], **network)
                costs[key] = cost_of(model, entry.recipe['image_size'])
            entry.cost = costs[key]
        write_json(path, [entry.to_dict() for entry in found.values()])
    _index.index.cache_clear()


def _rows(entry: ReleaseEntry, measured: dict[str, Any]) -> Iterator[dict[str, Any]]:
    checkpoint = f' --backbone-checkpoint {entry.backbone}.safetensors'
    training = f'fcam-zoo train DATA -o RUN --recipe recipe.json{checkpoint}'
    kinds_of_map = ' '.join(dict.fromkeys(('cam', entry.teacher, 'fcam')))
    benchmark = (
        f'fcam-zoo benchmark DATA --models {entry.name} --maps {kinds_of_map}'
        f'{checkpoint if not entry.holds_backbone else ""}'
    )
    for key, kinds in measured.items():
        split, is_last = key.removesuffix('_last_epoch'), key.endswith('_last_epoch')
        # Weights of the last epoch are not stored.
        stored = bool(entry.file) and not is_last
        for kind, figures in kinds.items():
            yield {
                'model': entry.name,
                'teacher': entry.teacher,
                'maps': f'{kind}, last epoch' if is_last else kind,
                'split': split,
                **{name: figures.get(name, '') for name in FIGURES},
                **{name: entry.cost.get(name, '') for name in COSTS},
                'selection': entry.selection,
                'commit': entry.commit,
                'sha256': entry.sha256 if stored else '',
                'command': f'{benchmark} --split {split}' if stored else training,
            }


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main(argv: list[str] | None = None) -> int:
    """The command of this module."""
    parser = argparse.ArgumentParser('python -m fcam_zoo.hub.results', description=__doc__.split('\n')[0])
    parser.add_argument('--speed', action='store_true', help='time all models anew')
    if parser.parse_args(argv).speed:
        write_speeds()
    write_tables()
    return 0


if __name__ == '__main__':
    sys.exit(main())
