"""The command line: what it prints and writes, and how it fails."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from synthetic import make_wsol, shape_image

import fcam_zoo
from fcam_zoo._catalog import GENERAL_MODEL
from fcam_zoo._index import ModelName, index, main_metric, recipe_of
from fcam_zoo.cli import COMMANDS, build_parser, main
from fcam_zoo.cli.train import settings_of
from fcam_zoo.errors import UnknownModelError
from fcam_zoo.models.names import ARCHITECTURES
from fcam_zoo.train import TrainConfig


def test_module_runs_and_helps():
    done = subprocess.run([sys.executable, '-m', 'fcam_zoo', '--help'], capture_output=True, text=True, check=True)
    for command, line in COMMANDS.items():
        assert re.search(rf'^ +{command}\s+{re.escape(line[:9])}', done.stdout, re.MULTILINE), command


def test_only_the_chosen_command_is_imported():
    code = (
        "import sys; from fcam_zoo.cli import main; main(['list', '*cub*'])\n"
        "print(sorted(m for m in sys.modules if m.startswith('fcam_zoo.cli.')), 'cv2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['fcam_zoo.cli.list'] False"


def test_commands_end_without_a_search_for_cycles():
    code = (
        'import atexit, gc; from fcam_zoo.cli import main\n'
        'atexit.register(lambda: print(gc.get_freeze_count() > 0))\n'  # Called last.
        "main(['list', '*cub*']); print(gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ['False', 'True']


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit, match='0'):
        main([command, '--help'])
    assert f'usage: fcam-zoo {command}' in capsys.readouterr().out


def test_list_has_released_models_and_on_request_all_names(capsys):
    released = fcam_zoo.list_models(pretrained=True)
    others = [name for name in fcam_zoo.list_models() if name not in released]
    for options, names in (([], released), (['--pretrained'], released), (['--all'], [*released, *others])):
        assert main(['list', '-q', *options]) == 0
        assert capsys.readouterr().out.split() == names
    # Without a released model, the filter shows what it matches.
    assert main(['list', '-q', '*resnet50*cub']) == 0
    assert capsys.readouterr().out.split() == sorted(f'fcam_resnet50.{t}_cub' for t in fcam_zoo.cams.METHODS)
    assert main(['list', '*resnet50*cub', '--pretrained']) == 1
    assert 'without --pretrained, 6 names match' in capsys.readouterr().err
    assert main(['list']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-2]] == released
    assert [line.split()[0] for line in lines if '(default)' in line] == [index()[GENERAL_MODEL].name]
    assert lines[-2:] == ['', f'{len(others)} names without weights: fcam-zoo list --all']
    assert main(['list', '--all']) == 0
    assert capsys.readouterr().out.splitlines()[-len(others) :] == others


def test_list_of_released_models(capsys):
    assert main(['list', 'mobilenetv1_075.layercam_cub50', '--pretrained']) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.split()[:2] == ['fcam_mobilenetv1_075.layercam_cub50', 'fcam_mobilenetv1_075_cub50']
    assert 'CUB-200-2011, first 50 classes  MaxBoxAcc ' in line
    assert main(['list', 'fcam_mobilenet_cub50']) == 1
    captured = capsys.readouterr()
    assert captured.out == ''
    assert 'no model matches fcam_mobilenet_cub50. Did you mean fcam_mobilenetv1_0' in captured.err


def test_info_is_a_card_of_ten_lines(capsys):
    assert main(['info', 'fcam_mobilenetv1_075_cub50']) == 0
    lines = capsys.readouterr().out.splitlines()
    card = {line[:12].strip(): line[12:] for line in lines}
    assert len(lines) == len(card) == 10
    assert max(map(len, lines)) <= 140
    entry = index()['fcam_mobilenetv1_075.layercam_cub50']
    assert card['model'] == entry.name
    assert '1.95 million parameters' in card['network']
    assert card['classes'].startswith('50: 001.Black_footed_Albatross, ')
    value = entry.metrics['test']['fcam']['max_box_acc_50']
    assert card['test'].startswith(f'MaxBoxAcc: F-CAM {value:.1f}, CAM ')
    assert card['load'] == "fcam_zoo.create_model('fcam_mobilenetv1_075_cub50', pretrained=True)"
    assert main(['info', 'fcam_mobilenetv1_075_cub50', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert entry.to_dict().items() <= facts.items()


def test_info_and_list_of_a_general_model(capsys):
    entry = index()[GENERAL_MODEL]
    assert main(['info', GENERAL_MODEL]) == 0
    card = {line[:12].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}
    assert card['test'] == f'accuracy: {entry.metrics["test"]["fcam"]["cls"]}'
    for place, metrics in entry.elsewhere.items():
        name, value = main_metric(metrics['test']['fcam'])
        assert card[place].startswith(f'{name}: F-CAM {value:.1f}, CAM ')
    assert main(['list', 'caltech101', '--pretrained']) == 0
    place, metrics = next(iter(entry.elsewhere.items()))
    name, value = main_metric(metrics['test']['fcam'])
    assert capsys.readouterr().out.rstrip().endswith(f'{name} {value:.1f} on {place}')


def test_info_of_other_models(capsys, model_dir, tmp_path):
    assert main(['info', f'local-dir:{model_dir}']) == 0
    out = capsys.readouterr().out
    assert 'classes     2: square, disc\n' in out
    assert 'weights     model.safetensors, ' in out
    assert main(['info', f'local-dir:{model_dir}', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['class_names'] == ['square', 'disc']
    assert main(['info', 'fcam_vgg16.cam_cub']) == 0
    assert 'Train it: fcam-zoo train' in capsys.readouterr().out
    assert main(['info', 'fcam_nothing']) == 1
    assert 'unknown model' in capsys.readouterr().err
    # A config.json of another tool, whose facts have other types.
    shutil.copytree(model_dir, tmp_path / 'other')
    config = json.loads((tmp_path / 'other/config.json').read_text())
    config |= {'dataset': ['\x1b[2J'], 'teacher': {'a': 1}, 'metrics': {'val': {'fcam': {'pxap': 'x', 'cls': 'y'}}}}
    (tmp_path / 'other/config.json').write_text(json.dumps(config))
    assert main(['info', f'local-dir:{tmp_path / "other"}']) == 0
    assert '\x1b' not in capsys.readouterr().out


@pytest.mark.parametrize('name', [n for n in fcam_zoo.list_models() if n not in fcam_zoo.list_models(pretrained=True)])
def test_training_command_works_as_printed(name):
    with pytest.raises(UnknownModelError) as caught:
        fcam_zoo.create_model(name, pretrained=True)
    parts, words = ModelName.parse(name), shlex.split(str(caught.value).partition('Train it: fcam-zoo ')[2])
    assert f'--recipe {parts.hub_name}' in ' '.join(words)
    config = settings_of(build_parser('train').parse_args(words))
    recipe = TrainConfig.from_file(parts.hub_name)
    assert config.teacher.method == parts.teacher
    assert config.backbone.split('.')[0] == ARCHITECTURES[parts.architecture]['backbone']
    assert (config.classifier, config.decoder, config.output_stride) == (recipe.classifier, recipe.decoder, 8)


@pytest.mark.parametrize('name', fcam_zoo.list_models(pretrained=True))
def test_recipe_of_a_released_model_has_its_settings(name):
    config = settings_of(build_parser('train').parse_args(['train', 'DATA', '-o', 'RUN', '--recipe', name]))
    recipe, own = recipe_of(index()[name]), config.to_dict()
    for key, value in recipe.items():
        assert value.items() <= own[key].items() if isinstance(value, dict) else value == own[key], key


def test_weights_verify(capsys):
    assert main(['weights', 'verify']) == 0
    assert capsys.readouterr().out.count(': ok') == len(fcam_zoo.list_models(pretrained=True))
    assert main(['weights', 'verify', 'fcam_resnet50.cam_cub']) == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['benchmark', 'missing', '--model', '{m}'], 'missing'),
        (['train', 'missing', '-o', 'run', '--device', 'warp'], "device 'warp' cannot be used"),
        (['train', 'missing', '-o', 'run'], 'missing'),
        (['train', 'missing', '-o', 'run', '--set', 'decoder.nothing=1'], 'unknown field decoder.nothing'),
        (['train', 'missing', '-o', 'run', '--set', 'nonsense'], 'write KEY=VALUE'),
        (['train', 'missing', '-o', 'run', '--sweep', ''], "--sweep '': write KEY=V1"),
        (['train', 'missing', '-o', 'run', '--recipe', ''], 'cannot be read|is not a file'),
        (['benchmark', 'two\nlines', '--check'], r"two\\nlines'?: no such folder"),
        (['push', 'x' * 5000, 'me/x', '--preview', 'out'], 'File name too long; use a shorter path'),
        (['push', 'two\nlines', 'me/x', '--preview', 'out'], r'two\\nlines is neither'),
        (['push', '.', 'me/x', '--preview', 'out'], 'config.json does not exist: give the folder of a finished'),
        (['pull', 'me/' + 'q' * 5000], 'is not a repository id'),
        (['info', 'nul\0'], r"argument 'nul\\x00' contains a NUL character"),
    ],
)
def test_errors_are_one_line(arguments, message, model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([a.format(m=f'local-dir:{model_dir}') for a in arguments]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert 'Traceback' not in error
    assert len(error.splitlines()) == 1
    assert len(error) <= 1000


def test_results_are_one_line_too(tmp_path, capsys):
    assert main(['weights', 'verify', 'red\x1b[31m\n']) == 1
    (tmp_path / 'two\nlines').mkdir()
    assert main(['benchmark', str(tmp_path / 'two\nlines'), '--check', '--split', '\x1b[2J', '--quiet']) == 1
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3
    assert '\x1b' not in out


def test_train_then_benchmark(tmp_path, capsys):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4, 'test': 6})
    settings = ['--set', 'image_size=64', '--set', 'classifier.batch_size=4', '--set', 'decoder.batch_size=4']
    run = tmp_path / 'run'
    arguments = ['train', str(data), '-o', str(run), '--backbone', 'test_resnet', '--output-stride', '8']
    arguments += ['--workers', '0']
    assert main([*arguments, '--classifier-epochs', '1', '--decoder-epochs', '1', '--quiet', *settings]) == 0
    assert re.search(r'^decoder, best +1 ', capsys.readouterr().out, re.MULTILINE)
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
    assert 'train: 8 images of 2 classes\nimages per class: 4\n' in printed
    assert 'decoder: best epoch by mean of MaxBoxAcc at IoU 30, 50 and 70 on val' in printed
    assert 'decoder: 1 epochs of 2 steps of 4 images' in printed
    assert main([*arguments, '--sweep', 'background_fraction=0.3,0.6']) == 0
    found = json.loads((run / 'sweep.json').read_text())
    assert [row['values'] for row in found['rows']] == [{'decoder.background_fraction': v} for v in (0.3, 0.6)]
    assert max(row['score'] for row in found['rows']) == next(
        row['score'] for row in found['rows'] if row['values'] == found['best']
    )
    assert f'best on val by localization: {found["folder"]}' in capsys.readouterr().out
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
        (['--set', 'decoder.rate=1'], 'unknown field decoder.rate'),
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
    assert "--baseline 'nothing' is not a report" in capsys.readouterr().err


def test_benchmark_check(tmp_path, capsys):
    data = make_wsol(tmp_path / 'shapes', {'train': 2, 'test': 4})
    assert main(['benchmark', str(data), '--check', '--quiet']) == 0
    assert 'no problems found' in capsys.readouterr().out
    sizes = data / 'metadata' / 'test' / 'image_sizes.txt'
    sizes.write_text(sizes.read_text().replace(',72,72', ',72,71', 1))
    next((data / 'images').rglob('test_3.png')).unlink()
    assert main(['benchmark', str(data), '--check', '--quiet']) == 1
    out = capsys.readouterr().out
    assert 'image is missing' in out
    assert '72x71' in out
    assert main(['benchmark', str(data), '--quiet']) == 1
    assert 'give --models or --scoremaps' in capsys.readouterr().err


def test_benchmark_refuses_too_many_workers(tmp_path, model_dir, capsys):
    data = make_wsol(tmp_path / 'shapes', {'test': 4})
    model = f'local-dir:{model_dir}'
    for workers, message in (('9' * 40, 'give a whole number of 0 or more'), ('513', 'give at most 512 processes')):
        assert main(['benchmark', str(data), '--models', model, '--workers', workers, '--quiet']) == 1
        assert message in capsys.readouterr().err


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


def test_quiet_lasts_for_one_command(tmp_path):
    logger = logging.getLogger('fcam_zoo')
    before = logger.level
    assert main(['benchmark', str(tmp_path / 'missing'), '--check', '--quiet']) == 1
    assert logger.level == before
