"""The CRF term compared with golden values, dense float64 evaluations and finite differences."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from tensors import close, gradient, random_images, softmax_maps

from fcam_zoo import losses


def dense_weights(image: torch.Tensor, sigma_rgb: float, sigma_xy: float) -> torch.Tensor:
    """Compute the kernel (N,N) of one image (3,H,W) in float64."""
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


def test_golden_crf_of_three_classes(golden):
    arrays = golden('crf')
    images, probs = torch.tensor(arrays['images3']), torch.tensor(arrays['seg3']).requires_grad_()
    loss = losses.crf_loss(images, probs, 15, 100, 'exact')
    close(loss, arrays['dense3_loss'])
    close(gradient(loss, probs), arrays['dense3_grad'], 1e-4)


def test_crf_gradient_is_parallel_to_that_of_the_published_lattice(golden):
    arrays = golden('crf')
    images, probs = torch.tensor(arrays['images']), torch.tensor(arrays['seg']).requires_grad_()
    loss = losses.crf_loss(images, probs, kernel='exact')
    lattice = torch.tensor(arrays['perm_grad_0']).flatten(1)
    assert (F.cosine_similarity(gradient(loss, probs).flatten(1), lattice) > 0.99).all()
    assert 0.49 < float(arrays['perm_loss_0']) / loss.item() < 0.66


@pytest.mark.parametrize(('height', 'width', 'classes'), [(9, 13, 2), (12, 5, 3), (1, 7, 1)])
@pytest.mark.parametrize(('sigma_rgb', 'sigma_xy'), [(15, 100), (60, 3), (6, 8)])
def test_exact_crf_equals_dense_sum(height, width, classes, sigma_rgb, sigma_xy):
    images, probs = random_images(2, height, width), softmax_maps(2, classes, height, width)
    loss = losses.crf_loss(images, probs, sigma_rgb, sigma_xy, 'exact')
    want = dense_energy(images, probs, sigma_rgb, sigma_xy)
    close(loss, want.detach().numpy(), 1e-4)
    close(gradient(loss, probs), gradient(want, probs).numpy(), 1e-4)
    assert loss.dtype == torch.float32
    assert loss.item() < 0


def test_exact_crf_in_tiles(monkeypatch):
    """The kernel needs several tiles, and the last is not full."""
    images, probs = random_images(2, 11, 13), softmax_maps(2, 2, 11, 13)
    whole = losses.crf_loss(images, probs, kernel='exact')
    want = gradient(whole, probs)
    monkeypatch.setattr('fcam_zoo.losses.crf.TILE_ENTRIES', 11 * 13 * 10)
    tiled = losses.crf_loss(images, probs, kernel='exact')
    torch.testing.assert_close(tiled, whole)
    torch.testing.assert_close(gradient(tiled, probs), want)


@pytest.mark.parametrize('kernel', ['exact', 'fast'])
def test_crf_gradient_equals_finite_difference(kernel):
    """The energy is quadratic, so a central difference of any step is exact."""
    images, probs = random_images(2, 15, 22), softmax_maps(2, 2, 15, 22)
    g = gradient(losses.crf_loss(images, probs, kernel=kernel), probs)
    for seed in range(3):
        step = torch.randn(probs.shape, generator=torch.Generator().manual_seed(seed))
        ahead, behind = (losses.crf_loss(images, probs.detach() + s * step, kernel=kernel) for s in (0.5, -0.5))
        assert (ahead - behind).item() == pytest.approx((g * step).sum().item(), rel=2e-3, abs=2e-3 * g.norm().item())


@pytest.mark.parametrize('kernel', ['exact', 'fast'])
def test_crf_of_a_batch_is_the_mean(kernel):
    images, probs = random_images(3, 16, 20), softmax_maps(3, 2, 16, 20)
    loss = losses.crf_loss(images, probs, kernel=kernel)
    one = [losses.crf_loss(images[i : i + 1], probs[i : i + 1], kernel=kernel) for i in range(3)]
    torch.testing.assert_close(loss, torch.stack(one).mean())
    torch.testing.assert_close(gradient(loss, probs), gradient(sum(one) / 3, probs))


def test_crf_in_closed_form():
    """On a flat color, a wide kernel is 1 for every pair of pixels."""
    probs = softmax_maps(1, 2, 14, 21)
    loss = losses.crf_loss(torch.full((1, 3, 14, 21), 200.0), probs, sigma_xy=1e6, kernel='exact')
    assert loss.item() == pytest.approx(-float(probs.detach().double().sum((2, 3)).square().sum()), rel=1e-5)
    # A narrow kernel is the identity.
    loss = losses.crf_loss(torch.full((1, 3, 14, 21), 200.0), probs, sigma_xy=0.05, kernel='exact')
    assert loss.item() == pytest.approx(-float(probs.detach().double().square().sum()), rel=1e-5)


@pytest.mark.parametrize('size', [(63, 63), (57, 70)])
@pytest.mark.parametrize('sigmas', [(15, 100), (30, 20)])
@pytest.mark.parametrize('kind', ['smooth', 'noisy', 'poster'])
def test_fast_crf_is_close(size, sigmas, kind):
    images = 100 + random_images(3, *size) / 5
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
    data = pytest.importorskip('skimage.data', reason='photographs need the extra demo')
    for name in ('astronaut', 'coffee', 'chelsea'):
        photo = torch.tensor(getattr(data, name)()).permute(2, 0, 1)[None].float()
        photo = F.interpolate(photo, (96, 96), mode='area')
        probs = softmax_maps(1, 2, 96, 96)
        exact, fast = (losses.crf_loss(photo, probs, kernel=kernel) for kernel in ('exact', 'fast'))
        assert fast.item() == pytest.approx(exact.item(), rel=0.02)
        assert F.cosine_similarity(gradient(exact, probs).flatten(), gradient(fast, probs).flatten(), dim=0) > 0.999
        assert torch.equal(losses.crf_loss(photo, probs), fast)


def test_fast_crf_in_chunks(monkeypatch):
    images, probs = random_images(2, 31, 40), softmax_maps(2, 2, 31, 40)
    whole = losses.crf_loss(images, probs, 20, 9, kernel='fast')
    want = gradient(whole, probs)
    monkeypatch.setattr('fcam_zoo.losses._crf_fast.CHUNK_ENTRIES', 1)
    chunked = losses.crf_loss(images, probs, 20, 9, kernel='fast')
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(gradient(chunked, probs), want)


def test_fast_crf_with_too_small_sigma_rgb():
    with pytest.raises(ValueError, match="sigma_rgb is too small for kernel 'fast'"):
        losses.crf_loss(random_images(1, 20, 20), softmax_maps(1, 2, 20, 20), sigma_rgb=0.5, kernel='fast')


def test_fused_crf_equals_tiled_crf():
    """Runs in Triton's interpreter, which must be selected before Triton is imported, so in another process."""
    pytest.importorskip('triton', reason='CPU builds of PyTorch do not include Triton')
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
def test_fast_crf_of_a_flat_image(size):
    """On a flat color with a wide kernel, the energy is -sum_k area_k^2."""
    images, probs = torch.full((1, 3, *size), 90.0), softmax_maps(1, 2, *size)
    loss = losses.crf_loss(images, probs, sigma_xy=1e6, kernel='fast')
    areas = probs.detach().double().sum((2, 3))
    assert loss.item() == pytest.approx(-float(areas.square().sum()), rel=1e-5)
    close(gradient(loss, probs), (-2 * areas[:, :, None, None].expand(probs.shape)).numpy())


def test_crf_gives_images_no_gradient():
    images, probs = random_images(1, 9, 9).requires_grad_(), softmax_maps(1, 2, 9, 9)
    losses.crf_loss(images, probs, kernel='exact').backward()
    assert images.grad is None
    assert probs.grad.abs().sum() > 0
    whole = losses.crf_loss(images.detach().byte(), probs, kernel='exact')
    assert torch.equal(whole, losses.crf_loss(images, probs, kernel='exact'))


def test_crf_under_autocast():
    images, probs = random_images(1, 14, 14), softmax_maps(1, 2, 14, 14)
    want = losses.crf_loss(images, probs, kernel='exact')
    with torch.autocast('cpu', torch.bfloat16):
        got = losses.crf_loss(images, probs, kernel='exact')
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ('images', 'probs', 'options', 'message'),
    [
        ((2, 3, 8, 8), (2, 2, 8, 9), {}, r'images \(2, 3, 8, 8\) and probs \(2, 2, 8, 9\) do not fit'),
        ((2, 1, 8, 8), (2, 2, 8, 8), {}, 'do not fit'),
        ((3, 8, 8), (2, 2, 8, 8), {}, 'images: got the shape'),
        ((2, 3, 8, 8), (2, 8, 8), {}, 'probs: got the shape'),
        ((1, 3, 8, 8), (2, 2, 8, 8), {}, '1 images and 2 probability maps'),
        ((2, 3, 8, 8), (2, 2, 8, 8), {'sigma_rgb': 0}, 'sigma_rgb is 0: give a number from 0.01'),
        ((2, 3, 8, 8), (2, 2, 8, 8), {'sigma_xy': -1}, 'sigma_xy is -1: give a number'),
        ((2, 3, 8, 8), (2, 2, 8, 8), {'kernel': 'lattice'}, "kernel is 'lattice': choose 'auto', 'exact' or 'fast'"),
    ],
)
def test_crf_errors(images, probs, options, message):
    with pytest.raises(ValueError, match=message):
        losses.crf_loss(torch.rand(images), torch.rand(probs), **options)
