"""Train with several values of one or more settings, and select the best run on val."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .._distributed import rank
from .._io import write_json, write_text
from .._schema import DamagedText, convert, parse_json, read_json, reading, show
from .._table import text_table
from ..errors import TrainingError
from .checkpoint import writing
from .config import TrainConfig
from .recipe import MOVED
from .records import StageSummary
from .run import check_folder, train_after
from .selection import selection_score
from .setup import has_ground_truth, open_data, prepare, training_device
from .shared import FinishedClassifier

logger = logging.getLogger(__name__)
# The paper searches n- in these values (F-CAM, Sec. 4.1).
PAPER_PLACE = 'decoder.background_fraction'
PAPER_VALUES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
# Commas that are not inside brackets.
_BETWEEN_VALUES = re.compile(r',(?![^\[]*\])')
_LIST = re.compile(r'\[([^]["\']*)\]')

# Characters of a value in the name of a run folder, shared by all settings.
NAME_LENGTH = 100
_NOT_IN_NAMES = re.compile(r'[^][\w.,+ -]', re.ASCII)


@dataclass(frozen=True)
class SweepRun:
    """A finished run.

    Attributes:
        values: Value of each swept setting, by its dotted place.
        folder: Run folder, relative to that of the sweep.
        score: Metric that selects the best run.
        epoch: Best epoch.
        val: Its metrics on val.
    """

    values: dict[str, Any]
    folder: str
    score: float
    epoch: int
    val: dict[str, float]


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep: the values of the swept settings, its folder, and all settings."""

    values: dict[str, Any]
    folder: str
    config: TrainConfig

    @property
    def metric(self) -> str:
        """Return the setting `select` of its last stage."""
        stage = self.config.decoder if self.config.decoder.epochs else self.config.classifier
        return stage.select

    def find_classifier(self, finished: Sequence[tuple[PlannedRun, Path]]) -> FinishedClassifier | None:
        """Find a classifier that this run can copy: of a run with the same teacher, or else with another one.

        Another teacher has other class maps. The classifier is the same, unless they select its epoch.
        """
        for same_maps in (True, False) if self.config.classifier.select == 'accuracy' else (True,):
            own = self._values_of_classifier(same_maps)
            for run, folder in finished:
                if run._values_of_classifier(same_maps) == own:
                    return FinishedClassifier(folder, same_maps)
        return None

    def _values_of_classifier(self, with_teacher: bool) -> str:
        others = ('decoder.',) if with_teacher else ('decoder.', 'teacher.')
        return json.dumps({place: value for place, value in self.values.items() if not place.startswith(others)})


def parse_sweeps(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Parse several `KEY=V1,V2,...` to the values of each setting.

    Raises:
        ValueError: When values are missing, or a setting is given twice.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        place, values = parse_sweep(text)
        if place in found:
            raise ValueError(f'--sweep {show(place)} is given twice: give all its values at once, as KEY=V1,V2')
        found[place] = values
    return found


def parse_sweep(text: str) -> tuple[str, list[Any]]:
    """Parse `KEY=V1,V2,...` (JSON values); `background_fraction` may have no values, then it has the paper's.

    Raises:
        ValueError: When values are missing.
    """
    place, sign, values = text.partition('=')
    place = PAPER_PLACE if place == 'background_fraction' else MOVED.get(place, place)
    if place == PAPER_PLACE and not sign:
        return place, PAPER_VALUES
    try:
        found = parse_json(f'[{values}]')
    except DamagedText:
        found = [parse_value(value.strip()) for value in _BETWEEN_VALUES.split(values)]
    if not place or not found or '' in found:
        raise ValueError(
            f'--sweep {show(text)}: write KEY=V1,V2,...; only background_fraction can be given without values'
        )
    return place, found


def parse_value(text: str) -> Any:
    """Parse the value of a setting on the command line: JSON, a list such as [blocks.0, -1], or text."""
    try:
        return parse_json(text)
    except DamagedText:
        found = _LIST.fullmatch(text)
        items = [item.strip() for item in found[1].split(',')] if found else ['']
        # An item has no brackets, so this does not go deeper.
        return [parse_value(item) for item in items] if all(items) else text


def plan_runs(config: TrainConfig, settings: Mapping[str, Sequence[Any]]) -> list[PlannedRun]:
    """Create the settings of each run: all combinations of the values.

    Args:
        config: All other settings.
        settings: Values of each swept setting, by its dotted place.

    Raises:
        ValueError: For an unknown setting, a wrong value, values that repeat, or runs that cannot be compared.
    """
    named: list[list[tuple[str, Any, str]]] = []
    for place, values in settings.items():
        # A value can be a path or a long text, so a name has only some of its characters.
        names = [_NOT_IN_NAMES.sub('_', str(value))[: NAME_LENGTH // len(settings)] for value in values]
        if len(set(names)) < len(names) or not names:
            raise ValueError(
                f'the {len(values)} values of {place} repeat, or are too similar for names: give each once'
            )
        named.append([(place, value, f'{place}={name}') for value, name in zip(values, names)])
    runs = []
    for combination in itertools.product(*named):
        chosen = {place: value for place, value, _ in combination}
        runs.append(PlannedRun(chosen, ','.join(name for *_, name in combination), config.replace(chosen)))
    if len(metrics := {(run.metric, bool(run.config.decoder.epochs)) for run in runs}) > 1:
        raise ValueError(
            f'a sweep compares runs by one metric of one stage, and its runs would have {len(metrics)}: do not sweep '
            'over classifier.select, decoder.select, or epochs of 0 and more'
        )
    return runs


def sweep(
    config: TrainConfig,
    run_dir: str | os.PathLike,
    settings: Mapping[str, Sequence[Any]],
    resume: bool = False,
    quiet: bool = False,
    auto_epochs: Collection[str] = (),
) -> list[SweepRun]:
    """Train once for each combination of values in `run_dir/<setting>=<value>,...`.

    After each run, sweep.json and sweep.csv list the finished ones, and sweep.json names the best. Runs that differ
    only in settings of the decoder share one classifier, as do those with another teacher if the accuracy selects the
    classifier. Its class maps are then measured for each teacher, in the best and the last epoch.

    Args:
        config: All other settings.
        run_dir: Output folder.
        settings: Values of each swept setting, by its dotted place.
        resume: Continue an interrupted sweep; finished runs are skipped.
        quiet: No progress bars.
        auto_epochs: As for `train`.

    Returns:
        The runs in the order of `itertools.product`: the last setting changes fastest. `best_run` selects one.

    Raises:
        ValueError: As `plan_runs`.
        TrainingError: When val lacks what the metric needs; otherwise as `train`.
    """
    run_dir, runs = Path(run_dir), plan_runs(config, settings)
    with training_device(config.device) as device:
        summaries = {run.folder: _finished(run_dir / run.folder, run.config, resume, auto_epochs) for run in runs}
        _check_val(runs[0])
        _check_runs([run.config for run in runs if summaries[run.folder] is None], device)
        rows: list[SweepRun] = []
        classifiers: list[tuple[PlannedRun, Path]] = []
        for run in runs:
            folder, summary = run_dir / run.folder, summaries[run.folder]
            logger.info('%s: %s', run.folder, 'training' if summary is None else 'already finished')
            if summary is None:
                classifier = run.find_classifier(classifiers)
                summary = train_after(classifier, run.config, folder, resume, quiet, auto_epochs)
            final = list(summary.values())[-1]
            score = selection_score(final.best.val, run.metric)
            rows.append(SweepRun(run.values, run.folder, score, final.best_epoch, final.best.val))
            if run.config.classifier.epochs:
                classifiers.append((run, folder / 'classifier'))
            logger.info('%d of %d runs are finished:\n%s', len(rows), len(runs), sweep_table(rows))
            if rank() == 0:
                _write(run_dir, run.metric, len(runs), rows)
        return rows


def best_run(rows: Sequence[SweepRun]) -> SweepRun:
    """Return the run with the best score on val, the first on ties."""
    return max(rows, key=lambda row: row.score)


def sweep_table(rows: Sequence[SweepRun]) -> str:
    """Format values, best epoch and score of the runs as a text table that marks the best."""
    best = best_run(rows)
    lines = [[*rows[0].values, 'epoch', 'val', '']]
    for row in rows:
        lines.append([*map(str, row.values.values()), str(row.epoch), f'{row.score:.2f}', 'best' * (row is best)])
    return text_table(lines)


def _check_val(run: PlannedRun) -> None:
    """Check that val measures the metric of a sweep.

    Raises:
        TrainingError: When it does not.
    """
    config, metric = run.config, run.metric
    _, val_set = open_data(config)
    if metric == 'accuracy' and val_set is None:
        raise TrainingError(f'a sweep selects by accuracy on val, but {config.data} has no val split: add one')
    if metric != 'accuracy' and not has_ground_truth(val_set):
        raise TrainingError(
            f'a sweep selects by localization, but val of {config.data} has no boxes or masks: give annotations'
        )


def _check_runs(configs: Sequence[TrainConfig], device: torch.device) -> None:
    """Check all settings against data and networks, so that a mistake in the last is not found after the others.

    The first is checked by its own training.
    """
    for config in configs[1:]:
        prepare(config, device)


def _finished(
    folder: Path, config: TrainConfig, resume: bool, auto_epochs: Collection[str]
) -> dict[str, StageSummary] | None:
    """Read the summary of a finished run; None for another run.

    Raises:
        TrainingError: As `check_folder`, or when the summary is damaged.
    """
    check_folder(folder, config, resume, auto_epochs)
    path = folder / 'summary.json'
    if not path.is_file():
        return None
    with reading(path, TrainingError, 'delete it, and use --resume to write it again'):
        values = convert(dict[str, Any], read_json(path), 'the content')
        return {stage: StageSummary.from_dict(summary, stage) for stage, summary in values.items()} or None


def _write(run_dir: Path, metric: str, total: int, rows: Sequence[SweepRun]) -> None:
    """Write sweep.json and sweep.csv."""
    best = best_run(rows)
    result = {'select': metric, 'runs': total, 'best': best.values, 'folder': best.folder}
    names = list(dict.fromkeys(name for row in rows for name in row.val))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([*best.values, 'folder', 'epoch', 'score', *names])
    for row in rows:
        writer.writerow([*row.values.values(), row.folder, row.epoch, row.score, *(row.val.get(n) for n in names)])
    with writing(run_dir):
        write_json(run_dir / 'sweep.json', {**result, 'rows': [asdict(row) for row in rows]})
        write_text(run_dir / 'sweep.csv', text.getvalue())
