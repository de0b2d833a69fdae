"""Loss terms compared with golden values, values by hand and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from tensors import close, gradient, random_images

from fcam_zoo import losses
from fcam_zoo.train import DecoderConfig

WEIGHTS = {'partial_ce': 'seed_weight', 'crf': 'crf_weight', 'size': 'size_weight'}
TERMS = tuple(WEIGHTS)


@pytest.mark.parametrize('case', range(8))
@pytest.mark.parametrize('k', range(5))
def test_golden_log_barrier(golden, k, case):
    arrays = golden('losses')
    fx = torch.tensor(arrays[f'elb_fx_{case}']).requires_grad_()
    loss = losses.log_barrier(fx, float(arrays['elb_t'][k]))
    close(loss, arrays[f'elb_loss_t{k}_{case}'])
    close(gradient(loss, fx), arrays[f'elb_grad_t{k}_{case}'])


@pytest.mark.parametrize('k', range(5))
def test_golden_size(golden, k):
    arrays = golden('losses')
    logits = torch.tensor(arrays['logits']).requires_grad_()
    loss = float(arrays['size_lambda']) * losses.size_loss(logits, float(arrays['elb_t'][k]))
    close(loss, arrays[f'size_loss_t{k}'])
    close(gradient(loss, logits), arrays[f'size_grad_t{k}'])


def test_golden_partial_cross_entropy(golden):
    arrays = golden('losses')
    logits, seeds = torch.tensor(arrays['logits']).requires_grad_(), torch.tensor(arrays['seeds'])
    loss = losses.partial_cross_entropy(logits, seeds)
    close(loss, arrays['pce_loss'])
    close(gradient(loss, logits), arrays['pce_grad'])


def test_golden_schedule(golden):
    arrays = golden('losses')
    loss = losses.PixelAlignmentLoss()
    for want in arrays['t_schedule']:
        assert loss.t == pytest.approx(want, rel=1e-5)  # The reference keeps t in float32.
        loss.step_epoch()
    assert loss.t == 10


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_logits(dtype):
    logits = torch.randn(2, 2, 14, 14, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    seeds = torch.full((2, 14, 14), -255)
    seeds[:, 3, 3], seeds[:, 8, 9] = 0, 1
    loss = losses.PixelAlignmentLoss(size_weight=0.1)
    terms = loss(logits, seeds, random_images(2, 14, 14))
    want = loss(logits.detach().float(), seeds, random_images(2, 14, 14))
    for name in TERMS:
        assert terms[name].dtype == torch.float32
        torch.testing.assert_close(terms[name], want[name])
    assert torch.isfinite(gradient(sum(terms.values()), logits)).all()


def test_partial_cross_entropy_by_hand():
    logits = torch.zeros(2, 2, 1, 3)
    logits[0, 1, 0, 0] = math.log(3)  # probabilities 1/4 and 3/4
    seeds = torch.tensor([[[1, 0, -255]], [[-255, -255, 1]]])
    want = -(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 2)) / 3
    assert losses.partial_cross_entropy(logits, seeds).item() == pytest.approx(want)
    seeds[seeds == -255] = 9
    assert losses.partial_cross_entropy(logits, seeds, ignore_index=9).item() == pytest.approx(want)


def test_partial_cross_entropy_without_seeds_is_zero():
    logits = torch.randn(2, 2, 5, 6).requires_grad_()
    loss = losses.partial_cross_entropy(logits, torch.full((2, 5, 6), -255))
    assert loss.item() == 0
    assert (gradient(loss, logits) == 0).all()


@pytest.mark.parametrize('t', [1.0, 1.5, 10.0])
def test_log_barrier_is_smooth(t):
    fx = torch.linspace(-3, 2, 41, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: losses.log_barrier(f, t), (fx,), atol=1e-6)
    join = -1 / t**2
    at, slopes = [], []
    for f in (join - 1e-9, join + 1e-9):
        x = torch.tensor([f], dtype=torch.float64, requires_grad=True)
        value = losses.log_barrier(x, t)
        at.append(value.item())
        slopes.append(gradient(value, x).item())
    assert at[0] == pytest.approx(at[1], abs=1e-6)
    assert slopes == pytest.approx([t, t], rel=1e-6)
    assert losses.log_barrier(torch.tensor([-2.0]), 1.0).item() == pytest.approx(-math.log(2))
    assert losses.log_barrier(torch.tensor([3.0]), 2.0).item() == pytest.approx(6 + math.log(4) / 2 + 0.5)


def test_size_gradient_equals_finite_difference():
    logits = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    area = logits.detach().double().softmax(1).sum((2, 3))
    assert losses.size_loss(logits, 1.0).item() == pytest.approx(-0.5 * area.log().mean(0).sum().item(), rel=1e-5)
    g = gradient(losses.size_loss(logits, 2.0), logits)
    with torch.no_grad():
        step = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        slope = losses.size_loss(logits + 1e-2 * step, 2.0) - losses.size_loss(logits - 1e-2 * step, 2.0)
    assert slope.item() / 2e-2 == pytest.approx((g * step).sum().item(), rel=2e-3, abs=1e-5)


def test_size_of_an_empty_region():
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 40
    loss = losses.size_loss(logits.requires_grad_(), 5.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, logits)).all()
    # Foreground of 0 pixels: t * 0 + (2 / t) ln t + 1 / t. Background of 16.
    assert loss.item() == pytest.approx(0.5 * ((2 * math.log(5) + 1) / 5 - math.log(16) / 5), rel=1e-5)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = torch.randn(2, 2, 14, 15, generator=torch.Generator().manual_seed(0), requires_grad=True)
    seeds = torch.full((2, 14, 15), -255)
    seeds[:, 2:5, 2:5], seeds[:, 9:12, 9:12] = 0, 1
    return logits, seeds, random_images(2, 14, 15)


def test_weighted_terms():
    logits, seeds, images = example()
    loss = losses.PixelAlignmentLoss(0.5, 3e-3, 0.2, t0=2.0, kernel='exact')
    terms = loss(logits, seeds, images)
    assert tuple(terms) == TERMS
    want = (
        0.5 * losses.partial_cross_entropy(logits, seeds),
        3e-3 * losses.crf_loss(images, logits.softmax(1), kernel='exact'),
        0.2 * losses.size_loss(logits, 2.0),
    )
    for name, value in zip(TERMS, want):
        torch.testing.assert_close(terms[name], value)
    assert gradient(sum(terms.values()), logits).abs().sum() > 0


@pytest.mark.parametrize('name', TERMS)
def test_term_of_weight_zero_is_not_computed(name):
    weights = {'seed_weight': 1.0, 'crf_weight': 1.0, 'size_weight': 1.0, WEIGHTS[name]: 0.0}
    assert set(losses.PixelAlignmentLoss(**weights)(*example())) == set(TERMS) - {name}


def test_default_weights_are_those_of_training():
    loss, config = losses.PixelAlignmentLoss(), DecoderConfig()
    for name in WEIGHTS.values():
        assert getattr(loss, name) == getattr(config, name), name
    assert (loss.t, loss.t_factor, loss.t_max) == (1.0, 1.01, 10.0)


def test_state_dict_restores_t():
    loss = losses.PixelAlignmentLoss(size_weight=0.1, t0=3.0, t_factor=1.5, t_max=6.0)
    loss.step_epoch()
    resumed = losses.PixelAlignmentLoss(size_weight=0.1, t0=1.0, t_factor=1.5, t_max=6.0)
    resumed.load_state_dict(loss.state_dict())
    assert resumed.t == loss.t == 4.5
    assert torch.equal(resumed(*example())['size'], loss(*example())['size'])
    resumed.step_epoch()
    assert resumed.t == 6.0


@pytest.mark.parametrize('t', [0.0, -1.0])
def test_log_barrier_needs_a_positive_t(t):
    with pytest.raises(ValueError, match=r't is .*: give a number above 0'):
        losses.log_barrier(torch.tensor([-1.0]), t)
