"""The command line: what it prints and writes, and how it fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from synthetic import make_wsol, shape_image

import fcam_zoo
from fcam_zoo.cli import main


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, output_stride=8)
    model.pretrained_cfg['label_names'] = ['square', 'disc']
    return fcam_zoo.hub.save_pretrained(model, tmp_path_factory.mktemp('model') / 'm')


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    (folder / 'more').mkdir(parents=True)
    for i, path in enumerate(('a.png', 'b.jpg', 'more/a.png')):
        image, _ = shape_image(i % 2, i)
        image.resize((90 + 30 * i, 60)).save(folder / path)
    return folder


def test_module_runs_and_helps():
    done = subprocess.run([sys.executable, '-m', 'fcam_zoo', '--help'], capture_output=True, text=True, check=True)
    for command in ('list', 'info', 'demo', 'predict', 'train', 'benchmark', 'weights'):
        assert f'    {command}' in done.stdout


def test_list(capsys):
    assert main(['list', '*resnet50*cub']) == 0
    assert capsys.readouterr().out.split() == sorted(f'fcam_resnet50.{t}_cub' for t in fcam_zoo.cams.METHODS)
    assert main(['list', '--pretrained']) == 0
    assert capsys.readouterr().out.split() == fcam_zoo.list_models(pretrained=True)


def test_info(capsys, model_dir):
    assert main(['info', f'local-dir:{model_dir}']) == 0
    assert '2 classes' in capsys.readouterr().out
    assert main(['info', 'fcam_nothing']) == 1
    assert 'unknown model' in capsys.readouterr().err


def test_weights_verify(capsys):
    assert main(['weights', 'verify']) == 0
    assert capsys.readouterr().out.count(': ok') == len(fcam_zoo.list_models(pretrained=True))
    assert main(['weights', 'verify', 'fcam_resnet50.cam_cub']) == 1


def test_predict_writes_pictures_and_boxes(photos, model_dir, tmp_path, capsys):
    out = tmp_path / 'out'
    assert main(['predict', str(photos), '--model', f'local-dir:{model_dir}', '-o', str(out), '--quiet']) == 0
    predictions = json.loads((out / 'predictions.json').read_text())['predictions']
    assert [p['overlay'] for p in predictions] == ['a.png', 'b.png', 'a_2.png']
    for p in predictions:
        width, height = Image.open(p['image']).size
        assert p['size'] == [width, height]
        x0, y0, x1, y1 = p['box']
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert p['label'] in ('square', 'disc')
        assert Image.open(out / p['overlay']).size == (width, height)
    assert '3 of 3' in capsys.readouterr().out


def test_predict_finishes_the_others_when_one_is_bad(photos, model_dir, tmp_path, capsys):
    (photos / 'broken.jpg').write_bytes((photos / 'b.jpg').read_bytes()[:300])
    out = tmp_path / 'out'
    assert main(['predict', str(photos), '--model', f'local-dir:{model_dir}', '-o', str(out), '--quiet']) == 1
    assert len(json.loads((out / 'predictions.json').read_text())['predictions']) == 3
    assert 'broken.jpg' in capsys.readouterr().err
    assert [path.name for path in out.glob('.*')] == ['.fcam_zoo']
    assert not (out / '.fcam_zoo' / 'unfinished').exists()


def test_predict_reports_a_missing_path_and_goes_on(photos, model_dir, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = ['predict', str(tmp_path / 'none.jpg'), str(photos), '--model', f'local-dir:{model_dir}']
    assert main([*arguments, '-o', str(out), '--quiet']) == 1
    assert len(json.loads((out / 'predictions.json').read_text())['predictions']) == 3
    captured = capsys.readouterr()
    assert 'none.jpg' in captured.err
    assert '3 of 4' in captured.out


def test_predict_exports(photos, model_dir, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = ['predict', str(photos), '--model', f'local-dir:{model_dir}', '-o', str(out), '--quiet', '--multi']
    assert main([*arguments, '--export', 'coco', 'csv', '--threshold', 'otsu', '--flip', '--sizes', '64', '96']) == 0
    assert sorted(p.name for p in out.iterdir()) == ['.fcam_zoo', 'boxes.csv', 'coco.json']
    assert len(json.loads((out / 'coco.json').read_text())['images']) == 3
    assert '3 of 3 images localized' in capsys.readouterr().out


def test_predict_never_overwrites_its_input(photos, model_dir, capsys):
    before = (photos / 'a.png').read_bytes()
    assert main(['predict', str(photos), '--model', f'local-dir:{model_dir}', '-o', str(photos), '--quiet']) == 1
    assert 'would be overwritten' in capsys.readouterr().err
    assert (photos / 'a.png').read_bytes() == before


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['predict', 'missing.jpg', '--model', '{m}', '-o', 'out'], 'missing.jpg'),
        (['predict', '{p}', '--model', '{m}', '-o', 'out', '--threshold', '1.5'], 'choose a value in [0,1)'),
        (['predict', '{p}', '--model', 'local-dir:none', '-o', 'out'], 'none does not exist'),
        (['predict', '{p}', '--model', '{m}', '-o', 'out', '--batch-size', '-1'], 'at least one image'),
        (['predict', '{p}', '--model', '{m}', '-o', 'out', '--device', 'warp'], "device 'warp' cannot be used"),
        (['predict', '{p}', '--model', '{m}', '-o', 'out', '--labels', 'folder'], 'lies in no class folder'),
        (['benchmark', 'missing', '--model', '{m}'], 'missing'),
        (['train', 'missing', '-o', 'run', '--device', 'warp'], "device 'warp' cannot be used"),
        (['train', 'missing', '-o', 'run'], 'missing'),
        (['train', 'missing', '-o', 'run', '--set', 'decoder.nothing=1'], "no setting 'decoder.nothing'"),
        (['train', 'missing', '-o', 'run', '--set', 'nonsense'], 'write KEY=VALUE'),
    ],
)
def test_errors_are_one_line(arguments, message, photos, model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([a.format(m=f'local-dir:{model_dir}', p=photos) for a in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error


def test_train_then_benchmark(tmp_path, capsys):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4, 'test': 6})
    settings = ['--set', 'image_size=64', '--set', 'classifier.batch_size=4', '--set', 'decoder.batch_size=4']
    run = tmp_path / 'run'
    arguments = ['train', str(data), '-o', str(run), '--backbone', 'test_resnet', '--output-stride', '8']
    arguments += ['--workers', '0']
    assert main([*arguments, '--classifier-epochs', '1', '--decoder-epochs', '1', '--quiet', *settings]) == 0
    assert 'decoder, best     1' in capsys.readouterr().out
    report = tmp_path / 'report'
    model = f'local-dir:{run / "best"}'
    kinds = ['cam', 'layercam', 'fcam', 'center']
    assert main(['benchmark', str(data), '--model', model, '--maps', *kinds, '-o', str(report), '--quiet']) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:6]] == kinds
    written = json.loads((report / 'fcam.json').read_text())
    assert written['meta']['n'] == 6
    assert len((report / 'cam.csv').read_text().splitlines()) == 7


def test_train_plans_and_sweeps(tmp_path, capsys):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    settings = ['--set', 'image_size=64', '--set', 'classifier.batch_size=4', '--set', 'decoder.batch_size=4']
    run = tmp_path / 'run'
    arguments = ['train', str(data), '-o', str(run), '--backbone', 'test_resnet', '--output-stride', '8']
    arguments += ['--workers', '0', '--classifier-epochs', '1', '--decoder-epochs', '1', '--quiet', *settings]
    assert main([*arguments, '--dry-run']) == 0
    printed = capsys.readouterr().out
    assert not run.exists()
    assert 'train: 8 images of 2 classes' in printed
    assert 'best epoch: by boxes of val' in printed
    assert 'decoder: 1 epochs of 2 steps of 4 images' in printed
    assert main([*arguments, '--sweep', 'background_fraction=0.3,0.6']) == 0
    found = json.loads((run / 'sweep.json').read_text())
    assert [row['value'] for row in found['rows']] == [0.3, 0.6]
    assert max(row['score'] for row in found['rows']) == next(
        row['score'] for row in found['rows'] if row['value'] == found['best']
    )
    assert f'best on val: {found["best"]}' in capsys.readouterr().out
    # One classifier for all values.
    first, second = ((run / row['folder'] / 'classifier' / 'state.safetensors').read_bytes() for row in found['rows'])
    assert first == second
    assert main([*arguments, '--sweep', 'background_fraction=0.3,0.6', '--resume']) == 0
    assert main([*arguments, '--sweep', 'seed']) == 1
    assert 'write KEY=V1,V2' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--set', 'decoder.lr'], 'write KEY=VALUE'),
        (['--set', 'decoder.rate=1'], "no setting 'decoder.rate'"),
        (['--set', 'decoder.lr=fast'], 'decoder.lr is .fast.: give a number'),
        (['--recipe', 'nothing'], 'recipe nothing does not exist'),
        (['--sweep', 'teacher=cam'], 'no val|no boxes'),
    ],
)
def test_train_says_what_is_wrong(tmp_path, capsys, arguments, message):
    for i in range(4):
        path = tmp_path / 'photos' / 'train' / 'ab'[i % 2] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        shape_image(i % 2, i)[0].save(path)
    fixed = ['--backbone', 'test_resnet', '--output-stride', '8', '--set', 'image_size=64', '--workers', '0', '--quiet']
    fixed += ['--set', 'classifier.epochs=1', '--set', 'decoder.epochs=0', '-o', str(tmp_path / 'run')]
    assert main(['train', str(tmp_path / 'photos'), *fixed, *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_benchmark_compares_models_and_score_maps(tmp_path, model_dir, capsys):
    data = make_wsol(tmp_path / 'shapes', {'train': 2, 'test': 6})
    folder = tmp_path / 'mine'
    rng = np.random.default_rng(0)
    for image_id in (data / 'metadata' / 'test' / 'image_ids.txt').read_text().split():
        (folder / image_id).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f'{image_id}.npy', rng.random((64, 64)))
    report, model = tmp_path / 'report', f'local-dir:{model_dir}'
    arguments = ['benchmark', str(data), '--models', model, '--scoremaps', str(folder), '--maps', 'fcam', '--quiet']
    assert main([*arguments, '--baseline', f'{folder}', '-o', str(report)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == [f'{model}/fcam', f'{folder}', 'center']
    assert f'difference to {folder}' in '\n'.join(lines)
    comparison = json.loads((report / 'comparison.json').read_text())
    assert comparison['meta'] | {'baseline': f'{folder}', 'n': 6} == comparison['meta']
    assert (report / 'report.html').read_text().startswith('<!doctype html>')
    assert len(list(report.glob('*_classes.csv'))) == 3
    assert main([*arguments, '--baseline', 'nothing']) == 1
    assert "no report 'nothing' to compare with" in capsys.readouterr().err


def test_benchmark_check(tmp_path, capsys):
    data = make_wsol(tmp_path / 'shapes', {'train': 2, 'test': 4})
    assert main(['benchmark', str(data), '--check', '--quiet']) == 0
    assert 'no faults found' in capsys.readouterr().out
    sizes = data / 'metadata' / 'test' / 'image_sizes.txt'
    sizes.write_text(sizes.read_text().replace(',72,72', ',72,71', 1))
    next((data / 'images').rglob('test_3.png')).unlink()
    assert main(['benchmark', str(data), '--check', '--quiet']) == 1
    out = capsys.readouterr().out
    assert 'image is missing' in out
    assert '72x71' in out
    assert main(['benchmark', str(data), '--quiet']) == 1
    assert 'give --models or --scoremaps' in capsys.readouterr().err


def test_benchmark_of_annotations(tmp_path, model_dir, capsys):
    data = make_wsol(tmp_path / 'shapes', {'test': 4})
    lines = (data / 'metadata' / 'test' / 'localization.txt').read_text().splitlines()
    (tmp_path / 'boxes.csv').write_text('image,x0,y0,x1,y1\n' + '\n'.join(lines))
    arguments = ['benchmark', str(data), '--models', f'local-dir:{model_dir}', '--maps', 'fcam', '--quiet']
    assert main(arguments) == 0
    # Top-1 localization, which follows, is of other labels: the CSV has none, so class folders are numbered as sorted.
    wsol = capsys.readouterr().out.splitlines()[2].split()[1:3]
    assert main([*arguments, '--annotations', str(tmp_path / 'boxes.csv')]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[1:3] == wsol


def test_demo_picture(tmp_path, model_dir, capsys):
    pytest.importorskip('skimage')
    assert main(['demo', '-o', str(tmp_path / 'demo'), '--model', f'local-dir:{model_dir}']) == 0
    assert 'cat' in capsys.readouterr().out
    assert Image.open(tmp_path / 'demo' / 'demo.png').width > 400


def test_demo_runs_every_model_that_needs_nothing_else(tmp_path, capsys):
    pytest.importorskip('skimage')
    assert main(['demo', '-o', str(tmp_path / 'demo')]) == 0
    table = capsys.readouterr().out
    for name in fcam_zoo.list_models(pretrained=True):
        assert (name in table) is fcam_zoo.hub.index()[name].holds_backbone


def test_localize_any_input():
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    image, _ = shape_image(0, 1)
    grey, rgba = image.convert('L'), image.convert('RGBA')
    found = fcam_zoo.localize(model, [image, np.asarray(image), np.asarray(grey), np.asarray(rgba)], batch_size=3)
    assert len(found) == 4
    assert np.array_equal(found[0].map, found[1].map)
    assert found[0].mask.shape == found[0].map.shape == (72, 72)
    with pytest.raises(TypeError, match='float64'):
        fcam_zoo.localize(model, np.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match='no image'):
        fcam_zoo.localize(model, [3])
    with pytest.raises(ValueError, match='class names'):
        fcam_zoo.localize(model, image, class_names=['a'])
    assert fcam_zoo.localize(model, []) == []
