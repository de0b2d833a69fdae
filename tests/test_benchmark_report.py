"""What reports hold beyond the metrics of the protocol, compared with counts of single pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import Rectangles

from fcam_zoo.benchmark import BoxMetric, PixelAP, Report, evaluate
from fcam_zoo.benchmark._analysis import activations, object_masks, robustness

N, SIDE = 30, 32


class Shapes(Rectangles):
    """Small rectangles of class 0, large ones of class 1, and a map of each."""

    class_names: Mapping[int, str] = {0: 'small', 1: 'large'}

    def __init__(self, masks: bool = False) -> None:
        rng = np.random.default_rng(5)
        labels = np.arange(N) % 2
        corners = rng.integers(0, 6, (N, 2))
        sides = np.where(labels[:, None], rng.integers(18, 25, (N, 2)), rng.integers(5, 12, (N, 2)))
        super().__init__(np.concatenate([corners, corners + sides], 1), SIDE, labels, masks)
        self.maps = rng.random((N, SIDE, SIDE)).astype(np.float32) * 0.4 + 0.5 * np.roll(self.truth, (1, 2), (1, 2))
        self.truth[:, 0] = 255 if masks else self.truth[:, 0]


@pytest.fixture(scope='module', params=[False, True], ids=['boxes', 'masks'])
def evaluated(request: pytest.FixtureRequest) -> tuple[Shapes, Report]:
    dataset = Shapes(request.param)
    return dataset, evaluate(dataset.maps, dataset, 'm', quiet=True, batch_size=7)


def test_robustness() -> None:
    assert robustness(np.array([0, 94.9, 95, 97, 100, 50.0])) == pytest.approx(100 * 3 / 6)
    assert robustness(np.array([7.0])) == 100


def test_robustness_of_reports(evaluated: tuple[Shapes, Report]) -> None:
    dataset, report = evaluated
    if dataset.boxes:
        for level in (30, 50, 70):
            curve = np.array(report.curves[f'accuracy_{level}'])
            share = sum(value >= max(curve) - 5 for value in curve) / len(curve)
            assert report.metrics[f'robustness_{level}'] == pytest.approx(100 * share)
            assert report.metrics['robustness_30'] < 100
        return
    found, truth = dataset.maps[dataset.truth != 255].astype(np.float64), dataset.truth[dataset.truth != 255]
    f1 = []
    for threshold in np.arange(0, 1, 0.001):
        above = found >= threshold
        right = (above & (truth == 1)).sum()
        f1.append(200 * right / (above.sum() + (truth == 1).sum()))
    assert report.metrics['best_f1'] == pytest.approx(max(f1))
    assert f1[round(1000 * report.metrics['best_threshold'])] == pytest.approx(max(f1))
    assert report.metrics['robustness'] == pytest.approx(100 * np.mean(np.array(f1) >= max(f1) - 5))


def test_activations(evaluated: tuple[Shapes, Report]) -> None:
    dataset, report = evaluated
    edges = np.arange(129) / 128
    for key, pixels in (
        ('all', dataset.maps.ravel()),
        ('inside', dataset.maps[dataset.truth == 1]),
        ('outside', dataset.maps[dataset.truth == 0]),
    ):
        expected = 100 * np.histogram(pixels, edges)[0] / len(pixels)
        np.testing.assert_allclose(report.activations[key], expected)
    assert report.activations['score'] == edges[:-1].tolist()


def test_activations_at_the_ends() -> None:
    maps = np.array([[[0, 1, 1 + 1e-7, -1e-7, 0.5, 127.99 / 128]]])
    counts = activations(torch.from_numpy(maps), np.array([[[0, 1, 1, 0, 255, 0]]], np.uint8))
    assert counts.shape == (3, 128)
    assert counts.sum() == 6
    assert (counts[0, 0], counts[0, 127], counts[1, 127], counts[2, 64]) == (2, 1, 2, 1)


def test_masks_of_boxes_include_their_edges() -> None:
    masks = object_masks([np.array([[1, 2, 3, 2], [3, 0, 9, 9]]), np.zeros((1, 4))], (2, 4, 5))
    assert masks.sum((1, 2)).tolist() == [8 + 2, 1]
    assert masks[0, 2, 1] == masks[0, 3, 4] == masks[1, 0, 0] == 1


def test_tables(evaluated: tuple[Shapes, Report]) -> None:
    dataset, report = evaluated
    classes, sizes = report.tables['classes'], report.tables['sizes']
    assert [(row['label'], row['class'], row['n']) for row in classes] == [(0, 'small', 15), (1, 'large', 15)]
    shares = 100 * (dataset.truth == 1).mean((1, 2))
    np.testing.assert_allclose([row['object_share'] for row in report.rows], shares)
    groups = [dataset.labels == 0, dataset.labels == 1]
    groups += [(row['above'] < shares) & (shares <= row['up_to']) for row in sizes]
    assert sum(row['n'] for row in sizes) == N
    if dataset.boxes:
        best_iou = BoxMetric().best_iou(dataset.maps, dataset.boxes)
    else:
        histograms = PixelAP().histograms(dataset.maps, dataset.truth)
    for row, group in zip(classes + sizes, groups):
        assert row['n'] == group.sum()
        if dataset.boxes:
            for level in (30, 50, 70):
                at = round(1000 * report.metrics[f'best_threshold_{level}'])
                assert row[f'accuracy_{level}'] == pytest.approx(100 * (best_iou[group, at] >= level / 100).mean())
        else:
            assert row['pxap'] == pytest.approx(PixelAP().count(histograms[group]).compute()['pxap'])


def test_samples_equal_the_counts(evaluated: tuple[Shapes, Report]) -> None:
    dataset, report = evaluated
    if dataset.boxes:
        hits = np.unpackbits(report.samples, axis=2, count=1000)
        np.testing.assert_array_equal(
            hits.sum(0), BoxMetric().update(dataset.maps, dataset.boxes).compute()['num_correct']
        )
    else:
        np.testing.assert_array_equal(report.samples, PixelAP().histograms(dataset.maps, dataset.truth))
        assert report.samples.dtype.itemsize <= 2


def test_without_rows_there_are_no_tables(evaluated: tuple[Shapes, Report], tmp_path: Path) -> None:
    dataset, expected = evaluated
    report = evaluate(dataset.maps, dataset, 'm', rows=False, quiet=True)
    assert (report.rows, report.tables, report.samples) == ([], {}, None)
    assert report.activations == expected.activations
    assert report.metrics == expected.metrics
    with pytest.raises(ValueError, match='no classes: evaluate with rows=True'):
        report.to_csv(tmp_path / 'x.csv', 'classes')
    assert not list(tmp_path.iterdir())


def test_a_class_without_objects(tmp_path: Path) -> None:
    dataset = Shapes(masks=True)
    dataset.truth[dataset.labels == 1] = 0
    report = evaluate(dataset.maps, dataset, 'm', quiet=True)
    assert report.tables['classes'][1]['pxap'] is None
    assert sum(row['n'] for row in report.tables['sizes']) == 15
    report.to_json(tmp_path / 'report.json')
