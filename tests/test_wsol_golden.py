"""WSOL methods: equality with the golden values of their computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensors import close

from fcam_zoo import wsol


@pytest.fixture(scope='module')
def arrays(golden) -> dict[str, np.ndarray]:
    return golden('wsol')


def tensor(arrays: dict[str, np.ndarray], name: str) -> torch.Tensor:
    return torch.tensor(arrays[name])


def test_has_hides_the_cells_of_the_published_code(arrays):
    for i, (cell, rate) in enumerate(arrays['has_configs']):
        hidden = wsol.has.hide(tensor(arrays, 'has_images'), int(cell), float(rate), tensor(arrays, f'has_{i}_draws'))
        np.testing.assert_array_equal(hidden, arrays[f'has_{i}_out'])
    hidden = wsol.has.hide(tensor(arrays, 'has_nonsquare_images'), 8, 0.5, tensor(arrays, 'has_nonsquare_draws'))
    np.testing.assert_array_equal(hidden, arrays['has_nonsquare_out'])


def test_has_with_a_cell_size_per_image_is_the_original(arrays):
    images = tensor(arrays, 'hasorig_images').permute(0, 3, 1, 2)
    for image, cell, draws, want in zip(
        images, arrays['hasorig_grid_sizes'], tensor(arrays, 'hasorig_draws'), arrays['hasorig_out']
    ):
        side = -(-64 // int(cell)) if cell else 0
        hidden = wsol.has.hide(image[None], int(cell), 0.5, draws[: side * side].view(1, side, side))
        np.testing.assert_array_equal(hidden[0].permute(1, 2, 0), want)


def test_cutmix_mixes_images_and_labels_as_the_published_code(arrays):
    images, labels, logits = (tensor(arrays, f'cutmix_{name}') for name in ('images', 'labels', 'logits'))
    for i, (lam0, centre, partner) in enumerate(
        zip(arrays['cutmix_lam0'], arrays['cutmix_centre'], tensor(arrays, 'cutmix_perm'))
    ):
        mixed, share = wsol.cutmix.mix(images, float(lam0), (int(centre[0]), int(centre[1])), partner)
        np.testing.assert_array_equal(mixed, arrays[f'cutmix_{i}_out'])
        assert share == pytest.approx(float(arrays[f'cutmix_{i}_lam']), abs=1e-12)
        z = logits.clone().requires_grad_(True)
        loss = wsol.Targets(labels, other=labels[partner], share=share).cross_entropy(z)
        loss.backward()
        close(loss, arrays[f'cutmix_{i}_loss'])
        close(z.grad, arrays[f'cutmix_{i}_grad'], 1e-4)
