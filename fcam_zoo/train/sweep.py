"""Train with several values of one setting and select the best on val."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._distributed import rank
from .._io import write_json
from .._schema import DamagedText, parse_json, show
from ..errors import TrainingError
from .checkpoint import writing
from .config import TrainConfig
from .run import train_after
from .setup import has_ground_truth, open_data, training_device
from .stages import localization_score

logger = logging.getLogger(__name__)
# The paper searches n- in these values (F-CAM, Sec. 4.1).
PAPER_PLACE = 'decoder.background_fraction'
PAPER_VALUES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
_NOT_IN_NAMES = re.compile(r'[^][\w.,+ -]', re.ASCII)


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
        found = parse_json(f'[{values}]')
    except DamagedText:
        found = [parse_value(value.strip()) for value in values.split(',')]
    if not place or not found or '' in found:
        raise ValueError(
            f'--sweep {show(text)}: write KEY=V1,V2,...; only background_fraction can be given without values'
        )
    return place, found


def parse_value(text: str) -> Any:
    """Parse the value of a setting on the command line: JSON, otherwise text."""
    try:
        return parse_json(text)
    except DamagedText:
        return text


def sweep_configs(config: TrainConfig, place: str, values: list[Any]) -> dict[str, TrainConfig]:
    """Create the config of each value, by the name of its run folder.

    Raises:
        ValueError: For an unknown setting, a wrong value, or values that repeat.
    """
    configs: dict[str, TrainConfig] = {}
    for value in values:
        one = config.replace({place: value})
        # A value can be a path or a long text, so a name has only some of its characters.
        configs[f'{place}={_NOT_IN_NAMES.sub("_", str(value))[:100]}'] = one
    if len(configs) < len(values) or not values:
        raise ValueError(f'the {len(values)} values of {place} repeat, or are too similar for names: give each once')
    return configs


def sweep(
    config: TrainConfig,
    run_dir: str | os.PathLike,
    place: str,
    values: list[Any],
    resume: bool = False,
    quiet: bool = False,
    auto_epochs: Collection[str] = (),
) -> list[SweepRun]:
    """Train once per value in `run_dir/<setting>=<value>`, and write sweep.json, which names the best run.

    Values of a setting of the decoder or of the teacher share one classifier.

    Args:
        config: All other settings.
        run_dir: Output folder.
        place: Dotted place of the setting.
        values: Its values.
        resume: Continue an interrupted sweep.
        quiet: No progress bars.
        auto_epochs: As for `train`.

    Returns:
        The runs in the order of the values; `best_run` selects one.

    Raises:
        ValueError: For an unknown setting, a wrong value, or values that repeat.
        TrainingError: When val has no boxes or masks; otherwise as `train`.
    """
    run_dir = Path(run_dir)
    configs = sweep_configs(config, place, values)
    with training_device(config.device):
        _, val_set = open_data(config)
        if not has_ground_truth(val_set):
            raise TrainingError(
                f'a sweep selects by localization, but val of {config.data} has no boxes or masks: give annotations'
            )
        rows: list[SweepRun] = []
        shared: Path | None = None
        for value, (name, one) in zip(values, configs.items()):
            folder = run_dir / name
            logger.info('%s = %s', place, value)
            final = list(train_after(shared, one, folder, resume, quiet, auto_epochs).values())[-1]
            rows.append(SweepRun(value, name, localization_score(final.best.val), final.best.val))
            if one.classifier.epochs and place.startswith(('decoder.', 'teacher.')):
                shared = folder / 'classifier'
        best = best_run(rows)
        if rank() == 0:
            result = {'setting': place, 'best': best.value, 'folder': best.folder}
            with writing(run_dir):
                write_json(run_dir / 'sweep.json', {**result, 'rows': [asdict(row) for row in rows]})
        return rows


def best_run(rows: list[SweepRun]) -> SweepRun:
    """Return the run with the best localization on val, the first on ties."""
    return max(rows, key=lambda row: row.score)
