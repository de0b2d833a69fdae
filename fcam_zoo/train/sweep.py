"""The same training with several values of one setting, chosen on val."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from .._distributed import barrier, process_group, rank
from .._io import write_json
from ..errors import TrainingError
from .config import TrainConfig, set_value
from .run import open_data, train
from .stages import localization_score

logger = logging.getLogger(__name__)
# Where the paper says what it searches (F-CAM, Sec. 4.1).
PAPER_VALUES: dict[str, list[Any]] = {'decoder.background_fraction': [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}


def parse_sweep(text: str) -> tuple[str, list[Any]]:
    """`KEY=V1,V2,...` (JSON values), or a KEY whose values the paper gives; keys of the decoder need no prefix.

    Raises:
        ValueError: When values are missing.
    """
    place, sign, values = text.partition('=')
    if f'decoder.{place}' in PAPER_VALUES:
        place = f'decoder.{place}'
    if not sign:
        if place not in PAPER_VALUES:
            raise ValueError(
                f'--sweep {text}: write KEY=V1,V2,...; only {", ".join(PAPER_VALUES)} has values of its own'
            )
        return place, PAPER_VALUES[place]
    try:
        found = json.loads(f'[{values}]')
    except json.JSONDecodeError:
        found = [value.strip() for value in values.split(',')]
    if not found:
        raise ValueError(f'--sweep {text}: give at least one value')
    return place, found


def sweep(
    config: TrainConfig,
    run_dir: str | os.PathLike,
    place: str,
    values: list[Any],
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train with each value in `run_dir/<setting>=<value>`; those of the decoder share one classifier.

    sweep.json holds a row a value, and `best` the value with the best localization on val (the first on ties); the
    finished models are those of the folder named there.

    Args:
        config: All other settings.
        run_dir: Output folder.
        place: Dotted setting.
        values: Its values.
        resume: Go on with an interrupted sweep.
        quiet: No progress bars.

    Returns:
        What sweep.json holds.

    Raises:
        TrainingError: When there is no val split with boxes or masks to choose by; further those of `train`.
    """
    run_dir = Path(run_dir)
    configs = []
    for value in values:
        settings = config.to_dict()
        set_value(settings, place, value)
        configs.append(TrainConfig.from_dict(settings))
    with process_group(config.device):
        return _sweep(configs, run_dir, place, values, resume, quiet)


def _sweep(
    configs: list[TrainConfig], run_dir: Path, place: str, values: list[Any], resume: bool, quiet: bool
) -> dict[str, Any]:
    _, val_set = open_data(configs[0])
    if val_set is None or (val_set.boxes is None and val_set.masks is None):
        raise TrainingError(
            f'--sweep chooses by localization on val, and {configs[0].data} has no boxes or masks there'
        )
    rows: list[dict[str, Any]] = []
    shared: Path | None = None
    for value, one in zip(values, configs):
        folder = run_dir / f'{place}={value}'
        if shared is not None and place.startswith('decoder.'):
            _copy(shared / 'classifier', folder / 'classifier')
        logger.info('%s = %s', place, value)
        summary = train(one, folder, resume=resume, quiet=quiet)
        metrics = summary[next(reversed(summary))]['best']['val']
        rows.append({'value': value, 'folder': folder.name, 'score': localization_score(metrics), 'val': metrics})
        if one.classifier.epochs:
            shared = folder
    best = max(rows, key=lambda row: row['score'])
    result = {'setting': place, 'best': best['value'], 'folder': best['folder'], 'rows': rows}
    if rank() == 0:
        write_json(run_dir / 'sweep.json', result)
    return result


def _copy(source: Path, target: Path) -> None:
    """Copy a folder, whole or not at all, unless it is there already; the first process does it for all."""
    if rank() == 0 and not target.exists():
        part = target.with_name(f'.{target.name}')
        try:
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
            part.replace(target)
        except OSError as e:
            raise TrainingError(f'{target} cannot be written ({e}): make room, then go on with --resume') from e
    barrier()
