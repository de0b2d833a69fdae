"""Figures beside the ground truth, and convergence curves, compared with plain computations."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import make_wsol, shape_image

import fcam_zoo
from fcam_zoo import figures
from fcam_zoo.benchmark import box_iou, boxes_from_score_map, maps_of, resize_boxes
from fcam_zoo.benchmark.truth_pictures import FOUND, FOUND_BOX, MISSED, TRUE_BOX, WRONG, show_found, show_truth
from fcam_zoo.cli import main
from fcam_zoo.data import EvalTransform, WSOLDataset

pytest.importorskip('matplotlib')

SIDE, CAPTION = 72, 17


@pytest.fixture(scope='module', params=['boxes', 'masks'])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WSOLDataset:
    root = make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'test': 4}, request.param)
    return WSOLDataset(root, 'test', EvalTransform(224))


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, output_stride=8)
    return fcam_zoo.hub.save_pretrained(model, tmp_path_factory.mktemp('model') / 'm')


def tinted(color: tuple[int, int, int], picture: Image.Image, image: Image.Image) -> np.ndarray:
    """Pixels (H,W) of a picture that are those of the image, blended with a color."""
    expected = 0.45 * np.asarray(image, float) + 0.55 * np.array(color)
    return np.abs(np.asarray(picture, float) - expected).max(2) <= 0.51


def test_pixels_are_true_positives_false_negatives_and_false_positives(dataset):
    if dataset.boxes is not None:
        pytest.skip('masks')
    image = Image.new('RGB', (SIDE, SIDE), (90, 100, 110))
    mask = shape_image(0, 0)[1].astype(bool)
    score_map = np.roll(mask, (9, 6), (0, 1)) * 0.7 + 0.1
    picture, iou = show_found(image, score_map, 0.5, dataset, 0)
    found = score_map >= 0.5
    for color, expected in ((FOUND, found & mask), (MISSED, ~found & mask), (WRONG, found & ~mask)):
        np.testing.assert_array_equal(tinted(color, picture, image), expected)
        assert expected.any()
    assert iou == pytest.approx(100 * (found & mask).sum() / (found | mask).sum())
    # The threshold is absolute: nothing reaches 0.9.
    nothing, iou = show_found(image, score_map, 0.9, dataset, 0)
    np.testing.assert_array_equal(tinted(MISSED, nothing, image), mask)
    assert iou == 0
    otsu, _ = show_found(image, score_map, 'otsu', dataset, 0)
    assert otsu.tobytes() == picture.tobytes()
    np.testing.assert_array_equal(tinted(MISSED, show_truth(image, dataset, 0), image), mask)


def test_ignored_pixels_are_not_colored(monkeypatch, dataset):
    if dataset.boxes is not None:
        pytest.skip('masks')
    ignored = np.full((SIDE, SIDE), 255, np.uint8)
    ignored[:10, :10] = 1
    monkeypatch.setattr(dataset, 'mask', lambda index, size: ignored)
    image = Image.new('RGB', (SIDE, SIDE), (90, 100, 110))
    picture, iou = show_found(image, np.ones((SIDE, SIDE)), 0.5, dataset, 0)
    np.testing.assert_array_equal(tinted(FOUND, picture, image), ignored == 1)
    assert (np.asarray(picture)[ignored == 255] == (90, 100, 110)).all()
    assert iou == 100


@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.62, 0.97, 'otsu'])
def test_boxes_are_those_of_the_protocol(threshold, dataset):
    if dataset.boxes is None:
        pytest.skip('boxes')
    rng = np.random.default_rng(0)
    score_map = cv2.GaussianBlur(rng.random((SIDE, SIDE)), (0, 0), 5)
    score_map = 0.9 * (score_map - score_map.min()) / np.ptp(score_map)
    image = Image.new('RGB', (SIDE, SIDE), (90, 100, 110))
    picture, iou = show_found(image, score_map, threshold, dataset, 1)
    gray = (255 * score_map).astype(np.uint8)
    if threshold == 'otsu':
        level = cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]
        above = gray > level
        outlines = cv2.findContours(above.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        x, y, width, height = cv2.boundingRect(max(outlines, key=cv2.contourArea))
        box = np.array([[x, y, min(x + width, SIDE - 1), min(y + height, SIDE - 1)]])
    else:
        above = gray > int(threshold * gray.max())
        (box,) = boxes_from_score_map(score_map, [threshold])
    truth = resize_boxes(dataset.boxes[1], dataset.sizes[1], (SIDE, SIDE))
    assert iou == pytest.approx(100 * box_iou(box, truth).max())
    drawn = np.asarray(picture)
    lines = (drawn == FOUND_BOX).all(2) | (drawn == TRUE_BOX).all(2)
    np.testing.assert_array_equal(tinted(FOUND, picture, image) & ~lines, above & ~lines)
    x0, y0, x1, y1 = box[0]
    assert (drawn[y0, x0:x1] == FOUND_BOX).all()
    assert (drawn[y0:y1, x1 - 1] == FOUND_BOX).all()


def test_localization_draws_photograph_truth_maps_and_what_they_find(dataset, model_dir):
    model = fcam_zoo.create_model(f'local-dir:{model_dir}')
    model.train()
    picture, found = figures.localization(model, dataset, ('fcam', 'cam'), thresholds={'cam': 0.4}, height=64)
    assert model.training
    assert picture.size == (8 * 64 + 7 * 6, 3 * (64 + CAPTION) + 2 * 6)
    getters = maps_of(model, dataset, ('fcam', 'cam'))
    image = Image.fromarray(dataset[2][0].numpy().transpose(1, 2, 0)).resize((64, 64), Image.Resampling.LANCZOS)
    for row, (name, threshold) in enumerate({'fcam': model.threshold, 'cam': 0.4}.items(), 1):
        expected, iou = show_found(image, getters[name](2), threshold, dataset, 2)
        assert found[name][2] == pytest.approx(iou)
        x, y = 5 * 70, row * (64 + CAPTION + 6)
        assert picture.crop((x, y, x + 64, y + 64)).tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match='the threshold of cam is 1'):
        figures.localization(model, dataset, thresholds={'cam': 1})
    with pytest.raises(ValueError, match='maps cams: choose from'):
        figures.localization(model, dataset, ['cams'])


def test_localization_command(dataset, model_dir, tmp_path, capsys):
    root, path = str(dataset.path(0).parents[2]), tmp_path / 'figure.png'
    arguments = ['figures', 'localization', root, '--model', f'local-dir:{model_dir}', '-o', str(path)]
    assert main([*arguments, '--maps', 'cam', 'fcam', '--images', '2', '--threshold', '0.8', 'cam=otsu']) == 0
    assert Image.open(path).size == (4 * 130 + 3 * 6, 3 * (130 + CAPTION) + 2 * 6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split('  ')[0] == 'image'
    assert len(lines) == 1 + 2 + 1
    for more, message in (
        (['--threshold', 'layercam=0.2', '--maps', 'cam'], '--threshold names layercam: choose from --maps cam'),
        (['--images', '0'], '0 images: give at least 1'),
        (['--height', '3'], 'height is 3'),
        (['--threshold', '2'], 'the threshold of cam is 2.0: choose a value in [0,1)'),
        (['--split', 'none'], 'none'),
    ):
        path.unlink(missing_ok=True)
        assert main([*arguments, *more]) == 1
        error = capsys.readouterr().err.strip()
        assert message in error
        assert '\n' not in error
        assert not path.exists()


def write_run(folder: Path, losses: list[float], scores: list[float], stage: str = 'decoder', **more: float) -> Path:
    """A run folder with the epochs of a stage."""
    rows = [
        {'epoch': i, 'partial_ce': loss, 'area': 0.2, 'seconds': 1.0, 'images_per_second': 2.0, 'val': {'pxap': score}}
        | more
        for i, (loss, score) in enumerate(zip(losses, scores), 1)
    ]
    (folder / stage).mkdir(parents=True)
    (folder / stage / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return folder


def test_convergence_draws_mean_and_spread(tmp_path):
    first = write_run(tmp_path / 'a', [3.0, 2.0, 1.0], [40, 60, 70])
    second = write_run(tmp_path / 'b', [5.0, 3.0], [50, 64])
    other = write_run(tmp_path / 'c', [9.0, 8.0, 7.0], [10, 20, 30], crf=-1.5)
    figure = figures.convergence({'seeds': [first, second], '_other$x$': [other / 'decoder' / 'metrics.jsonl']})
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ['partial cross-entropy', 'CRF loss', 'mean foreground (0 to 1)', 'val: PxAP (%)']
    mean, single = panels['partial cross-entropy'].lines
    np.testing.assert_allclose(mean.get_xydata(), [[1, 4.0], [2, 2.5]])  # Epochs that both runs have
    np.testing.assert_allclose(single.get_xydata(), [[1, 9.0], [2, 8.0], [3, 7.0]])
    assert mean.get_color() != single.get_color()
    (band,) = panels['val: PxAP (%)'].collections
    edges = band.get_paths()[0].vertices
    for epoch, scores in ((1, (40, 50)), (2, (60, 64))):
        at = edges[edges[:, 0] == epoch][:, 1]
        expected = np.mean(scores) + np.array([-1, 1]) * np.std(scores, ddof=1)
        np.testing.assert_allclose((at.min(), at.max()), expected)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['seeds (2 runs)', r' _other\$x\$']
    # A run without a term has no line in its panel.
    assert [len(line.get_xdata()) for line in panels['CRF loss'].lines] == [0, 3]


def test_convergence_of_a_classifier_and_chosen_metrics(tmp_path):
    run = write_run(tmp_path / 'run', [1.0], [40], 'classifier', ce=2.5, val={'cls': 50.0, 'pxap': 40.0, 'best_f1': 3})
    titles = [axes.get_title() for axes in figures.convergence({'run': [run]}).axes]
    assert titles[-2:] == ['val: PxAP (%)', 'val: accuracy (%)']
    assert 'cross-entropy' in titles
    figure = figures.convergence({'run': [run]}, 'classifier', ['best_f1'])
    assert figure.axes[-1].get_title() == 'val: best F1 (%)'


def test_convergence_of_terms_without_a_title(tmp_path):
    terms = {'train_accuracy': 80.0, 'ce': 2.5, 'ce_erased': 3.5, 'val': {'cls': 50.0}}
    run = write_run(tmp_path / 'run', [1.0], [40], 'classifier', **terms)
    titles = [axes.get_title() for axes in figures.convergence({'run': [run]}).axes]
    assert titles == [
        'partial cross-entropy',
        'cross-entropy',
        'ce_erased',
        'mean foreground (0 to 1)',
        'training accuracy',
        'val: accuracy (%)',
    ]


def test_convergence_of_the_folders_of_a_sweep(tmp_path, monkeypatch):
    paths = [write_run(tmp_path / f'decoder.lr={rate}', [1.0], [40]) for rate in (0.1, 0.2)]
    drawn: list[dict[str, list[str]]] = []
    convergence = figures.convergence
    monkeypatch.setattr(figures, 'convergence', lambda runs, *more: drawn.append(runs) or convergence(runs, *more))
    arguments = [str(paths[0]), f'other={paths[1]}', '-o', str(tmp_path / 'a.png')]
    assert main(['figures', 'convergence', *arguments]) == 0
    assert drawn == [{str(paths[0]): [str(paths[0])], 'other': [str(paths[1])]}]


def test_convergence_command(tmp_path, capsys):
    runs = [write_run(tmp_path / f'run{i}', [3.0 + i, 2.0], [40 + i, 60]) for i in range(2)]
    for suffix in ('.png', '.svg'):
        path = tmp_path / f'convergence{suffix}'
        assert main(['figures', 'convergence', *(f'seeds={run}' for run in runs), str(runs[0]), '-o', str(path)]) == 0
        assert 0 < path.stat().st_size < 150_000
    (tmp_path / 'bad.jsonl').write_text('{"epoch": 1}\n')
    (tmp_path / 'text.jsonl').write_text('no JSON')
    (tmp_path / 'empty.jsonl').write_text('')
    write_run(tmp_path / 'classified', [1.0], [1], 'classifier')
    (tmp_path / 'sweep').mkdir()
    (tmp_path / 'sweep' / 'sweep.json').write_text('{}')
    for arguments, message in (
        (['none'], 'none'),
        ([str(tmp_path)], 'has no decoder/metrics.jsonl: give the folder of a training'),
        ([str(tmp_path / 'sweep')], 'is the folder of a sweep: give folders of its runs'),
        ([str(runs[0]), str(tmp_path / 'classified')], 'classified has no decoder/metrics.jsonl'),
        ([str(runs[0]), '--stage', 'classifier'], 'has no classifier/metrics.jsonl'),
        ([str(runs[0]), '--metrics', 'mean'], 'metric mean is not in the runs: they have pxap'),
        ([str(tmp_path / 'bad.jsonl')], 'bad.jsonl: line 1'),
        ([str(tmp_path / 'text.jsonl')], 'text.jsonl is damaged'),
        ([str(tmp_path / 'empty.jsonl')], 'empty.jsonl: it has no epochs'),
        ([str(runs[0]), '-o', 'x.bmp'], 'x.bmp: the suffix is not a supported format'),
    ):
        assert main(['figures', 'convergence', '-o', str(tmp_path / 'out.png'), *arguments]) == 1
        error = capsys.readouterr().err.strip()
        assert message in error
        assert '\n' not in error
    assert not (tmp_path / 'out.png').exists()
    with pytest.raises(ValueError, match='no runs: give at least one folder'):
        figures.convergence({})
    with pytest.raises(ValueError, match="stage is 'encoder': choose from decoder, classifier"):
        figures.convergence({'a': runs}, 'encoder')
