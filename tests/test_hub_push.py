"""Publishing: invalid ids, facts and cards give a one-line error before anything is sent."""

from __future__ import annotations

import json

import pytest
import timm
import torch

import fcam_zoo
from fcam_zoo import hub
from fcam_zoo.cli import main
from fcam_zoo.errors import HubError

RELEASED = fcam_zoo.list_models(pretrained=True)


@pytest.fixture
def tiny() -> fcam_zoo.FCAM:
    torch.manual_seed(0)
    return fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3)


@pytest.mark.parametrize('repo_id', ['name', 'a/b/c', 'org/na me', 'org/name@main', ''])
def test_invalid_repository_ids_are_refused(loopback, tiny, tmp_path, repo_id):
    for publish in (
        lambda: hub.push_to_hub(tiny, repo_id),
        lambda: hub.write_repository(tiny, tmp_path / 'preview', repo_id),
    ):
        with pytest.raises(ValueError, match='write org/name'):
            publish()
    assert not loopback.requests
    assert not (tmp_path / 'preview').exists()


@pytest.mark.parametrize(
    ('facts', 'message'),
    [
        ({'hallf': True}, 'unknown facts hallf: give .*license'),
        ({'num_classes': 5, 'architecture': 'z'}, 'unknown facts architecture, num_classes'),
        ({'dataset': 'My birds'}, "dataset is 'My birds': give a dict of title"),
        ({'dataset': {'license': 'CC0-1.0'}}, 'give a dict of title'),
        ({'metrics': {'max_box_acc_50': 81.5}}, 'metrics must be numbers by split'),
        ({'metrics': {'test': {'fcam': {'cls': float('nan')}}}}, 'metrics must be numbers by split'),
    ],
)
def test_invalid_facts_are_refused(tiny, tmp_path, facts, message):
    with pytest.raises(ValueError, match=message):
        hub.write_repository(tiny, tmp_path / 'preview', 'org/name', **facts)
    assert not (tmp_path / 'preview').exists()


def test_incomplete_facts_are_enough(tiny, tmp_path):
    facts = {'dataset': {'title': 'My birds'}, 'metrics': {'test': {'cam': {'max_box_acc_50': 58.3}}}}
    text = (hub.write_repository(tiny, tmp_path, 'org/name', **facts) / 'README.md').read_text()
    assert 'My birds: unknown' in text
    assert '| test | cam | 58.3 |' in text


def test_only_an_fcam_is_saved(tiny, tmp_path):
    with pytest.raises(TypeError, match=r'ResNet is not an FCAM: create one with fcam_zoo\.wrap'):
        hub.save_pretrained(timm.create_model('test_resnet'), tmp_path)


def test_a_card_that_the_hub_refuses_gives_a_one_line_error(loopback, tiny):
    loopback.card_fault = '"license" must be one of [apache-2.0, mit, ...]'
    with pytest.raises(HubError, match=r'not published .*"license" must be one of.*give a license') as caught:
        hub.push_to_hub(tiny, 'org/name', license='my own')
    assert '\n' not in str(caught.value)


@pytest.mark.skipif(not RELEASED, reason='nothing released')
def test_a_release_is_published_unchanged(tmp_path):
    name = RELEASED[0]
    assert main(['push', name, 'org/name', '--preview', str(tmp_path)]) == 0
    config, entry = json.loads((tmp_path / 'config.json').read_text()), hub.index()[name]
    if entry.holds_backbone:
        assert config['weights']['sha256'] == entry.sha256


def test_push_without_a_model_lists_the_released_models(tmp_path, capsys):
    assert main(['push', 'nosuch', 'org/name']) == 1
    assert 'neither the folder of a training nor a released model' in capsys.readouterr().err
    assert main(['push', str(tmp_path), 'org/name']) == 1
    assert f'{tmp_path / "config.json"} does not exist: give the folder of a finished' in capsys.readouterr().err
