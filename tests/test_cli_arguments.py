"""Arguments of the command line: help, names of models, options of both stages, and errors."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from synthetic import make_folder, make_wsol

from fcam_zoo import _catalog, export, labelling
from fcam_zoo._io import duration
from fcam_zoo.benchmark import sources
from fcam_zoo.cli import COMMANDS, benchmark, build_parser, main
from fcam_zoo.cli.train import STAGES, settings_of, stages_without_epochs
from fcam_zoo.train.config import STAGES as STAGE_CONFIGS


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error of wrong usage: one line, with exit status 2."""
    with pytest.raises(SystemExit, match='2'):
        main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ''
    assert captured.err.count('\n') == 1
    return captured.err


@pytest.mark.parametrize('command', ['', *sorted(COMMANDS)])
def test_help_does_not_import_torch(command):
    code = (
        'import sys\nfrom fcam_zoo.cli import main\n'
        f'try:\n    main({[*command.split(), "--help"]})\nexcept SystemExit:\n'
        "    print('heavy:', {'torch', 'timm', 'cv2', 'numpy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('usage: fcam-zoo')
    assert done.stdout.endswith('heavy: set()\n')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'fcam-zoo: error: the following arguments are required: COMMAND; see fcam-zoo --help'),
        (['trian'], r"fcam-zoo: error: argument COMMAND: invalid choice: 'trian'.*; see fcam-zoo --help"),
        (['train'], 'fcam-zoo train: error: the following arguments are required: .*; see fcam-zoo train --help'),
        (
            ['train', 'x', '-o', 'y', '--nothing', '1'],
            'fcam-zoo train: error: unrecognized arguments: --nothing 1; see',
        ),
        (
            ['figures', 'grid', '-m', 'x', '--no'],
            'fcam-zoo figures grid: error: unrecognized .*grid --help',
        ),
        (['predict', 'x', '-m', 'm', '-o', 'y', '--batch-size', 'a\nb'], r"invalid int value: 'a\\nb'; see"),
        (['train', 'x', '-o', 'y', '--lr', 'fast'], "argument --lr: invalid float value: 'fast'; see"),
    ],
)
def test_wrong_usage_is_one_line_that_points_to_the_help(arguments, message, capsys):
    assert re.search(message, usage_error(capsys, *arguments))


def test_names_in_help_texts_are_those_of_the_library():
    assert benchmark.LABELS == sources.LABELS
    assert benchmark.CONVENTIONS == sources.CONVENTIONS
    assert tuple(labelling.FORMATS) == _catalog.ANNOTATION_FORMATS
    assert [cls.__name__.lower() for cls in labelling.FORMATS.values()] == [*labelling.FORMATS]
    assert export.OPSET == _catalog.OPSET
    assert set(STAGES) == STAGE_CONFIGS.keys()


@pytest.mark.parametrize(
    'arguments',
    [
        ['predict', 'photos', '-o', 'out'],
        ['export', '-o', 'model.onnx'],
        ['figures', 'grid'],
        ['benchmark', 'data'],
        ['demo'],
        ['app'],
    ],
)
def test_m_is_short_for_model(arguments):
    parser = build_parser(arguments[0])
    short, long = (parser.parse_args([*arguments, flag, 'NAME']) for flag in ('-m', '--model'))
    assert vars(short) == vars(long)
    assert 'NAME' in (getattr(short, 'model', None), *(getattr(short, 'models', None) or ()))


def train_options(*options: str):
    return build_parser('train').parse_args(['train', 'DATA', '-o', 'RUN', *options])


def train_settings(*options: str):
    return settings_of(train_options(*options))


def test_options_of_both_stages():
    config = train_settings('--epochs', '3', '--lr', '0.001', '--batch-size', '16')
    for stage in (config.classifier, config.decoder):
        assert (stage.epochs, stage.lr, stage.batch_size) == (3, 0.001, 16)
    assert config.classifier.head_lr == pytest.approx(0.01)  # As in the recipe fine_tune, 10 times lr.
    config = train_settings('--lr', '0.001', '--backbone', 'resnet18')
    assert config.classifier.head_lr == pytest.approx(0.005)  # By default, 5 times lr.


def test_options_of_one_stage_override_those_of_both(tmp_path):
    options = ['--epochs', '3', '--lr', '0.001', '--classifier-epochs', '0']
    config = train_settings(*options, '--set', 'decoder.lr=0.5', '--set', 'classifier.head_lr=0.2')
    assert (config.classifier.epochs, config.decoder.epochs) == (0, 3)
    assert (config.classifier.lr, config.decoder.lr, config.classifier.head_lr) == (0.001, 0.5, 0.2)
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('classifier: {epochs: 0}\ndevice: cpu\n')
    config = train_settings('--recipe', str(recipe), '--epochs', '3')
    assert (config.classifier.epochs, config.decoder.epochs) == (0, 3)
    assert config.device == 'cpu'
    assert train_settings().device == 'auto'


@pytest.mark.parametrize(
    ('options', 'init'),
    [
        ([], [_catalog.GENERAL_MODEL]),
        (['--epochs', '3', '--set', 'decoder.dense=null', '--set', 'decoder.erosion=11'], [_catalog.GENERAL_MODEL]),
        (['--init', 'runs/x/best'], ['runs/x/best']),
        (['--backbone', 'resnet18'], None),
        (['--backbone-pretrained'], None),
        (['--backbone-checkpoint', 'x.safetensors'], None),
        (['--output-stride', '8'], None),
        (['--decoder-type', 'fpn'], None),
        (['--recipe', 'fcam_resnet50_cub'], None),
        (['--set', 'backbone=resnet18'], None),
        (['--set', 'init=null'], None),
        (['--sweep', 'init=runs/x/best,runs/y/best'], _catalog.GENERAL_MODEL),
        (['--sweep', 'backbone=resnet18,resnet34'], None),
        (['--sweep', 'decoder.crf_weight=0,1e-9'], [_catalog.GENERAL_MODEL]),
    ],
)
def test_training_starts_from_the_general_model_if_no_option_chooses_a_network(options, init):
    assert train_settings(*options).init == init


@pytest.mark.parametrize(
    ('options', 'teacher', 'epochs', 'auto'),
    [
        ([], ['init', None], 4, ['classifier', 'decoder']),
        (['--init', 'runs/x/best', '--decoder-epochs', '3'], ['init', None], 3, ['classifier']),
        (['--init', 'runs/x/best', '--teacher-model', 'runs/y/best'], ['runs/y/best'], 15, ['classifier', 'decoder']),
        (['--init', 'runs/x/best', '--supervision', '5'], None, 15, ['classifier', 'decoder']),
        (['--sweep', 'init=runs/x/best,runs/y/best'], ['init', None], 4, ['classifier', 'decoder']),
        (['--sweep', 'teacher.method=cam,layercam'], None, 15, ['classifier', 'decoder']),
        (['--method', 'has'], None, 15, ['classifier', 'decoder']),
        (['--backbone', 'resnet18'], None, 15, ['classifier', 'decoder']),
    ],
)
def test_training_from_a_model_is_fine_tuning_if_no_option_chooses_a_teacher(options, teacher, epochs, auto):
    config = train_settings(*options)
    assert (config.teacher.model, config.decoder.epochs) == (teacher, epochs)
    assert stages_without_epochs(train_options(*options)) == auto


@pytest.mark.parametrize(
    'options', [['--background-fraction', '0.3'], ['--set', 'decoder.n_seeds=5'], ['--sweep', 'background_fraction']]
)
def test_fine_tuning_has_no_seeds(options, capsys):
    assert main(['train', 'DATA', '-o', 'RUN', *options]) == 1
    assert 'is a setting of seeds, and the recipe fine_tune has dense targets' in capsys.readouterr().err
    assert train_settings(*options, '--set', 'decoder.dense=null').decoder.dense is None


def test_teachers_as_options():
    options = [
        '--teacher-model',
        'init',
        'null',
        '--set',
        'teacher.method=["fcam","layercam"]',
        '--init',
        'runs/x/best',
    ]
    assert train_settings(*options).teacher.model == ['init', None]
    assert train_settings('--teacher-layers', '-2', 'layer4').teacher.layers == [-2, 'layer4']


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('lr=0.1', 'unknown setting lr: choose classifier.lr or decoder.lr'),
        ('erosion=11', 'unknown setting erosion: choose decoder.erosion'),
        ('flip=true', 'unknown setting flip: choose teacher.flip'),
        ('nothing=1', 'unknown field nothing: choose one of data, '),
    ],
)
def test_set_suggests_the_full_names(option, message, capsys):
    assert main(['train', 'DATA', '-o', 'RUN', '--set', option]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('gpu', [False, True])
def test_device_auto(gpu, model_dir, photos, tmp_path, capsys, monkeypatch):
    """Where there is a GPU, `auto` is CUDA, which fails here if there is none in fact."""
    if gpu and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    status = main(['predict', str(photos), '-m', str(model_dir), '-o', str(tmp_path / 'out'), '--quiet'])
    assert status == gpu
    assert ("device 'cuda' cannot be used" in capsys.readouterr().err) == gpu
    assert build_parser('benchmark').parse_args(['benchmark', 'x']).device == 'auto'


def test_folders_as_models(model_dir, photos, tmp_path, capsys, monkeypatch):
    data = make_wsol(tmp_path / 'shapes', {'test': 4})
    monkeypatch.chdir(model_dir.parent)
    folder = model_dir.name
    for name in (folder, f'./{folder}', str(model_dir), f'local-dir:{folder}'):
        assert main(['predict', str(photos), '-m', name, '-o', str(tmp_path / 'out'), '--overwrite', '--quiet']) == 0
        assert main(['benchmark', str(data), '-m', name, '--maps', 'fcam', '--quiet']) == 0
    capsys.readouterr()
    assert main(['predict', str(photos), '-m', 'runs/none/best', '-o', str(tmp_path / 'out')]) == 1
    error = capsys.readouterr().err
    assert error == (
        'fcam-zoo: error: model folder runs/none/best does not exist: check the path, or write hf-hub:runs/none/best '
        'for a repository of the Hub\n'
    )


def test_columns_of_tables_do_not_touch(tmp_path, model_dir, photos, capsys):
    long = tmp_path / ('a long name of a photograph ' * 3 + '.png')
    next(photos.rglob('*.png')).rename(long)
    options = ['-m', str(model_dir), '--maps', 'fcam', '-o', str(tmp_path / 'grid.png')]
    assert main(['figures', 'grid', str(long), *options]) == 0
    header, row = capsys.readouterr().out.splitlines()[:2]
    assert row.startswith(f'{long.name}  ')
    assert header.index('class') == row.index('  ') + 2


def test_quiet_prints_errors_only(tmp_path, capfd):
    data = make_folder(tmp_path / 'photos', {'train': 4})
    (data / 'train' / 'disc' / 'notes.txt').touch()
    tiny = ['--backbone', 'test_resnet', '--output-stride', '8', '--set', 'image_size=64', '--workers', '0']
    arguments = ['train', str(data), '-o', str(tmp_path / 'run'), *tiny, '--epochs', '1', '--quiet']
    assert main(arguments) == 0
    assert capfd.readouterr().err == ''
    assert main(arguments) == 1
    assert capfd.readouterr().err.startswith('fcam-zoo: error: ')


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0.04, '0.0 s'), (9.94, '9.9 s'), (36, '36 s'), (90, '2 min'), (3569, '59 min'), (3600, '1.0 h')],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
