"""Precision, recall, F1 and AP of several objects per image."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from benchmark_data import K, Model, Squares
from PIL import Image
from synthetic import make_wsol

from fcam_zoo import localize, wrap
from fcam_zoo.benchmark import ObjectMetric, Report, compare, describe, evaluate, evaluate_many, maps_of, read_reports
from fcam_zoo.benchmark.matching import ImageBoxes, match
from fcam_zoo.benchmark.plots import curves
from fcam_zoo.benchmark.report import columns_legend, metrics_table
from fcam_zoo.benchmark.report_folder import write_reports
from fcam_zoo.cli import main
from fcam_zoo.data import EvalTransform
from fcam_zoo.errors import ReportError

pytest.importorskip('pycocotools')
IOU = (30, 50)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes x, y, width, height."""
    width, height = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def expected_match(images: list[ImageBoxes], required: float) -> tuple[list[int], float]:
    """Correct boxes per image and AP in percent, computed plainly."""
    ranked: list[tuple[float, bool]] = []
    correct = []
    for truth, found, scores in images:
        free, hits = set(range(len(truth))), 0
        for k in np.argsort(-scores, kind='stable'):
            best = max(free, key=lambda j: iou(found[k], truth[j]), default=None)
            hit = best is not None and iou(found[k], truth[best]) >= required
            free -= {best} if hit else set()
            hits += hit
            ranked.append((scores[k], hit))
        correct.append(hits)
    ranked.sort(key=lambda pair: -pair[0])
    hits_so_far = np.cumsum([hit for _, hit in ranked])
    precision = hits_so_far / np.arange(1, len(ranked) + 1)
    recall = hits_so_far / sum(len(image.truth) for image in images)
    levels = [precision[recall >= r - 1e-12].max(initial=0) for r in np.linspace(0, 1, 101)]
    return correct, 100 * float(np.mean(levels))


def random_images(seed: int) -> list[ImageBoxes]:
    """Images with 0 to 4 true boxes, and found boxes of which some are near true ones."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(12):
        truth = np.hstack([rng.integers(0, 60, (rng.integers(0, 5), 2))] * 2).astype(float)
        truth[:, 2:] = rng.integers(5, 40, (len(truth), 2))
        near = truth[rng.random(len(truth)) < 0.8] + rng.integers(-4, 5, (1, 4))
        far = rng.integers(5, 50, (rng.integers(0, 3), 4))
        found = np.vstack([near, far]).clip(1).astype(float)
        images.append(ImageBoxes(truth, found, rng.random(len(found))))
    return images


@pytest.mark.parametrize('seed', range(4))
def test_matching_equals_a_plain_computation(seed: int) -> None:
    images = random_images(seed)
    correct, ap = match(images, IOU)
    for i, level in enumerate(IOU):
        hits, expected = expected_match(images, level / 100)
        assert correct[:, i].tolist() == hits
        assert ap[i] == pytest.approx(expected, abs=1e-9)
    assert 0 < ap[1] < 100


class Noise:
    """Two images of different sizes, with their true boxes."""

    name, split = 'noise', 'test'
    ids, labels = ('a', 'b'), np.zeros(2, np.int64)
    sizes = np.array([[150, 90], [80, 120]])
    boxes = (np.array([[0, 0, 149, 89], [3, 4, 20, 30]]), np.array([[5, 10, 70, 100]]))

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for width, height in self.sizes]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return EvalTransform()(Image.fromarray(self.images[index])), 0, index


def test_metrics_equal_pycocotools_on_the_boxes_of_localize(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = Noise()
    torch.manual_seed(0)
    model = wrap(timm.create_model('test_resnet', num_classes=2)).eval()
    # The lowest threshold with several objects in the map of random weights.
    for threshold in np.arange(0.5, 1, 0.05).tolist():
        found = localize(model, data.images, threshold, multi=True, min_area=0.002)
        if sum(len(f.objects) for f in found) > 4:
            break
    else:
        pytest.fail('no map has several objects')
    options = {'threshold': threshold, 'thresholds': [threshold], 'min_area': 0.002, 'labels': 'predicted'}
    report = evaluate(model, data, 'fcam', objects=True, quiet=True, **options)
    assert [row['n_found'] for row in report.rows] == [len(f.objects) for f in found]

    truth: list[dict[str, Any]] = []
    for i, rows in enumerate(data.boxes):
        for x0, y0, x1, y1 in rows.tolist():
            bbox = [x0, y0, x1 + 1 - x0, y1 + 1 - y0]
            entry = {'id': len(truth) + 1, 'image_id': i + 1, 'bbox': bbox, 'area': bbox[2] * bbox[3]}
            truth.append(entry | {'category_id': 1, 'iscrowd': 0})
    content = {'info': {}, 'images': [{'id': 1}, {'id': 2}], 'categories': [{'id': 1}], 'annotations': truth}
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    results = []
    for i, f in enumerate(found):
        for region in f.objects:
            x0, y0, x1, y1 = region.box
            bbox = [x0, y0, x1 - x0, y1 - y0]
            results.append({'image_id': i + 1, 'category_id': 1, 'bbox': bbox, 'score': region.strength})
    coco = COCO(str(tmp_path / 'truth.json'))
    evaluation = COCOeval(coco, coco.loadRes(results), 'bbox')
    evaluation.params.iouThrs, evaluation.params.maxDets = np.array([0.3, 0.5]), [1, 10, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    for i, level in enumerate(IOU):
        assert report.metrics[f'ap_{level}'] == pytest.approx(100 * evaluation.eval['precision'][i, :, 0, 0, 2].mean())
        assert report.metrics[f'recall_{level}'] == pytest.approx(100 * evaluation.eval['recall'][i, 0, 0, 2])


def maps_of_boxes(boxes: list[tuple[int, int, int, int]], side: int = 40) -> np.ndarray:
    score_map = np.zeros((1, side, side))
    for x0, y0, x1, y1 in boxes:
        score_map[0, y0 : y1 + 1, x0 : x1 + 1] = 0.8
    return score_map


def test_each_true_box_counts_once() -> None:
    # Two regions inside one true box, each with half of its pixels: one is correct, the other is wrong.
    maps = maps_of_boxes([(0, 0, 9, 8), (0, 10, 9, 18)])
    result = ObjectMetric([0.5]).update(maps, [[[0, 0, 9, 17], [20, 20, 39, 39]]]).compute()
    assert result['num_found'].tolist() == [2]
    assert result['num_correct'].tolist() == [[1], [1]]
    assert result['precision'][1, 0] == result['recall'][1, 0] == 50


def test_iou_equal_to_the_required_one_is_enough() -> None:
    result = ObjectMetric([0.5]).update(maps_of_boxes([(0, 0, 9, 9)]), [[[0, 0, 9, 19]]]).compute()
    assert result['num_correct'].tolist() == [[1], [1]]


def test_boxes_are_in_pixels_of_the_image() -> None:
    maps = maps_of_boxes([(10, 10, 19, 19)])
    metric = ObjectMetric([0.5], iou=[90]).update(maps, [[[200, 50, 399, 99]]], [(800, 200)])
    assert metric.compute()['recall'].tolist() == [[100]]
    with pytest.raises(ValueError, match='image 0 of the batch has a box outside its 40 x 40 pixels'):
        ObjectMetric([0.5]).update(maps, [[[200, 50, 399, 99]]])


@pytest.mark.parametrize(
    ('maps', 'boxes', 'found', 'correct'),
    [
        (np.zeros((1, 40, 40)), [[[0, 0, 9, 9]]], 0, 0),  # a map without object
        (np.full((1, 40, 40), 0.5), [[[0, 0, 39, 39]]], 1, 1),  # a constant map is one object
        (maps_of_boxes([(0, 0, 9, 9)]), [[[0, 0, 10, 10], [30, 30, 40, 40]]], 1, 1),  # an exclusive end is clipped
        (maps_of_boxes([(0, 0, 9, 9), (20, 20, 21, 21)]), [[[0, 0, 9, 9]]], 1, 1),  # below min_area
        (maps_of_boxes([(20, 20, 21, 21)]), [[[20, 20, 21, 21]]], 1, 1),  # the largest region is always an object
    ],
)
def test_unusual_maps(maps: np.ndarray, boxes: Any, found: int, correct: int) -> None:
    result = ObjectMetric([0.5]).update(maps, boxes).compute()
    assert (result['num_found'][0], result['num_correct'][1, 0]) == (found, correct)
    assert all(np.isfinite(result[key]).all() for key in ('precision', 'recall', 'f1', 'ap'))


def test_images_without_boxes_count_false_positives() -> None:
    some = maps_of_boxes([(0, 0, 9, 9)])
    metric = ObjectMetric([0.5]).update(np.concatenate([some, some]), [[[0, 0, 9, 9]], []])
    result = metric.compute()
    assert (result['precision'][1, 0], result['recall'][1, 0], result['n']) == (50, 100, 2)
    with pytest.raises(ValueError, match='no image has a true box'):
        ObjectMetric([0.5]).update(some, [[]]).compute()
    with pytest.raises(ValueError, match='no image has been counted'):
        ObjectMetric().compute()


def test_merging_equals_one_metric() -> None:
    maps = np.random.default_rng(0).random((4, 20, 20))
    boxes = [[[0, 0, 9, 9]], [[5, 5, 19, 19], [0, 0, 3, 3]], [], [[2, 2, 15, 15]]]
    whole = ObjectMetric().update(maps, boxes).compute()
    parts = ObjectMetric().update(maps[:1], boxes[:1])
    parts.compute()  # What was computed before must not be kept.
    parts.merge(ObjectMetric().update(maps[1:], boxes[1:]))
    assert all(np.array_equal(value, whole[key]) for key, value in parts.compute().items())
    with pytest.raises(ValueError, match='thresholds, iou, min_area'):
        parts.merge(ObjectMetric(min_area=0.1))
    parts.reset()
    with pytest.raises(ValueError, match='no image has been counted'):
        parts.compute()


@pytest.mark.parametrize(
    ('options', 'message'),
    [({'iou': [0]}, 'iou must be percentages'), ({'min_area': 1}, 'min_area is 1'), ({'thresholds': [2]}, 'lie in')],
)
def test_wrong_options_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectMetric(**options)


class Pairs(Squares):
    """`Squares` whose images also have a second, dim square; images of other sizes than the maps."""

    def __init__(self, n: int = 7) -> None:
        super().__init__(n)
        assert self.boxes is not None
        for i in range(n):
            self.images[i, self.labels[i], 0:4, 20:24] = 200
            self.boxes[i] = np.vstack([self.boxes[i] - [[0, 0, 1, 1]], [[40, 0, 47, 11]]])


@pytest.fixture(scope='module')
def reports() -> dict[str, Report]:
    options = {'objects': True, 'threshold': {'fcam': 0.4}, 'quiet': True}
    return evaluate_many(Model(), Pairs(), ['cam', 'fcam', 'center'], **options)


def test_reports_have_all_metrics(reports: dict[str, Report]) -> None:
    fcam, cam = reports['fcam'], reports['cam']
    assert {f'{k}_{level}' for k in ('precision', 'recall', 'f1', 'ap', 'best_f1') for level in IOU} <= set(cam.metrics)
    assert fcam.metrics['threshold'] == 0.4
    assert 'threshold' not in cam.metrics
    # Without a chosen threshold, the best one is used.
    assert cam.metrics['f1_50'] == cam.metrics['best_f1_50'] > reports['center'].metrics['f1_50']
    assert fcam.metrics['recall_50'] == 100
    assert (fcam.rows[0]['n_boxes'], fcam.rows[0]['correct_50']) == (2, 2)
    assert [row['ap_50'] for row in fcam.tables['classes']] == [pytest.approx(100)] * K
    assert describe(cam.metrics).kind == cam.description.kind == 'objects'
    columns = metrics_table(reports).splitlines()[0].split()
    assert columns[:5] == ['maps', 'P_30', 'R_30', 'F1_30', 'AP_30']
    legend = columns_legend(reports)
    assert legend.startswith(
        'columns: P_30, R_30, F1_30, AP_30: precision, recall, F1, AP of objects at IoU 30; P_50, '
    )
    assert '; tau: chosen threshold; tau_30, tau_50: best threshold; ' in legend
    assert all(column in legend for column in columns[1:])


def test_others_are_compared_with_the_f_cam(reports: dict[str, Report]) -> None:
    assert list(reports) == ['cam', 'fcam', 'center']
    assert compare(reports).meta.baseline == 'fcam'
    assert compare({name: reports[name] for name in ('center', 'cam')}).meta.baseline == 'center'


def test_files_of_reports(reports: dict[str, Report], tmp_path: Path) -> None:
    pytest.importorskip('matplotlib')
    dataset = Pairs()
    write_reports(tmp_path, reports, compare(reports), dataset, maps_of(Model(), dataset, [*reports]))
    assert read_reports(tmp_path) == reports
    page = (tmp_path / 'report.html').read_text()
    assert 'found at the chosen threshold or, without one, at the best' in page
    assert len(curves(reports, [30, 50]).axes) == 2
    content = json.loads((tmp_path / 'cam.json').read_text())
    del content['rows'][0]['n_found'], content['meta']['min_area']
    for broken, message in (
        (content, 'no iou or no min_area'),
        (content | {'meta': content['meta'] | {'min_area': 0}}, ''),
    ):
        (tmp_path / 'cam.json').write_text(json.dumps(broken))
        with pytest.raises(ReportError, match=message or 'rows'):
            Report.from_json(tmp_path / 'cam.json')


def test_comparison_chooses_thresholds_in_each_resample(reports: dict[str, Report], tmp_path: Path) -> None:
    rows = {(row.metric, row.maps): row for row in compare(reports, samples=40).rows}
    for name, report in reports.items():
        for key in ('precision_30', 'recall_50', 'f1_50', 'best_f1_50'):
            assert rows[key, name].value == pytest.approx(report.metrics[key])
    assert rows['f1_50', 'center'].difference < 0
    write_reports(tmp_path, reports, compare(reports, samples=40))
    read = {(row.metric, row.maps) for row in compare(read_reports(tmp_path), samples=40).rows}
    assert ('f1_50', 'cam') in read
    assert ('best_f1_50', 'cam') not in read


def test_data_without_boxes_and_contradictory_options_raise() -> None:
    with pytest.raises(ValueError, match=r'squares has no boxes, which metrics of objects need.*--annotations'):
        evaluate(None, Squares(masks=True), 'center', objects=True, quiet=True)
    with pytest.raises(ValueError, match='leave out multi_contour'):
        evaluate(None, Squares(), 'center', objects=True, multi_contour=True, quiet=True)


def without_pycocotools(name: str, *arguments: Any) -> Any:
    if name.startswith('pycocotools'):
        raise ImportError(name)
    return IMPORT(name, *arguments)


IMPORT = builtins.__import__


def test_pycocotools_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, '__import__', without_pycocotools)
    evaluate(None, Squares(), 'center', quiet=True)
    with pytest.raises(ImportError, match=r"pip install 'fcam-zoo\[objects\]'"):
        evaluate(None, Squares(), 'center', objects=True, quiet=True)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_wsol(tmp_path / 'shapes', {'test': 6})
    ids = (data / 'metadata' / 'test' / 'image_ids.txt').read_text().split()
    rng = np.random.default_rng(0)
    for image_id in ids:
        path = tmp_path / 'mine' / f'{image_id}.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.random((16, 16)))
    command = ['benchmark', str(data), '--quiet', '--scoremaps', str(tmp_path / 'mine')]
    assert (
        main([*command, '--objects', '--threshold', 'center=0.5', '--min-area', '0.05', '-o', str(tmp_path / 'r')]) == 0
    )
    printed = capsys.readouterr().out
    assert 'P, R, F1 and AP are at the threshold tau or, without one, at tau_50' in printed
    assert '| f1_50 | center |' in printed
    report = Report.from_json(tmp_path / 'r' / 'center.json')
    assert (report.meta.min_area, report.metrics['threshold']) == (0.05, 0.5)
    assert main([*command, '--min-area', '0.05']) == 1
    assert 'add --objects' in capsys.readouterr().err
