"""Release tooling: what a release stores and measures, and the tables generated from it."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import re
import shlex

import pytest
import torch
from safetensors.torch import load_file
from synthetic import make_folder, make_wsol, train_config

import fcam_zoo
from fcam_zoo import _index
from fcam_zoo._weights import digest
from fcam_zoo.benchmark import evaluate_many
from fcam_zoo.cli import build_parser
from fcam_zoo.data import EvalTransform, WSOLDataset
from fcam_zoo.errors import TrainingError, UnknownModelError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig, train
from tools import card, measure, records, release, results_page, tables

NAME = 'fcam_mobilenetv1_025.layercam_shapes'
BASE = 'test_resnet.r160_in1k'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 8, 'val': 4, 'test': 6})


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'run'
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}
    train(train_config(data, **stages), folder, quiet=True)
    return folder


@pytest.fixture(scope='module')
def measured(run):
    return release.measure(run, NAME, BASE, quiet=True)


@pytest.fixture
def entry(measured):
    """A measured model that a test may change."""
    return copy.deepcopy(measured)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository without models."""
    weights = tmp_path / 'weights'
    weights.mkdir()
    (weights / 'index.json').write_text('[]')
    (tmp_path / 'README.md').write_text(f'Models\n{card.BEGIN}\n{card.END}\n')
    monkeypatch.setattr(records, 'ROOT', tmp_path)
    monkeypatch.setattr(_index, 'weights_dir', lambda: weights)
    monkeypatch.setattr(_index, 'RELEASED_RECIPES', tmp_path / 'recipes')
    _index.index.cache_clear()
    yield tmp_path
    _index.index.cache_clear()


def rows_of(path) -> list[dict[str, str]]:
    with path.open() as f:
        return list(csv.DictReader(f))


def test_a_release_stores_what_it_measures(run, data, checkout):
    assert release.main(['--quiet', 'add', str(run), NAME, '--base', BASE]) == 0
    (entry,) = json.loads((checkout / 'weights' / 'index.json').read_text())
    path = checkout / 'weights' / entry['file']
    assert path.stat().st_size == entry['size']
    state = load_file(path)
    assert state['decoder.head.weight'].dtype == torch.float16
    assert any(key.startswith('backbone.') for key in state), '--quiet must not leave the classifier out'
    # The stored weights reproduce the stored metrics.
    model = fcam_zoo.create_model(f'local-dir:{run / "best"}')
    model.load_state_dict(state)
    test = WSOLDataset(data, 'test', EvalTransform(64))
    want = evaluate_many(model, test, ('fcam',), quiet=True)['fcam'].metrics
    assert {**entry['metrics']['test']['fcam'], 'max_box_acc_v2': None} == {
        **{key: pytest.approx(value, abs=1e-3) for key, value in want.items()},
        'max_box_acc_v2': None,
    }
    assert entry['metrics'].keys() == {'val', 'test', 'val_last_epoch', 'test_last_epoch'}
    assert entry['metrics']['test'].keys() == {'cam', 'layercam', 'fcam', 'center'}
    # The settings are in a recipe, which the model card names, and only there.
    assert 'recipe' not in entry
    recipe = _index.recipe_of(_index.index()[NAME])
    assert not {'data', 'backbone_checkpoint', 'device', 'init'} & recipe.keys()
    card_text = (checkout / 'MODEL_CARD.md').read_text()
    assert f'`fcam-zoo train DATA -o RUN --recipe {NAME} --backbone-checkpoint {BASE}.safetensors`' in card_text
    assert entry['cost']['parameters'] == sum(p.numel() for p in model.parameters())
    rows = rows_of(checkout / 'results' / 'shapes.csv')
    assert len(rows) == 10
    row = next(r for r in rows if r['maps'] == 'fcam' and r['split'] == 'test')
    assert float(row['max_box_acc_50']) == entry['metrics']['test']['fcam']['max_box_acc_50']
    assert row['sha256'] == entry['sha256']
    assert NAME in row['command']
    assert f'`{NAME}`' in (checkout / 'README.md').read_text()


def test_v2_and_thresholds_of_val_are_measured(measured):
    val, test = measured.metrics['val'], measured.metrics['test']
    for kind, metrics in test.items():
        own = measured.model_args['threshold'] if kind == 'fcam' else val[kind]['best_threshold_50']
        assert metrics['threshold'] == pytest.approx(own, abs=1e-3)
        assert metrics['box_acc_50'] <= metrics['max_box_acc_50']
        # More contours can only raise the IoU of the best box.
        assert metrics['max_box_acc_v2'] >= metrics['mean']


def test_a_decoder_only_release_leaves_the_classifier_out(run, checkout):
    entry = release.release(run, NAME, BASE, decoder_only=True, quiet=True)
    assert not entry.holds_backbone
    assert all(key.startswith('decoder.') for key in load_file(checkout / 'weights' / entry.file))
    backbone = fcam_zoo.create_model(f'local-dir:{run / "best"}').backbone.state_dict()
    assert entry.classifier_sha256 == digest(backbone) != digest({**backbone, 'x': torch.zeros(1)})
    (row, *_) = tables.csv_tables()['shapes'].splitlines()[1:]
    assert row.endswith(f'--backbone-checkpoint {BASE}.safetensors --split val')
    assert 'decoder only' in card.section(entry)


def test_other_data_sets_have_their_own_tables(run, checkout, tmp_path):
    other = make_wsol(tmp_path / 'others', {'test': 5}, kind='masks')
    remark = 'Trained on a rainy day.'
    assert (
        release.main(['--quiet', 'add', str(run), NAME, '--base', BASE, '--remark', remark, '--also', str(other)]) == 0
    )
    assert remark in (checkout / 'MODEL_CARD.md').read_text()
    (row,) = (r for r in rows_of(checkout / 'results' / 'others.csv') if r['maps'] == 'fcam')
    assert row['split'] == 'test'
    assert row['pxap']
    assert row['f1']
    page = (checkout / 'results' / 'tables.md').read_text()
    assert f'| `{NAME}` |' in page.partition('## others')[2]


@pytest.fixture(scope='module')
def labels_only(tmp_path_factory):
    """A data set of class folders, and a training on it."""
    data = make_folder(tmp_path_factory.mktemp('data') / 'shapes', {'train': 8, 'val': 4, 'test': 6})
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=2, batch_size=4)}
    train(train_config(data, **stages), data.parent / 'run', quiet=True)
    return data, data.parent / 'run'


def test_a_general_model_is_measured_on_data_it_never_saw(labels_only, checkout, tmp_path):
    data, run = labels_only
    boxes = make_wsol(tmp_path / 'boxes', {'test': 5})
    masks = make_wsol(tmp_path / 'masks', {'test': 4}, kind='masks')
    also = ['--epoch', 'last', '--also', str(boxes), str(masks)]
    assert release.main(['--quiet', 'add', str(run), NAME, '--base', BASE, *also]) == 0
    entry = _index.index()[NAME]
    assert entry.labels_only
    assert entry.metrics.keys() == {'val', 'test'}
    assert (entry.selection, entry.epochs['decoder']) == ('the last epoch', {'best': 2, 'last': 2})
    # The released weights are those of the last epoch, and have the recorded accuracy.
    model = fcam_zoo.create_model(f'local-dir:{run / "last"}')
    state = load_file(checkout / 'weights' / entry.file)
    assert torch.equal(model.decoder.head.weight.half(), state['decoder.head.weight'])
    model.load_state_dict(state)
    found = [fcam_zoo.localize(model, path)[0].label == path.parent.name for path in (data / 'test').rglob('*.png')]
    assert entry.metrics['test']['fcam']['cls'] == pytest.approx(100 * sum(found) / len(found), abs=1e-3)
    assert 0 < entry.metrics['test']['fcam']['kept'] < 100
    for place, best, chosen in (('boxes', 'max_box_acc_50', 'box_acc_50'), ('masks', 'best_f1', 'f1')):
        kinds = entry.elsewhere[place]['test']
        assert kinds.keys() == {'cam', 'layercam', 'fcam', 'center'}
        for metrics in kinds.values():
            # All maps also at the threshold of the model, which was chosen without boxes.
            assert metrics['threshold'] == entry.model_args['threshold'] == 0.5
            assert metrics[chosen] <= metrics[best]
    readme = (checkout / 'README.md').read_text()
    fcam = entry.elsewhere['boxes']['test']['fcam']['max_box_acc_50']
    assert f'| `{NAME}` | shapes | {100 * sum(found) / len(found):.1f} | ' in readme
    assert f'| boxes | `{NAME}` | MaxBoxAcc | ' in readme
    assert f'| **{fcam:.1f}** | ' in readme
    assert f'| masks | `{NAME}` | PxAP | ' in readme
    page = (checkout / 'MODEL_CARD.md').read_text()
    assert '| split | maps | cls | kept |' in page
    assert 'at the threshold of the model' in page.partition('Metrics on boxes')[2]
    (row,) = (r for r in rows_of(checkout / 'results' / 'shapes.csv') if r['split'] == 'test')
    assert float(row['cls']) == entry.metrics['test']['fcam']['cls']
    assert '## General models' in (checkout / 'results' / 'tables.md').read_text()


def test_the_last_epoch_of_other_trainings(run, checkout):
    entry = release.release(run, NAME, BASE, epoch='last', quiet=True)
    assert entry.metrics.keys() == {'val', 'test'}
    assert 'F-CAM' in results_page.page([entry])


def test_the_readme_has_the_best_model_of_a_data_set_first(labels_only, entry, checkout, tmp_path):
    boxes = make_wsol(tmp_path / 'boxes', {'test': 5})
    general = release.release(labels_only[1], NAME, BASE, also=[boxes], quiet=True)
    special = dataclasses.replace(entry, name=NAME.replace('shapes', 'boxes'), file='x.safetensors', size=1, sha256='0')
    for accuracy, names in ((-1.0, [general.name, special.name]), (101.0, [special.name, general.name])):
        special.metrics['test']['fcam']['max_box_acc_50'] = accuracy
        records.write_index({general.name: general, special.name: special})
        rows = [line.split(' | ') for line in card.readme_table().splitlines() if line.startswith('| boxes |')]
        assert [row[1] for row in rows] == [f'`{name}`' for name in names]


def test_remeasure_reproduces_a_release_without_its_training(run, data, checkout, tmp_path, monkeypatch):
    other = make_wsol(tmp_path / 'others', {'test': 5}, kind='masks')
    released = release.release(run, NAME, BASE, quiet=True, also=[other])
    (data.parent / 'others').symlink_to(other)
    # A record from before two metrics existed, with one wrong value.
    stale = copy.deepcopy(released)
    for kinds in (stale.metrics['val'], stale.metrics['test'], stale.elsewhere['others']['test']):
        for metrics in kinds.values():
            for key in ('max_box_acc_v2', 'threshold', 'box_acc_50', 'f1'):
                metrics.pop(key, None)
    stale.metrics['test']['cam']['mean'] = 12.3
    records.write_index({NAME: stale})
    # timm only has the names that were released when fcam_zoo was imported.
    model = fcam_zoo.create_model(f'local-dir:{run / "best"}')
    model.load_state_dict(load_file(checkout / 'weights' / released.file))
    monkeypatch.setattr(release, 'create_model', lambda name, pretrained: model)
    (change,) = release.remeasure(data.parent, quiet=True)
    assert change.startswith(f'{NAME}, test, cam: mean was 12.3, is ')
    again = _index.index()[NAME]
    assert again.metrics == released.metrics
    assert again.elsewhere == released.elsewhere
    assert again.sha256 == released.sha256


def test_tables_compare_teachers_and_seeds(entry):
    entries = []
    for seed, accuracy in enumerate((70.0, 72.0, 77.0)):
        other = copy.deepcopy(entry)
        other.name = NAME if not seed else f'{NAME}_seed{seed}'
        other.recipe['seed'] = seed
        other.metrics['test']['fcam']['max_box_acc_50'] = accuracy
        other.metrics['test']['layercam']['max_box_acc_50'] = 60.0
        entries.append(other)
    # Metrics that an older record lacks.
    del entries[1].metrics['test']['fcam']['max_box_acc_v2']
    lines = results_page.page(entries).partition('## Published')[0].splitlines()
    assert any(line.startswith('| LayerCAM | 60.0 |') for line in lines)
    assert [line.split(' | ')[0] for line in lines if line.startswith('| CAM |')] == ['| CAM']
    assert any(line.startswith('| LayerCAM + F-CAM | 70.0 |') for line in lines)
    (spread,) = (line for line in lines if line.startswith('| LayerCAM + F-CAM, seeds 0, 1, 2 | best on val |'))
    # 73.0 and the sample standard deviation of 70, 72, 77.
    accuracy, _, v2 = spread.split(' | ')[2:5]
    assert (accuracy, v2) == ('73.0 ± 3.6', '-')


def test_class_maps_on_val_are_at_their_best_threshold():
    boxes = {'max_box_acc_50': 60.0, 'mean': 50.0, 'best_threshold_50': 0.3}
    masks = {'pxap': 70.0, 'best_f1': 65.0, 'best_threshold': 0.4}
    assert card.with_val_threshold('val', 'cam', boxes) == {**boxes, 'box_acc_50': 60.0, 'threshold': 0.3}
    assert card.with_val_threshold('val', 'center', masks) == {**masks, 'f1': 65.0, 'threshold': 0.4}
    for split, kind, values in (
        ('test', 'cam', boxes),
        ('val', 'fcam', boxes),
        ('val', 'cam', {**masks, 'f1': 64.0, 'threshold': 0.5}),
        ('val', 'cam', {'cls': 90.0}),
    ):
        assert card.with_val_threshold(split, kind, values) == values


def test_strides_have_their_own_tables(entry):
    other = dataclasses.replace(entry, name=f'fcam_resnet50_s8.{NAME.split(".")[1]}')
    other.model_args = {**entry.model_args, 'output_stride': 8}
    page = results_page.page([entry, other])
    assert f'## shapes: {NAME.split(".")[0]}\n' in page
    assert 'output stride 8.' in page.partition('## shapes: fcam_resnet50_s8\n')[2]


@pytest.mark.parametrize(('gain', 'stated'), [(5.0, False), (-5.0, True)])
def test_the_card_states_that_a_decoder_does_not_help(entry, gain, stated):
    entry = dataclasses.replace(entry, file='x.safetensors', size=1, sha256='0')
    entry.metrics['test']['fcam']['max_box_acc_50'] = entry.metrics['test']['cam']['max_box_acc_50'] + gain
    assert ('not better than those of CAM' in card.section(entry)) is stated


def test_record_keeps_metrics_only(run, checkout):
    name = f'{NAME}_seed1'
    for _ in range(2):
        assert release.main(['--quiet', 'add', str(run), name, '--base', BASE, '--record']) == 0
    assert list(records.recorded()) == [name]
    assert json.loads((checkout / 'weights' / 'index.json').read_text()) == []
    rows = rows_of(checkout / 'results' / 'shapes.csv')
    assert {row['model'] for row in rows} == {name}
    assert all('--recipe' in row['command'] for row in rows)
    (checkout / 'results' / 'measured.json').write_text('{')
    with pytest.raises(ValueError, match='restore it from git'):
        records.recorded()


def test_a_name_is_released_or_recorded(run, checkout):
    release.record(run, NAME, BASE, quiet=True)
    release.release(run, NAME, BASE, quiet=True)
    assert [entry.name for entry in records.entries()] == [NAME]
    with pytest.raises(ValueError, match='is released'):
        release.record(run, NAME, BASE, quiet=True)


def test_invalid_releases_are_refused(run, checkout, tmp_path):
    with pytest.raises(UnknownModelError, match='not a model name'):
        release.release(run, 'resnet50', 'x', quiet=True)
    with pytest.raises(UnknownModelError, match='not an architecture of the zoo'):
        release.release(run, 'fcam_x.cam_shapes', 'x', quiet=True)
    with pytest.raises(TrainingError, match='give the folder of a finished fcam-zoo train'):
        release.release(tmp_path, NAME, 'x', quiet=True)
    with pytest.raises(UnknownModelError, match='no released weights'):
        release.remeasure(tmp_path, ['fcam_resnet50.cam_cub'], quiet=True)


def test_cost_counts_multiplications():
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    small, large = (measure.cost_of(model, size, batch_size=1) for size in (64, 128))
    assert large['gmacs'] == pytest.approx(4 * small['gmacs'], rel=0.02)
    assert small['images_per_second'] > 0


def test_generated_files_of_the_repository_are_current():
    for path, text in tables.generated().items():
        assert path.read_text(encoding='utf-8') == text, f'{path.name} is out of date: run python -m tools.tables'
    with pytest.raises(ValueError, match='must have the lines'):
        card.render_readme('nothing')


@pytest.mark.parametrize('name', fcam_zoo.list_models(pretrained=True))
def test_recipes_of_released_models_are_in_the_card(name):
    entry = _index.index()[name]
    recipe = _index.recipe_of(entry)
    assert {'image_size', 'seed', 'teacher', 'decoder'} <= recipe.keys()
    # Stages without epochs are not in the record.
    stages = {stage for stage in ('classifier', 'decoder') if (recipe[stage] or {}).get('epochs')}
    assert {stage: recipe[stage]['epochs'] for stage in stages} == {k: v['last'] for k, v in entry.epochs.items()}
    text = _index.recipe_path(name).read_text()
    (command,) = re.findall(rf'^#   fcam-zoo train (\S+/ -o \S+ --recipe {re.escape(name)}\b.*)$', text, re.MULTILINE)
    assert build_parser('train').parse_args(['train', *shlex.split(command)])
    assert f'Training: `fcam-zoo train DATA -o RUN --recipe {name}' in card.section(entry)
    assert f'`fcam_zoo/recipes/released/{name}.yaml`' in card.section(entry)
    # Recipes that the commands name are in the repository.
    for path in re.findall(r'--recipe (\S+\.yaml)', text):
        assert TrainConfig.from_file(records.ROOT / path)


def test_equal_networks_are_timed_once(entry, checkout, monkeypatch):
    other = dataclasses.replace(entry, name=f'{NAME}_seed1', model_args={**entry.model_args, 'threshold': 0.7})
    records.write_index({NAME: dataclasses.replace(entry, file='x.safetensors', size=1, sha256='0')})
    records.write_recorded({other.name: other})
    times = iter(range(10))
    monkeypatch.setattr(release, 'cost_of', lambda model, size: {'images_per_second': next(times)})
    assert release.main(['speeds']) == 0
    assert [entry.cost['images_per_second'] for entry in records.entries()] == [0, 0]
