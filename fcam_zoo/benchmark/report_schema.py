"""What a report may contain: the record of how it was measured, and the checks of one that was read from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from .._schema import BelowOne, InvalidValue, Positive, Rule, between, length, show
from ._analysis import ACTIVATION_BINS
from .descriptions import MetricDescription

if TYPE_CHECKING:
    from .report import Report

# Limits of a file: images and thresholds of a report, and characters of a name.
MAX_IMAGES, MAX_THRESHOLDS, MAX_NAME = 10**7, 10**5, 4096

Name = Annotated[str, length(0, MAX_NAME)]
Percent = Annotated[float, Rule(lambda value: 0 < value <= 100, 'give a percentage above 0 and up to 100')]
Row = dict[str, Any]


@dataclass(kw_only=True)
class Meta:
    """How a report was measured.

    Attributes:
        dataset: Name of the data set.
        split: Its split.
        n: Number of images.
        score_maps: How the maps were made.
        labels: Class of class maps: 'true' or 'predicted'; None if it does not matter.
        class_agnostic: Why class maps explain the predicted class and metrics that depend on classes are left out; None
            if they are not, or if this was asked for.
        thresholds: Number of thresholds.
        threshold_step: Their distance, if it is constant.
        metric: 'MaxBoxAcc', 'MaxBoxAccV2', 'Objects' or 'PxAP'.
        iou: Required IoUs in percent, except for PxAP.
        multi_contour: For MaxBoxAcc, whether the boxes of all contours are used.
        min_area: For objects, smallest area of a further object as a share of the image.
        versions: Versions of packages.
    """

    dataset: Name | None = None
    split: Name | None = None
    n: Annotated[int, between(1, MAX_IMAGES)]
    score_maps: Name = 'as given'
    labels: Literal['true', 'predicted'] | None = None
    class_agnostic: Name | None = None
    thresholds: Annotated[int, between(1, MAX_THRESHOLDS)]
    threshold_step: Annotated[float, Positive] | None = None
    metric: Literal['MaxBoxAcc', 'MaxBoxAccV2', 'Objects', 'PxAP']
    iou: Annotated[list[Percent], length(1, 100)] | None = None
    multi_contour: bool | None = None
    min_area: BelowOne | None = None
    versions: dict[str, Name] | None = None

    def __post_init__(self) -> None:
        if self.metric == 'PxAP':
            return
        option = 'min_area' if self.metric == 'Objects' else 'multi_contour'
        if self.iou is None or getattr(self, option) is None:
            raise InvalidValue(f'meta of {self.metric} has no iou or no {option}: add both')
        # The schema converts whole numbers to floats.
        self.iou = [int(level) if float(level).is_integer() else level for level in self.iou]
        if len({f'{level:g}' for level in self.iou}) < len(self.iou):
            raise InvalidValue(f'meta.iou is {show(self.iou)}: give different percentages')


def _is_number(value: Any, high: float) -> bool:
    # Also False for NaN. The tolerance is for sums of rounded numbers.
    return type(value) in (int, float) and 0 <= value <= high * (1 + 1e-6)


_PERCENT = Rule(lambda value: _is_number(value, 100), 'give a percentage')
_MAYBE_PERCENT = Rule(lambda value: value is None or _is_number(value, 100), 'give a percentage or null')
_SHARE = Rule(lambda value: _is_number(value, 1), 'give a number from 0 to 1')
# PixelAP has bins above 1.
_EDGE = Rule(lambda value: _is_number(value, 3), 'give a threshold')
_COUNT = Rule(lambda value: type(value) is int and 0 <= value < 2**53, 'give a whole number from 0')
_FLAG = Rule(lambda value: isinstance(value, bool), 'give true or false')
_TEXT = Rule(
    lambda value: isinstance(value, str) and len(value) <= MAX_NAME, f'give text, at most {MAX_NAME} characters'
)
_ROW = {
    'id': _TEXT,
    'label': _COUNT,
    'object_share': _PERCENT,
    'width': _COUNT,
    'height': _COUNT,
    'n_boxes': _COUNT,
    'n_found': _COUNT,
    'iou_at_threshold': _SHARE,
    'pxap': _MAYBE_PERCENT,
    'f1_at_threshold': _MAYBE_PERCENT,
    'top1': _FLAG,
    'top5': _FLAG,
}
# By kind of metric what exists once per IoU: columns of rows and of groups, and curves.
_ROW_LEVELS: dict[str, dict[str, Rule]] = {
    'boxes': {'iou': _SHARE, 'hit': _FLAG},
    'objects': {'correct': _COUNT, 'f1': _MAYBE_PERCENT},
    'masks': {},
}
_GROUP_LEVELS: dict[str, dict[str, Rule]] = {
    'boxes': {'accuracy': _PERCENT},
    'objects': dict.fromkeys(('precision', 'recall', 'f1', 'ap'), _MAYBE_PERCENT),
    'masks': {},
}
_CURVE_LEVELS = {'boxes': ('accuracy',), 'objects': ('precision', 'recall', 'f1'), 'masks': ()}
# By kind of metric, further columns that rows need.
_ROW_NEEDED: dict[str, set[str]] = {'boxes': set(), 'objects': {'n_boxes', 'n_found'}, 'masks': set()}
_TABLES = {
    'classes': {'label': _COUNT, 'class': _TEXT, 'n': _COUNT},
    'sizes': {'above': _PERCENT, 'up_to': _PERCENT, 'n': _COUNT},
}


def check_contents(report: Report) -> None:
    """Check that metrics, curves, rows and tables of a report are complete, and fit its metric.

    Raises:
        InvalidValue: If not; the message names the place.
    """
    description = report.description
    _check_metrics(report.metrics, description)
    _check_curves(report)
    if len(report.rows) not in (0, report.meta.n):
        raise InvalidValue(f'rows has {len(report.rows)} images, but meta.n is {report.meta.n}: give one row per image')
    levels = [f'{level:g}' for level in report.meta.iou or ()]
    of_levels = _ROW_LEVELS[description.kind]
    columns = _ROW | {f'{key}_{k}': rule for key, rule in of_levels.items() for k in levels}
    needed = {'id', 'label', description.row.key, *(f'{key}_{k}' for key in of_levels for k in levels)}
    _check_table(report.rows, 'rows', columns, needed | _ROW_NEEDED[description.kind])
    for kind, rows in report.tables.items():
        if kind not in _TABLES:
            raise InvalidValue(f'unknown table {show(kind)}: choose one of {", ".join(_TABLES)}')
        scores = {f'{key}_{k}': rule for key, rule in _GROUP_LEVELS[description.kind].items() for k in levels}
        scores = scores or {'pxap': _MAYBE_PERCENT}
        _check_table(rows, f'tables.{kind}', _TABLES[kind] | scores, {*_TABLES[kind], description.group})
    _check_activations(report.activations)


def _check_metrics(metrics: Mapping[str, float], description: MetricDescription) -> None:
    columns = {column.key: _SHARE if column.digits == 3 else _PERCENT for column in description.columns}
    needed = {description.overall}
    for curve in description.curves.values():
        needed |= {curve.value} if curve.at is None else {curve.value, curve.at}
    _check_keys(metrics, 'metrics', columns, needed)
    for key, value in metrics.items():
        if not columns[key].is_valid(value):
            raise InvalidValue(f'metrics.{key} is {show(value)}: {columns[key].fix}')


def _check_curves(report: Report) -> None:
    names = _CURVE_LEVELS[report.description.kind]
    columns = {'threshold': _SHARE} | {f'{name}_{k:g}': _PERCENT for name in names for k in report.meta.iou or ()}
    if not names:
        columns = {'threshold': _EDGE, 'precision': _SHARE, 'recall': _SHARE}
    _check_lists(report.curves, 'curves', columns, 1, MAX_THRESHOLDS + 3)


def _check_activations(activations: Mapping[str, Sequence[float]]) -> None:
    if activations:
        columns = {'score': _SHARE, **dict.fromkeys(('all', 'inside', 'outside'), _PERCENT)}
        _check_lists(activations, 'activations', columns, ACTIVATION_BINS, ACTIVATION_BINS)


def _check_lists(
    values: Mapping[str, Sequence[float]], place: str, columns: Mapping[str, Rule], low: int, high: int
) -> None:
    """Check lists of numbers, which must have the same length, from `low` to `high`."""
    _check_keys(values, place, columns, set(columns))
    size = len(values['score' if 'score' in values else 'threshold'])
    for key, numbers in values.items():
        if len(numbers) != size or not low <= size <= high:
            raise InvalidValue(f'{place}.{key} has {len(numbers)} numbers: give {low} to {high}, as many in all lists')
        _check_values(numbers, columns[key], f'{place}.{key}')


def _check_table(rows: Sequence[Row], place: str, columns: Mapping[str, Rule], needed: set[str]) -> None:
    """Check rows, which must have the same columns."""
    if not rows:
        return
    names = rows[0].keys()
    _check_keys(rows[0], f'{place}[0]', columns, needed)
    for i, row in enumerate(rows):
        if row.keys() != names:
            raise InvalidValue(f'{place}[{i}] has other columns than {place}[0]: give the same in all rows')
    for name in names:
        _check_values((row[name] for row in rows), columns[name], place, f'.{name}')


def _check_keys(values: Mapping[str, Any], place: str, columns: Mapping[str, Rule], needed: set[str]) -> None:
    if unknown := [key for key in values if key not in columns]:
        raise InvalidValue(f'{place} has the unknown field {show(unknown[0])}: remove it')
    if missing := sorted(needed - values.keys()):
        raise InvalidValue(f'{place} has no {missing[0]}: add it')


def _check_values(values: Iterable[Any], rule: Rule, before: str, after: str = '') -> None:
    """Check the values at the places `before[i]after`."""
    for i, value in enumerate(values):
        if not rule.is_valid(value):
            raise InvalidValue(f'{before}[{i}]{after} is {show(value)}: {rule.fix}')
