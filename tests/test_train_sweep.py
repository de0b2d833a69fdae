"""Sweeps: one training per value, in one process or several, also after a kill."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file
from synthetic import make_folder, make_wsol, train_config
from test_train_distributed import torchrun

from fcam_zoo.errors import TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, sweep

SHORT = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 8, 'val': 4})


def test_sweep_without_boxes_is_refused_before_training(tmp_path):
    data = make_folder(tmp_path / 'photos', {'train': 8})
    with pytest.raises(TrainingError, match='no boxes or masks'):
        sweep(train_config(data, **SHORT), tmp_path / 'run', 'decoder.lr', [0.01, 0.1], quiet=True)
    assert not (tmp_path / 'run').exists()


def test_sweep_killed_while_copying_is_resumed(data, tmp_path, monkeypatch):
    config, place, values = train_config(data, **SHORT), 'decoder.erosion', [3, 11]
    want = sweep(config, tmp_path / 'whole', place, values, quiet=True)

    def dying(source, target):
        target.mkdir(parents=True)
        (target / 'state.safetensors').write_bytes(b'half a file')
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(shutil, 'copytree', dying)
        with pytest.raises(KeyboardInterrupt):
            sweep(config, tmp_path / 'run', place, values, quiet=True)
    assert sweep(config, tmp_path / 'run', place, values, resume=True, quiet=True) == want
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
    assert [row['value'] for row in found['rows']] == [3, 11]
    # Only the first process prints.
    assert done.stdout.count('best on val') == 1
