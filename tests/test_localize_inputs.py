"""Images of every mode give the same result by path, as PIL image and as array; odd inputs give one clear error."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from glow import Glow
from PIL import Image, ImageOps

from fcam_zoo import localize
from fcam_zoo.data.images import MAX_PIXELS, MAX_RATIO, check_size, open_image
from fcam_zoo.errors import FcamZooError, ImageError
from fcam_zoo.inputs import as_image

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (24, 40, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (24, 40), np.uint16)


def transparent_palette() -> Image.Image:
    image = Image.fromarray(COLORS[..., :3]).quantize(8)
    image.info['transparency'] = bytes([0, 90, 255, 255, 30, 255, 255, 255])
    return image


def keyed(mode: str, key: object) -> Image.Image:
    """An image with one transparent color."""
    image = Image.fromarray(COLORS[..., :3] // 128 * 200).convert(mode)
    image.info['transparency'] = key
    return image


STORED = {
    'gray.png': lambda: Image.fromarray(COLORS[..., 0]),
    'bits.png': lambda: Image.fromarray(COLORS[..., 0]).convert('1'),
    'color.png': lambda: Image.fromarray(COLORS[..., :3]),
    'color.webp': lambda: Image.fromarray(COLORS),
    'alpha.png': lambda: Image.fromarray(COLORS),
    'gray_alpha.png': lambda: Image.fromarray(COLORS).convert('LA'),
    'palette.png': lambda: Image.fromarray(COLORS[..., :3]).quantize(8),
    'palette_alpha.png': transparent_palette,
    'palette.gif': lambda: keyed('P', 3),
    'key.png': lambda: keyed('RGB', (0, 200, 0)),
    'gray_key.png': lambda: keyed('L', 200),
    'deep.png': lambda: Image.fromarray(DEEP),
    'deep.tif': lambda: Image.fromarray(DEEP),
    'deep_big_endian.tif': lambda: Image.frombytes('I;16B', (40, 24), DEEP.astype('>u2').tobytes()),
    'cmyk.jpg': lambda: Image.fromarray(COLORS[..., :3]).convert('CMYK'),
    'cmyk.tif': lambda: Image.fromarray(COLORS, 'CMYK'),
}


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('name', STORED)
def test_same_map_by_path_and_as_image(tmp_path, name):
    path = tmp_path / name
    image = STORED[name]()
    image.save(path, **({'transparency': image.info['transparency']} if 'transparency' in image.info else {}))
    (by_path,) = localize(Glow(64), path)
    opened = Image.open(path)
    (lazy,) = localize(Glow(64), opened)
    (loaded,) = localize(Glow(64), opened.copy())
    np.testing.assert_array_equal(lazy.map, by_path.map)
    np.testing.assert_array_equal(loaded.map, by_path.map)
    np.testing.assert_array_equal(np.asarray(as_image(opened)), np.asarray(open_image(path)))


@pytest.mark.parametrize(
    ('mode', 'expected'),
    [('La', 'LA'), ('RGBa', 'RGBA'), ('PA', 'RGBA'), ('RGBX', 'RGB'), ('HSV', 'RGB'), ('I;16L', None), ('I;16N', None)],
)
def test_modes_of_pillow_without_a_file(mode, expected):
    if mode == 'PA':
        image = Image.fromarray(COLORS[..., :3]).quantize(8).convert('PA')
        image.putalpha(Image.fromarray(COLORS[..., 3]))
        plain = image.convert('RGBA')
    elif mode.startswith('I;16'):
        image = Image.frombytes(mode, (40, 24), DEEP.astype('<u2').tobytes())
        np.testing.assert_array_equal(np.asarray(as_image(image))[..., 0], np.round(DEEP / 257))
        return
    else:
        base = {'La': 'LA', 'RGBa': 'RGBA'}.get(mode, 'RGB')
        image = Image.fromarray(COLORS).convert(base).convert(mode)
        plain = image.convert(expected)
    got = np.asarray(as_image(image), float)
    alpha = np.asarray(plain.convert('RGBA'), float)[..., 3:] / 255
    want = np.asarray(plain.convert('RGBA'), float)[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(got, want, atol=1.01)


@pytest.mark.parametrize('mode', ['I', 'F'])
def test_modes_without_a_defined_white_are_refused(mode):
    with pytest.raises(ImageError, match=rf'mode {mode}.*; save it'):
        localize(Glow(), Image.new(mode, (8, 8)))


def test_large_transparent_and_16_bit_images_are_converted_in_strips(monkeypatch):
    images = Image.fromarray(COLORS), transparent_palette(), Image.fromarray(DEEP)
    whole = [np.asarray(as_image(image)) for image in images]
    monkeypatch.setattr('fcam_zoo.data.images._STRIP', 130)
    for image, expected in zip(images, whole):
        np.testing.assert_array_equal(np.asarray(as_image(image)), expected)


def test_array_with_alpha_equals_the_image():
    np.testing.assert_array_equal(np.asarray(as_image(COLORS)), np.asarray(as_image(Image.fromarray(COLORS))))
    assert as_image(np.zeros((3, 5, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_of_paths_and_images(tmp_path):
    """A file is turned upright; an image keeps its own pixels, so that boxes fit it."""
    block = Image.Exif()
    block[0x0112] = 6
    path = tmp_path / 'e.png'
    Image.fromarray(COLORS[..., :3]).save(path, exif=block)
    (by_path,) = localize(Glow(64), path)
    opened = Image.open(path)
    assert by_path.size == (24, 40)
    assert localize(Glow(64), opened)[0].size == opened.size == (40, 24)
    (upright,) = localize(Glow(64), ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(upright.map, by_path.map)


def encoded(image: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'GIF', 'TIFF', 'BMP', 'WEBP'])
def test_truncated_image_object(kind):
    content = encoded(Image.fromarray(COLORS[..., :3]), kind)
    refused = 0
    for length in range(len(content) // 3, len(content) - 40, 97):
        try:
            image = Image.open(io.BytesIO(content[:length]))
        except Exception:  # Not what is tested: Pillow opens a header, and fails when it decodes.
            continue
        with pytest.raises(ImageError, match=r'^image: cannot be read as an image \(.*\); replace the file'):
            localize(Glow(), image)
        refused += 1
    assert refused or kind == 'WEBP'


def test_image_whose_file_was_closed(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / 'c.png')
    with Image.open(tmp_path / 'c.png') as image:
        pass
    with pytest.raises(ImageError, match=r'c\.png: cannot be read'):
        localize(Glow(), image)


@pytest.mark.parametrize('size', [(0, 5), (5, 0), (0, 0)])
def test_empty_images(size):
    with pytest.raises(ImageError, match='is not the size of an image; give one of at least 1x1 pixels'):
        localize(Glow(), Image.new('RGB', size))
    with pytest.raises(ImageError, match=r'array: .* is not the size of an image'):
        localize(Glow(), np.zeros((*size, 3), np.uint8))


@pytest.mark.parametrize('size', [(MAX_RATIO + 1, 1), (2, 2 * MAX_RATIO + 1), (79_000_000, 1)])
def test_absurd_aspect_ratios_are_refused(tmp_path, size):
    with pytest.raises(ImageError, match=r'strip\.bmp: .* one side is over 1000 times the other; crop it'):
        check_size(size, 'strip.bmp')
    path = tmp_path / 'strip.png'
    Image.new('1', size).save(path)
    with pytest.raises(ImageError, match='one side is over 1000 times'):
        open_image(path)
    for image in (path, Image.open(path), np.zeros(size, np.uint8)):
        with pytest.raises(ImageError, match='one side is over 1000 times'):
            localize(Glow(), image)


def test_the_longest_image_is_localized():
    (found,) = localize(Glow(), np.full((1, MAX_RATIO), 255, np.uint8))
    assert (found.size, found.box) == ((MAX_RATIO, 1), (0, 0, MAX_RATIO, 1))


def test_too_many_pixels_as_image_and_array():
    large = np.broadcast_to(np.uint8(0), (9000, 9000))
    assert large.size > MAX_PIXELS
    with pytest.raises(ImageError, match='more than the limit of 80000000; resize it'):
        localize(Glow(), large)
    with pytest.raises(ImageError, match='more than the limit'):
        localize(Glow(), Image.open(io.BytesIO(encoded(Image.new('1', (9000, 9000)), 'PNG'))))


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('n' * 256, 'name too long; use a shorter path'),
        ('n/' * 3000 + 'a.png', 'name too long; use a shorter path'),
        ('a\0.png', 'not a path'),
        ('', 'a folder or a special file'),
        ('missing\udcff.png', 'no such image file'),
    ],
)
def test_paths_that_cannot_be_opened(name, message):
    with pytest.raises((ImageError, FileNotFoundError), match=message):
        localize(Glow(), name)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'sizes': [224.5]}, r'sizes is \[224\.5\]: give one or more sizes'),
        ({'sizes': 224}, 'sizes is 224: give one or more'),
        ({'sizes': '224'}, "sizes is '224': give one or more"),
        ({'sizes': [1_000_000]}, 'at most 16 sizes and 2048 pixels'),
        ({'sizes': [3_000_000_000]}, 'at most 16 sizes and 2048 pixels'),
        ({'sizes': [10**5000]}, 'at most 16 sizes and 2048 pixels'),
        ({'sizes': [224] * 17}, 'at most 16 sizes'),
        ({'sizes': [float('nan')]}, 'give one or more sizes'),
        ({'threshold': float('nan')}, r'threshold is nan: choose a value in \[0,1\)'),
        ({'threshold': 10**400}, r'threshold is .*: choose a value in \[0,1\)'),
        ({'threshold': [0.5]}, r'threshold is \[0\.5\]: choose'),
        ({'threshold': 'Otsu'}, "threshold is 'Otsu': choose"),
        ({'threshold': True}, 'threshold is True: choose'),
        ({'min_area': 'big', 'multi': True}, "min_area is 'big': choose a share"),
        ({'min_area': float('nan')}, 'min_area is nan: choose a share'),
        ({'batch_size': 2.5}, r'batch_size is 2\.5: give at least one image'),
        ({'batch_size': '8'}, "batch_size is '8': give"),
        ({'batch_size': 10**20}, r'batch_size is 1.*: give .* at most 4096'),
        ({'batch_size': None}, 'batch_size is None: give'),
        ({'class_names': 'ab'}, "class_names is 'ab': give a list of names"),
        ({'class_names': [1, 2]}, r'class_names is \[1, 2\]: give a list of names'),
        ({'class_names': 5}, 'class_names is 5: give a list'),
    ],
)
def test_arguments_of_a_wrong_type_or_out_of_range(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        localize(Glow(), np.zeros((8, 8), np.uint8), **options)


@pytest.mark.parametrize('images', [None, 5, b'a.png', [None], [[]], {}, object()])
def test_inputs_that_are_not_images(images):
    with pytest.raises(TypeError, match='is not an image: give a path, a PIL image, a uint8 array or a tensor'):
        localize(Glow(), images)


def test_tensors_give_the_maps_of_arrays():
    array = COLORS[..., :3]
    pixels = torch.tensor(array).permute(2, 0, 1)
    (want,) = localize(Glow(), array)
    floats = pixels.float() / 255
    for image in (pixels, floats, floats.half(), floats.double().requires_grad_()):
        (found,) = localize(Glow(), image)
        assert found.size == (40, 24)
        np.testing.assert_array_equal(found.map, want.map)
    batch = torch.stack([pixels, pixels.flip(2)])
    assert [found.size for found in localize(Glow(), [batch, array])] == [(40, 24)] * 3
    np.testing.assert_array_equal(localize(Glow(), batch)[1].map, localize(Glow(), array[:, ::-1].copy())[0].map)
    assert len(localize(Glow(), np.stack([array, array]))) == 2


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (torch.zeros(3, 8, 8) - 0.1, r'floats from -0\.1 to -0\.1: give RGB in \[0,1\]; for normalized images call'),
        (torch.full((3, 8, 8), 255.0), 'floats from 255 to 255'),
        (torch.full((3, 8, 8), float('nan')), 'floats from nan to nan'),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r'tensor of uint8 \(8, 8, 3\): expected RGB \(3,H,W\)'),
        (torch.zeros(3, 8, 8, dtype=torch.int64), 'tensor of int64'),
        (torch.zeros(3, 0, 8), 'is not the size of an image'),
        (torch.zeros(3, 8, 8, device='meta'), 'tensor of float32'),
        (torch.zeros(3, 8, 8).to_sparse(), 'sparse'),
    ],
)
def test_tensors_that_are_not_images(image, message):
    with pytest.raises((TypeError, ValueError), match=message):
        localize(Glow(), image)


def test_folders(tmp_path):
    for i, name in enumerate(('b/2.png', 'a/1.png', 'c.png')):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(COLORS[: 10 + i, :, :3]).save(path)
    (tmp_path / 'notes.txt').write_text('')
    assert [found.size[1] for found in localize(Glow(), tmp_path)] == [11, 10, 12]
    assert [found.size[1] for found in localize(Glow(), [tmp_path / 'c.png', str(tmp_path / 'b')])] == [12, 10]
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ImageError, match='no images in this folder'):
        localize(Glow(), tmp_path / 'empty')


def test_generators_are_read_one_image_at_a_time():
    read = []

    def images():
        for i in range(4):
            read.append(i)
            yield COLORS[..., :3]

    class Counting(Glow):
        def forward(self, x):
            seen.append(len(read))
            return super().forward(x)

    seen: list[int] = []
    localize(Counting(), images(), batch_size=2)
    assert seen[0] == 2


@pytest.mark.parametrize('model', [None, 'fcam', torch.nn.Linear(1, 1), Glow])
def test_objects_that_are_not_a_model(model):
    with pytest.raises(TypeError, match='is not an F-CAM: create one with create_model'):
        localize(model, np.zeros((8, 8), np.uint8))


def test_numbers_of_numpy_are_numbers():
    image = np.zeros((8, 8), np.uint8)
    options = {'threshold': np.float32(0.5), 'sizes': np.array([64]), 'min_area': np.float64(0.1)}
    (found,) = localize(Glow(), image, batch_size=np.int64(2), **options)
    (expected,) = localize(Glow(), image, 0.5, sizes=[64], min_area=0.1)
    np.testing.assert_array_equal(found.map, expected.map)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_model_that_returns_nan(value):
    model = Glow()
    model.scale.data.fill_(value)
    with pytest.raises(FcamZooError, match=r'returns NaN or infinite values: .* load other weights'):
        localize(model, np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize('message', ["DefaultCPUAllocator: can't allocate memory", 'not enough memory: you tried'])
def test_too_little_memory_is_explained(message, monkeypatch):
    def forward(self, x):
        raise RuntimeError(f'[enforce fail at alloc_cpu.cpp] {message}')

    monkeypatch.setattr(Glow, 'forward', forward)
    with pytest.raises(FcamZooError, match='not enough memory for 1 images of 224 pixels: use a smaller batch_size'):
        localize(Glow(), np.zeros((8, 8), np.uint8))


def test_random_images_by_path_and_as_image(tmp_path):
    """Damaged files are refused in both ways, others give the same pixels."""
    rng = random.Random(0)
    sources = []
    for name in ('gray.png', 'alpha.png', 'palette_alpha.png', 'deep.tif', 'palette.gif', 'cmyk.jpg', 'color.webp'):
        STORED[name]().save(tmp_path / name)
        sources.append(tmp_path / name)
    outcomes = {True: 0, False: 0}
    for _ in range(400):
        source = rng.choice(sources)
        content = bytearray(source.read_bytes())
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path = tmp_path / f'damaged{source.suffix}'
        path.write_bytes(content[: rng.randint(len(content) // 2, len(content) + 200)])
        results = [outcome(partial(open_image, exif=False), path), outcome(decode_opened, path)]
        assert len({type(result) for result in results}) == 1, results
        if isinstance(results[0], Image.Image):
            np.testing.assert_array_equal(*map(np.asarray, results))
        outcomes[isinstance(results[0], Image.Image)] += 1
    assert min(outcomes.values()) > 20


def decode_opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except Exception as e:  # Errors of Pillow, before fcam_zoo gets the image.
        raise ImageError(str(e)) from e
    return as_image(image)


def outcome(read: Callable[[Path], Image.Image], path: Path) -> Image.Image | str:
    try:
        return read(path)
    except ImageError as e:
        return str(e)
