"""Facts of a finished training: recorded in its models, shown by `info`, published by `push`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from synthetic import make_folder, make_wsol, train_config

import fcam_zoo
from fcam_zoo import hub
from fcam_zoo.cli import main
from fcam_zoo.errors import TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, train


def tiny() -> fcam_zoo.FCAM:
    torch.manual_seed(0)
    return fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3).eval()


def maps(model: torch.nn.Module) -> torch.Tensor:
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(x).maps


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """Folder of a finished training."""
    run = tmp_path / 'run'
    recipe = {'data': '/somewhere/birds', 'backbone': 'test_resnet', 'teacher': 'cam', 'device': 'cpu', 'seed': 3}
    facts = {
        'dataset': {'title': 'birds', 'images': 8},
        'epochs': {'decoder': {'best': 2, 'last': 3}},
        'selection': 'best epoch by MaxBoxAcc at IoU 50 on val, threshold by its boxes',
        'trained': {'fcam_zoo': '0.1.0', 'date': '2026-11-25'},
        'teacher': 'cam',
    }
    for which, score in (('best', 66.6666), ('last', 50)):
        metrics = {'val': {'fcam': {'max_box_acc_50': score, 'cls': 90.0}}}
        hub.save_pretrained(tiny(), run / which, **facts, metrics=metrics)
    (run / 'config.json').write_text(json.dumps(recipe))
    return run


def test_push_pull_predict_by_command(loopback, run_dir, tmp_path, capsys):
    arguments = ['push', str(run_dir), 'org/birds', '--data-license', 'CC0-1.0']
    assert main([*arguments, '--preview', str(tmp_path / 'preview')]) == 0
    assert not loopback.repos
    assert main(arguments) == 0
    assert 'published: hf-hub:org/birds@' in capsys.readouterr().out
    text = loopback.files('org/birds')['README.md'].decode()
    assert text == (tmp_path / 'preview' / 'README.md').read_text()
    for said in (
        'birds: CC0-1.0',
        '66.7',
        'val last epoch | fcam | 50.0',
        'by MaxBoxAcc at IoU 50 on val',
        'license: apache-2.0',
    ):
        assert said in text
    assert '/somewhere' not in text
    assert 'base_model' not in text  # the initial weights of the backbone are unknown
    assert main(['pull', 'org/birds', '--cache-dir', str(tmp_path / 'elsewhere')]) == 0
    folder = capsys.readouterr().out.strip()
    assert maps(fcam_zoo.create_model(f'local-dir:{folder}')).equal(maps(tiny()))


def test_push_and_info_have_the_same_facts_of_a_training(boxes_root, tmp_path, capsys):
    run = tmp_path / 'run'
    train(train_config(boxes_root), run, quiet=True)
    facts = hub.facts_of_run(run, data_title='Shapes')
    assert main(['info', str(run / 'best'), '--json']) == 0
    info = json.loads(capsys.readouterr().out)
    assert facts['dataset'] == {'title': 'Shapes', 'license': 'unknown', 'note': ''}
    assert {name: facts[name] for name in ('teacher', 'epochs', 'selection')} == {
        name: info[name] for name in ('teacher', 'epochs', 'selection')
    }
    assert facts['metrics'].keys() == {'val', 'val_last_epoch'}
    assert facts['metrics']['val'] == info['metrics']['val']
    assert facts['metrics']['val']['fcam'].keys() & {'max_box_acc_50', 'cls'}
    assert str(tmp_path) not in json.dumps(facts)
    model = hub.from_pretrained(run / 'best')
    folder = hub.write_repository(model, tmp_path / 'preview', 'org/shapes', **facts)
    assert ModelCard.load(folder / 'README.md').data.eval_results


def test_facts_of_a_classifier_without_val(tmp_path):
    """It has class maps and no F-CAM, and its images are those of train."""
    data = make_folder(tmp_path / 'photos', {'train': 8})
    classifier, decoder = ClassifierConfig(epochs=1, batch_size=8), DecoderConfig(epochs=0)
    train(train_config(data, classifier=classifier, decoder=decoder), tmp_path / 'one', quiet=True)
    facts = hub.facts_of_run(tmp_path / 'one')
    assert (facts['metrics'], facts['selection'], facts['dataset']['title']) == ({}, 'the last epoch', 'photos')
    assert 'teacher' not in facts
    classifier, decoder = ClassifierConfig(epochs=0), DecoderConfig(epochs=1, batch_size=8)
    train(train_config(data, classifier=classifier, decoder=decoder), tmp_path / 'two', quiet=True)
    facts = hub.facts_of_run(tmp_path / 'two')
    assert facts['metrics'].keys() == {'train', 'train_last_epoch'}
    assert facts['metrics']['train']['fcam'].keys() == {'kept'}
    make_wsol(tmp_path / 'boxes', {'train': 8, 'val': 4})
    classifier, decoder = ClassifierConfig(epochs=1, batch_size=8), DecoderConfig(epochs=0)
    train(train_config(tmp_path / 'boxes', classifier=classifier, decoder=decoder), tmp_path / 'three', quiet=True)
    facts = hub.facts_of_run(tmp_path / 'three')
    assert facts['metrics']['val'].keys() == {'layercam'}
    assert facts['selection'] == 'best epoch by accuracy on val'


@pytest.mark.parametrize(
    ('file', 'changes', 'place'),
    [
        ('config.json', [], 'config.json: the content'),
        ('best/config.json', {'dataset': 1}, 'best/config.json.dataset is 1'),
        ('best/config.json', {'epochs': {'decoder': {'best': '1'}}}, 'best/config.json.epochs.decoder.best'),
        (
            'last/config.json',
            {'metrics': {'val': {'fcam': {'cls': 10**400}}}},
            'last/config.json.metrics.val.fcam.cls',
        ),
        ('best/config.json', {'selection': None}, 'best/config.json.selection'),
        ('best/config.json', {'model_args': {'backbone': 5}}, 'best/config.json: model_args.backbone'),
    ],
)
def test_facts_of_damaged_trainings_name_the_place(run_dir, file, changes, place):
    path = run_dir / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes if changes else changes))
    with pytest.raises(TrainingError, match=re.escape(place)):
        hub.facts_of_run(run_dir)


def test_a_training_of_an_earlier_version_has_no_facts(run_dir):
    hub.save_pretrained(tiny(), run_dir / 'last')
    with pytest.raises(TrainingError, match=r'last/config\.json lacks the facts of the training.* with --resume'):
        hub.facts_of_run(run_dir)
