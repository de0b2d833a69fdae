"""The commands predict and demo: their files, messages and exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from scenes import SCENES

import fcam_zoo
from fcam_zoo import _catalog, _photos, models
from fcam_zoo.cli import main


@pytest.fixture
def predict(photos, model_dir, tmp_path):
    """Run predict on the photos and other images; the output folder is `out`."""

    def run(*arguments: str, images=()) -> int:
        fixed = ['--model', f'local-dir:{model_dir}', '-o', str(tmp_path / 'out'), '--quiet']
        return main(['predict', *map(str, [photos, *images]), *fixed, *arguments])

    return run


def test_predict_writes_overlays_and_boxes(predict, tmp_path, capsys):
    assert predict() == 0
    overlays = tmp_path / 'out/overlays'
    predictions = json.loads((overlays / 'predictions.json').read_text())['predictions']
    assert [p['overlay'] for p in predictions] == sorted(f'{name[:-4]}.png' for name in SCENES)
    for p in predictions:
        width, height = Image.open(p['image']).size
        assert p['size'] == [width, height]
        x0, y0, x1, y1 = p['box']
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert p['label'] in ('square', 'disc')
        assert Image.open(overlays / p['overlay']).size == (width, height)
    out = capsys.readouterr().out
    assert '5 of 5 images localized' in out
    sheet = out.strip().rpartition('contact sheet: ')[2]
    assert Image.open(sheet).width > 400
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['.fcam_zoo', 'overlays']


def test_predict_skips_bad_and_missing_images(predict, photos, tmp_path, capsys):
    (photos / 'broken.jpg').write_bytes((photos / 'dim' / 'b c.jpg').read_bytes()[:300])
    assert predict('--export', 'coco', images=[tmp_path / 'none.jpg']) == 1
    (annotations,) = (tmp_path / 'out').rglob('*.json')
    assert len(json.loads(annotations.read_text())['images']) == 5
    captured = capsys.readouterr()
    assert '5 of 7 images localized' in captured.out
    assert 'skipped: ' in captured.err
    assert 'broken.jpg' in captured.err
    assert 'none.jpg' in captured.err


def test_predict_exports_overwrites_and_resumes(predict, tmp_path, capsys):
    export = ['--export', 'coco', 'csv', '--multi', '--threshold', 'otsu', '--flip', '--sizes', '64', '96']
    assert predict(*export) == 0
    names = ['.fcam_zoo', 'coco', 'csv']
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == names
    assert predict(*export) == 1
    error = capsys.readouterr().err
    assert 'already holds results: replace them with --overwrite' in error
    assert predict(*export, '--overwrite') == 0
    assert predict('--export', 'masks', '--resume') == 0
    assert 'contact sheet' not in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [*names, 'masks']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['missing.jpg', '--model', '{m}', '-o', 'out'], 'missing.jpg'),
        (['{p}', '--model', '{m}', '-o', '{p}'], 'is the folder of the images'),
        (['{p}', '--model', '{m}', '-o', 'out', '--threshold', '1.5'], 'choose a value in [0,1)'),
        (['{p}', '--model', 'local-dir:none', '-o', 'out'], 'none does not exist'),
        (['{p}', '--model', '{m}', '-o', 'out', '--batch-size', '-1'], 'at least one image'),
        (['{p}', '--model', '{m}', '-o', 'out', '--device', 'warp'], "device 'warp' cannot be used"),
        (['{p}/dim', '--model', '{m}', '-o', 'out', '--labels', 'folder'], 'is not in a class folder'),
    ],
)
def test_errors_are_one_line(arguments, message, photos, model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['predict', *(a.format(m=f'local-dir:{model_dir}', p=photos) for a in arguments)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1


def test_demo_of_own_images(tmp_path, model_dir, photos, capsys):
    assert main(['demo', str(photos), '-o', str(tmp_path / 'demo'), '--model', str(model_dir), '--device', 'cpu']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split('  ')[0] for line in lines[1:-1]} == {Path(name).name for name in SCENES}
    picture = Image.open(tmp_path / 'demo' / 'demo.png')
    assert picture.width <= 900
    assert lines[-1] == f'picture: {tmp_path / "demo" / "demo.png"}'


def test_demo_has_photographs(tmp_path, model_dir, capsys, monkeypatch):
    pytest.importorskip('skimage')
    assert main(['demo', '-o', str(tmp_path / 'demo'), '--model', f'local-dir:{model_dir}']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [*_photos.PHOTOS]
    assert all(path.is_file() for path in _photos.bundled({**_photos.PHOTOS, **_photos.DIFFICULT}).values())
    monkeypatch.setitem(sys.modules, 'skimage', None)
    assert main(['demo', '-o', str(tmp_path / 'demo'), '--model', f'local-dir:{model_dir}']) == 1
    assert "install 'fcam-zoo[demo]'" in capsys.readouterr().err


def test_the_demo_starts_with_the_general_model(tmp_path, photos, monkeypatch, model_dir, capsys):
    used = []
    small = models.create_model(f'local-dir:{model_dir}')
    monkeypatch.setattr(models, 'create_model', lambda name, **_: used.append(name) or small)
    assert main(['demo', str(photos), '-o', str(tmp_path / 'demo')]) == 0
    assert used == [_catalog.GENERAL_MODEL]
    assert _catalog.GENERAL_MODEL in fcam_zoo.list_models(pretrained=True)
    for arguments, message in ((['none.jpg'], 'none.jpg'), ([str(photos), '--device', 'warp'], "device 'warp'")):
        assert main(['demo', *arguments, '-o', str(tmp_path / 'other')]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / 'other').exists()
