"""Figures, compared with curves, histograms and boxes from plain computations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import make_wsol, shape_image

import fcam_zoo
from fcam_zoo import figures
from fcam_zoo.benchmark import Report, evaluate, read_reports
from fcam_zoo.cli import main
from fcam_zoo.data import EvalTransform, WSOLDataset, normalize

pytest.importorskip('matplotlib')

N, SIDE = 8, 72  # of the synthetic images
CAPTION = 17  # pixels below each picture


@pytest.fixture(scope='module', params=['boxes', 'masks'])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WSOLDataset:
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    return WSOLDataset(make_wsol(folder, {'test': N}, request.param), 'test')


@pytest.fixture(scope='module')
def maps() -> np.ndarray:
    """Make a shifted bright blob for each object, with noise."""
    masks = np.stack([shape_image(i % 2, i)[1] for i in range(N)])
    blobs = [cv2.GaussianBlur(np.roll(mask, (3, -4), (0, 1)).astype(np.float32), (0, 0), 4) for mask in masks]
    return (0.8 * np.stack(blobs) + 0.2 * np.random.default_rng(0).random((N, SIDE, SIDE), np.float32)).clip(0, 1)


@pytest.fixture(scope='module')
def reports(dataset: WSOLDataset, maps: np.ndarray) -> dict[str, Report]:
    return {
        'cam': evaluate(maps, dataset, 'cam', quiet=True),
        'fcam': evaluate(maps**2, dataset, 'fcam', quiet=True),
        'center': evaluate(None, dataset, 'center', quiet=True),
    }


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, output_stride=8)
    return fcam_zoo.hub.save_pretrained(model, tmp_path_factory.mktemp('model') / 'm')


def truth(dataset: WSOLDataset) -> np.ndarray:
    """Masks (N,H,W) of objects."""
    if dataset.boxes is None:
        return np.stack([shape_image(i % 2, i)[1] for i in range(N)])
    y, x = np.mgrid[:SIDE, :SIDE]
    boxes = [boxes[0] for boxes in dataset.boxes]
    return np.stack([(x >= x0) & (x <= x1) & (y >= y0) & (y <= y1) for x0, y0, x1, y1 in boxes])


def is_correct(score_map: np.ndarray, box: np.ndarray, threshold: float, iou: float) -> bool:
    """Whether the box of the largest region has the IoU with a box: a plain version of the protocol."""
    gray = (score_map * 255).astype(np.uint8)
    above = cv2.threshold(gray, int(threshold * gray.max()), 255, cv2.THRESH_BINARY)[1]
    outlines = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not outlines:
        return False
    x, y, width, height = cv2.boundingRect(max(outlines, key=cv2.contourArea))
    found = np.array([x, y, min(x + width, SIDE - 1), min(y + height, SIDE - 1)])
    sides = np.minimum(found[2:], box[2:]) - np.maximum(found[:2], box[:2]) + 1
    both = max(sides[0], 0) * max(sides[1], 0)
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (found, box)]
    return both / (sum(areas) - both) >= iou / 100


def test_curves(dataset: WSOLDataset, maps: np.ndarray, reports: dict[str, Report]) -> None:
    figure = figures.curves(reports)
    line = next(line for line in figure.axes[0].lines if line.get_label().startswith('F-CAM: '))
    if dataset.boxes is None:
        line = next(line for line in figure.axes[1].lines if line.get_label().startswith('F-CAM: '))
    x, y = line.get_data()
    order = np.argsort(x)
    for threshold in (0.05, 0.1, 0.201, 0.45, 0.6):
        if dataset.boxes is not None:
            expected = np.mean([is_correct(m, b[0], threshold, 50) for m, b in zip(maps**2, dataset.boxes)])
        else:
            above, objects = maps**2 >= threshold, truth(dataset)
            expected = 2 * (above & objects).sum() / (above.sum() + objects.sum())
        assert np.interp(threshold, np.array(x)[order], np.array(y)[order]) == pytest.approx(100 * expected, abs=1e-6)
    assert 'test, 8 images' in figure.get_suptitle()
    assert len({line.get_color() for line in figure.axes[0].lines}) == 3


def test_precision_and_recall(dataset: WSOLDataset, maps: np.ndarray, reports: dict[str, Report]) -> None:
    if dataset.boxes is not None:
        assert len(figures.curves(reports, [30, 70]).axes) == 2
        return
    x, y = figures.curves(reports).axes[0].lines[0].get_data()
    at = np.flatnonzero(np.isclose(reports['cam'].curves['threshold'], 0.3))[0]
    above, objects = maps >= 0.3, truth(dataset)
    both = (above & objects).sum()
    assert (x[at], y[at]) == pytest.approx((100 * both / objects.sum(), 100 * both / above.sum()))


def test_activations(dataset: WSOLDataset, maps: np.ndarray, reports: dict[str, Report]) -> None:
    figure = figures.activations(reports, bins=16)
    objects, edges = truth(dataset), np.linspace(0, 1, 17)
    for axes, found in zip(figure.axes, (maps, maps**2)):
        outlines = [patch for patch in axes.patches if patch.get_label().endswith(('boxes', 'masks'))]
        assert [patch.get_label().split()[0] for patch in outlines] == ['outside', 'inside']
        for patch, pixels in zip(outlines, (found[~objects], found[objects])):
            expected = 100 * np.histogram(pixels, edges)[0] / pixels.size
            np.testing.assert_allclose(patch.get_data().values, expected, atol=1e-9)
    fine = [np.histogram(maps[where], 128, (0, 1))[0] / where.sum() for where in (objects, ~objects)]
    assert figures.overlap(reports['cam']) == pytest.approx(100 * np.minimum(*fine).sum())


def test_wrong_reports_and_numbers(reports: dict[str, Report]) -> None:
    with pytest.raises(ValueError, match='at least one report'):
        figures.curves({})
    with pytest.raises(ValueError, match='bins is 24: choose one of 2, 4'):
        figures.activations(reports, 24)
    with pytest.raises(ValueError, match='curve accuracy_60 is not in the reports: choose from'):
        figures.curves(reports, [60])
    other = replace(reports['cam'], meta=replace(reports['cam'].meta, split='val'))
    with pytest.raises(ValueError, match='cam and other have different split: show them apart'):
        figures.curves({**reports, 'other': other})


def test_grid(model_dir: Path) -> None:
    model = fcam_zoo.create_model(f'local-dir:{model_dir}')
    images = {f'{i}': shape_image(i, i)[0].resize((150 + 60 * i, 100)) for i in range(2)}
    model.train()
    picture, found = figures.grid(model, images, ('layercam', 'fcam'), height=64)
    assert model.training
    assert picture.size == (96 + 134 + 6, 3 * (64 + CAPTION) + 2 * 6)
    assert [found[title].box for title in images] == [r.box for r in fcam_zoo.localize(model, [*images.values()])]
    # The box of the F-CAM is drawn where it was found.
    x0, y0, *_ = (round(edge * 0.64) for edge in found['1'].box)
    assert picture.getpixel((96 + 6 + x0 + 30, 2 * (64 + CAPTION + 6) + y0)) == fcam_zoo.viz.BOX_COLOR
    # The box of a class map is that of the largest region above Otsu's threshold.
    x = normalize(EvalTransform(224)(images['0'])[None], *(model.pretrained_cfg[k] for k in ('mean', 'std')))
    score_map = cv2.resize(model.eval().cam(x, method='layercam')[0].numpy(), (150, 100)).clip(0, 1)
    gray = (score_map * 255).astype(np.uint8)
    above = cv2.threshold(gray, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    largest = max(cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0], key=cv2.contourArea)
    left, top, width, _ = (edge * 0.64 for edge in cv2.boundingRect(largest))
    at = round(left + width / 2), round(top) + 64 + CAPTION + 6 + (1 if top else 0)
    assert picture.getpixel(at) == fcam_zoo.viz.BOX_COLOR


@pytest.mark.parametrize('width', [900, 300])
def test_rows(model_dir: Path, width: int) -> None:
    model = fcam_zoo.create_model(f'local-dir:{model_dir}')
    sizes = {'wide': (150, 100), 'a name that is longer than the column of its photograph ' * 2: (40, 100)}
    images = {title: shape_image(i, i)[0].resize(size) for i, (title, size) in enumerate(sizes.items())}
    picture, found = figures.rows(model, images, width=width)
    side = (width - 3 * 6) // 4
    heights = [round(side * 100 / 150), side]
    assert picture.size == (4 * side + 3 * 6, sum(heights) + 2 * CAPTION + 6)
    assert [found[title].box for title in images] == [r.box for r in fcam_zoo.localize(model, [*images.values()])]
    drawn = np.asarray(picture)
    # Nothing is written between the columns and the rows.
    for column in range(1, 4):
        assert (drawn[:, column * (side + 6) - 6 : column * (side + 6)] == 255).all()
    assert (drawn[heights[0] + CAPTION : heights[0] + CAPTION + 6] == 255).all()
    # The box is drawn over the photograph in the last column, where it was found.
    x0, y0, x1, _ = (round(edge * side / 150) for edge in found['wide'].box)
    assert picture.getpixel((3 * (side + 6) + (x0 + x1) // 2, y0)) == fcam_zoo.viz.BOX_COLOR
    with pytest.raises(ValueError, match='0 images: give at least 1 image, at most 100'):
        figures.rows(model, {})
    with pytest.raises(ValueError, match='width is 20: give at least 64 pixels'):
        figures.rows(model, images, width=20)


def test_commands(dataset: WSOLDataset, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = tmp_path / 'report'
    data, model = dataset.path(0).parents[2], f'local-dir:{model_dir}'
    assert main(['benchmark', str(data), '--models', model, '--maps', 'cam', 'fcam', '-o', str(report), '--quiet']) == 0
    assert list(read_reports(report)) == ['cam', 'fcam', 'center']
    assert list(read_reports([report, report / 'fcam.json'])) == ['cam', 'report/fcam', 'center', 'fcam/fcam']
    for command in ('curves', 'activations'):
        for suffix in ('.png', '.svg', '.jpg'):
            path = tmp_path / f'{command}{suffix}'
            assert main(['figures', command, str(report), '--maps', 'fcam', 'cam', '-o', str(path)]) == 0
            assert 0 < path.stat().st_size < 150_000
        assert Image.open(path).width > 300
    assert f'figure: {path}' in capsys.readouterr().out
    picture = tmp_path / 'grid.jpg'
    photos = str(data / 'images' / 'disc')
    assert main(['figures', 'grid', photos, '--model', model, '--maps', 'cam', 'fcam', '-o', str(picture)]) == 0
    assert Image.open(picture).size == (4 * 130 + 3 * 6, 3 * (130 + CAPTION) + 2 * 6)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('curves {t}/none', 'none'),
        ('curves {t}', 'has no comparison.json: make the reports with fcam-zoo benchmark'),
        ('curves {t}/bad.json', 'bad.json is not a report'),
        ('curves {t}/folder', 'comparison.json is not a comparison of fcam-zoo benchmark'),
        ('activations {t} -o x.bmp', 'x.bmp: the suffix is not a supported format; use one of .png'),
        ('grid --model fcam_nothing', "unknown model 'fcam_nothing'"),
        ('grid --model fcam_mobilenetv1_075_cub50 --maps cams', 'maps cams: choose from fcam, cam'),
        ('grid --model fcam_mobilenetv1_075_cub50 -o grid.pdf', 'grid.pdf: the suffix is not'),
        ('grid {t}/none --model fcam_mobilenetv1_075_cub50', 'none'),
        ('grid {t}/a.png --model fcam_mobilenetv1_075_cub50 --cam-threshold 2', 'threshold is 2.0: choose a value'),
        ('grid {t}/a.png --model fcam_mobilenetv1_075_cub50 --height 3', 'height is 3: give at least 32 pixels'),
    ],
)
def test_wrong_arguments_are_one_line(arguments: str, message: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.json').write_text('{}')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'comparison.json').write_text('[]')
    shape_image(0, 0)[0].save(tmp_path / 'a.png')
    assert main(['figures', *arguments.format(t=tmp_path).split()]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert '\n' not in error
    assert {path.name for path in tmp_path.iterdir()} == {'bad.json', 'folder', 'a.png'}
