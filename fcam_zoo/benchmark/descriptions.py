"""Names, columns and curves of all metrics and kinds of map; reports, plots and tables read them here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._analysis import f1_scores

MAP_TITLES = {
    'cam': 'CAM',
    'gradcam': 'Grad-CAM',
    'gradcampp': 'Grad-CAM++',
    'smoothgradcampp': 'Smooth Grad-CAM++',
    'xgradcam': 'XGrad-CAM',
    'layercam': 'LayerCAM',
    'fcam': 'F-CAM',
    'center': 'center baseline',
}

Points = Callable[[Mapping[str, Sequence[float]]], tuple[Any, Any]]


@dataclass(frozen=True)
class Column:
    """A metric in a table.

    Attributes:
        key: Its key in `Report.metrics`.
        title: Below the heading of its group.
        group: Heading over several columns, or ''.
        short: Short title, for narrow tables.
        digits: Digits after the decimal point: 1 for percentages, 3 for thresholds.
        setting: Whether it describes the threshold, so that larger is not better.
    """

    key: str
    title: str
    group: str
    short: str
    digits: int = 1
    setting: bool = False

    @property
    def label(self) -> str:
        """Return a title that includes the group."""
        return f'{self.group}, {self.title}' if self.group else self.title


@dataclass(frozen=True)
class Curve:
    """A curve of a report; its y axis is in percent.

    Attributes:
        x_label, y_label: Labels of the axes.
        x_end: Largest x; the smallest is 0.
        points: `Report.curves` -> x and y.
        value: Key of the metric that the legend gives.
        at: Key of the threshold of this value, where a dot marks the curve, or None.
        value_name: Name of the value in the legend, if it is not the y axis.
    """

    x_label: str
    y_label: str
    x_end: float
    points: Points
    value: str
    at: str | None = None
    value_name: str = ''

    def dot(self, metrics: Mapping[str, float]) -> tuple[float, float] | None:
        """Return the marked point, or None."""
        return None if self.at is None else (metrics[self.at], metrics[self.value])

    def legend(self, metrics: Mapping[str, float]) -> str:
        """Return the value, and the threshold, as text."""
        place = '' if self.at is None else f' at {metrics[self.at]:.3f}'
        return f'{self.value_name} {metrics[self.value]:.1f} %{place}'.lstrip()


@dataclass(frozen=True)
class MetricDescription:
    """Names of a metric, and where a report contains its values.

    Attributes:
        kind: Ground truth that it needs: 'objects' (all boxes of an image), 'boxes' or 'masks'.
        name: 'MaxBoxAcc', 'MaxBoxAccV2', 'Objects' or 'PxAP'.
        text: What it measures, in a sentence.
        primary: Key of the main metric.
        overall: Key of the metric that summarizes all: the mean over IoUs, AP of objects, or PxAP.
        best_threshold: Key of the best threshold of the main metric.
        columns: All metrics that a report may hold, in the order of tables.
        summary: Key -> title of the metrics in tables with one row per model.
        curves: By name: 'accuracy_50' or 'f1_50', one for each IoU; or 'precision' and 'f1'.
        main_curves: Names of those to show by default.
        row: Score of an image, a column of `Report.rows`.
        group: Score of a group of images, a key of the rows of `Report.tables`.
        group_text: What the score of a group is, in a sentence.
        level_curve: Name of the curves of each IoU, without the IoU.
        found_text: Which objects pictures show.
        note: What a table of the metrics cannot say, or ''.
    """

    kind: str
    name: str
    text: str
    primary: str
    overall: str
    best_threshold: str
    columns: tuple[Column, ...]
    summary: Mapping[str, str]
    curves: Mapping[str, Curve]
    main_curves: tuple[str, ...]
    row: Column
    group: str
    group_text: str
    level_curve: str = 'accuracy'
    found_text: str = 'found at the best threshold'
    note: str = ''

    def column(self, key: str) -> Column:
        """Return the column of a metric.

        Raises:
            KeyError: When the metric has no such column.
        """
        return {column.key: column for column in self.columns}[key]


def map_title(name: str) -> str:
    """Return the title of a kind of map, or of a report named 'model/kind'."""
    model, slash, kind = name.rpartition('/')
    return f'{model}{slash}{MAP_TITLES.get(kind, kind)}'


def describe(metrics: Mapping[str, float]) -> MetricDescription:
    """Find the description of recorded metrics, such as `Report.metrics`, by their keys.

    Raises:
        ValueError: When they hold neither PxAP nor MaxBoxAcc nor metrics of objects.
    """
    if 'pxap' in metrics:
        return _describe_masks()
    if iou := _levels('best_f1', metrics):
        return _describe_objects(iou)
    if iou := _levels('max_box_acc', metrics):
        return _describe_boxes('MaxBoxAcc' if 'mean' in metrics else 'MaxBoxAccV2', iou)
    names = ', '.join(metrics) or '(none)'
    raise ValueError(f'neither pxap nor max_box_acc_50 nor best_f1_50 is among the metrics {names}')


def _levels(key: str, metrics: Mapping[str, float]) -> list[float]:
    """Return the IoUs of the metrics with a key."""
    found = (re.fullmatch(rf'{key}_(\d+\.?\d*)', name) for name in metrics)
    return [float(match[1]) for match in found if match]


def describe_metric(name: str, iou: Sequence[float] | None) -> MetricDescription:
    """Find the description of a metric by its name (`MetricDescription.name`) and its IoUs in percent."""
    if name == 'PxAP':
        return _describe_masks()
    return _describe_objects(iou or ()) if name == 'Objects' else _describe_boxes(name, iou or ())


def main_level(levels: Sequence[str]) -> str:
    """Return the IoU of the main metric: 50, or the first if 50 was not measured."""
    return '50' if '50' in levels else levels[0]


def _describe_boxes(name: str, iou: Sequence[float]) -> MetricDescription:
    levels = [f'{level:g}' for level in iou]
    main = main_level(levels)

    def columns(key: str, group: str, short: str, digits: int = 1, setting: bool = False) -> list[Column]:
        return [Column(f'{key}_{k}', f'IoU {k}', group, f'{short}{k}', digits, setting) for k in levels]

    return MetricDescription(
        kind='boxes',
        name=name,
        text='An image is correct at a threshold when the IoU of the box around the pixels above it and a true box is '
        'at least the required one. Each metric uses its own best threshold.',
        primary=f'max_box_acc_{main}',
        overall='mean' if name == 'MaxBoxAcc' else 'max_box_acc_v2',
        best_threshold=f'best_threshold_{main}',
        columns=(
            *columns('max_box_acc', name, 'IoU'),
            Column('mean', 'mean', name, 'mean'),
            Column('max_box_acc_v2', 'V2', name, 'V2'),
            *columns('box_acc', 'accuracy at the chosen threshold', 'acc'),
            *columns('top1', 'top-1 localization', 'top1_'),
            *columns('top5', 'top-5 localization', 'top5_'),
            Column('cls', 'top-1', 'classification', 'cls'),
            Column('threshold', 'threshold', 'chosen', 'tau', 3, True),
            *columns('best_threshold', 'best threshold', 'tau_', 3, True),
            *columns('robustness', 'robustness', 'rob_', 1, True),
        ),
        summary={
            f'max_box_acc_{main}': 'MaxBoxAcc',
            'mean': 'mean',
            'max_box_acc_v2': 'V2',
            f'box_acc_{main}': 'at the val threshold',
            f'top1_{main}': 'top-1 loc.',
            f'top5_{main}': 'top-5 loc.',
            'cls': 'cls',
            f'robustness_{main}': 'robustness',
        },
        curves={
            f'accuracy_{k}': _level_curve('accuracy', k, f'box accuracy at IoU {k} % (% of images)', 'max_box_acc')
            for k in levels
        },
        main_curves=(f'accuracy_{main}',),
        row=Column(f'iou_{main}', 'IoU', 'image', 'IoU', 2),
        group=f'accuracy_{main}',
        group_text=f'Percentage of images that are correct at IoU {main}, at the best threshold of all images.',
    )


def _level_curve(key: str, level: str, title: str, best: str) -> Curve:
    """Describe a curve over the threshold at an IoU level; `best` is the metric of its maximum."""
    return Curve(
        "threshold τ (share of each map's maximum)",
        title,
        1,
        lambda curves: (curves['threshold'], curves[f'{key}_{level}']),
        f'{best}_{level}',
        f'best_threshold_{level}',
    )


def _describe_objects(iou: Sequence[float]) -> MetricDescription:
    levels = [f'{level:g}' for level in iou]
    main = main_level(levels)
    names = {'precision': ('precision', 'P'), 'recall': ('recall', 'R'), 'f1': ('F1', 'F1'), 'ap': ('AP', 'AP')}
    columns = [
        Column(f'{key}_{k}', title, f'objects at IoU {k}', f'{short}_{k}')
        for k in levels
        for key, (title, short) in names.items()
    ]
    columns += [Column(f'best_f1_{k}', f'IoU {k}', 'F1 at the best threshold', f'best_{k}') for k in levels]
    columns.append(Column('threshold', 'threshold', 'chosen', 'tau', 3, True))
    columns += [Column(f'best_threshold_{k}', f'IoU {k}', 'best threshold', f'tau_{k}', 3, True) for k in levels]
    columns += [Column(f'robustness_{k}', f'IoU {k}', 'robustness', f'rob_{k}', 1, True) for k in levels]
    columns.append(Column('cls', 'top-1', 'classification', 'cls'))
    return MetricDescription(
        kind='objects',
        name='Objects',
        text='Boxes of all connected regions of a map are matched with all true boxes: each true box counts once, if '
        'the IoU is at least the required one. Precision, recall, F1 and AP are those at the chosen threshold or, '
        'without one, at the threshold with the best F1 on these images.',
        primary=f'f1_{main}',
        overall=f'ap_{main}',
        best_threshold=f'best_threshold_{main}',
        columns=tuple(columns),
        summary={f'{key}_{main}': title for key, (title, _) in names.items()}
        | {f'best_f1_{main}': 'best F1', 'cls': 'cls'},
        curves={f'f1_{k}': _level_curve('f1', k, f'F1 of objects at IoU {k} % (%)', 'best_f1') for k in levels},
        main_curves=(f'f1_{main}',),
        row=Column(f'f1_{main}', 'F1', 'image', 'F1', 0),
        group=f'f1_{main}',
        group_text=f'F1 (%) of the objects of these images at IoU {main}.',
        level_curve='f1',
        found_text='found at the chosen threshold or, without one, at the best',
        note=f'P, R, F1 and AP are at the threshold tau or, without one, at tau_{main}, the best one on these images.',
    )


def _describe_masks() -> MetricDescription:
    return MetricDescription(
        kind='masks',
        name='PxAP',
        text='Average precision of the map values of all pixels; object pixels are positive.',
        primary='pxap',
        overall='pxap',
        best_threshold='best_threshold',
        columns=(
            Column('pxap', 'PxAP', '', 'PxAP'),
            Column('best_f1', 'best F1', '', 'F1'),
            Column('f1', 'F1 at the chosen threshold', '', 'F1_tau'),
            Column('cls', 'top-1', 'classification', 'cls'),
            Column('threshold', 'threshold', 'chosen', 'tau', 3, True),
            Column('best_threshold', 'threshold', 'best F1 at', 'best_tau', 3, True),
            Column('robustness', 'of F1', 'robustness', 'rob', 1, True),
        ),
        summary={'pxap': 'PxAP', 'best_f1': 'best F1', 'f1': 'F1 at the val threshold', 'cls': 'cls'},
        curves={
            'precision': Curve(
                'recall of object pixels (%)',
                'precision (%)',
                100,
                lambda curves: (100 * np.array(curves['recall']), 100 * np.array(curves['precision'])),
                'pxap',
                value_name='PxAP',
            ),
            'f1': Curve(
                'threshold τ (map value)',
                'F1 of pixels (%)',
                1,
                lambda curves: (
                    curves['threshold'],
                    f1_scores(np.array(curves['precision']), np.array(curves['recall'])),
                ),
                'best_f1',
                'best_threshold',
            ),
        },
        main_curves=('precision', 'f1'),
        row=Column('pxap', 'PxAP', 'image', 'PxAP'),
        group='pxap',
        group_text='PxAP (%) of the pixels of these images.',
    )
