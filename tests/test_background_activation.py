"""The evidence for the label outside the map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fcam_zoo.losses import background_activation


def example():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 12, 16, generator=generator), torch.randn(2, 3, 4, generator=generator)


def test_value_is_the_share_of_evidence_outside():
    logits, evidence = example()
    foreground = logits.double().softmax(1)[:, 1].numpy().reshape(2, 3, 4, 4, 4).mean((2, 4))
    positive = np.maximum(evidence.double().numpy(), 0)
    expected = ((positive * (1 - foreground)).sum((1, 2)) / positive.sum((1, 2))).mean()
    assert background_activation(logits, evidence).item() == pytest.approx(expected, rel=1e-5)


def test_limits_and_gradient():
    logits, evidence = example()
    everything = torch.tensor([-20.0, 20.0])[None, :, None, None].expand_as(logits)
    assert background_activation(everything, evidence).item() == pytest.approx(0, abs=1e-6)
    assert background_activation(-everything, evidence).item() == pytest.approx(1, abs=1e-6)
    assert background_activation(logits, -evidence.abs()).item() == 0
    logits.requires_grad_()
    background_activation(logits, evidence).backward()
    gradient = logits.grad[:, 1].reshape(2, 3, 4, 4, 4).mean((2, 4))
    # More foreground lowers the loss, only where there is evidence.
    assert ((gradient < 0) == (evidence > 0)).all()


@pytest.mark.parametrize('shape', [(1, 3, 4), (2, 0, 4), (2, 3)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match='evidence'):
        background_activation(example()[0], torch.zeros(shape))
