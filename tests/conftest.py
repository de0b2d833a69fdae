"""Shared fixtures: golden values and small data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from scenes import make_photos
from shapes import Shapes, make
from synthetic import make_wsol

import fcam_zoo

SHARED = Path(__file__).parents[2] / 'shared'

# One thread in each process, also in those that tests start: pytest runs several at a time.
torch.set_num_threads(1)
os.environ['OMP_NUM_THREADS'] = '1'
# gcsfs reads it when it is imported: our store on the loopback address has no gRPC interface.
os.environ['GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT'] = 'false'


@pytest.fixture(scope='session')
def shared() -> Path:
    """Folder beside the checkout with golden values and data; it may not exist."""
    return SHARED


@pytest.fixture(scope='session')
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Load the arrays of a golden file by its name without suffix; skip the test if the file does not exist."""
    loaded: dict[str, dict[str, np.ndarray]] = {}

    def load(name: str) -> dict[str, np.ndarray]:
        path = SHARED / 'golden' / f'{name}.npz'
        if not path.is_file():
            pytest.skip(f'golden/{path.name} does not exist')
        if name not in loaded:
            with np.load(path, allow_pickle=False) as arrays:
                loaded[name] = dict(arrays)
            for array in loaded[name].values():
                array.flags.writeable = False
        return loaded[name]

    return load


@pytest.fixture
def boxes_root(tmp_path) -> Path:
    """A data set in the WSOL layout with boxes: 8 training, 6 validation and 6 test images of two classes."""
    return make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 6, 'test': 6})


@pytest.fixture
def masks_root(tmp_path) -> Path:
    """The same data set with masks."""
    return make_wsol(tmp_path / 'shapes_masks', {'train': 8, 'val': 6, 'test': 6}, kind='masks')


@pytest.fixture
def flat(tmp_path) -> Shapes:
    """Images of two shapes in one folder, without annotations."""
    return make(tmp_path / 'shapes', folders=False)


@pytest.fixture
def nested(tmp_path) -> Shapes:
    """The same images in one folder per class."""
    return make(tmp_path / 'shapes', folders=True)


@pytest.fixture
def photos(tmp_path) -> Path:
    """The images of `scenes` as files, in class folders."""
    return make_photos(tmp_path / 'photos')


@pytest.fixture(scope='session')
def model_dir(tmp_path_factory) -> Path:
    """Folder of a small untrained model with the classes square and disc."""
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, output_stride=8)
    model.pretrained_cfg['label_names'] = ['square', 'disc']
    return fcam_zoo.hub.save_pretrained(model, tmp_path_factory.mktemp('model') / 'm')


@pytest.fixture
def loopback(tmp_path, monkeypatch) -> Iterator[LoopbackHub]:
    """Run a Hub on the loopback interface that the real client connects to, with an empty cache."""
    hub = LoopbackHub()
    monkeypatch.setattr(constants, 'ENDPOINT', hub.endpoint)
    monkeypatch.setattr(
        constants, 'HUGGINGFACE_CO_URL_TEMPLATE', hub.endpoint + '/{repo_id}/resolve/{revision}/{filename}'
    )
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setenv('HF_TOKEN', 'hf_of_a_test')
    yield hub
    hub.stop()
