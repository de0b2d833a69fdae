"""Releasing a training: what is measured, what is stored, and the tables made from it."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from synthetic import make_wsol, train_config

import fcam_zoo
from fcam_zoo import _index
from fcam_zoo._weights import digest
from fcam_zoo.benchmark import evaluate_many
from fcam_zoo.data import EvalTransform, WSOLDataset
from fcam_zoo.errors import TrainingError, UnknownModelError
from fcam_zoo.hub import card, paper_form, release, results
from fcam_zoo.train import ClassifierConfig, DecoderConfig, train

ROOT = Path(__file__).resolve().parent.parent
NAME = 'fcam_mobilenetv1_025.layercam_shapes'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 8, 'val': 4, 'test': 6})


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'run'
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}
    train(train_config(data, **stages), folder, quiet=True)
    return folder


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty checkout as the current folder."""
    weights = tmp_path / 'weights'
    weights.mkdir()
    (weights / 'index.json').write_text('[]')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_index, 'weights_dir', lambda: weights)
    _index.index.cache_clear()
    yield tmp_path
    _index.index.cache_clear()


def test_a_release_is_what_was_measured(run, data, checkout):
    assert release.main([str(run), NAME, '--base', 'test_resnet.r160_in1k']) == 0
    (entry,) = json.loads((checkout / 'weights' / 'index.json').read_text())
    path = checkout / 'weights' / entry['file']
    assert path.stat().st_size == entry['size']
    state = load_file(path)
    assert state['decoder.head.weight'].dtype == torch.float16
    # The stored weights give the stored figures.
    model = fcam_zoo.create_model(f'local-dir:{run / "best"}')
    model.load_state_dict(state)
    test = WSOLDataset(data, 'test', EvalTransform(64))
    want = evaluate_many(model, test, ('fcam',), quiet=True)['fcam'].metrics
    assert entry['metrics']['test']['fcam'] == pytest.approx(dict(want), abs=1e-3)
    assert entry['metrics'].keys() == {'val', 'test', 'val_last_epoch', 'test_last_epoch'}
    assert entry['metrics']['test'].keys() == {'cam', 'layercam', 'fcam', 'center'}
    assert not {'data', 'backbone_checkpoint', 'device'} & entry['recipe'].keys()
    assert entry['cost']['parameters'] == sum(p.numel() for p in model.parameters())
    rows = list(csv.DictReader((checkout / 'results' / 'shapes.csv').open()))
    assert len(rows) == 10
    row = next(r for r in rows if r['maps'] == 'fcam' and r['split'] == 'test')
    assert float(row['max_box_acc_50']) == entry['metrics']['test']['fcam']['max_box_acc_50']
    assert row['sha256'] == entry['sha256']
    assert NAME in row['command']


def test_a_decoder_alone_leaves_the_classifier_out(run, checkout):
    entry = release.release(run, NAME, 'test_resnet.r160_in1k', decoder_only=True, quiet=True)
    assert entry.holds == 'decoder'
    assert all(key.startswith('decoder.') for key in load_file(checkout / 'weights' / entry.file))
    backbone = fcam_zoo.create_model(f'local-dir:{run / "best"}').backbone.state_dict()
    assert entry.classifier_sha256 == digest(backbone) != digest({**backbone, 'x': torch.zeros(1)})
    (row, *_) = results.tables()['shapes'].splitlines()[1:]
    assert row.endswith('--backbone-checkpoint test_resnet.r160_in1k.safetensors --split val')


def test_other_data_sets_have_tables_of_their_own(run, data, checkout, tmp_path):
    other = make_wsol(tmp_path / 'others', {'test': 5}, kind='masks')
    remark = 'Trained in the rain.'
    arguments = [str(run), NAME, '--base', 'test_resnet.r160_in1k', '--remark', remark, '--also', str(other)]
    assert release.main(arguments) == 0
    assert remark in card._section(NAME, _index.released(NAME))
    (row,) = (r for r in csv.DictReader((checkout / 'results' / 'others.csv').open()) if r['maps'] == 'fcam')
    assert row['split'] == 'test'
    assert row['pxap']
    page = (checkout / 'results' / 'tables.md').read_text()
    assert f'| `{NAME}` |' in page.partition('## others')[2]


def test_the_form_of_the_papers_tables(run, checkout):
    base = release.measure(run, NAME, 'test_resnet.r160_in1k', quiet=True)
    entries = []
    for seed, accuracy in enumerate((70.0, 72.0, 77.0)):
        entry = copy.deepcopy(base)
        entry.name = NAME if not seed else f'{NAME}_seed{seed}'
        entry.recipe['seed'] = seed
        entry.metrics['test']['fcam']['max_box_acc_50'] = accuracy
        entry.metrics['test']['layercam']['max_box_acc_50'] = 60.0
        entries.append(entry)
    lines = paper_form.page(entries).splitlines()
    assert any(line.startswith('| LayerCAM | 60.0 |') for line in lines)
    assert [line.split(' | ')[0] for line in lines if line.startswith('| CAM')] == ['| CAM']
    assert any(line.startswith('| LayerCAM + F-CAM | 70.0 |') for line in lines)
    # 73 and the deviation of 70, 72, 77 with n - 1 in the denominator.
    assert any(line.startswith('| LayerCAM + F-CAM, seeds 0, 1, 2 | best on val | 73.0 ± 3.6 |') for line in lines)
    del entries[1].metrics['test']['fcam']['max_box_acc_50']
    lines = paper_form.page(entries).splitlines()
    assert any(line.startswith('| LayerCAM + F-CAM, seeds 0, 1, 2 | best on val | - |') for line in lines)


def test_strides_have_tables_of_their_own(run, checkout):
    base = release.measure(run, NAME, 'test_resnet.r160_in1k', quiet=True)
    other = copy.deepcopy(base)
    other.name = f'fcam_resnet50_s8.{NAME.split(".")[1]}'
    other.model_args['output_stride'] = 8
    page = paper_form.page([base, other])
    assert f'## shapes: {NAME.split(".")[0]}\n' in page
    assert 'output stride 8.' in page.partition('## shapes: fcam_resnet50_s8\n')[2]


def test_the_card_says_where_a_decoder_does_not_help(run, checkout):
    entry = release.release(run, NAME, 'test_resnet.r160_in1k', quiet=True)
    test = entry.metrics['test']
    for gain, said in ((5.0, False), (-5.0, True)):
        test['fcam']['max_box_acc_50'] = test['cam']['max_box_acc_50'] + gain
        assert ('no better than those of its CAM' in card._section(NAME, entry)) is said


def test_measured_only_keeps_figures_alone(run, checkout):
    name = f'{NAME}_seed1'
    for _ in range(2):
        assert release.main([str(run), name, '--base', 'test_resnet.r160_in1k', '--record']) == 0
    assert list(results.measured()) == [name]
    assert json.loads((checkout / 'weights' / 'index.json').read_text()) == []
    rows = list(csv.DictReader((checkout / 'results' / 'shapes.csv').open()))
    assert {row['model'] for row in rows} == {name}
    assert all('--recipe' in row['command'] for row in rows)
    (checkout / 'results' / 'measured.json').write_text('{')
    with pytest.raises(ValueError, match='restore it from git'):
        results.measured()


def test_a_name_is_released_or_recorded(run, checkout):
    release.record(run, NAME, 'test_resnet.r160_in1k', quiet=True)
    release.release(run, NAME, 'test_resnet.r160_in1k', quiet=True)
    assert [entry.name for entry in results.entries()] == [NAME]
    with pytest.raises(ValueError, match='is released'):
        release.record(run, NAME, 'test_resnet.r160_in1k', quiet=True)


def test_what_cannot_be_released_is_refused(run, checkout, tmp_path):
    with pytest.raises(UnknownModelError, match='not a model name'):
        release.release(run, 'resnet50', 'x', quiet=True)
    with pytest.raises(TrainingError, match='no finished training'):
        release.release(tmp_path, NAME, 'x', quiet=True)


def test_cost_counts_multiplications():
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    small, large = (results.cost_of(model, size, batch_size=1) for size in (64, 128))
    assert large['gmacs'] == pytest.approx(4 * small['gmacs'], rel=0.02)
    assert small['images_per_second'] > 0


def test_the_tables_of_the_repository_are_current(monkeypatch):
    monkeypatch.chdir(ROOT)
    for dataset, text in results.tables().items():
        assert (ROOT / 'results' / f'{dataset}.csv').read_text() == text, 'run python -m fcam_zoo.hub.results'
    page = paper_form.page(results.entries())
    assert (ROOT / 'results' / 'tables.md').read_text() == page, 'run python -m fcam_zoo.hub.results'
    assert 'Not measured by us' in page


def test_all_models_are_timed_anew(run, checkout, monkeypatch):
    release.release(run, NAME, 'test_resnet.r160_in1k', quiet=True)
    release.record(run, f'{NAME}_seed1', 'test_resnet.r160_in1k', quiet=True)
    (other,) = results.measured().values()
    other.model_args['threshold'] = 0.7
    (checkout / 'results' / 'measured.json').write_text(json.dumps([other.to_dict()]))
    times = iter(range(10))
    monkeypatch.setattr(results, 'cost_of', lambda model, size: {'images_per_second': next(times)})
    assert results.main(['--speed']) == 0
    # One network: timed once.
    assert [entry.cost['images_per_second'] for entry in results.entries()] == [0, 0]
