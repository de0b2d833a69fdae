"""Transforms against independent PIL and NumPy computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fcam_zoo.data import EvalTransform, ScaleTransform, TrainTransform, normalize


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8))


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK', 'RGBA'])
@pytest.mark.parametrize('size', [224, 32])
def test_eval_transform_is_a_bilinear_resize(image, mode, size):
    image = image.convert(mode)
    got = EvalTransform(size)(image)
    assert got.dtype == torch.uint8
    assert got.shape == (3, size, size)
    assert got.is_contiguous()
    want = np.asarray(image.convert('RGB').resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(got.permute(1, 2, 0), want)


def test_train_transform_is_a_crop_of_the_resize(image):
    """Each result is one of the (resize - size + 1)^2 crops or its mirror image; offsets and flips are uniform."""
    transform = TrainTransform(size=20, resize=22)
    full = np.asarray(image.resize((22, 22), Image.Resampling.BILINEAR))
    crops = {}
    for top in range(3):
        for left in range(3):
            crop = full[top : top + 20, left : left + 20]
            crops[crop.tobytes()] = (top, left, False)
            crops[crop[:, ::-1].tobytes()] = (top, left, True)
    torch.manual_seed(0)
    counts = dict.fromkeys(crops.values(), 0)
    for _ in range(900):
        got = transform(image)
        assert got.dtype == torch.uint8
        assert got.is_contiguous()
        counts[crops[got.permute(1, 2, 0).numpy().tobytes()]] += 1
    expected = 900 / 18
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi2 < 40.8  # 99.9 % quantile with 17 degrees of freedom


def test_train_transform_is_reproducible_with_the_torch_seed(image):
    transform = TrainTransform()
    torch.manual_seed(3)
    first = [transform(image) for _ in range(4)]
    torch.manual_seed(3)
    again = [transform(image) for _ in range(4)]
    assert first[0].shape == (3, 224, 224)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not all(torch.equal(first[0], a) for a in first[1:])


def test_train_transform_arguments(image):
    flipped, plain = (TrainTransform(size=16, resize=16, hflip=p)(image) for p in (1, 0))
    assert torch.equal(flipped.flip(2), plain)
    assert torch.equal(plain, EvalTransform(16)(image))
    assert TrainTransform().resize == 256
    assert TrainTransform(112).resize == 128
    assert repr(TrainTransform(112)) == 'TrainTransform(size=112, resize=128, hflip=0.5)'
    assert repr(EvalTransform()) == 'EvalTransform(size=224)'
    with pytest.raises(ValueError, match='resize=200 is less than the crop size=224'):
        TrainTransform(224, 200)
    with pytest.raises(ValueError, match='size=0 is not a side'):
        EvalTransform(0)
    with pytest.raises(ValueError, match='hflip=2 is not a probability'):
        TrainTransform(hflip=2)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_normalize(layout):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.arange(2 * 3 * 8 * 16).remainder(256).to(torch.uint8).view(2, 3, 8, 16).to(memory_format=layout)
    before = images.clone()
    got = normalize(images, mean, std)
    want = (images.numpy().astype(np.float64) / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=layout)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6, atol=1e-6)
    assert torch.equal(images, before)
    with pytest.raises(TypeError, match=r'uint8 in 0\.\.255'):
        normalize(images.float(), mean, std)


def test_scale_transform_crops_within_its_range():
    image = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3))
    torch.manual_seed(0)
    crops = [ScaleTransform(32, (0.2, 0.9))(image) for _ in range(8)]
    assert all(c.shape == (3, 32, 32) and c.dtype == torch.uint8 for c in crops)
    assert len({c.numpy().tobytes() for c in crops}) > 1
    torch.manual_seed(0)
    assert torch.equal(ScaleTransform(32, (0.2, 0.9))(image), crops[0])
    with pytest.raises(ValueError, match='two fractions'):
        ScaleTransform(32, (0.0, 1.0))
