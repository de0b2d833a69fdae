"""Results of a training: the metrics of an epoch, and the summary of a stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from .._schema import InvalidValue, NotNegative, build, show
from .._table import text_table

# Metrics in log lines and in the summary table.
MAIN_METRICS = ('max_box_acc_50', 'mean', 'top1_50', 'pxap', 'cls', 'kept')


@dataclass
class EpochMetrics:
    """One epoch of a stage, and one line of metrics.jsonl.

    Attributes:
        epoch: Number, from 1; 0 is the state before the first step.
        terms: Mean of each weighted term of the loss; empty for epoch 0.
        seconds: Training time, without validation.
        images_per_second: Training speed.
        val: Metrics on val by name; empty when nothing was measured.
    """

    epoch: Annotated[int, NotNegative]
    terms: dict[str, float]
    seconds: Annotated[float, NotNegative]
    images_per_second: Annotated[float, NotNegative]
    val: dict[str, float] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return the JSON object of metrics.jsonl: terms beside the other values, no 'val' when it is empty."""
        row = {'epoch': self.epoch, **self.terms}
        row.update(seconds=self.seconds, images_per_second=self.images_per_second)
        return row | ({'val': self.val} if self.val else {})

    @classmethod
    def from_row(cls, row: Any, place: str = '') -> EpochMetrics:
        """Read what `to_row` returned.

        Raises:
            InvalidValue: For a missing value, or one of a wrong type; `place` names the row.
        """
        if not isinstance(row, dict):
            raise InvalidValue(f'{place or "the row"} is {show(row)}: give the metrics of an epoch by name')
        names = ('epoch', 'seconds', 'images_per_second', 'val')
        terms = {name: value for name, value in row.items() if name not in names}
        return build(cls, {'terms': terms, **{name: row[name] for name in names if name in row}}, place)


@dataclass
class StageSummary:
    """A finished stage.

    Attributes:
        best_epoch: Number of the best epoch.
        best: Its metrics.
        last: Metrics of the last epoch.
        bad: Ids of the images that could not be read.
        selections: If the classifier was trained and val measures both: the epochs with the best 'localization' and the
            best 'accuracy'.
    """

    best_epoch: int
    best: EpochMetrics
    last: EpochMetrics
    bad: list[str]
    selections: dict[str, EpochMetrics] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with epochs as in metrics.jsonl."""
        selections = {name: metrics.to_row() for name, metrics in self.selections.items()}
        rows = {'best': self.best.to_row(), 'last': self.last.to_row(), 'selections': selections}
        return asdict(self) | rows

    @classmethod
    def from_dict(cls, values: Any, place: str = '') -> StageSummary:
        """Read what `to_dict` returned.

        Raises:
            InvalidValue: For a missing value, or one of a wrong type; `place` names the summary.
        """
        if not isinstance(values, dict):
            raise InvalidValue(f'{place or "the summary"} is {show(values)}: give the values of a stage by name')
        epochs = {name: EpochMetrics.from_row(values.get(name), f'{place}.{name}') for name in ('best', 'last')}
        selections = values.get('selections', {})
        if isinstance(selections, dict):
            selections = {name: EpochMetrics.from_row(row, f'{place}.{name}') for name, row in selections.items()}
        return build(cls, {**values, **epochs, 'selections': selections}, place)


def main_metrics(val: dict[str, float]) -> str:
    """Format metrics on val for a line of the log."""
    return ', '.join(f'{name} {value:.1f}' for name, value in val.items() if name in MAIN_METRICS)


def summary_table(summary: dict[str, StageSummary]) -> str:
    """Format the best and the last epoch of each stage as a text table."""
    rows = [['stage', 'epoch', *MAIN_METRICS]]
    for name, stage in summary.items():
        best = {f'best {metric}': metrics for metric, metrics in stage.selections.items()}
        for which, metrics in {'best': stage.best, 'last': stage.last, **best}.items():
            values = [f'{metrics.val[m]:.1f}' if m in metrics.val else '' for m in MAIN_METRICS]
            rows.append([f'{name}, {which}', str(metrics.epoch), *values])
    columns = [column for i, column in enumerate(zip(*rows)) if i < 2 or any(column[1:])]
    return text_table(list(zip(*columns)))
