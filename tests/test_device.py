"""Devices that cannot be used: one error, the same for all commands."""

from __future__ import annotations

import pytest
import torch

from fcam_zoo._device import usable_device
from fcam_zoo.benchmark import evaluate
from fcam_zoo.cli import main
from fcam_zoo.data import WSOLDataset
from fcam_zoo.errors import TrainingError
from fcam_zoo.train.setup import training_device

UNUSABLE = ['meta', 'hpu', 'privateuseone', 'xla', 'vulkan', 'mtia', 'maia', 'opengl', 'warp', '', 'cpu:-1', 'cuda:999']
"""They have no data, no backend, no driver, or no such name: torch raises errors of five types."""


@pytest.mark.parametrize('name', UNUSABLE)
def test_unusable_device_is_one_clear_error(name):
    with pytest.raises(ValueError, match=rf"device '{name}' cannot be used \(.*\): choose cpu"):
        usable_device(name)
    with pytest.raises(TrainingError, match=f"device '{name}' cannot be used"), training_device(name):
        pass


@pytest.mark.parametrize('device', [3.5, ['cpu'], 'x' * 100_000, torch.device('meta')])
def test_device_of_another_type(device):
    with pytest.raises(ValueError, match='cannot be used') as caught:
        usable_device(device)
    assert len(str(caught.value)) < 300


def test_usable_device():
    assert usable_device('cpu') == usable_device(torch.device('cpu')) == torch.device('cpu')


@pytest.mark.parametrize('name', ['meta', 'hpu', 'mtia'])
def test_commands_report_an_unusable_device(name, photos, boxes_root, model_dir, tmp_path, capsys):
    model, out = f'local-dir:{model_dir}', str(tmp_path / 'out')
    for command in (
        ['predict', str(photos), '--model', model, '-o', out],
        ['benchmark', str(boxes_root), '--models', model],
        ['train', str(boxes_root), '--backbone', 'test_resnet', '-o', out],
    ):
        assert main([*command, '--device', name]) == 1
        error = capsys.readouterr().err
        assert f"device '{name}' cannot be used" in error
        assert 'choose cpu' in error


def test_evaluate_reports_an_unusable_device(boxes_root):
    with pytest.raises(ValueError, match="device 'meta' cannot be used"):
        evaluate(lambda images, labels: images.mean(1), WSOLDataset(boxes_root, 'test'), 'cam', device='meta')
