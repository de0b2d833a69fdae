"""Metrics at a threshold chosen on other images, class maps of predicted classes, and the names of metrics."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import SIDE, Model, Output, Squares, fcam_maps
from synthetic import make_wsol

import fcam_zoo
from fcam_zoo.benchmark import BoxMetric, Report, compare, describe, evaluate, evaluate_many, maps_of, resize_boxes
from fcam_zoo.benchmark.classes import labels_for
from fcam_zoo.cli import main

TAU = 0.5003  # between two of the default thresholds


def noisy_maps(dataset: Squares) -> np.ndarray:
    noise = np.random.default_rng(2).random((len(dataset), SIDE, SIDE))
    return (0.4 * fcam_maps(dataset) + 0.6 * noise).astype(np.float32)


def test_box_accuracy_at_a_threshold_chosen_elsewhere() -> None:
    dataset = Squares(20)
    maps = noisy_maps(dataset)
    report = evaluate(maps, dataset, 'm', threshold=TAU, batch_size=3, quiet=True)
    boxes = [resize_boxes(b, (2 * SIDE, 3 * SIDE), (SIDE, SIDE)) for b in dataset.boxes]
    best_iou = BoxMetric([TAU]).best_iou(maps, boxes)[:, 0]
    assert report.metrics['threshold'] == TAU
    for level in (30, 50, 70):
        assert report.metrics[f'box_acc_{level}'] == pytest.approx(100 * np.mean(best_iou >= level / 100))
        assert report.metrics[f'box_acc_{level}'] <= report.metrics[f'max_box_acc_{level}']
    assert report.metrics['box_acc_30'] > report.metrics['box_acc_70']
    np.testing.assert_allclose([row['iou_at_threshold'] for row in report.rows], best_iou, rtol=1e-6)
    plain = evaluate(maps, dataset, 'm', quiet=True)
    assert report.metrics.items() > plain.metrics.items()


def test_f1_at_a_threshold_chosen_elsewhere() -> None:
    dataset = Squares(20, masks=True)
    dataset.truth[3] = 0
    maps = noisy_maps(dataset)
    for tau in (TAU, 0.0):
        report = evaluate(maps, dataset, 'm', threshold=tau, batch_size=3, quiet=True)
        above = maps.astype(np.float64) >= tau

        def f1(above: np.ndarray, truth: np.ndarray) -> float:
            return 200 * (above & (truth == 1)).sum() / (above.sum() + (truth == 1).sum())

        assert report.metrics['f1'] == pytest.approx(f1(above, dataset.truth))
        assert report.rows[7]['f1_at_threshold'] == pytest.approx(f1(above[7], dataset.truth[7]))
        assert report.rows[3]['f1_at_threshold'] is None
    on_grid = evaluate(maps, dataset, 'm', threshold=report.metrics['best_threshold'], quiet=True).metrics
    assert on_grid['f1'] == pytest.approx(on_grid['best_f1'])


def test_the_threshold_of_the_model_is_the_default_for_fcam() -> None:
    dataset, model = Squares(), Model()
    assert 'threshold' not in evaluate(model, dataset, quiet=True).metrics
    model.threshold = 0.25
    for masks, key in ((False, 'box_acc_50'), (True, 'f1')):
        reports = evaluate_many(model, Squares(masks=masks), ('cam', 'fcam', 'center'), quiet=True)
        assert reports['fcam'].metrics['threshold'] == 0.25
        assert key in reports['fcam'].metrics
        assert not {'threshold', key} & (reports['cam'].metrics.keys() | reports['center'].metrics.keys())
    assert 'threshold' not in evaluate(model, dataset, threshold={}, quiet=True).metrics
    reports = evaluate_many(model, dataset, ('cam', 'fcam'), threshold={'cam': 0.5}, quiet=True)
    assert reports['cam'].metrics['threshold'] == 0.5
    assert 'threshold' not in reports['fcam'].metrics


def test_wrong_thresholds() -> None:
    for threshold, message in (
        (1.0, r'threshold of m is 1\.0: choose a value in \[0,1\)'),
        ({'x': 0.5}, 'threshold of x: only m are scored'),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(fcam_maps(Squares()), Squares(), 'm', threshold=threshold, quiet=True)


def test_comparison_at_thresholds_chosen_elsewhere(tmp_path: Path) -> None:
    dataset = Squares(20)
    a = evaluate(noisy_maps(dataset), dataset, 'a', quiet=True)
    b = evaluate(noisy_maps(dataset) ** 2, dataset, 'b', threshold=TAU, quiet=True)
    c = evaluate(fcam_maps(dataset), dataset, 'c', threshold=TAU, quiet=True)
    found = {(r.metric, r.maps): r for r in compare({'b': b, 'a': a, 'c': c}, samples=40).rows}
    assert ('box_acc_50', 'a') not in found
    row = found['box_acc_50', 'c']
    assert row.value == pytest.approx(c.metrics['box_acc_50'])
    assert row.difference == pytest.approx(c.metrics['box_acc_50'] - b.metrics['box_acc_50'])
    c.to_json(tmp_path / 'c.json')
    stored = compare({'c': Report.from_json(tmp_path / 'c.json')}, samples=40)
    assert any(r.metric == 'box_acc_50' and r.value == row.value for r in stored.rows)
    lacking = [r for r in compare({'a': a, 'c': c}, samples=40).rows if r.metric == 'box_acc_50']
    assert [(r.maps, r.p) for r in lacking] == [('c', None)]


def test_v2_is_the_multi_contour_mean_only() -> None:
    dataset = Squares(20)
    maps = noisy_maps(dataset)
    boxes = [resize_boxes(b, (2 * SIDE, 3 * SIDE), (SIDE, SIDE)) for b in dataset.boxes]
    single, multi = (evaluate(maps, dataset, 'm', multi_contour=m, quiet=True) for m in (False, True))
    assert 'max_box_acc_v2' not in single.metrics
    assert 'mean' not in multi.metrics
    assert single.metrics['mean'] == pytest.approx(BoxMetric().update(maps, boxes).compute()['mean'])
    expected = BoxMetric(multi_contour=True).update(maps, boxes).compute()['mean']
    assert multi.metrics['max_box_acc_v2'] == pytest.approx(expected)
    assert {row.metric for row in compare({'m': multi}, samples=40).rows} >= {'max_box_acc_v2'}


class Confused(Model):
    """Always predicts the class after the true one, and has as many classes as colors."""

    num_classes = 3

    def forward(self, x: torch.Tensor) -> Output:
        output = super().forward(x)
        return Output(output.logits.roll(1, 1), output.maps)


class Unknown(Squares):
    """Labels beyond the classes of the model."""

    def __init__(self, n: int = 7, masks: bool = False) -> None:
        super().__init__(n, masks)
        self.labels = self.labels + 66

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        return torch.from_numpy(self.images[index]), int(self.labels[index]), index


@pytest.mark.parametrize('masks', [False, True])
def test_class_maps_of_predicted_classes(masks: bool) -> None:
    dataset, model = Unknown(masks=masks), Confused()
    reports = evaluate_many(model, dataset, ('cam', 'fcam', 'center'), labels='predicted', quiet=True)
    for report in reports.values():
        assert not [key for key in report.metrics if key.startswith(('top', 'cls'))]
        assert 'top1' not in report.rows[0]
    assert reports['cam'].meta.labels == 'predicted'
    assert reports['cam'].meta.score_maps.startswith('class map of the predicted class')
    # The color after the true one is dark everywhere.
    predicted = dataset.images[range(7), (dataset.labels + 1) % 3] / 255
    expected = evaluate(predicted.astype(np.float32), dataset, 'cam', quiet=True)
    primary = expected.description.primary
    assert reports['cam'].metrics[primary] == pytest.approx(expected.metrics[primary], abs=0.01)
    assert reports['fcam'].metrics[primary] > 95 > expected.metrics[primary]
    found = maps_of(model, dataset, ['cam'], labels='predicted')['cam'](2)
    np.testing.assert_allclose(found, predicted[2], atol=1e-5)


def test_functions_get_no_labels_for_predicted_classes() -> None:
    seen = []

    def function(images: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(labels)
        return images[:, 0] / 255, torch.zeros(len(images), 3)

    assert 'cls' not in evaluate(function, Unknown(), 'm', labels='predicted', quiet=True).metrics
    assert seen == [None]


def test_labels_beyond_the_classes_name_the_option() -> None:
    message = (
        r"squares has labels up to 68, but the model only has 3 classes: .*labels='predicted' \(--labels predicted\)"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(Confused(), Unknown(), labels='true', quiet=True)
    with pytest.raises(ValueError, match="unknown labels 'none': choose one of auto, true, predicted"):
        evaluate(Confused(), Unknown(), labels='none', quiet=True)
    assert 'pxap' in evaluate(Confused(), Unknown(masks=True), 'center', quiet=True).metrics


class Named(Squares):
    """A data set whose classes have names."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.class_names = dict(enumerate(names))


def with_names(*names: str) -> Model:
    model = Model()
    model.pretrained_cfg = {**model.pretrained_cfg, 'label_names': names}
    return model


def test_other_classes_are_found_by_name() -> None:
    """The numbers of the labels are valid, but they stand for other classes."""
    dataset, model = Named('circle', 'square', 'star'), with_names('cat', 'dog', 'star')
    reports = evaluate_many(model, dataset, ('cam', 'fcam', 'center'), quiet=True)
    asked = evaluate_many(model, dataset, ('cam', 'fcam', 'center'), labels='predicted', quiet=True)
    for kind, report in reports.items():
        assert report.metrics == asked[kind].metrics
        assert not [key for key in report.metrics if key.startswith(('top', 'cls'))]
    reason = "2 of 3 classes of squares are not classes of the model, the first 'circle'"
    assert [report.meta.class_agnostic for report in reports.values()] == [reason, reason, None]
    assert reports['cam'].meta.labels == 'predicted'
    assert asked['cam'].meta.class_agnostic is None
    assert 'cls' in evaluate(model, dataset, 'cam', labels='true', quiet=True).metrics


def test_the_same_classes_in_another_order_are_translated() -> None:
    data, model = Named('Blue_Jay', '003.Cat', 'n01440764'), with_names('tench, Tinca tinca', 'blue jay', 'cat')
    found = labels_for(model, data, 'auto')
    assert found.indices.tolist() == [(1, 2, 0)[label] for label in data.labels]
    assert found.reason is None
    names = tuple(data.class_names.values())
    assert labels_for(with_names(*names), data, 'auto').indices.tolist() == data.labels.tolist()
    # The model is right about the colors, so its logits are wrong about its names.
    assert evaluate(model, data, 'cam', quiet=True).metrics['cls'] == 0
    assert evaluate(with_names(*names), data, 'cam', quiet=True).metrics['cls'] == 100


@pytest.mark.parametrize(
    ('data', 'model', 'reason'),
    [
        (('0', '1', '2'), ('cat', 'dog', 'star'), None),  # Only numbers: those of the model.
        (('cat', 'dog', 'star'), ('0', '1', '2'), None),
        (('cat', 'dog', 'star'), (), None),
        (('cat', '1', 'star'), ('cat', 'dog', 'star'), None),
        (('cat', '1', 'cat'), ('dog', 'star', 'cat'), "1 of 3 classes of squares .*'1'"),
        (('crane', 'dog', 'crane'), ('crane', 'dog', 'crane'), None),  # As in ImageNet.
        (('object', 'dog', 'star'), ('cat', 'dog', 'star'), "1 of 3 .*'object'"),
    ],
)
def test_classes_with_only_numbers(data: tuple[str, ...], model: tuple[str, ...], reason: str | None) -> None:
    found = labels_for(with_names(*model), Named(*data), 'auto')
    if reason is None:
        assert found.reason is None
        assert found.indices.tolist() == Named(*data).labels.tolist()
    else:
        assert found.kind == 'predicted'
        assert re.search(reason, found.reason)


def test_numbers_beyond_the_classes_are_class_agnostic() -> None:
    report = evaluate(Confused(), Unknown(), quiet=True)
    assert report.meta.class_agnostic == 'squares has labels up to 68, but the model only has 3 classes'
    assert 'cls' not in report.metrics


def test_descriptions_cover_all_metrics_of_reports() -> None:
    model = Model()
    model.threshold = 0.3
    for options in ({}, {'multi_contour': True}, {'iou': (40, 62.5)}):
        for masks in (False, True):
            report = evaluate(model, Squares(masks=masks), quiet=True, **options)
            for description in (report.description, describe(report.metrics)):
                assert report.metrics.keys() <= {column.key for column in description.columns}
                assert description.primary in report.metrics
                assert description.best_threshold in report.metrics
                assert description.row.key in report.rows[0]
                assert description.group in report.tables['classes'][0]
                assert description.kind == ('masks' if masks else 'boxes')
                assert description.name == report.meta.metric
                for curve in description.curves.values():
                    x, y = curve.points(report.curves)
                    assert len(x) == len(y) > 1
                    assert max(y) == pytest.approx(report.metrics[curve.value]) or curve.at is None
    assert describe({'max_box_acc_50': 1.0, 'mean': 1.0, 'max_box_acc_v2': 2.0}).summary['max_box_acc_v2'] == 'V2'
    assert report.description.column('best_f1').label == 'best F1'
    with pytest.raises(ValueError, match='neither pxap nor max_box_acc_50 nor best_f1_50 is among the metrics kept'):
        describe({'kept': 0.5})


@pytest.fixture
def unknown_classes(tmp_path: Path) -> tuple[Path, str]:
    """A data set with labels 66 and 67, and a model of two classes."""
    data = make_wsol(tmp_path / 'shapes', {'test': 4})
    labels = data / 'metadata' / 'test' / 'class_labels.txt'
    labels.write_text(labels.read_text().replace(',0', ',66').replace(',1', ',67'))
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    return data, f'local-dir:{fcam_zoo.hub.save_pretrained(model, tmp_path / "model")}'


def test_command_on_unknown_classes(unknown_classes: tuple[Path, str], tmp_path: Path, capsys) -> None:
    data, model = unknown_classes
    command = ['benchmark', str(data), '--models', model, '--quiet']
    assert main([*command, '--labels', 'true']) == 1
    error = capsys.readouterr().err
    assert '--labels predicted' in error
    assert '\n' not in error.strip()
    assert main(command) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('class-agnostic: ')]
    assert len(lines) == 1
    assert 'shapes has labels up to 67, but the model only has 2 classes; CAMs explain the predicted' in lines[0]
    report = tmp_path / 'report'
    thresholds = ['--threshold', '0.4', 'fcam=0.3']
    assert main([*command, '--labels', 'predicted', *thresholds, '-o', str(report)]) == 0
    reports = {kind: Report.from_json(report / f'{kind}.json') for kind in ('cam', 'fcam', 'center')}
    assert [r.metrics['threshold'] for r in reports.values()] == [0.4, 0.3, 0.4]
    assert 'cls' not in reports['fcam'].metrics
    assert 'iou_at_threshold' in (report / 'fcam.csv').read_text()
    page = (report / 'report.html').read_text()
    assert 'at the chosen threshold' in page
    assert 'class map of the predicted class' in page


@pytest.mark.parametrize('text', ['1', 'x', 'fcam=', 'fcam=2', '-0.1'])
def test_wrong_thresholds_of_the_command(text: str, capsys) -> None:
    with pytest.raises(SystemExit):
        main(['benchmark', 'data', '--scoremaps', 'maps', f'--threshold={text}'])
    assert 'is not a threshold in [0,1), or MAP=threshold' in capsys.readouterr().err
