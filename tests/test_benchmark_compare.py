"""Bootstrap of reports, compared with loops over resamples and known variances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_data import Rectangles

from fcam_zoo.benchmark import BoxMetric, Comparison, ComparisonRow, Meta, PixelAP, Report, compare, evaluate

N, SIDE = 60, 24


def make_dataset(masks: bool = False) -> Rectangles:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, N)
    corners, sides = rng.integers(0, 10, (N, 2)), rng.integers(4, 14, (N, 2))
    return Rectangles(np.concatenate([corners, corners + sides], 1), SIDE, labels, masks)


def maps(dataset: Rectangles, noise: float) -> np.ndarray:
    """Maps with the objects at shifted places and noise."""
    rng = np.random.default_rng(4)
    shown = np.stack([np.roll(m, rng.integers(-4, 5, 2), (0, 1)) for m in dataset.truth])
    return ((1 - noise) * shown + noise * rng.random(shown.shape)).astype(np.float32)


def make(masks: bool = False, noises: tuple[float, ...] = (0.6, 0.3)) -> tuple[Rectangles, dict[str, Report]]:
    dataset = make_dataset(masks)
    reports = {f'n{noise}': evaluate(maps(dataset, noise), dataset, 'm', quiet=True) for noise in noises}
    return dataset, reports


def resamples(samples: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, N, N) for _ in range(samples)]


def find(comparison: Comparison, metric: str, name: str) -> ComparisonRow:
    return next(row for row in comparison.rows if (row.metric, row.maps) == (metric, name))


def check_against(comparison: Comparison, metric: str, reports: dict[str, Report], drawn: dict[str, list]) -> None:
    a, b = (np.array(drawn[name]) for name in reports)
    for name, values in zip(reports, (a, b)):
        row = find(comparison, metric, name)
        assert row.value == pytest.approx(reports[name].metrics[metric], abs=1e-9)
        assert (row.low, row.high) == pytest.approx(tuple(np.percentile(values, (2.5, 97.5))), abs=1e-9)
    assert row.difference == pytest.approx(
        reports[name].metrics[metric] - find(comparison, metric, next(iter(reports))).value, abs=1e-9
    )
    bounds = tuple(np.percentile(b - a, (2.5, 97.5)))
    assert (row.difference_low, row.difference_high) == pytest.approx(bounds, abs=1e-9)
    tails = 1 + min((b - a <= 0).sum(), (b - a >= 0).sum())
    assert row.p == pytest.approx(min(1, 2 * tails / (len(a) + 1)))


def test_boxes_equal_a_loop_over_resamples() -> None:
    dataset, reports = make()
    comparison = compare(reports, samples=50, seed=7)
    drawn: dict[str, dict[str, list]] = {key: {} for key in ('max_box_acc_50', 'mean')}
    for name, noise in zip(reports, (0.6, 0.3)):
        best_iou = BoxMetric().best_iou(maps(dataset, noise), dataset.boxes)
        results = [BoxMetric().count(best_iou[index]).compute() for index in resamples(50, 7)]
        drawn['max_box_acc_50'][name] = [r['max_box_acc'][1] for r in results]
        drawn['mean'][name] = [r['mean'] for r in results]
    for metric, values in drawn.items():
        check_against(comparison, metric, reports, values)
    assert comparison.meta.thresholds == 'chosen in each resample'
    assert comparison.meta.baseline == 'n0.6'


def test_masks_equal_a_loop_over_resamples() -> None:
    dataset, reports = make(masks=True)
    comparison = compare(reports, samples=50, seed=8)
    drawn = {}
    for name, noise in zip(reports, (0.6, 0.3)):
        histograms = PixelAP().histograms(maps(dataset, noise), dataset.truth)
        drawn[name] = [PixelAP().count(histograms[index]).compute()['pxap'] for index in resamples(50, 8)]
    check_against(comparison, 'pxap', reports, drawn)


def test_many_images_are_processed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = make()[1]
    expected = compare(reports, samples=40)
    monkeypatch.setitem(compare.__globals__, '_CHUNK', 7)
    assert compare(reports, samples=40) == expected


def bernoulli(hits: np.ndarray, top1: np.ndarray | None = None) -> Report:
    """A report with one threshold."""
    rows = [{'id': str(i), 'label': 0, 'hit_50': bool(hit)} for i, hit in enumerate(hits)]
    for row, first in zip(rows, [] if top1 is None else top1.tolist()):
        row['top1'] = first
    meta = Meta(metric='MaxBoxAcc', n=len(hits), iou=[50], multi_contour=False, thresholds=1)
    return Report('m', {}, {}, meta, rows, samples=np.packbits(hits[:, None, None], axis=2))


def test_known_variance_and_paired_differences() -> None:
    rng = np.random.default_rng(0)
    n = 1000
    a, top1 = rng.random(n) < 0.6, rng.random(n) < 0.8
    b = a.copy()
    b[np.flatnonzero(~a)[:30]] = True  # correct on 30 more images
    comparison = compare({'a': bernoulli(a, top1), 'b': bernoulli(b, top1)}, samples=4000)
    for name, hits in (('a', a), ('b', b)):
        row = find(comparison, 'max_box_acc_50', name)
        width = 2 * 1.96 * 100 * hits.std() / np.sqrt(n)
        assert row.high - row.low == pytest.approx(width, rel=0.06)
        assert row.value == pytest.approx(100 * hits.mean())
        assert find(comparison, 'top1_50', name).value == pytest.approx(100 * (hits & top1).mean())
        assert find(comparison, 'cls', name).value == pytest.approx(100 * top1.mean())
    # Paired differences have less variance than either report: 1.96 sqrt(.03 x .97 / n) = 1.06 points.
    assert row.difference_high - row.difference_low == pytest.approx(2 * 1.06, rel=0.06)
    assert row.p == pytest.approx(2 / 4001)
    row = find(comparison, 'cls', 'b')
    assert (row.difference, row.difference_low, row.difference_high, row.p) == (0, 0, 0, 1)
    assert find(comparison, 'cls', 'a').p is None


def test_seed_and_baseline() -> None:
    reports = make()[1]
    assert compare(reports, samples=40) == compare(reports, samples=40)
    assert compare(reports, samples=40) != compare(reports, samples=40, seed=1)
    forth, back = compare(reports, samples=40), compare(reports, 'n0.3', samples=40)
    a, b = find(forth, 'mean', 'n0.3'), find(back, 'mean', 'n0.6')
    assert a.difference == pytest.approx(-b.difference)
    assert a.difference_low == pytest.approx(-b.difference_high)
    assert compare({'alone': reports['n0.3']}, samples=40).rows[0].p is None


def test_reports_from_files_keep_their_thresholds(tmp_path: Path) -> None:
    reports = make()[1]
    for name, report in reports.items():
        report.to_json(tmp_path / f'{name}.json')
    read = {name: Report.from_json(tmp_path / f'{name}.json') for name in reports}
    comparison = compare(read, samples=40)
    assert comparison.meta.thresholds == 'as reported'
    for name, report in reports.items():
        row = find(comparison, 'max_box_acc_70', name)
        assert row.value == pytest.approx(report.metrics['max_box_acc_70'])
        hits = np.array([r['hit_70'] for r in report.rows])
        drawn = [100 * hits[index].mean() for index in resamples(40, 0)]
        assert (row.low, row.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))


def test_resamples_without_objects() -> None:
    histograms = np.zeros((N, 2, 1002), np.uint8)
    histograms[:, 1, 5] = 9
    histograms[0, 0, 7] = 9  # the only image with an object; a third of the resamples lack it
    rows = [{'id': str(i), 'label': 0} for i in range(N)]
    report = Report('m', {}, {}, Meta(metric='PxAP', n=N, thresholds=1000), rows, samples=histograms)
    row = compare({'m': report}, samples=100).rows[0]
    assert (row.value, row.low, row.high) == (100, 100, 100)


def test_markdown_and_json(tmp_path: Path) -> None:
    reports = {'x|y': make()[1]['n0.6'], 'better': make()[1]['n0.3']}
    comparison = compare(reports, samples=40)
    lines = comparison.to_markdown(['mean']).splitlines()
    assert len(lines) == 4
    assert 'difference to x\\|y' in lines[0]
    assert lines[2].startswith('| mean | x\\|y | ')
    assert lines[3].startswith('| mean | better | ')
    assert len({line.replace('\\|', '').count('|') for line in lines}) == 1
    assert len(comparison.to_markdown().splitlines()) == 2 + 4 * 2
    comparison.to_json(tmp_path / 'comparison.json')
    assert Comparison.from_json(tmp_path / 'comparison.json') == comparison
    with pytest.raises(ValueError, match='metric pxap was not compared: choose from max_box_acc_30'):
        comparison.to_markdown(['pxap'])


def test_invalid_arguments_raise() -> None:
    dataset, reports = make()
    one = reports['n0.3']
    other = make_dataset()
    other.ids[5] = 'another.png'
    fewer = evaluate(maps(dataset, 0.3), dataset, 'm', limit=9, quiet=True)
    bare = evaluate(maps(dataset, 0.3), dataset, 'm', rows=False, quiet=True)
    multi = evaluate(maps(dataset, 0.3), dataset, 'm', multi_contour=True, quiet=True)
    pixels = next(iter(make(masks=True, noises=(0.3,))[1].values()))
    stored = Report(**{k: v for k, v in vars(pixels).items() if k != 'samples'})
    for reports, options, message in (
        ({}, {}, 'nothing to compare'),
        ({'a': one}, {'baseline': 'b'}, "baseline 'b' is not a report: choose one of a"),
        ({'a': one}, {'samples': 39}, 'give 40 or more'),
        ({'a': one, 'b': evaluate(maps(dataset, 0.3), other, 'm', quiet=True)}, {}, 'a and b are on different images'),
        ({'a': one, 'b': fewer}, {}, 'a and b are on different images'),
        ({'a': one, 'b': bare}, {}, 'report b has no rows: evaluate with rows=True'),
        ({'a': one, 'b': multi}, {}, 'a and b have different metric, multi_contour'),
        ({'a': one, 'b': pixels}, {}, 'a and b have different metric'),
        ({'a': stored}, {}, 'report a was read from a file'),
    ):
        with pytest.raises(ValueError, match=message):
            compare(reports, **options)
