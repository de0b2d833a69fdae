"""Convergence curves: terms of the loss and metrics on val over the epochs of trainings."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ._io import short_path
from ._plotting import LINES, figure_with_panels, legend_label, plain
from ._schema import InvalidValue, parse_json, read_bytes, reading
from .benchmark.descriptions import describe
from .errors import ReportError
from .train.records import EpochMetrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = ('decoder', 'classifier')
# Metrics on val that are drawn by default: the first of these, and the accuracy if the classifier is trained.
MAIN = ('mean', 'pxap', 'kept')
TITLES = {
    'ce': 'cross-entropy',
    'distillation': 'distillation',
    'partial_ce': 'partial cross-entropy',
    'crf': 'CRF loss',
    'size': 'size loss',
    'activation': 'background activation',
    'train_accuracy': 'training accuracy',
    'area': 'mean foreground (0 to 1)',
    'cls': 'val: accuracy (%)',
    'kept': 'val: label without background (%)',
}
# Of the terms, those that are only logged; they are drawn after the terms of the loss.
LOGGED = ('train_accuracy', 'area')
_FIX = 'use the folder of another run'

History = list[EpochMetrics]
Runs = Mapping[str, Sequence[str | os.PathLike]]


def convergence(runs: Runs, stage: str | None = None, metrics: Sequence[str] | None = None) -> Figure:
    """Plot the terms of the training loss, times their weights, and metrics on val over the epochs, one panel each.

    Runs with the same name, such as those of several seeds, are one line, their mean, with a band of one standard
    deviation. It ends at the last epoch that all of them have.

    Args:
        runs: Name -> folders of trainings, or their files metrics.jsonl.
        stage: 'decoder' or 'classifier'. Default: the decoder if the first run has one.
        metrics: Names of metrics on val, as in metrics.jsonl. Default: the mean of MaxBoxAcc, PxAP, or what selects
            epochs without boxes; and the accuracy if the classifier was trained.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: Without matplotlib (extra `viz`).
        ValueError: Without runs, for an unknown stage, or a metric that no run has.
        FileNotFoundError: If a run has no metrics of this stage.
        ReportError: If its metrics cannot be read.
    """
    histories = read_runs(runs, stage)
    terms, found = _columns(histories)
    if metrics is None:
        metrics = [name for name in MAIN if name in found][:1] + ['cls'] * ('cls' in found and 'ce' in terms)
    if unknown := [name for name in metrics if name not in found]:
        known = ', '.join(found) or 'none'
        raise ValueError(f'metric {", ".join(unknown)} is not in the runs: they have {known}')
    figure, axes = figure_with_panels(len(terms) + len(metrics), (3.4, 2.9))
    for panel, name in zip(axes, (*terms, *metrics)):
        panel.set_title(TITLES.get(name) or _title(name, found.get(name)), fontsize=10)
        panel.set_xlabel('epoch', fontsize=9)
        panel.locator_params(axis='x', integer=True)
        for (title, group), (color, dashes) in zip(histories.items(), _styles(len(histories))):
            epochs, mean, deviation = _statistics(group, name)
            label = legend_label(plain(title, 40)) + (f' ({len(group)} runs)' if len(group) > 1 else '')
            panel.plot(epochs, mean, color=color, linestyle=dashes, marker='.', markersize=4, label=label)
            if len(group) > 1:
                low, high = ([m + sign * d for m, d in zip(mean, deviation)] for sign in (-1, 1))
                panel.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
    handles = {label: line for panel in axes for line, label in zip(*panel.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, fontsize=9, loc='outside lower center', ncols=min(len(handles), 3))
    return figure


def read_runs(runs: Runs, stage: str | None = None) -> dict[str, list[History]]:
    """Read the epochs of runs by name; for arguments and errors see `convergence`."""
    if not runs or not all(runs.values()):
        raise ValueError('no runs: give at least one folder of a training')
    if stage not in (None, *STAGES):
        raise ValueError(f'stage is {stage!r}: choose from {", ".join(STAGES)}')
    first = Path(next(iter(runs.values()))[0])
    if stage is None:
        stage = next((name for name in STAGES if (first / name / 'metrics.jsonl').is_file()), STAGES[0])
    return {name: [_read(Path(path), stage) for path in paths] for name, paths in runs.items()}


def _read(path: Path, stage: str) -> History:
    """Read the epochs of a stage of a run, or those of a file."""
    file = path / stage / 'metrics.jsonl' if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        if (path / 'sweep.json').is_file():
            raise FileNotFoundError(
                f'{short_path(path)} is the folder of a sweep: give folders of its runs, which are listed in sweep.csv'
            )
        raise FileNotFoundError(
            f'{short_path(path)} has no {stage}/metrics.jsonl: give the folder of a training with this stage'
        )
    with reading(file, ReportError, _FIX):
        rows = [_epoch(line, i) for i, line in enumerate(read_bytes(file).decode().splitlines(), 1)]
        if not rows:
            raise InvalidValue(f'it has no epochs: {_FIX}')
        return rows


def _epoch(line: str, number: int) -> EpochMetrics:
    """Read a line of metrics.jsonl; raise InvalidValue with its number if it is not the metrics of an epoch."""
    try:
        return EpochMetrics.from_row(parse_json(line))
    except InvalidValue as e:
        raise InvalidValue(f'line {number}: {e}') from e


def _columns(histories: Mapping[str, list[History]]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Return the terms of all runs, and by metric on val the metrics beside which it was first measured."""
    terms: list[str] = []
    metrics: dict[str, dict[str, float]] = {}
    for group in histories.values():
        for history in group:
            for row in history:
                terms += [name for name in row.terms if name not in terms]
                metrics |= {name: row.val for name in row.val if name not in metrics}
    return sorted(terms, key=lambda name: name in LOGGED), metrics


def _title(name: str, metrics: Mapping[str, float] | None) -> str:
    """Return the title of a metric on val; without metrics that of a term."""
    if metrics is None:
        return plain(name, 32)
    try:
        column = describe(metrics).column(name)
    except (KeyError, ValueError):
        return plain(f'val: {name}', 32)
    return f'val: {column.label}' + ' (%)' * (column.digits == 1)


def _styles(count: int) -> list[tuple[str, str]]:
    return [LINES[(2 + i) % len(LINES)] for i in range(count)]


def _statistics(group: Sequence[History], name: str) -> tuple[list[int], list[float], list[float]]:
    """Return the epochs that all runs have, and the mean and the sample standard deviation of a value at each."""
    values = [{row.epoch: {**row.val, **row.terms}.get(name) for row in history} for history in group]
    epochs = sorted(epoch for epoch in values[0] if all(run.get(epoch) is not None for run in values))
    columns = [[run[epoch] for run in values] for epoch in epochs]
    known = [[value for value in column if value is not None] for column in columns]
    spread = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in known]
    return epochs, [statistics.mean(column) for column in known], spread
