"""Score the comparison of training methods, for results/methods.csv, docs/methods.png and the table of docs/methods.md:

    python -m tools.methods RUN... --data cub50 [--test --masks cub24seg]

Each RUN is a finished training: of a classifier, whose class map is scored, or of a decoder on one, whose F-CAM is
scored, too. Without --test only val is read: it chooses the settings of a method.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcam_zoo import wsol
from fcam_zoo._io import write_text
from fcam_zoo._plotting import LINES, figure_with_panels
from fcam_zoo.benchmark import evaluate_many
from fcam_zoo.data import EvalTransform, open_dataset
from fcam_zoo.models import FCAM, create_model
from fcam_zoo.train import TrainConfig

from . import records
from .card import between_markers, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {'plain': 'cross-entropy', **{name: method.title for name, method in wsol.METHODS.items()}}
# Maps of the chart, with their color and marker.
MARKERS = {'class map': (LINES[0][0], 'o'), 'F-CAM': (LINES[1][0], 'D')}
# Columns of the table and their titles.
COLUMNS = {
    'test_30': 'IoU 30',
    'test_50': 'IoU 50',
    'test_70': 'IoU 70',
    'test_mean': 'mean',
    'test_at_val': 'at the val threshold',
    'cls': 'top-1',
    'pxap': 'PxAP',
}


@dataclass
class Row:
    """Metrics of one run, in percent; None: not measured.

    Attributes:
        method: Name of the training method of the classifier, 'plain' for cross-entropy.
        settings: The method with all its settings, as JSON.
        stride: Output stride of the classifier.
        seed: Seed of the run.
        maps: 'class map', 'F-CAM', or 'FSL, N boxes' for the supervised bound.
        val_30: MaxBoxAcc on val at IoU 30; val_50 and val_70 likewise.
        val_mean: Mean of the three.
        test_30: MaxBoxAcc on test at IoU 30; test_50, test_70 and test_mean likewise.
        test_at_val: Accuracy on test at IoU 50 with the threshold that is best on val.
        cls: Top-1 accuracy of the classifier on test.
        pxap: PxAP on the birds with masks.
        pixel_f1: F1 of their pixels at the threshold that is best on val.
    """

    method: str
    settings: str
    stride: int
    seed: int
    maps: str
    val_30: float
    val_50: float
    val_70: float
    val_mean: float
    test_30: float | None = None
    test_50: float | None = None
    test_70: float | None = None
    test_mean: float | None = None
    test_at_val: float | None = None
    cls: float | None = None
    pxap: float | None = None
    pixel_f1: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What identifies the run."""
        return self.method, self.settings, self.stride, self.seed, self.maps

    @property
    def order(self) -> tuple[Any, ...]:
        """Place in the file: the class map of a method before the F-CAM on it, the supervised bounds at the end."""
        place = [*MARKERS, self.maps].index(self.maps)
        is_bound = place == len(MARKERS)
        return -self.stride, is_bound, list(TITLES).index(self.method), self.settings, place, self.maps, self.seed


def score(run: Path, data: Path, masks: Path | None, test: bool) -> list[Row]:
    """Score the best model of a run on val and, with `test`, on the test splits of `data` and `masks`.

    Returns:
        A row for each kind of map.
    """
    config = TrainConfig.from_dict(json.loads((run / 'config.json').read_text(encoding='utf-8')))
    model = create_model(f'local-dir:{run / "best"}')
    titles = _titles(config)
    settings = model.model_args.get('method')
    val = _metrics(model, data, 'val', list(titles))
    found = {
        kind: Row(
            method=settings['name'] if settings else 'plain',
            settings=json.dumps(settings, sort_keys=True) if settings else '',
            stride=model.model_args['output_stride'],
            seed=config.seed,
            maps=title,
            val_30=val[kind]['max_box_acc_30'],
            val_50=val[kind]['max_box_acc_50'],
            val_70=val[kind]['max_box_acc_70'],
            val_mean=val[kind]['mean'],
        )
        for kind, title in titles.items()
    }
    if test:
        thresholds = {kind: metrics['best_threshold_50'] for kind, metrics in val.items()}
        for kind, metrics in _metrics(model, data, 'test', list(titles), thresholds).items():
            row = found[kind]
            row.test_30, row.test_50, row.test_70 = (metrics[f'max_box_acc_{iou}'] for iou in (30, 50, 70))
            row.test_mean, row.test_at_val, row.cls = metrics['mean'], metrics['box_acc_50'], metrics['cls']
        if masks:
            for kind, metrics in _metrics(model, masks, 'test', list(titles), thresholds).items():
                found[kind].pxap, found[kind].pixel_f1 = metrics['pxap'], metrics['f1']
    return list(found.values())


def _titles(config: TrainConfig) -> dict[str, str]:
    """Return the maps that a run made, by kind."""
    if not config.decoder.epochs:
        return {'cam': 'class map'}
    if config.teacher.supervision:
        return {'fcam': f'FSL, {config.teacher.supervision} boxes'}
    return {'cam': 'class map', 'fcam': 'F-CAM'}


def _metrics(
    model: FCAM, data: Path, split: str, kinds: list[str], thresholds: dict[str, float] | None = None
) -> dict[str, dict[str, float]]:
    """Return the metrics of each kind of map on a split, in percent with one digit; thresholds as they are."""
    dataset = open_dataset(data, split, EvalTransform(model.pretrained_cfg['input_size'][-1]))
    reports = evaluate_many(model, dataset, kinds, threshold=thresholds, rows=False)
    return {
        kind: {key: value if 'threshold' in key else round(value, 1) for key, value in report.metrics.items()}
        for kind, report in reports.items()
    }


def rows() -> list[Row]:
    """Return the rows of results/methods.csv."""
    path = records.results_dir() / 'methods.csv'
    if not path.is_file():
        return []
    with path.open(encoding='utf-8', newline='') as f:
        return [Row(**{name: _value(name, text) for name, text in line.items()}) for line in csv.DictReader(f)]


def _value(name: str, text: str) -> Any:
    if name in ('method', 'settings', 'maps'):
        return text
    if name in ('stride', 'seed'):
        return int(text)
    return float(text) if text else None


def add(new: Sequence[Row]) -> None:
    """Add rows to results/methods.csv, in place of former ones of the same runs."""
    found = {row.key: row for row in [*rows(), *new]}
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator='\n')
    writer.writeheader()
    for row in sorted(found.values(), key=lambda row: row.order):
        writer.writerow(asdict(row))
    write_text(records.results_dir() / 'methods.csv', text.getvalue())


def render(text: str) -> str:
    """Return docs/methods.md with the current tables between its markers (errors: see `between_markers`)."""
    markers = '<!-- results: begin -->', '<!-- results: end -->'
    return between_markers(text, ''.join(_tables()), markers, 'docs/methods.md')


def _tables() -> Iterator[str]:
    """Generate the table of each stride: the runs that were scored on test."""
    scored = [row for row in rows() if row.test_mean is not None]
    head = ['classifier', 'map', 'seeds', *COLUMNS.values()]
    for stride in sorted({row.stride for row in scored}, reverse=True):
        groups: dict[tuple[str, str, str], list[Row]] = {}
        for row in scored:
            if row.stride == stride:
                groups.setdefault((row.method, row.settings, row.maps), []).append(row)
        lines = [
            [
                TITLES[method],
                maps,
                str(len(found)),
                *(_spread([getattr(row, name) for row in found]) for name in COLUMNS),
            ]
            for (method, _, maps), found in groups.items()
        ]
        yield f'\nStride {stride}:\n\n{table(head, lines)}\n'


def chart() -> Figure:
    """Plot the mean of MaxBoxAcc on test of the class map of each method and of the F-CAM on it, a panel per stride."""
    scored = [row for row in rows() if row.test_mean is not None and row.maps in MARKERS]
    strides = sorted({row.stride for row in scored}, reverse=True) or [32]
    names = [name for name in reversed(TITLES) if name in {row.method for row in scored}]
    figure, panels = figure_with_panels(len(strides), (4.2, 0.7 + 0.32 * len(names)))
    for axes, stride in zip(panels, strides):
        for maps, (color, marker) in MARKERS.items():
            found = [row for row in scored if row.stride == stride and row.maps == maps]
            means = [row.test_mean or 0.0 for row in found]
            axes.plot(means, [names.index(row.method) for row in found], marker, color=color, label=maps)
        axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
        axes.set_title(f'stride {stride}', fontsize=10)
        axes.set_xlabel('MaxBoxAcc on test, mean of IoU 30, 50, 70 (%)', fontsize=9)
    panels[0].legend(fontsize=9)
    return figure


def _spread(values: Sequence[float | None]) -> str:
    """Return a value, or the mean ± standard deviation of several."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return f'{known[0]:.1f}' if known else '-'
    return f'{statistics.mean(known):.1f} ± {statistics.stdev(known):.1f}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN')
    parser.add_argument('--data', type=Path, required=True, help='data set of the runs')
    parser.add_argument('--masks', type=Path, help='data set with masks, for PxAP')
    parser.add_argument('--test', action='store_true', help='score the test splits, too')
    args = parser.parse_args()
    add([row for run in args.runs for row in score(run, args.data, args.masks, args.test)])
    docs = records.ROOT / 'docs'
    write_text(docs / 'methods.md', render((docs / 'methods.md').read_text(encoding='utf-8')))
    chart().savefig(docs / 'methods.png', dpi=120)


if __name__ == '__main__':
    main()
