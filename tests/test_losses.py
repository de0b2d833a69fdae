"""Loss terms against golden values, dense float64 evaluations and finite differences."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fcam_zoo import losses

TERMS = ('partial_ce', 'crf', 'size')


def gradient(value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, at)[0]


def close(got: torch.Tensor, want: np.ndarray, tolerance: float = 1e-5) -> None:
    """Within a tolerance relative to the largest value."""
    want = torch.tensor(want, dtype=torch.float64)
    torch.testing.assert_close(got.detach().double(), want, rtol=0, atol=tolerance * float(want.abs().max()) + 1e-30)


def dense_weights(image: torch.Tensor, sigma_rgb: float, sigma_xy: float) -> torch.Tensor:
    """Kernel (N,N) of one image (3,H,W), entry by entry in float64."""
    height, width = image.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    features = torch.cat([torch.stack([x, y]).double() / sigma_xy, image.double() / sigma_rgb]).flatten(1).T
    return torch.exp(-0.5 * (features[:, None] - features[None]).square().sum(2))


def dense_energy(
    images: torch.Tensor, probs: torch.Tensor, sigma_rgb: float = 15.0, sigma_xy: float = 100.0
) -> torch.Tensor:
    energies = [
        -torch.einsum(
            'ki,ij,kj->', s.double().flatten(1), dense_weights(image, sigma_rgb, sigma_xy), s.flatten(1).double()
        )
        for image, s in zip(images, probs)
    ]
    return torch.stack(energies).sum() / len(images)


def picture(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    low = 255 * torch.rand(batch, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(low, (height, width), mode='bilinear').round()


def softmax_maps(batch: int, classes: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    low = 3 * torch.randn(batch, classes, 5, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(low, (height, width), mode='bilinear').softmax(1).requires_grad_()


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


@pytest.mark.parametrize('k', range(4))
def test_golden_crf(golden, k):
    arrays = golden('crf')
    sigma_rgb, sigma_xy = arrays['configs'][k].tolist()
    images, probs = torch.tensor(arrays['images']), torch.tensor(arrays['seg']).requires_grad_()
    loss = losses.crf_loss(images, probs, sigma_rgb, sigma_xy, 'exact')
    close(loss, arrays[f'dense_loss_{k}'])
    close(gradient(loss, probs), arrays[f'dense_grad_{k}'], 1e-4)
    for i in range(4):
        one = losses.crf_loss(images[i : i + 1], probs[i : i + 1], sigma_rgb, sigma_xy, 'exact')
        close(one, arrays[f'dense_loss_per_image_{k}'][i])


def test_golden_crf_of_three_classes_and_another_shape(golden):
    arrays = golden('crf')
    images, probs = torch.tensor(arrays['images3']), torch.tensor(arrays['seg3']).requires_grad_()
    loss = losses.crf_loss(images, probs, 15, 100, 'exact')
    close(loss, arrays['dense3_loss'])
    close(gradient(loss, probs), arrays['dense3_grad'], 1e-4)


def test_crf_points_where_the_lattice_of_the_published_code_does(golden):
    arrays = golden('crf')
    images, probs = torch.tensor(arrays['images']), torch.tensor(arrays['seg']).requires_grad_()
    loss = losses.crf_loss(images, probs, kernel='exact')
    lattice = torch.tensor(arrays['perm_grad_0']).flatten(1)
    assert (F.cosine_similarity(gradient(loss, probs).flatten(1), lattice) > 0.99).all()
    assert 0.49 < float(arrays['perm_loss_0']) / loss.item() < 0.66


@pytest.mark.parametrize(('height', 'width', 'classes'), [(9, 13, 2), (12, 5, 3), (1, 7, 1)])
@pytest.mark.parametrize(('sigma_rgb', 'sigma_xy'), [(15, 100), (60, 3), (6, 8)])
def test_exact_crf_is_the_dense_sum(height, width, classes, sigma_rgb, sigma_xy):
    images, probs = picture(2, height, width), softmax_maps(2, classes, height, width)
    loss = losses.crf_loss(images, probs, sigma_rgb, sigma_xy, 'exact')
    want = dense_energy(images, probs, sigma_rgb, sigma_xy)
    close(loss, want.detach().numpy(), 1e-4)
    close(gradient(loss, probs), gradient(want, probs).numpy(), 1e-4)
    assert loss.dtype == torch.float32
    assert loss.item() < 0


def test_exact_crf_in_tiles_is_the_same(monkeypatch):
    """Images whose kernel does not fit one tile, the last of which is not full."""
    images, probs = picture(2, 11, 13), softmax_maps(2, 2, 11, 13)
    whole = losses.crf_loss(images, probs, kernel='exact')
    want = gradient(whole, probs)
    monkeypatch.setattr('fcam_zoo.losses.crf.TILE_ENTRIES', 11 * 13 * 10)
    tiled = losses.crf_loss(images, probs, kernel='exact')
    torch.testing.assert_close(tiled, whole)
    torch.testing.assert_close(gradient(tiled, probs), want)


@pytest.mark.parametrize('kernel', ['exact', 'fast'])
def test_crf_gradient_is_the_slope(kernel):
    """The energy is quadratic, so a central difference of any step is exact."""
    images, probs = picture(2, 15, 22), softmax_maps(2, 2, 15, 22)
    g = gradient(losses.crf_loss(images, probs, kernel=kernel), probs)
    for seed in range(3):
        step = torch.randn(probs.shape, generator=torch.Generator().manual_seed(seed))
        ahead, behind = (losses.crf_loss(images, probs.detach() + s * step, kernel=kernel) for s in (0.5, -0.5))
        assert (ahead - behind).item() == pytest.approx((g * step).sum().item(), rel=2e-3, abs=2e-3 * g.norm().item())


@pytest.mark.parametrize('kernel', ['exact', 'fast'])
def test_crf_batch_is_the_mean_of_its_images(kernel):
    images, probs = picture(3, 16, 20), softmax_maps(3, 2, 16, 20)
    loss = losses.crf_loss(images, probs, kernel=kernel)
    one = [losses.crf_loss(images[i : i + 1], probs[i : i + 1], kernel=kernel) for i in range(3)]
    torch.testing.assert_close(loss, torch.stack(one).mean())
    torch.testing.assert_close(gradient(loss, probs), gradient(sum(one) / 3, probs))


def test_crf_in_closed_form():
    """On one flat colour with a wide kernel every pixel is every other's neighbour."""
    probs = softmax_maps(1, 2, 14, 21)
    loss = losses.crf_loss(torch.full((1, 3, 14, 21), 200.0), probs, sigma_xy=1e6, kernel='exact')
    assert loss.item() == pytest.approx(-float(probs.detach().double().sum((2, 3)).square().sum()), rel=1e-5)
    # With a narrow one it has no neighbour but itself.
    loss = losses.crf_loss(torch.full((1, 3, 14, 21), 200.0), probs, sigma_xy=0.05, kernel='exact')
    assert loss.item() == pytest.approx(-float(probs.detach().double().square().sum()), rel=1e-5)


@pytest.mark.parametrize('size', [(63, 63), (57, 70)])
@pytest.mark.parametrize('sigmas', [(15, 100), (30, 20)])
@pytest.mark.parametrize('kind', ['smooth', 'noisy', 'poster'])
def test_fast_crf_is_close(size, sigmas, kind):
    images = 100 + picture(3, *size) / 5
    if kind == 'noisy':
        images = (images + 12 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255)
    if kind == 'poster':
        images = (images / 40).round() * 40
    probs = softmax_maps(3, 2, *size)
    exact, fast = (losses.crf_loss(images, probs, *sigmas, kernel=kernel) for kernel in ('exact', 'fast'))
    assert fast.item() == pytest.approx(exact.item(), rel=0.03)
    a, b = gradient(exact, probs).flatten(1), gradient(fast, probs).flatten(1)
    assert (F.cosine_similarity(a, b) > 0.995).all()
    assert (b.norm(dim=1) / a.norm(dim=1) - 1).abs().max() < 0.03


def test_fast_crf_is_close_on_photographs():
    data = pytest.importorskip('skimage.data', reason='the extra demo brings photographs')
    for name in ('astronaut', 'coffee', 'chelsea'):
        photo = torch.tensor(getattr(data, name)()).permute(2, 0, 1)[None].float()
        photo = F.interpolate(photo, (96, 96), mode='area')
        probs = softmax_maps(1, 2, 96, 96)
        exact, fast = (losses.crf_loss(photo, probs, kernel=kernel) for kernel in ('exact', 'fast'))
        assert fast.item() == pytest.approx(exact.item(), rel=0.02)
        assert F.cosine_similarity(gradient(exact, probs).flatten(), gradient(fast, probs).flatten(), dim=0) > 0.999
        assert torch.equal(losses.crf_loss(photo, probs), fast)


def test_fast_crf_in_chunks_is_the_same(monkeypatch):
    images, probs = picture(2, 31, 40), softmax_maps(2, 2, 31, 40)
    whole = losses.crf_loss(images, probs, 20, 9, kernel='fast')
    want = gradient(whole, probs)
    monkeypatch.setattr('fcam_zoo.losses._crf_fast.CHUNK_ENTRIES', 1)
    chunked = losses.crf_loss(images, probs, 20, 9, kernel='fast')
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(gradient(chunked, probs), want)


def test_fast_crf_refuses_a_huge_grid_of_colours():
    with pytest.raises(ValueError, match="sigma_rgb is too small for kernel 'fast'"):
        losses.crf_loss(picture(1, 20, 20), softmax_maps(1, 2, 20, 20), sigma_rgb=0.5, kernel='fast')


def test_fused_crf_is_the_tiled_one():
    """In Triton's interpreter, which must be chosen before Triton is imported: hence another process."""
    pytest.importorskip('triton', reason='CPU builds of PyTorch come without Triton')
    code = (
        'import torch; from fcam_zoo.losses import _crf_triton, crf\n'
        'torch.manual_seed(0)\n'
        'images, probs = 80 * torch.rand(2, 3, 9, 13), torch.rand(2, 3, 117)\n'
        'features = torch.stack([crf._features(image, 15.0, 100.0) for image in images])\n'
        'want = torch.stack([crf._filter_tiled(*pair) for pair in zip(features, probs)])\n'
        'torch.testing.assert_close(_crf_triton.filter_fused(features, probs), want)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, 'TRITON_INTERPRET': '1'}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('size', [(63, 63), (64, 64), (50, 71), (6, 90), (3, 3)])
def test_fast_crf_counts_every_pixel_once(size):
    """Also with sides that are no multiple of the cell, or smaller than it."""
    images, probs = torch.full((1, 3, *size), 90.0), softmax_maps(1, 2, *size)
    loss = losses.crf_loss(images, probs, sigma_xy=1e6, kernel='fast')
    areas = probs.detach().double().sum((2, 3))
    assert loss.item() == pytest.approx(-float(areas.square().sum()), rel=1e-5)
    close(gradient(loss, probs), (-2 * areas[:, :, None, None].expand(probs.shape)).numpy())


def test_crf_leaves_images_alone():
    images, probs = picture(1, 9, 9).requires_grad_(), softmax_maps(1, 2, 9, 9)
    losses.crf_loss(images, probs, kernel='exact').backward()
    assert images.grad is None
    assert probs.grad.abs().sum() > 0
    whole = losses.crf_loss(images.detach().byte(), probs, kernel='exact')
    assert torch.equal(whole, losses.crf_loss(images, probs, kernel='exact'))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_logits(dtype):
    logits = torch.randn(2, 2, 14, 14, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    seeds = torch.full((2, 14, 14), -255)
    seeds[:, 3, 3], seeds[:, 8, 9] = 0, 1
    terms = losses.PixelAlignmentLoss()(logits, seeds, picture(2, 14, 14))
    want = losses.PixelAlignmentLoss()(logits.detach().float(), seeds, picture(2, 14, 14))
    for name in TERMS:
        assert terms[name].dtype == torch.float32
        torch.testing.assert_close(terms[name], want[name])
    assert torch.isfinite(gradient(sum(terms.values()), logits)).all()


def test_crf_under_autocast():
    images, probs = picture(1, 14, 14), softmax_maps(1, 2, 14, 14)
    want = losses.crf_loss(images, probs, kernel='exact')
    with torch.autocast('cpu', torch.bfloat16):
        got = losses.crf_loss(images, probs, kernel='exact')
    assert torch.equal(got, want)


def test_partial_cross_entropy_by_hand():
    logits = torch.zeros(2, 2, 1, 3)
    logits[0, 1, 0, 0] = math.log(3)  # probabilities 1/4 and 3/4
    seeds = torch.tensor([[[1, 0, -255]], [[-255, -255, 1]]])
    want = -(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 2)) / 3
    assert losses.partial_cross_entropy(logits, seeds).item() == pytest.approx(want)
    seeds[seeds == -255] = 9
    assert losses.partial_cross_entropy(logits, seeds, ignore_index=9).item() == pytest.approx(want)


def test_no_seed_at_all_is_a_zero_without_gradient():
    logits = torch.randn(2, 2, 5, 6).requires_grad_()
    loss = losses.partial_cross_entropy(logits, torch.full((2, 5, 6), -255))
    assert loss.item() == 0
    assert (gradient(loss, logits) == 0).all()


@pytest.mark.parametrize('t', [1.0, 1.5, 10.0])
def test_log_barrier_is_smooth_and_has_the_right_slope(t):
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


def test_size_gradient_is_the_slope():
    logits = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    area = logits.detach().double().softmax(1).sum((2, 3))
    assert losses.size_loss(logits, 1.0).item() == pytest.approx(-0.5 * area.log().mean(0).sum().item(), rel=1e-5)
    g = gradient(losses.size_loss(logits, 2.0), logits)
    with torch.no_grad():
        step = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        slope = losses.size_loss(logits + 1e-2 * step, 2.0) - losses.size_loss(logits - 1e-2 * step, 2.0)
    assert slope.item() / 2e-2 == pytest.approx((g * step).sum().item(), rel=2e-3, abs=1e-5)


def test_size_of_an_empty_class_pushes_with_slope_t():
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 40
    loss = losses.size_loss(logits.requires_grad_(), 5.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, logits)).all()
    # The object is empty: t * 0 + (2 / t) ln t + 1 / t; the background has 16 pixels.
    assert loss.item() == pytest.approx(0.5 * ((2 * math.log(5) + 1) / 5 - math.log(16) / 5), rel=1e-5)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = torch.randn(2, 2, 14, 15, generator=torch.Generator().manual_seed(0), requires_grad=True)
    seeds = torch.full((2, 14, 15), -255)
    seeds[:, 2:5, 2:5], seeds[:, 9:12, 9:12] = 0, 1
    return logits, seeds, picture(2, 14, 15)


def test_terms_are_the_weighted_losses():
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
def test_term_of_weight_zero_is_left_out(name):
    weights = {'alpha': 1.0, 'crf': 1.0, 'size': 1.0, {'partial_ce': 'alpha'}.get(name, name): 0.0}
    assert set(losses.PixelAlignmentLoss(**weights)(*example())) == set(TERMS) - {name}


def test_default_weights_are_the_published_ones():
    loss = losses.PixelAlignmentLoss()
    assert (loss.alpha, loss.crf, loss.size) == (1.0, 2e-9, 0.1)
    assert (loss.t, loss.t_factor, loss.t_max) == (1.0, 1.01, 10.0)


def test_state_goes_on_where_it_was():
    loss = losses.PixelAlignmentLoss(t0=3.0, t_factor=1.5, t_max=6.0)
    loss.step_epoch()
    resumed = losses.PixelAlignmentLoss(t0=1.0, t_factor=1.5, t_max=6.0)
    resumed.load_state_dict(loss.state_dict())
    assert resumed.t == loss.t == 4.5
    assert torch.equal(resumed(*example())['size'], loss(*example())['size'])
    resumed.step_epoch()
    assert resumed.t == 6.0


@pytest.mark.parametrize(
    ('images', 'probs', 'options', 'message'),
    [
        ((2, 3, 8, 8), (2, 2, 8, 9), {}, r'images \(2, 3, 8, 8\) and probs \(2, 2, 8, 9\) do not fit'),
        ((2, 1, 8, 8), (2, 2, 8, 8), {}, 'do not fit'),
        ((3, 8, 8), (2, 2, 8, 8), {}, 'do not fit'),
        ((2, 3, 8, 8), (2, 8, 8), {}, 'do not fit'),
        ((1, 3, 8, 8), (2, 2, 8, 8), {}, '1 images and 2 probability maps'),
        ((2, 3, 8, 8), (2, 2, 8, 8), {'sigma_rgb': 0}, 'sigma_rgb=0, .* must be positive'),
        ((2, 3, 8, 8), (2, 2, 8, 8), {'sigma_xy': -1}, 'sigma_xy=-1: both must be positive'),
        ((2, 3, 8, 8), (2, 2, 8, 8), {'kernel': 'lattice'}, "kernel 'lattice': choose 'auto', 'exact' or 'fast'"),
    ],
)
def test_crf_errors(images, probs, options, message):
    with pytest.raises(ValueError, match=message):
        losses.crf_loss(torch.rand(images), torch.rand(probs), **options)


@pytest.mark.parametrize('t', [0.0, -1.0])
def test_log_barrier_needs_a_positive_t(t):
    with pytest.raises(ValueError, match='needs t > 0'):
        losses.log_barrier(torch.tensor([-1.0]), t)
