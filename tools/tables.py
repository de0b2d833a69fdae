"""Write README's model table, MODEL_CARD.md, results/tables.md and results/<data set>.csv: python -m tools.tables

They are generated from weights/index.json and results/measured.json. A test fails if one is out of date.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fcam_zoo._index import Metrics, ModelName, ReleaseEntry, main_metric
from fcam_zoo._io import write_text

from . import records
from .card import LABEL_METRICS, description_of, model_card, render_readme, training_command, with_val_threshold
from .results_page import page

COSTS = ('parameters', 'gmacs', 'images_per_second', 'threads')


def generated() -> dict[Path, str]:
    """Return all generated files and their text."""
    root, results = records.ROOT, records.results_dir()
    files = {results / f'{dataset}.csv': text for dataset, text in csv_tables().items()}
    files[results / 'tables.md'] = page(records.entries())
    files[root / 'MODEL_CARD.md'] = model_card()
    readme = root / 'README.md'
    files[readme] = render_readme(readme.read_text(encoding='utf-8'))
    return files


def write_tables() -> None:
    """Write all generated files."""
    for path, text in generated().items():
        write_text(path, text)


def csv_tables() -> dict[str, str]:
    """Return CSV text by data set: a row per model, kind of map and split."""
    measured: dict[str, list[tuple[ReleaseEntry, Mapping[str, Metrics]]]] = {}
    for entry in records.entries():
        dataset = ModelName.parse(entry.name).dataset
        for place, metrics in {dataset: entry.metrics, **entry.elsewhere}.items():
            measured.setdefault(place, []).append((entry, metrics))
    return {place: _csv(found) for place, found in measured.items()}


def _csv(found: list[tuple[ReleaseEntry, Mapping[str, Metrics]]]) -> str:
    metrics = found[0][1]
    labels_only = main_metric(metrics['test']['fcam']) is None
    keys = LABEL_METRICS if labels_only else [column.key for column in description_of(metrics).columns]
    text = io.StringIO()
    columns = ('model', 'teacher', 'maps', 'split', *keys, *COSTS, 'selection', 'commit', 'sha256', 'command')
    writer = csv.DictWriter(text, columns, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    for entry, metrics in found:
        writer.writerows(_rows(entry, metrics))
    return text.getvalue()


def _rows(entry: ReleaseEntry, metrics: Mapping[str, Metrics]) -> Iterator[dict[str, Any]]:
    checkpoint = f' --backbone-checkpoint {entry.backbone}.safetensors'
    maps = ' '.join(dict.fromkeys(('cam', entry.teacher, 'fcam')))
    benchmark = f'fcam-zoo benchmark DATA --models {entry.name} --maps {maps}'
    if not entry.holds_backbone:
        benchmark += checkpoint
    for key, kinds in metrics.items():
        split, is_last = key.removesuffix('_last_epoch'), key.endswith('_last_epoch')
        is_stored = bool(entry.file) and not is_last  # Weights of the last epoch are not stored.
        for kind, values in kinds.items():
            yield {
                **(values if is_last else with_val_threshold(split, kind, values)),
                **{cost: entry.cost.get(cost, '') for cost in COSTS},
                'model': entry.name,
                'teacher': entry.teacher,
                'maps': f'{kind}, last epoch' if is_last else kind,
                'split': split,
                'selection': entry.selection,
                'commit': entry.commit,
                'sha256': entry.sha256 if is_stored else '',
                'command': f'{benchmark} --split {split}' if is_stored else training_command(entry),
            }


if __name__ == '__main__':
    if len(sys.argv) > 1:
        sys.exit('python -m tools.tables takes no arguments')
    write_tables()
