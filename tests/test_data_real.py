"""Real images in the WSOL layout; skipped without the data beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fcam_zoo.data import check_dataset, open_dataset

DATA = Path(__file__).parents[2] / 'shared' / 'data'
SETS = {
    'cub50': ({'train': 1250, 'val': 250, 'test': 702}, 50, 'boxes'),
    'cub24seg': ({'test': 222}, 24, 'masks'),
    'pets3': ({'train': 300, 'val': 48, 'test': 125}, 3, 'masks'),
    'imagenette': ({'train': 2000, 'val': 100, 'test': 200}, 10, 'boxes'),
}


@pytest.fixture(params=SETS)
def name(request) -> str:
    if not (DATA / request.param).is_dir():
        pytest.skip(f'{request.param} does not exist')
    return request.param


def test_open(name):
    counts, classes, truth = SETS[name]
    for split, count in counts.items():
        dataset = open_dataset(DATA / name, split)
        assert (dataset.name, len(dataset), len(dataset.class_names)) == (name, count, classes)
        assert dataset.sizes.shape == (count, 2)
        image, label, index = dataset[count - 1]
        assert (image.shape, image.dtype) == ((3, 224, 224), torch.uint8)
        assert (label, index) == (dataset.labels[-1], count - 1)
        assert (getattr(dataset, truth) is None) == (split == 'train')
        if truth == 'masks' and split != 'train':
            mask = dataset.mask(0, (224, 224))
            assert set(np.unique(mask)) <= {0, 1, 255}
            assert (mask == 1).any()


def test_check_is_clean(name):
    assert check_dataset(DATA / name, quiet=True) == []
