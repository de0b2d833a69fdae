"""Equality with stored results of the published evaluation code; skipped if they are absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fcam_zoo.benchmark import BoxMetric, PixelAP, box_iou, boxes_from_score_map, resize_boxes

GOLDEN = Path(__file__).parents[2] / 'shared' / 'golden'
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason='no golden values here')


@pytest.fixture(scope='module')
def boxes() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / 'metrics_box.npz'))


def truth(golden: dict[str, np.ndarray], key: str) -> list[np.ndarray]:
    return [b[:n] for b, n in zip(golden[key], golden['n_boxes'])]


@pytest.mark.parametrize('mode', ['single', 'multi'])
def test_box_metric(boxes: dict[str, np.ndarray], mode: str) -> None:
    maps = boxes['maps'].astype(float)
    metric = BoxMetric(boxes['thresholds'], boxes['iou_thresholds'].tolist(), mode == 'multi')
    assert np.array_equal(BoxMetric().thresholds, metric.thresholds)
    best_iou = metric.best_iou(maps, truth(boxes, 'gt_boxes_224'))
    assert np.array_equal(best_iou, boxes[f'{mode}_best_iou'])
    result = metric.count(best_iou, boxes['target'], boxes['logits']).compute()
    for key in ('num_correct', 'num_correct_top1', 'num_correct_top5'):
        assert np.array_equal(result[key], boxes[f'{mode}_{key}'])
    for key, name in (
        ('max_box_acc', 'max_box_acc'),
        ('best_threshold', 'best_tau'),
        ('top1', 'top1'),
        ('top5', 'top5'),
    ):
        np.testing.assert_allclose(result[key], boxes[f'{mode}_{name}'], atol=1e-9, rtol=0)
    assert result['mean'] == pytest.approx(float(boxes[f'{mode}_mean_30_50_70']), abs=1e-9)


def test_boxes(boxes: dict[str, np.ndarray]) -> None:
    start = 0
    for i, score_map in enumerate(boxes['maps'].astype(float)):
        single = boxes_from_score_map(score_map, boxes['box_thresholds'])
        assert np.array_equal(np.concatenate(single), boxes['single_boxes'][i])
        multi = boxes_from_score_map(score_map, boxes['box_thresholds'], multi_contour=True)
        for found, count in zip(multi, boxes['multi_box_counts'][i]):
            expected = boxes['multi_boxes'][start : start + count]
            assert sorted(found.tolist()) == sorted(expected.tolist())
            start += count


def test_iou_and_resizing(boxes: dict[str, np.ndarray]) -> None:
    assert np.array_equal(box_iou(boxes['iou_a'], boxes['iou_b']), boxes['iou_matrix'])
    for box, size, expected in zip(boxes['resize_boxes'], boxes['resize_sizes_wh'], boxes['resize_out']):
        assert resize_boxes(box[None], tuple(size), (224, 224)).tolist() == [expected.tolist()]
    found = truth(boxes, 'gt_boxes_orig')
    for original, size, expected in zip(found, boxes['image_sizes_wh'], truth(boxes, 'gt_boxes_224')):
        assert np.array_equal(resize_boxes(original, tuple(size), (224, 224)), expected)


def test_pixel_ap() -> None:
    golden = dict(np.load(GOLDEN / 'metrics_pxap.npz'))
    maps, masks = golden['maps'].astype(float), golden['gt_mask']
    result = PixelAP(golden['thresholds']).update(maps, masks).compute()
    assert np.array_equal(result['hist_true'], golden['hist_true'])
    assert np.array_equal(result['hist_false'], golden['hist_false'])
    assert result['pxap'] == pytest.approx(float(golden['pxap']), abs=1e-9)
    for key in ('precision', 'recall'):
        np.testing.assert_allclose(result[key], golden[key], atol=1e-12, rtol=0, equal_nan=True)
    for score_map, mask, expected in zip(maps, masks, golden['pxap_per_image']):
        if not np.isnan(expected):
            assert PixelAP().update(score_map[None], mask[None]).compute()['pxap'] == pytest.approx(expected, abs=1e-9)
