"""`create_model`: folders as names, and warnings about random weights."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch

import fcam_zoo
from fcam_zoo.errors import UnknownModelError, UntrainedModelWarning
from fcam_zoo.models.names import hub_names


def tiny() -> fcam_zoo.FCAM:
    torch.manual_seed(0)
    return fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=5)


def test_folders_are_names(tmp_path, monkeypatch):
    model = tiny().eval()
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'runs' / 'best')
    # The name of an architecture is not that of a folder.
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'fcam_resnet50')
    monkeypatch.chdir(tmp_path)
    x = torch.rand(1, 3, 64, 64)
    places = (tmp_path / 'runs' / 'best', 'runs/best', './runs/best', 'runs/../runs/best/', 'local-dir:fcam_resnet50')
    for place in places:
        assert torch.equal(fcam_zoo.create_model(place).fcam(x), model.fcam(x)), place
        assert not fcam_zoo.create_model(place, pretrained=True).training
    assert fcam_zoo.create_model('fcam_resnet50', num_classes=2).config.backbone == 'resnet50'
    monkeypatch.chdir(tmp_path / 'runs')
    assert torch.equal(fcam_zoo.create_model('best').fcam(x), model.fcam(x))


@pytest.mark.parametrize('name', ['runs/none/best', './none', '/none', 'me/none'])
def test_folders_that_do_not_exist(name):
    with pytest.raises(FileNotFoundError, match=rf'^model folder {name} does not exist: check the path'):
        fcam_zoo.create_model(name)


@pytest.mark.parametrize('name', ['', 'hf-hub:', 'local-dir:', 'none'])
def test_other_names_are_not_folders(name):
    with pytest.raises(UnknownModelError, match='unknown model'):
        fcam_zoo.create_model(name, pretrained=True)


def test_random_weights_are_reported(recwarn):
    name = fcam_zoo.list_models(pretrained=True)[0]
    for given in (name, next(group for group, members in hub_names().items() if name in members)):
        with pytest.warns(UntrainedModelWarning, match=f'{given} has random weights here: give pre') as found:
            model = fcam_zoo.create_model(given)
        assert found[0].filename == __file__
    with pytest.warns(UntrainedModelWarning, match='the decoder of this model is untrained') as found:
        fcam_zoo.localize(model, np.zeros((40, 40, 3), np.uint8), sizes=[32])
    assert found[0].filename == __file__


def test_untrained_models_are_recognized(tmp_path):
    model = tiny()
    assert model.is_untrained
    assert copy.deepcopy(model).half().is_untrained
    folder = fcam_zoo.hub.save_pretrained(model, tmp_path / 'model')
    assert not fcam_zoo.create_model(folder).is_untrained
    model.train().decoder.requires_grad_()
    optimizer = torch.optim.SGD(model.decoder.parameters(), lr=0.01)
    model(torch.rand(2, 3, 64, 64)).maps.square().sum().backward()
    optimizer.step()
    assert not model.is_untrained


def test_released_models_do_not_warn(recwarn):
    model = fcam_zoo.create_model(fcam_zoo.list_models(pretrained=True)[0], pretrained=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fcam_zoo.localize(model, np.zeros((40, 40, 3), np.uint8), sizes=[32])
        fcam_zoo.create_model('fcam_resnet50.cam_cub')
        tiny()
