"""Otsu's threshold, candidate regions and seeds: golden values, comparison with NumPy, properties of the draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fcam_zoo import sampling

FRACTIONS = (0.1, 0.2, 0.4, 0.7)


def random_maps(batch: int = 6, height: int = 23, width: int = 30, seed: int = 0) -> torch.Tensor:
    """Smooth maps in [0,1] without equal values."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, 1, 4, 5, generator=generator)
    maps = torch.nn.functional.interpolate(low, (height, width), mode='bicubic')[:, 0].double()
    maps += 1e-6 * torch.rand(maps.shape, generator=generator)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low)).float()


def masks(batch: int, size: int, share: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, size, size, generator=torch.Generator().manual_seed(seed)) < share


def center(height: int = 9, width: int = 9, place: tuple[int, int] = (4, 4)) -> torch.Tensor:
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, place[0], place[1]] = True
    return mask


NONE = torch.zeros(1, 9, 9, dtype=torch.bool)


def bits(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=-1).reshape(-1, 224, 224).astype(bool)


def test_golden_otsu(golden):
    arrays = golden('seeds')
    got = sampling.otsu_threshold(torch.tensor(arrays['cams']))
    assert got.dtype == torch.int64
    varied = arrays['otsu'] >= 0
    np.testing.assert_array_equal(got.numpy()[varied], arrays['otsu'][varied].clip(1, 254))
    assert ((got >= 1) & (got <= 254)).all()


@pytest.mark.parametrize('config', range(5))
def test_golden_foreground(golden, config):
    arrays = golden('seeds')
    kernel, iterations = arrays['fg_configs'][config].tolist()
    # The golden values encode "no erosion" as an even kernel with 0 iterations.
    erosion = kernel if iterations else 1
    got = sampling.regions(torch.tensor(arrays['cams']), erosion=erosion, erosion_iterations=iterations)[0].numpy()
    want, counts = bits(arrays['fg_bits'][config]), arrays['fg_count'][config]
    np.testing.assert_array_equal(got[counts >= 0], want[counts >= 0])
    # Where the published code fails, nothing is above the threshold.
    assert (counts < 0).tolist() == arrays['reference_raises'].tolist()
    assert not got[counts < 0].any()


@pytest.mark.parametrize('k', range(len(FRACTIONS)))
def test_golden_background(golden, k):
    arrays = golden('seeds')
    assert arrays['min_p'][k] == FRACTIONS[k]
    got = sampling.regions(torch.tensor(arrays['cams']), background_fraction=FRACTIONS[k])[1].numpy()
    np.testing.assert_array_equal(got.sum((1, 2)), arrays['bg_count'][k])
    sure = ~arrays['bg_tie_at_cut'][:, k]
    np.testing.assert_array_equal(got[sure], bits(arrays['bg_bits'][k])[sure])
    for values, chosen in zip(arrays['cams'], got):
        if chosen.any():
            assert values[chosen].max() <= values[~chosen].min()


def test_otsu_equals_skimage():
    threshold_otsu = pytest.importorskip('skimage.filters').threshold_otsu
    rng = np.random.default_rng(0)
    gray = [rng.integers(low, high, (20, 25)) for low, high in ((0, 256), (3, 90), (200, 203), (10, 12), (0, 2))]
    gray += [rng.normal(80, 20, (20, 25)) + 90 * (rng.random((20, 25)) < share) for share in (0.05, 0.3, 0.5, 0.9)]
    gray = np.clip(np.stack(gray), 0, 255).astype(np.uint8)
    want = [threshold_otsu(image) for image in gray]
    # Truncation maps the middle of a level's interval to that level.
    got = sampling.otsu_threshold((torch.tensor(gray) + 0.5).clamp(max=255) / 255)
    assert got.tolist() == np.clip(want, 1, 254).tolist()


def test_otsu_equals_its_definition():
    for image in (random_maps() * 255).byte().double():
        best, level = -1.0, 0
        for t in range(256):
            low, high = image[image <= t], image[image > t]
            if len(low) and len(high):
                variance = len(low) * len(high) * float(low.mean() - high.mean()) ** 2
                if variance > best * (1 + 1e-12):
                    best, level = variance, t
        assert sampling.otsu_threshold((image[None] + 0.5).clamp(max=255) / 255).item() == min(max(level, 1), 254)


def test_otsu_levels_are_clipped():
    binary = torch.zeros(1, 8, 8)
    binary[:, :2] = 1
    assert sampling.otsu_threshold(binary).item() == 1
    assert torch.equal(sampling.regions(binary, erosion=1)[0], binary == 1)
    top = torch.full((1, 8, 8), 254.5 / 255)
    top[:, :2] = 1
    assert sampling.otsu_threshold(top).item() == 254
    assert torch.equal(sampling.regions(top, erosion=1)[0], top == 1)


@pytest.mark.parametrize('value', [0.0, 0.5, 1.0])
def test_constant_map_has_no_candidates(value):
    maps = torch.cat([torch.full((1, 23, 30), value), random_maps(1), torch.full((1, 23, 30), value)])
    foreground, background = sampling.regions(maps, erosion=3)
    assert foreground.flatten(1).any(1).tolist() == [False, True, False]
    assert background.flatten(1).any(1).tolist() == [False, True, False]
    assert (sampling.seeds(foreground, background)[::2] == -255).all()
    assert sampling.otsu_threshold(maps)[0] == 1


def naive_erosion(mask: np.ndarray, kernel: int) -> np.ndarray:
    half, out = kernel // 2, np.empty_like(mask)
    for y, x in np.ndindex(mask.shape):
        out[y, x] = mask[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1].all()
    return out


@pytest.mark.parametrize('iterations', [0, 1, 2, 9])
@pytest.mark.parametrize('kernel', [1, 3, 5, 7, 11, 41])
def test_erosion_equals_loop(kernel, iterations):
    maps = random_maps()
    got = sampling.regions(maps, erosion=kernel, erosion_iterations=iterations)[0].numpy()
    for i, image in enumerate(maps):
        want = (image * 255).byte().numpy() > sampling.otsu_threshold(image[None]).item()
        for _ in range(iterations):
            eroded = naive_erosion(want, kernel)
            if not eroded.any():
                break
            want = eroded
        np.testing.assert_array_equal(got[i], want)


def test_border_does_not_erode():
    maps = torch.zeros(1, 12, 12)
    maps[:, :6] = 1
    foreground = sampling.regions(maps, erosion=5)[0]
    assert foreground[0, :4].all()
    assert not foreground[0, 4:].any()


@pytest.mark.parametrize('fraction', [0, 0.001, 0.1, 0.5, 0.999, 1])
def test_background_is_the_lowest_values(fraction):
    maps = random_maps()
    got = sampling.regions(maps, background_fraction=fraction)[1].flatten(1)
    count = int(fraction * 23 * 30)
    want = torch.zeros_like(got).scatter(1, maps.flatten(1).argsort(1)[:, :count], True)
    assert torch.equal(got, want)


@pytest.mark.parametrize('count', [1, 7, 50, 69, 70, 83, 100])
def test_background_takes_equal_values_in_raster_order(count):
    values = np.random.default_rng(count).integers(0, 4, (5, 10, 10)) / 4
    got = sampling.regions(torch.tensor(values), background_fraction=min(count / 100 + 1e-9, 1))[1].numpy()
    for i in range(5):
        want = np.zeros(100, bool)
        want[np.argsort(values[i].ravel(), kind='stable')[:count]] = True
        np.testing.assert_array_equal(got[i].ravel(), want)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_batch_equals_loop(dtype):
    maps = torch.cat([random_maps(), torch.zeros(1, 23, 30), torch.eye(30)[None, :23]]).to(dtype)
    batch = (*sampling.regions(maps, 0.3, 3, 2), sampling.otsu_threshold(maps))
    for i in range(len(maps)):
        one = (*sampling.regions(maps[i : i + 1], 0.3, 3, 2), sampling.otsu_threshold(maps[i : i + 1]))
        assert all(torch.equal(a[i : i + 1], b) for a, b in zip(batch, one))


def test_non_contiguous_maps():
    maps = random_maps().transpose(1, 2)
    for got, want in zip(sampling.regions(maps, 0.3, 3), sampling.regions(maps.contiguous(), 0.3, 3)):
        assert torch.equal(got, want)
        seeds = sampling.seeds(got, torch.zeros_like(got), 1, 0, dilation=1)
        assert ((seeds == 1).sum((1, 2)) == 1).all()
        assert not ((seeds == 1) & ~got).any()


@pytest.mark.parametrize('count', [0, 1, 2, 5, 30, 1000])
def test_seed_counts(count):
    foreground, background = masks(6, 12, 0.2), masks(6, 12, 0.1, 1)
    background &= ~foreground
    foreground[0] = background[1] = False
    labels = sampling.seeds(foreground, background, count, count, dilation=1)
    assert labels.dtype == torch.int64
    assert labels.shape == foreground.shape
    assert set(labels.unique().tolist()) <= {-255, 0, 1}
    for label, candidates in ((1, foreground), (0, background)):
        drawn = labels == label
        assert not (drawn & ~candidates).any()
        assert drawn.sum((1, 2)).tolist() == candidates.sum((1, 2)).clamp(max=count).tolist()


def test_separate_counts_per_class():
    foreground, background = masks(1, 12, 0.4), ~masks(1, 12, 0.4)
    labels = sampling.seeds(foreground, background, 3, 0, dilation=1)
    assert [(labels == k).sum().item() for k in (0, 1)] == [0, 3]
    labels = sampling.seeds(foreground, background, 1, 4, dilation=1)
    assert [(labels == k).sum().item() for k in (0, 1)] == [4, 1]


@pytest.mark.parametrize('place', [(4, 4), (0, 0), (8, 3), (1, 8)])
@pytest.mark.parametrize('dilation', [1, 3, 5, 21])
def test_dilation(dilation, place):
    y, x, half = *place, dilation // 2
    want = torch.full((1, 9, 9), -255)
    want[0, max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1] = 1
    assert torch.equal(sampling.seeds(center(place=place), NONE, dilation=dilation), want)
    want[want == 1] = 0
    assert torch.equal(sampling.seeds(NONE, center(place=place), dilation=dilation), want)


def test_overlap_of_squares_is_ignored():
    labels = sampling.seeds(center(place=(4, 3)), center(place=(4, 5)), dilation=3)[0]
    want = torch.full((9, 9), -255)
    want[3:6, 2:4] = 1
    want[3:6, 5:7] = 0
    assert torch.equal(labels, want)
    assert (sampling.seeds(center(), center()) == -255).all()


def test_dilation_of_many_seeds_equals_max_pooling():
    foreground, background = masks(5, 16, 0.05), masks(5, 16, 0.05, 1)
    foreground[0] = background[1] = False
    labels = sampling.seeds(foreground, background, 1000, 1000, dilation=3)
    fg, bg = (torch.nn.functional.max_pool2d(m.float(), 3, 1, 1) > 0 for m in (foreground, background))
    want = torch.full(labels.shape, -255)
    want[fg & ~bg] = 1
    want[bg & ~fg] = 0
    assert (fg & bg).any()
    assert torch.equal(labels, want)


@pytest.mark.parametrize('count', [1, 3])
def test_draws_are_uniform(count):
    """Each candidate is drawn equally often, whichever row it is in."""
    mask = torch.zeros(1, 7, 11, dtype=torch.bool)
    places = [(0, 0), (0, 1), (0, 10), (3, 5), (5, 0), (5, 9), (6, 9), (6, 10)]
    mask[0, [y for y, _ in places], [x for _, x in places]] = True
    n = 4000
    generator = torch.Generator().manual_seed(0)
    labels = sampling.seeds(
        mask.expand(n, -1, -1), torch.zeros_like(mask).expand(n, -1, -1), count, 0, 1, -1, generator
    )
    hits = (labels == 1).sum(0)[mask[0]].double()
    assert hits.sum() == n * count
    share = count / len(places)
    # 99.99 % quantile of chi-square with 7 degrees of freedom, for draws without replacement.
    chi2 = ((hits - n * share) ** 2 / (n * share * (1 - share))).sum() * (len(places) - 1) / len(places)
    assert chi2 < 29.9


def test_generator_makes_draws_repeatable():
    foreground, background = masks(4, 30, 0.3), masks(4, 30, 0.3, 1)

    def draw(seed: int, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sampling.seeds(foreground, background, count, count, generator=generator)

    for count in (1, 4):
        assert torch.equal(draw(0, count), draw(0, count))
        assert not torch.equal(draw(0, count), draw(1, count))
    torch.manual_seed(5)
    first = sampling.seeds(foreground, background)
    assert not torch.equal(first, sampling.seeds(foreground, background))
    torch.manual_seed(5)
    assert torch.equal(first, sampling.seeds(foreground, background))


def test_draws_differ_between_images():
    mask = torch.ones(64, 20, 20, dtype=torch.bool)
    places = sampling.seeds(mask, torch.zeros_like(mask), dilation=1).flatten(1).argmax(1)
    assert len(places.unique()) > 40


@pytest.mark.parametrize('ignore', [-255, -1, 255])
def test_ignore_index(ignore):
    labels = sampling.seeds(center(), center(place=(0, 0)), ignore_index=ignore)
    assert [(labels == k).sum().item() for k in (0, 1, ignore)] == [4, 9, 81 - 13]


def test_empty_batch():
    foreground, background = sampling.regions(torch.zeros(0, 8, 9))
    assert sampling.seeds(foreground, background).shape == (0, 8, 9)


@pytest.mark.parametrize('value', [math.nan, -0.01, 1.01, math.inf])
@pytest.mark.parametrize('function', [sampling.otsu_threshold, sampling.regions])
def test_values_out_of_range(function, value):
    maps = random_maps()
    maps[3, 4, 5] = value
    with pytest.raises(ValueError, match=r'maps contain NaN or values outside \[0,1\]: normalize them first'):
        function(maps)


@pytest.mark.parametrize('shape', [(8, 8), (1, 1, 8, 8), (2, 0, 5)])
def test_shape_of_maps(shape):
    with pytest.raises(ValueError, match=r'maps.* shape .* \(B,H,W\)'):
        sampling.regions(torch.zeros(shape))


@pytest.mark.parametrize(
    ('function', 'options', 'message'),
    [
        ('regions', {'background_fraction': -0.1}, 'background_fraction is -0.1'),
        ('regions', {'background_fraction': 1.1}, 'background_fraction is 1.1'),
        ('regions', {'background_fraction': math.nan}, 'background_fraction is nan'),
        ('regions', {'erosion': 0}, 'erosion is 0: give a whole number from 1'),
        ('regions', {'erosion': 4}, 'erosion is 4: give an odd number'),
        ('regions', {'erosion_iterations': -1}, 'erosion_iterations is -1'),
        ('seeds', {'dilation': 0}, 'dilation is 0'),
        ('seeds', {'dilation': 2}, 'dilation is 2: give an odd number'),
        ('seeds', {'n_foreground': -1}, 'n_foreground is -1'),
        ('seeds', {'n_background': -1}, 'n_background is -1'),
        ('seeds', {'ignore_index': 1}, 'ignore_index is 1'),
        ('seeds', {'ignore_index': 0}, 'ignore_index is 0'),
    ],
)
def test_arguments_out_of_range(function, options, message):
    tensors = (random_maps(),) if function == 'regions' else (center(), NONE)
    with pytest.raises(ValueError, match=message):
        getattr(sampling, function)(*tensors, **options)


def test_shapes_of_seeds():
    with pytest.raises(ValueError, match=r'foreground \(1, 9, 9\) and background \(1, 8, 9\) must both be \(B,H,W\)'):
        sampling.seeds(center(), NONE[:, :8])
    with pytest.raises(ValueError, match=r'foreground: got the shape \(9, 9\)'):
        sampling.seeds(center()[0], NONE[0])


@pytest.mark.parametrize('count', [1, 3])
def test_one_generator_per_image(count):
    masks = torch.rand(4, 2, 20, 30, generator=torch.Generator().manual_seed(0)) > 0.5

    def draw(images: slice) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(4)[images]]
        return sampling.seeds(masks[images, 0], masks[images, 1], count, count, generator=generators)

    whole = draw(slice(0, 4))
    assert torch.equal(whole, torch.cat([draw(slice(0, 1)), draw(slice(1, 4))]))
    assert (whole == 1).any((1, 2)).all()
    assert (whole == 0).any((1, 2)).all()
    with pytest.raises(ValueError, match='2 generators for 4 images'):
        sampling.seeds(masks[:, 0], masks[:, 1], generator=[torch.Generator()] * 2)
