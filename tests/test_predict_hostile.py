"""Hostile and careless arguments of predict, export, figures and app: one line on stderr, exit status 1, no files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from glow import Glow
from PIL import Image
from scenes import draw, label

import fcam_zoo
from fcam_zoo import LabelOptions, export, figures, label_images
from fcam_zoo.cli import main
from fcam_zoo.data import EvalTransform, ScaleTransform, TrainTransform, list_images
from fcam_zoo.errors import ImageError


@pytest.fixture
def run(photos, model_dir, tmp_path, capsys):
    """Run a command that must fail; return its message."""

    def fail(*arguments: object, model: str = f'local-dir:{model_dir}') -> str:
        command, *rest = map(str, arguments)
        assert main([command, *rest, '--model', model, '-o', str(tmp_path / 'out.png')]) == 1
        error = capsys.readouterr().err
        assert error.startswith('fcam-zoo: error: ')
        assert error.count('\n') == 1
        assert 20 < len(error) < 600
        assert not [path for path in tmp_path.rglob('out.png/*/*') if '.fcam_zoo' not in path.parts]
        return error

    return fail


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--sizes', '1000000'], 'at most 16 sizes and 2048 pixels'),
        (['--sizes', '3000000000'], 'at most 16 sizes and 2048 pixels'),
        (['--sizes', '9' * 400], 'at most 16 sizes and 2048 pixels'),
        (['--sizes', *['224'] * 17], 'at most 16 sizes'),
        (['--sizes', '-224'], 'at least 32 pixels'),
        (['--batch-size', '9' * 30], 'at most 4096'),
        (['--workers', '100000'], 'at most 512'),
        (['--workers', '-1'], 'give 0 or more threads'),
        (['--threshold', 'nan'], 'choose a value in [0,1)'),
        (['--threshold', '1e400'], 'choose a value in [0,1)'),
        (['--min-area', 'nan'], 'choose a share of the image in [0,1)'),
        (['--min-area', 'inf'], 'choose a share'),
        (['--device', 'meta'], "device 'meta' cannot be used"),
        (['--device', 'cuda:99999999999999'], 'cannot be used'),
    ],
)
def test_predict_refuses_arguments_out_of_range(run, photos, arguments, message):
    assert message in run('predict', photos, *arguments)


@pytest.mark.parametrize(
    'name', ['n' * 300 + '.png', 'n/' * 2500 + 'a.png', 'a\x1b[31m.png', 'x\ny.png', 'a\udcff.png']
)
def test_predict_names_paths_that_do_not_exist(run, tmp_path, name):
    error = run('predict', tmp_path / name)
    assert error.rstrip('\n').isprintable()
    assert 'check the path' in error or 'use a shorter path' in error


def test_predict_refuses_a_model_that_returns_nan(run, photos, model_dir, tmp_path):
    """Its weights are finite, and overflow."""
    model = fcam_zoo.create_model(f'local-dir:{model_dir}')
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(1e30)
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'huge')
    for formats in (['overlays'], ['coco'], ['csv', 'masks']):
        error = run('predict', photos, '--quiet', '--export', *formats, model=f'local-dir:{tmp_path / "huge"}')
        assert 'the model returns NaN or infinite values' in error


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'formats': 'coco'}, "formats is 'coco': give a list"),
        ({'formats': [['coco']]}, r'formats\[0\] is'),
        ({'formats': ['coco', 5]}, r'formats\[1\] is 5'),
        ({'formats': []}, r'formats is \[\]: choose from'),
        ({'labels': []}, r"labels is \[\]: choose 'predicted'"),
        ({'batch_size': '8'}, "batch_size is '8'"),
        ({'batch_size': float('nan')}, 'batch_size is nan'),
        ({'workers': 1.5}, r'workers is 1\.5'),
        ({'workers': None}, 'workers is None'),
        ({'model_name': 'a\x00b'}, 'model_name is .*: give a name without control characters'),
        ({'model_name': 5}, 'model_name is 5'),
        ({'sizes': [64.5]}, r'sizes is \[64\.5\]'),
        ({'threshold': 'high'}, "threshold is 'high'"),
        ({'min_area': None}, 'min_area is None'),
        ({'class_names': 'ab'}, "class_names is 'ab'"),
    ],
)
def test_options_of_a_wrong_type(photos, tmp_path, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        label_images(Glow(64), photos, tmp_path / 'out', LabelOptions(**options))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('images', [None, 5, b'photos', [None], [5], object()])
def test_images_that_are_not_paths(tmp_path, images):
    for read in (lambda: label_images(Glow(64), images, tmp_path / 'out'), lambda: list_images(images)):
        with pytest.raises(TypeError, match=r'images (is|holds) .*: give'):
            read()


@pytest.mark.parametrize('output', [None, 5, 'a\0b', b'out'])
def test_output_that_is_not_a_path(photos, output):
    with pytest.raises(TypeError, match=r'output is .+: give the path of a folder'):
        label_images(Glow(64), photos, output)


def test_options_of_another_class(photos, tmp_path):
    with pytest.raises(TypeError, match=r"options is \{'formats': .*: give LabelOptions"):
        label_images(Glow(64), photos, tmp_path / 'out', {'formats': ['coco']})


@pytest.mark.parametrize('side', [0, -1, 2.5, '224', None, 10**9, 10**400, float('nan')])
def test_transforms_refuse_invalid_sides(side):
    for create in (EvalTransform, TrainTransform, lambda side: ScaleTransform(64, scale=(side, side))):
        with pytest.raises((ValueError, TypeError), match=r'is not a side in pixels|must be two fractions') as caught:
            create(side)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize('options', [{'hflip': 'x'}, {'hflip': float('nan')}, {'hflip': None}, {'hflip': 2}])
def test_transforms_refuse_other_probabilities(options):
    with pytest.raises(ValueError, match='is not a probability'):
        TrainTransform(64, **options)


def test_predict_shows_control_characters_of_names_as_escapes(photos, model_dir, tmp_path, capsys):
    draw(photos / 'a\x1b[2Jb.png', (56, 56), [])
    (photos / 'c\x07').mkdir()
    (photos / 'c\x07' / 'd.png').write_bytes(b'no image')
    model = f'local-dir:{model_dir}'
    assert main(['predict', str(photos), '--model', model, '-o', str(tmp_path / 'o'), '--quiet']) == 1
    error = capsys.readouterr().err
    assert error.replace('\n', '').isprintable()
    assert r'a\x1b[2Jb.png' in error


@pytest.mark.skipif(sys.platform == 'win32', reason='needs links')
def test_links_that_cannot_be_followed_are_left_out(photos, tmp_path):
    (photos / 'long.png').symlink_to('n' * 300)
    (photos / 'loop.png').symlink_to('loop.png')
    (photos / 'gone.png').symlink_to('gone')
    assert label(photos, tmp_path / 'out', ['csv']).labelled == 5


def test_folders_nested_deeper_than_calls(tmp_path):
    root = tmp_path / 'deep'
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir('d', dir_fd=here)
        deeper = os.open('d', os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    draw(root / 'a.png', (56, 56), [])
    draw(Path(root, *['d'] * 1400) / 'b.png', (56, 56), [])
    try:
        done = label(root, tmp_path / 'out', ['csv'])
    finally:
        remove_deep(root)
    assert (done.labelled, len(done.errors)) == (1, 1)  # The name of b.png is longer than annotation files can hold.
    assert 'cannot hold this name' in done.errors[0]


def remove_deep(root: Path) -> None:
    """Remove a folder that `shutil.rmtree` cannot: it is recursive before Python 3.13."""
    folders = [here for here, *_ in os.walk(root)] if sys.version_info >= (3, 12) else walk(root)
    for folder in reversed(folders):
        for name in os.listdir(folder):  # noqa: PTH208
            if os.path.isfile(os.path.join(folder, name)):  # noqa: PTH113, PTH118
                os.unlink(os.path.join(folder, name))  # noqa: PTH108, PTH118
        os.rmdir(folder)  # noqa: PTH106


def walk(root: Path) -> list[str]:
    folders, found = [str(root)], []
    while folders:
        found.append(folders.pop())
        with os.scandir(found[-1]) as entries:
            folders += [entry.path for entry in entries if entry.is_dir()]
    return found


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'size': 10**6}, 'size is 1000000: give a side'),
        ({'size': 224.5}, r'size is 224\.5: give a side'),
        ({'size': '224'}, "size is '224': give a side"),
        ({'size': (224, None)}, 'give a side'),
        ({'size': [224] * 3}, 'give a side'),
        ({'size': {}}, 'give a side'),
        ({'opset': '18'}, "opset is '18': choose 18"),
        ({'tolerance': float('nan')}, 'tolerance is nan: choose a number'),
        ({'tolerance': 'low'}, "tolerance is 'low': choose"),
    ],
)
def test_export_refuses_arguments_of_a_wrong_type(tmp_path, options, message):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    with pytest.raises(ValueError, match=message):
        export.to_onnx(model, tmp_path / 'm.onnx', **options)
    if 'size' in options:
        with pytest.raises(ValueError, match=message):
            export.to_program(model, size=options['size'])


def test_grid_refuses_absurd_numbers(tmp_path):
    model, image = Glow(64), Image.new('RGB', (64, 64))
    for height in (31, 10**6, 64.5, 'high', None):
        with pytest.raises(ValueError, match=r'height is .*: give at least 32 pixels, at most 2048'):
            figures.grid(model, {'a': image}, ['fcam'], height=height)
    with pytest.raises(ValueError, match='101 images: give at least 1 image, at most 100'):
        figures.grid(model, {str(i): image for i in range(101)}, ['fcam'])
    with pytest.raises(ImageError, match='is not the size of an image'):
        figures.grid(model, {'a': Image.new('RGB', (0, 3))}, ['fcam'])
    with pytest.raises(ValueError, match=r'70000x1 pixels do not fit into this format; use \.png'):
        figures.save(Image.new('RGB', (70_000, 1)), tmp_path / 'a.jpg')
    figures.save(Image.new('RGB', (70_000, 1)), tmp_path / 'a.png')


def test_grid_converts_images_as_localize_does():
    deep = Image.fromarray(np.full((64, 64), 65535 // 4, np.uint16))
    picture, found = figures.grid(Glow(64), {'a': deep}, ['fcam'])
    assert found['a'].map.max() < 0.3
    assert picture.mode == 'RGB'


def test_figures_of_too_many_or_equally_named_images(run, tmp_path, model_dir, capsys):
    for i in range(101):
        draw(tmp_path / 'many' / f'{i}.png', (8, 8), [])
    assert '101 images: give at least 1 image, at most 100' in run('figures', 'grid', tmp_path / 'many')
    for folder in 'ab':
        draw(tmp_path / folder / 'same.png', (64, 64), [])
    arguments = ['figures', 'grid', str(tmp_path / 'a'), str(tmp_path / 'b'), '--maps', 'fcam']
    assert main([*arguments, '--model', f'local-dir:{model_dir}', '-o', str(tmp_path / 'g.png')]) == 0
    assert capsys.readouterr().out.count('same.png') == 2


@pytest.mark.parametrize('port', ['0', '-1', '99999999'])
def test_app_refuses_ports_that_do_not_exist(port, capsys):
    pytest.importorskip('gradio')
    assert main(['app', '--port', port]) == 1
    assert 'choose a number from 1 to 65535' in capsys.readouterr().err


def test_predictions_are_strict_json(photos, tmp_path):
    label(photos, tmp_path / 'out', ['overlays', 'coco'])

    def refuse(name: str) -> None:
        raise AssertionError(name)

    for path in (tmp_path / 'out').rglob('*.json'):
        json.loads(path.read_text(), parse_constant=refuse)
