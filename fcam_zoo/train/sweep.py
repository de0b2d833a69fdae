"""Train with several values of one setting and select the best on val."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._distributed import barrier, rank
from .._io import write_json
from ..errors import TrainingError
from .config import TrainConfig
from .run import train
from .setup import has_ground_truth, open_data, training_device
from .stages import localization_score

logger = logging.getLogger(__name__)
# The paper searches n- in these values (F-CAM, Sec. 4.1).
PAPER_PLACE = 'decoder.background_fraction'
PAPER_VALUES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


@dataclass(frozen=True)
class SweepRun:
    """One value: its run folder (relative to the sweep), its score, and its metrics on val."""

    value: Any
    folder: str
    score: float
    val: dict[str, float]


def parse_sweep(text: str) -> tuple[str, list[Any]]:
    """Parse `KEY=V1,V2,...` (JSON values); `background_fraction` may have no values, then it has the paper's.

    Raises:
        ValueError: When values are missing.
    """
    place, sign, values = text.partition('=')
    place = PAPER_PLACE if place == 'background_fraction' else place
    if place == PAPER_PLACE and not sign:
        return place, PAPER_VALUES
    try:
        found = json.loads(f'[{values}]')
    except json.JSONDecodeError:
        found = [value.strip() for value in values.split(',')]
    if not found:
        raise ValueError(f'--sweep {text}: write KEY=V1,V2,...; only background_fraction can be given without values')
    return place, found


def sweep(
    config: TrainConfig,
    run_dir: str | os.PathLike,
    place: str,
    values: list[Any],
    resume: bool = False,
    quiet: bool = False,
) -> list[SweepRun]:
    """Train once per value in `run_dir/<setting>=<value>`, and write sweep.json, which names the best run.

    Values of a decoder setting share one classifier.

    Args:
        config: All other settings.
        run_dir: Output folder.
        place: Dotted place of the setting.
        values: Its values.
        resume: Continue an interrupted sweep.
        quiet: No progress bars.

    Returns:
        The runs in the order of the values; `best_run` selects one.

    Raises:
        TrainingError: When val has no boxes or masks; otherwise as `train`.
    """
    run_dir = Path(run_dir)
    configs = [config.replace({place: value}) for value in values]
    with training_device(config.device):
        _, val_set = open_data(config)
        if not has_ground_truth(val_set):
            raise TrainingError(
                f'a sweep selects by localization, but val of {config.data} has no boxes or masks: give annotations'
            )
        rows: list[SweepRun] = []
        shared: Path | None = None
        for value, one in zip(values, configs):
            folder = run_dir / f'{place}={value}'
            if shared is not None and place.startswith('decoder.'):
                _copy(shared / 'classifier', folder / 'classifier')
            logger.info('%s = %s', place, value)
            final = list(train(one, folder, resume=resume, quiet=quiet).values())[-1]
            rows.append(SweepRun(value, folder.name, localization_score(final.best.val), final.best.val))
            if one.classifier.epochs:
                shared = folder
        best = best_run(rows)
        if rank() == 0:
            result = {'setting': place, 'best': best.value, 'folder': best.folder}
            write_json(run_dir / 'sweep.json', {**result, 'rows': [asdict(row) for row in rows]})
        return rows


def best_run(rows: list[SweepRun]) -> SweepRun:
    """Return the run with the best localization on val, the first on ties."""
    return max(rows, key=lambda row: row.score)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder atomically, unless the target exists; the first process does it for all."""
    if rank() == 0 and not target.exists():
        part = target.with_name(f'.{target.name}')
        try:
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
            part.replace(target)
        except OSError as e:
            raise TrainingError(f'{target} cannot be written ({e}): free disk space, then use --resume') from e
    barrier()
