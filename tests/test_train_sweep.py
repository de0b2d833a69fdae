"""Sweeps: one training per value, in one process or several, also after a kill."""

from __future__ import annotations

import csv
import importlib
import json
import logging
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from synthetic import make_folder, make_wsol, train_config
from test_train_distributed import torchrun

from fcam_zoo.errors import FcamZooError, TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, loop, sweep, train
from fcam_zoo.train.sweep import best_run, parse_sweeps, parse_value, plan_runs

# `fcam_zoo.train.sweep` is the function.
MODULE = importlib.import_module('fcam_zoo.train.sweep')
SHORT = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 8, 'val': 4})


def test_sweep_without_boxes_is_refused_before_training(tmp_path):
    data = make_folder(tmp_path / 'photos', {'train': 8})
    with pytest.raises(TrainingError, match='no boxes or masks'):
        sweep(train_config(data, **SHORT), tmp_path / 'run', {'decoder.lr': [0.01, 0.1]}, quiet=True)
    assert not (tmp_path / 'run').exists()


def test_sweep_killed_while_copying_is_resumed(data, tmp_path, monkeypatch):
    config, place, values = train_config(data, **SHORT), 'decoder.erosion', [3, 11]
    want = sweep(config, tmp_path / 'whole', {place: values}, quiet=True)

    def dying(source, target):
        target.mkdir(parents=True)
        (target / 'state.safetensors').write_bytes(b'half a file')
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(shutil, 'copytree', dying)
        with pytest.raises(KeyboardInterrupt):
            sweep(config, tmp_path / 'run', {place: values}, quiet=True)
    assert sweep(config, tmp_path / 'run', {place: values}, resume=True, quiet=True) == want
    first, second = (tmp_path / 'run' / f'{place}={value}' / 'classifier' for value in values)
    assert sorted(path.name for path in second.parent.iterdir()) == sorted(path.name for path in first.parent.iterdir())
    a, b = (load_file(folder / 'best.safetensors') for folder in (first, second))
    assert all((a[k] == b[k]).all() for k in a)


def test_sweep_in_two_processes(data, tmp_path):
    recipe = tmp_path / 'recipe.json'
    recipe.write_text(json.dumps(train_config(data, **SHORT).to_dict()))
    arguments = ['-m', 'fcam_zoo', 'train', str(data), '--recipe', str(recipe), '--quiet', '-o', str(tmp_path / 'run')]
    done = torchrun(2, [*arguments, '--sweep', 'decoder.erosion=3,11'])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / 'run' / 'sweep.json').read_text())
    assert [row['values'] for row in found['rows']] == [{'decoder.erosion': 3}, {'decoder.erosion': 11}]
    # Only the first process prints.
    assert done.stdout.count('best on val') == 1


def test_all_combinations_are_trained_and_finished_ones_are_skipped(data, tmp_path, monkeypatch, caplog):
    config, run = train_config(data, **SHORT), tmp_path / 'run'
    settings = {'decoder.erosion': [3, 11], 'classifier.lr': [0.01, 0.02]}
    want = sweep(config, tmp_path / 'whole', settings, quiet=True)
    names = [f'decoder.erosion={e},classifier.lr={lr}' for e in (3, 11) for lr in (0.01, 0.02)]
    assert [row.folder for row in want] == names
    trained, train_after = [], MODULE.train_after

    def third_fails(*arguments):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(arguments[2].name)
        return train_after(*arguments)

    with monkeypatch.context() as failing:
        failing.setattr(MODULE, 'train_after', third_fails)
        with pytest.raises(KeyboardInterrupt):
            sweep(config, run, settings, quiet=True)
    partial = json.loads((run / 'sweep.json').read_text())
    assert (partial['runs'], [row['folder'] for row in partial['rows']]) == (4, names[:2])
    trained.clear()
    monkeypatch.setattr(MODULE, 'train_after', lambda *args: trained.append(args[2].name) or train_after(*args))
    with caplog.at_level(logging.INFO, logger='fcam_zoo'):
        assert sweep(config, run, settings, resume=True, quiet=True) == want
    assert trained == names[2:]
    assert f'{names[0]}: already finished' in caplog.text
    assert '4 of 4 runs are finished:\ndecoder.erosion  classifier.lr  epoch  val' in caplog.text
    whole, found = (json.loads((folder / 'sweep.json').read_text()) for folder in (tmp_path / 'whole', run))
    assert whole == found
    assert found['select'] == 'localization'
    assert found['best'] == best_run(want).values
    with (run / 'sweep.csv').open() as f:
        rows = list(csv.DictReader(f))
    assert [(row['decoder.erosion'], row['classifier.lr'], float(row['score'])) for row in rows] == [
        (str(row.values['decoder.erosion']), str(row.values['classifier.lr']), row.score) for row in want
    ]
    # Runs with the same classifier share it.
    states = [(run / name / 'classifier' / 'state.safetensors').read_bytes() for name in names]
    assert states[0] == states[2] != states[1] == states[3]
    with pytest.raises(TrainingError, match='already holds a training'):
        sweep(config, run, settings, quiet=True)


def test_the_metric_of_the_last_stage_selects_the_run(data, tmp_path, monkeypatch):
    config = train_config(data, **SHORT)
    metrics = {'best_threshold_50': 0.5}
    scores = iter([{'max_box_acc_50': 60, 'mean': 40, 'cls': 10}, {'max_box_acc_50': 50, 'mean': 45, 'cls': 20}] * 3)
    monkeypatch.setattr(loop, 'validate', lambda *args: {**metrics, **next(scores)})
    for select, best in (('localization_50', 0), ('localization', 1)):
        one = config.replace({'classifier.epochs': 0, 'decoder.select': select})
        assert best_run(sweep(one, tmp_path / select, {'seed': [0, 1]}, quiet=True)).values == {'seed': best}
    one = config.replace({'decoder.epochs': 0})
    rows = sweep(one, tmp_path / 'accuracy', {'seed': [0, 1]}, quiet=True)
    assert [row.score for row in rows] == [10, 20]


def test_mistakes_are_found_before_the_first_training(data, tmp_path):
    config = train_config(data, **SHORT)
    for settings, message in (
        ({'decoder.rate': [1, 2]}, r'unknown field decoder\.rate: choose one of epochs, batch_size'),
        ({'erosion': [3, 11]}, r'^unknown setting erosion: choose decoder\.erosion$'),
        ({'alpha': [1, 0.1]}, r'^unknown setting alpha: choose decoder\.seed_weight$'),
        (
            {'tau': [1, 2]},
            r'^unknown field tau: choose one of data, .*, or a setting of teacher, .*, such as decoder\.lr$',
        ),
        ({'decoder.lr': [0.1], 'decoder.select': ['mean']}, r"decoder\.select is 'mean': give 'localization' or"),
        ({'teacher.variant': ['reference', 'x']}, r"teacher\.variant is 'x': choose one of published"),
        ({'decoder.select': ['localization', 'localization_50']}, 'do not sweep over classifier.select'),
        ({'decoder.epochs': [0, 1]}, 'compares runs by one metric of one stage'),
        ({'seed': [1], 'decoder.lr': []}, r'the 0 values of decoder\.lr repeat'),
        # Wrong only for these data and this network.
        ({'classifier.head_layers': [[], ['layer9']]}, r'head_layers: the backbone has no module layer9'),
        ({'num_classes': [2, 1]}, 'num_classes=1'),
    ):
        with pytest.raises((ValueError, FcamZooError), match=message):
            sweep(config, tmp_path / 'run', settings, quiet=True)
    assert not (tmp_path / 'run').exists()
    with pytest.raises(ValueError, match=r"--sweep 'seed' is given twice"):
        parse_sweeps(['seed=1,2', 'decoder.lr=0.1,0.2', 'seed=3'])


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('0.1', 0.1),
        ('off', 'off'),
        ('null', None),
        ('["a", 1]', ['a', 1]),
        ('[blocks.0, -1]', ['blocks.0', -1]),
        ('[fcam,null]', ['fcam', None]),
        ('[]', []),
        ('[', '['),
        ('[a,]', '[a,]'),
        ('[[a,b],[c]]', '[[a,b],[c]]'),
        ('["a,b",c]', '["a,b",c]'),
        ('[' * 10**4, '[' * 10**4),
    ],
)
def test_values_of_settings(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ('text', 'values'),
    [
        ('a,b', ['a', 'b']),
        ('1,2.5', [1, 2.5]),
        ('[blocks.3, blocks.4],[blocks.4],[]', [['blocks.3', 'blocks.4'], ['blocks.4'], []]),
        ('["a"],["b"]', [['a'], ['b']]),
        ('[a,b', ['[a', 'b']),
    ],
)
def test_values_of_a_sweep(text, values):
    assert parse_sweeps([f'key={text}']) == {'key': values}


def test_a_classifier_is_measured_with_the_maps_of_each_teacher(data, tmp_path, caplog):
    """Accuracy selects the same classifier; its class maps are those of the teacher."""
    settings, stages = {'teacher.method': ['cam', 'layercam']}, SHORT | {'decoder': DecoderConfig(epochs=0)}
    config = train_config(data, **stages).replace({'classifier.epochs': 3, 'classifier.head_init': 'xavier'})
    with caplog.at_level(logging.INFO, logger='fcam_zoo'):
        rows = sweep(config, tmp_path / 'run', settings, quiet=True)
    assert caplog.text.count('classifier 3/3') == 1
    copied = tmp_path / 'run' / rows[1].folder
    alone = train(config.replace({'teacher.method': 'layercam'}), tmp_path / 'alone', quiet=True)['classifier']
    found = json.loads((copied / 'summary.json').read_text())['classifier']
    assert found['best']['val'] == alone.best.val == rows[1].val
    assert found['last']['val'] == alone.last.val
    # The maps of the other epochs are unknown, and so is the epoch with the best maps.
    assert found['selections'] == {}
    vals = [json.loads(line)['val'] for line in (copied / 'classifier' / 'metrics.jsonl').open()]
    measured = {found['best']['epoch'], 3}
    assert [epoch for epoch, val in enumerate(vals, 1) if val.keys() != {'cls'}] == sorted(measured)
    assert not (copied / 'classifier' / 'samples').exists()
    text = 'copied from a run with another teacher; the maps of the best and the last epoch are measured again'
    assert caplog.text.count(text) == 1
    assert sweep(config, tmp_path / 'run', settings, resume=True, quiet=True) == rows


def test_runs_share_the_classifier_of_the_same_teacher_first(data):
    settings = {'teacher.method': ['cam', 'layercam'], 'decoder.erosion': [3, 11]}
    for select, expected in (
        ('accuracy', [None, (0, True), (0, False), (2, True)]),
        ('localization_50', [None, (0, True), None, (2, True)]),
    ):
        runs = plan_runs(train_config(data, **SHORT).replace({'classifier.select': select}), settings)
        finished, found = [], []
        for number, run in enumerate(runs):
            shared = run.find_classifier(finished)
            found.append(shared and (int(shared.folder.name), shared.same_maps))
            finished.append((run, Path(str(number))))
        assert found == expected


def test_class_maps_that_select_the_epoch_are_not_shared(data, tmp_path, monkeypatch, caplog):
    """With other classes on val there is no accuracy, so localization selects in spite of the setting."""
    scores = iter(range(1, 5))
    monkeypatch.setattr(
        loop, 'validate', lambda *_: {'mean': (n := next(scores)), 'max_box_acc_50': n, 'best_threshold_50': 0.5}
    )
    config = train_config(data, **SHORT | {'decoder': DecoderConfig(epochs=0)})
    with caplog.at_level(logging.INFO, logger='fcam_zoo'):
        rows = sweep(config, tmp_path / 'run', {'teacher.method': ['cam', 'layercam']}, quiet=True)
    assert [row.score for row in rows] == [1, 2]
    assert caplog.text.count('classifier 1/1') == 2


def test_values_that_need_each_other_are_checked_together(data):
    settings = {'decoder.classification_weight': [0.1, 1], 'decoder.classifier_lr': [1e-2, 1e-4]}
    runs = plan_runs(train_config(data), settings)
    assert [run.config.decoder.classifier_lr for run in runs] == [1e-2, 1e-4] * 2
    with pytest.raises(ValueError, match='learning rate of joint training'):
        plan_runs(train_config(data), {'decoder.classifier_lr': [1e-4]})


def test_a_damaged_summary_is_refused(data, tmp_path):
    config = train_config(data, **SHORT).replace({'classifier.epochs': 0})
    (row,) = sweep(config, tmp_path, {'seed': [3]}, quiet=True)
    (tmp_path / row.folder / 'summary.json').write_text('{"decoder": {"best": []}}')
    with pytest.raises(TrainingError, match=r'summary\.json.*decoder\.best'):
        sweep(config, tmp_path, {'seed': [3]}, resume=True, quiet=True)
