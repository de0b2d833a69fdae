"""Evaluation and reports, with a small model and synthetic data sets."""

from __future__ import annotations

import csv
import doctest
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from benchmark_data import SIDE, K, Model, Squares, fcam_maps, save_maps
from torch import nn

from fcam_zoo import create_model
from fcam_zoo.benchmark import BoxMetric, PixelAP, Report, box_metric, evaluate, evaluate_many, pixel_ap, resize_boxes
from fcam_zoo.errors import DatasetError


def test_model_on_boxes() -> None:
    dataset, model = Squares(), Model().train()
    model.drop.eval()  # modules may be in different modes
    reports = evaluate_many(model, dataset, ('cam', 'fcam', 'center'), batch_size=3, quiet=True)
    assert list(reports) == ['cam', 'fcam', 'center']
    assert sorted(model.passes) == ['cam'] * 3 + ['forward'] * 3
    assert model.training
    assert not model.drop.training
    for name, report in reports.items():
        assert report.maps == name
        assert report.meta.n == 7
        assert report.metrics['cls'] == 100
    assert reports['fcam'].metrics['max_box_acc_70'] == 100
    assert reports['fcam'].metrics['top1_70'] == 100
    assert reports['center'].metrics['mean'] < 70
    boxes = [resize_boxes(b, (2 * SIDE, 3 * SIDE), (SIDE, SIDE)) for b in dataset.boxes]
    expected = BoxMetric().update(fcam_maps(dataset), boxes).compute()
    assert reports['fcam'].metrics['mean'] == pytest.approx(expected['mean'])
    for batch_size in (1, 7):
        report = evaluate(model, dataset, 'fcam', batch_size=batch_size, quiet=True)
        assert report.metrics == reports['fcam'].metrics
        assert report.rows == reports['fcam'].rows


def test_model_on_masks() -> None:
    dataset = Squares(masks=True)
    report = evaluate(Model(), dataset, quiet=True)
    expected = PixelAP().update(fcam_maps(dataset).astype(np.float32), dataset.truth).compute()
    assert report.metrics['pxap'] == pytest.approx(expected['pxap'], abs=0.1)
    assert report.metrics['cls'] == 100
    assert 0 < report.metrics['best_threshold'] < 1
    assert report.meta.metric == 'PxAP'
    assert len(report.rows) == 7
    assert all(row['pxap'] > 95 for row in report.rows)
    lengths = {key: len(values) for key, values in report.curves.items()}
    assert lengths.keys() == {'threshold', 'precision', 'recall'}
    assert len(set(lengths.values())) == 1


def test_functions_arrays_and_the_center_baseline() -> None:
    dataset = Squares()
    maps = fcam_maps(dataset).astype(np.float32)
    expected = evaluate(maps, dataset, 'mine', quiet=True)
    assert expected.meta.score_maps == 'as given'
    assert 'cls' not in expected.metrics
    assert dataset.reads == 0  # images are not read for an array
    start = 0

    def function(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal start
        assert images.dtype == torch.uint8
        part = torch.from_numpy(maps[start : start + len(images)])
        start += len(images)
        return part, nn.functional.one_hot(labels + (start > 4), K + 1).float()

    report = evaluate(function, dataset, 'mine', batch_size=2, quiet=True)
    assert report.metrics['mean'] == expected.metrics['mean']
    assert report.metrics['cls'] == pytest.approx(100 * 4 / 7)
    assert [row['top1'] for row in report.rows] == [True] * 4 + [False] * 3
    both = evaluate_many(torch.from_numpy(maps), dataset, ('mine', 'center'), quiet=True)
    assert both['mine'].metrics == expected.metrics
    single = evaluate(None, dataset, 'center', quiet=True)
    assert single.metrics == both['center'].metrics
    assert 'Gaussian' in single.meta.score_maps


def test_maps_of_another_size_than_the_images() -> None:
    dataset = Squares()
    large = np.kron(fcam_maps(dataset), np.ones((1, 2, 3)))
    assert evaluate(large, dataset, quiet=True).metrics['max_box_acc_70'] == 100


def test_limit_and_rows() -> None:
    report = evaluate(fcam_maps(Squares()), Squares(), limit=2, rows=False, quiet=True)
    assert report.meta.n == 2
    assert report.rows == []
    report = evaluate(fcam_maps(Squares()), Squares(), limit=99, iou=(50,), thresholds=[0.2, 0.5], quiet=True)
    assert replace(report.meta, n=7, iou=[50], thresholds=2, metric='MaxBoxAcc') == report.meta
    row = report.rows[3]
    assert row.keys() == {'id', 'label', 'object_share', 'width', 'height', 'n_boxes', 'iou_50', 'hit_50'}
    assert (row['id'], row['label'], row['width'], row['n_boxes'], row['hit_50']) == ('3.png', 0, 2 * SIDE, 1, True)
    assert sum(r['hit_50'] for r in report.rows) * 100 / 7 == pytest.approx(report.metrics['max_box_acc_50'])


def test_invalid_arguments_raise() -> None:
    dataset, maps = Squares(), fcam_maps(Squares())
    bare = Squares()
    bare.boxes = None
    for source, data, names, message in (
        (maps[:3], dataset, ['fcam'], '3 maps for 7 images'),
        (nn.Linear(2, 2), dataset, ['fcam', 'cam'], 'Linear has no pretrained_cfg and no cam: give fcam_zoo.wrap'),
        (maps, dataset, ['a', 'b'], 'one kind of map, but 2 are requested'),
        (None, dataset, ['fcam'], 'need a source'),
        (maps, dataset, [], 'nothing to score'),
        (maps, bare, ['fcam'], 'squares has neither boxes nor masks'),
        (maps[:0], Squares(0), ['fcam'], 'nothing to score: 0 images'),
        (maps * 3, dataset, ['fcam'], r'fcam map of 0.png holds values from .* scores must lie in'),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_many(source, data, names, batch_size=3, quiet=True)
    with pytest.raises(TypeError, match='source has the type int: give a model, a function'):
        evaluate(5, dataset, quiet=True)


@pytest.mark.parametrize('masks', [False, True])
def test_workers_change_nothing(masks: bool) -> None:
    dataset = Squares(11, masks=masks)
    maps = np.asarray(fcam_maps(dataset))
    plain = evaluate(maps, dataset, batch_size=2, quiet=True)
    assert evaluate(maps, dataset, batch_size=2, workers=2, quiet=True) == plain
    maps[9] = 2
    with pytest.raises(ValueError, match=r'fcam map of 9\.png holds values from 2 to 2'):
        evaluate(maps, dataset, batch_size=2, workers=2, quiet=True)


def evaluate_share(rank: int, world: int, folder: Path) -> None:
    store = torch.distributed.FileStore(str(folder / 'store'), world)
    torch.distributed.init_process_group('gloo', store=store, rank=rank, world_size=world)
    found = [
        evaluate_many(Model(), Squares(n, masks=masks), ['fcam', 'center'], batch_size=2, threshold=0.3, quiet=True)
        for n, masks in ((7, False), (7, True), (1, False))
    ]
    for i, reports in enumerate(found):
        for name, report in reports.items():
            report.to_json(folder / f'{rank}_{i}_{name}.json')
    torch.distributed.destroy_process_group()


def test_processes_of_torchrun_agree_with_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(evaluate_share, (3, tmp_path), nprocs=3)
    for i, (n, masks) in enumerate(((7, False), (7, True), (1, False))):
        single = evaluate_many(Model(), Squares(n, masks=masks), ['fcam', 'center'], threshold=0.3, quiet=True)
        for name, report in single.items():
            for rank in range(3):
                assert Report.from_json(tmp_path / f'{rank}_{i}_{name}.json') == report


@pytest.mark.parametrize('masks', [False, True])
def test_folder_of_maps(masks: bool, tmp_path: Path) -> None:
    dataset = Squares(masks=masks)
    maps = np.asarray(fcam_maps(dataset))
    folder = save_maps(tmp_path / 'scoremaps', maps)
    report = evaluate(folder, dataset, 'mine', batch_size=3, quiet=True)
    assert report == evaluate(maps, dataset, 'mine', quiet=True)
    assert report.meta.score_maps == 'as given'
    assert dataset.reads == 0


def test_invalid_folders_of_maps_raise(tmp_path: Path) -> None:
    dataset = Squares()
    folder = save_maps(tmp_path / 'scoremaps', np.asarray(fcam_maps(dataset)))
    with pytest.raises(ValueError, match='none is not a folder'):
        evaluate(tmp_path / 'none', dataset, 'mine', quiet=True)
    (folder / '4.png.npy').write_bytes(b'no array')
    with pytest.raises(ValueError, match=r'4\.png\.npy cannot be read as a map'):
        evaluate(folder, dataset, 'mine', quiet=True)
    np.save(folder / '4.png.npy', np.array([{'a': 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r'4\.png\.npy cannot be read as a map'):
        evaluate(folder, dataset, 'mine', quiet=True)
    np.save(folder / '4.png.npy', np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r'4\.png\.npy has the shape \(3, 3\)'):
        evaluate(folder, dataset, 'mine', quiet=True)
    np.save(folder / '4.png.npy', np.full((SIDE, SIDE), np.nan))
    with pytest.raises(ValueError, match=r'mine map of 4\.png holds NaN'):
        evaluate(folder, dataset, 'mine', quiet=True)
    (folder / '4.png.npy').unlink()
    (folder / '6.png.npy').unlink()
    with pytest.raises(ValueError, match=r'2 of 7 maps are missing in .*, the first 4\.png\.npy'):
        evaluate(folder, dataset, 'mine', quiet=True)


def test_conventions() -> None:
    """Score maps of both conventions, compared with a plain computation."""
    torch.manual_seed(0)
    model = create_model('fcam', backbone='test_resnet', num_classes=K).eval()
    dataset = Squares()
    dataset.images = np.random.default_rng(0).integers(0, 256, (7, 3, 64, 64)).astype(np.uint8)
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ('mean', 'std'))
    x = (torch.from_numpy(dataset.images) / 255 - mean) / std
    with torch.no_grad():
        low = model.class_map(model.encode(x), torch.from_numpy(dataset.labels)).double().numpy()
        fcam = model.fcam(x).double().numpy()
    large = [cv2.resize(m, (64, 64), interpolation=cv2.INTER_CUBIC) for m in low]
    expected = {'cam': np.stack([(m - m.min()) / (m.max() - m.min()) for m in large])}
    expected['fcam'] = np.stack([(m - m.min()) / (m.max() - m.min()) for m in fcam])
    found = evaluate_many(model, dataset, ['cam', 'fcam'], convention='bicubic', batch_size=4, quiet=True)
    plain = evaluate_many(model, dataset, ['cam', 'fcam'], quiet=True)
    for name, maps in expected.items():
        assert found[name].curves == evaluate(maps, dataset, name, quiet=True).curves
        assert 'min-max normalized' in found[name].meta.score_maps
    assert 'bicubically' in found['cam'].meta.score_maps
    assert 'not renormalized' in plain['fcam'].meta.score_maps
    with pytest.raises(ValueError, match="unknown convention 'nearest': choose one of bilinear, bicubic"):
        evaluate(model, dataset, convention='nearest', quiet=True)
    with pytest.raises(ValueError, match='Model has no class_map'):
        evaluate(Model(), dataset, convention='bicubic', quiet=True)


@pytest.mark.parametrize('module', [box_metric, pixel_ap])
def test_examples_of_the_docstrings(module: object) -> None:
    failed, tried = doctest.testmod(module)
    assert tried >= 6
    assert failed == 0


@pytest.mark.parametrize('metric', [BoxMetric(), PixelAP()])
def test_reset(metric: BoxMetric | PixelAP) -> None:
    dataset = Squares()
    maps = np.asarray(fcam_maps(dataset))
    truth = dataset.truth if isinstance(metric, PixelAP) else [b // (2, 3, 2, 3) for b in dataset.boxes]
    first = metric.update(maps, truth).state_dict()
    metric.reset()
    with pytest.raises(ValueError, match='call update first'):
        metric.compute()
    again = metric.update(maps, truth).state_dict()
    assert all(np.array_equal(first[k], again[k]) for k in first)


def test_errors_of_the_data_set_are_not_changed() -> None:
    dataset = Squares(masks=True)

    def broken(index: int, size: tuple[int, int]) -> np.ndarray:
        raise DatasetError('mask missing')

    dataset.mask = broken
    with pytest.raises(DatasetError, match=r'^mask missing$'):
        evaluate(fcam_maps(dataset), dataset, quiet=True)


def reports() -> list[Report]:
    return [evaluate(Model(), Squares(masks=masks), quiet=True) for masks in (False, True)]


def test_files_of_a_report(tmp_path: Path) -> None:
    for report in reports():
        report.to_json(tmp_path / 'report.json')

        def fail(constant: str) -> None:
            raise AssertionError(constant)

        read = json.loads((tmp_path / 'report.json').read_text(), parse_constant=fail)
        assert Report.from_json(tmp_path / 'report.json') == report
        assert read['meta']['versions'].keys() == {'fcam_zoo', 'torch', 'numpy', 'opencv'}
        report.to_csv(tmp_path / 'report.csv')
        with (tmp_path / 'report.csv').open(newline='') as f:
            rows = list(csv.DictReader(f))
        assert [row['id'] for row in rows] == [f'{i}.png' for i in range(7)]
        assert rows[0].keys() == report.rows[0].keys()
        for name, table in report.tables.items():
            report.to_csv(tmp_path / 'table.csv', name)
            assert (tmp_path / 'table.csv').read_text().count('\n') == 1 + len(table)
        assert report.summary().startswith('fcam: ')
    assert 'pxap' in report.summary()
    report.rows = []
    with pytest.raises(ValueError, match='rows=True'):
        report.to_csv(tmp_path / 'none.csv')
    assert not (tmp_path / 'none.csv').exists()


def test_an_image_without_object_has_no_pxap(tmp_path: Path) -> None:
    dataset = Squares(masks=True)
    dataset.truth[2] = 255
    report = evaluate(fcam_maps(dataset), dataset, quiet=True)
    assert report.rows[2]['pxap'] is None
    report.to_json(tmp_path / 'report.json')
