"""Open images of every mode, refuse damaged, unknown and oversized files, and find images in folders."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fcam_zoo.data import MAX_PIXELS, image_size, list_images, open_image, to_rgb
from fcam_zoo.data.images import open_mask
from fcam_zoo.errors import ImageError


def photo(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """A smooth image without symmetry, so that every turn or flip changes it."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif', 'ppm'])
def test_lossless_rgb_is_exact(tmp_path, suffix):
    path = saved(tmp_path / f'a.{suffix}', photo())
    image = open_image(path)
    assert type(image) is Image.Image
    assert image.mode == 'RGB'
    np.testing.assert_array_equal(np.asarray(image), np.asarray(photo()))


@pytest.mark.parametrize(('suffix', 'options'), [('jpg', {'quality': 95}), ('webp', {'lossless': True}), ('jp2', {})])
def test_lossy_formats_decode(tmp_path, suffix, options):
    image = open_image(str(saved(tmp_path / f'a.{suffix}', photo(), **options)))
    assert (image.mode, image.size) == ('RGB', (40, 30))
    assert np.abs(np.asarray(image, float) - np.asarray(photo(), float)).mean() < 12


def test_gray_and_bilevel(tmp_path):
    gray = photo().convert('L')
    got = np.asarray(open_image(saved(tmp_path / 'l.png', gray)))
    np.testing.assert_array_equal(got, np.repeat(np.asarray(gray)[..., None], 3, 2))
    bits = gray.point(lambda v: 255 * (v > 99), mode='1')
    got = np.asarray(open_image(saved(tmp_path / 'b.png', bits)))
    np.testing.assert_array_equal(got[..., 0], np.where(np.asarray(bits), 255, 0))


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_transparent_pixels_become_white(tmp_path, mode):
    color = photo().convert(mode)
    alpha = np.tile(np.linspace(0, 255, 40).round().astype(np.uint8), (30, 1))
    color.putalpha(Image.fromarray(alpha))
    got = np.asarray(open_image(saved(tmp_path / 'a.png', color)), float)
    rgb, a = np.asarray(color.convert('RGBA'), float)[..., :3], alpha[..., None] / 255
    np.testing.assert_allclose(got, rgb * a + 255 * (1 - a), atol=1.01)
    assert (got[:, 0] == 255).all()


def test_palette_with_and_without_transparency(tmp_path):
    palette = photo().quantize(16)
    got = np.asarray(open_image(saved(tmp_path / 'p.png', palette)))
    np.testing.assert_array_equal(got, np.asarray(palette.convert('RGB')))
    index = int(np.asarray(palette)[0, 0])
    got = np.asarray(open_image(saved(tmp_path / 't.png', palette, transparency=index)))
    clear = np.asarray(palette) == index
    assert (got[clear] == 255).all()
    np.testing.assert_array_equal(got[~clear], np.asarray(palette.convert('RGB'))[~clear])


def test_transparent_color_of_rgb_png(tmp_path):
    image = Image.new('RGB', (4, 2), (10, 20, 30))
    image.putpixel((0, 0), (200, 0, 0))
    got = open_image(saved(tmp_path / 'k.png', image, transparency=(10, 20, 30)))
    assert got.getpixel((0, 0)) == (200, 0, 0)
    assert got.getpixel((3, 1)) == (255, 255, 255)


def test_cmyk_jpeg(tmp_path):
    path = saved(tmp_path / 'c.jpg', photo().convert('CMYK'), quality=100)
    with Image.open(path) as image:
        assert image.mode == 'CMYK'
    got = np.asarray(open_image(path), float)
    assert np.abs(got - np.asarray(photo(), float)).mean() < 4


@pytest.mark.parametrize('name', ['g.png', 'g.tif', 'g.pgm'])
def test_16_bit_gray_is_scaled_not_clipped(tmp_path, name):
    def read(values: np.ndarray) -> np.ndarray:
        path = tmp_path / name
        if path.suffix == '.pgm':  # By hand, since older versions of Pillow do not write it.
            path.write_bytes(b'P5 40 30 65535\n' + values.astype('>u2').tobytes())
        else:
            Image.fromarray(values).save(path)
        return np.asarray(open_image(path))

    values = np.linspace(0, 65535, 40 * 30).round().astype(np.uint16).reshape(30, 40)
    got = read(values)
    np.testing.assert_array_equal(got[..., 0], np.round(values / 257))
    assert got.min() == 0
    assert got.max() == 255
    # A dark image stays dark: the scale does not depend on the content.
    assert read(values // 256).max() == 1


@pytest.mark.parametrize('dtype', [np.int32, np.float32])
def test_32_bit_pixels_are_refused(tmp_path, dtype):
    image = Image.fromarray(np.ones((3, 4), dtype))
    with pytest.raises(ImageError, match=r'f\.tif: 32-bit pixels .* save it with 8 or 16 bits'):
        open_image(saved(tmp_path / 'f.tif', image))
    with pytest.raises(ImageError, match='32-bit pixels'):
        to_rgb(image)


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new('RGB', (9, 5), c) for c in ('red', 'lime', 'blue')]
    path = saved(tmp_path / 'a.gif', frames[0], save_all=True, append_images=frames[1:])
    assert open_image(path).getpixel((4, 2)) == (255, 0, 0)
    path = saved(tmp_path / 'two.jpg', photo(), save_all=True, append_images=[photo(seed=1)], format='MPO')
    assert np.abs(np.asarray(open_image(path), float) - np.asarray(photo(), float)).mean() < 12


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    path = saved(tmp_path / 'e.jpg', photo(), exif=exif(orientation))
    with Image.open(path) as image:
        stored, upright = np.asarray(image), np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(np.asarray(open_image(path)), upright)
    np.testing.assert_array_equal(np.asarray(open_image(path, exif=False)), stored)
    assert image_size(path) == (40, 30)


def test_exif_of_png_and_damaged_exif(tmp_path):
    path = saved(tmp_path / 'e.png', photo(), exif=exif(6))
    assert open_image(path).size == (30, 40)
    for block in (b'Exif\0\0MM\0*\xff\xff\xff\xff', b'Exif\0\0junk', b'Exif\0\0'):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert open_image(saved(tmp_path / 'd.jpg', photo(), exif=block)).size == (40, 30)


def test_missing_files_folders_and_unknown_formats(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.jpg: no such image file'):
        open_image(tmp_path / 'gone.jpg')
    with pytest.raises(ImageError, match='a folder or a special file'):
        open_image(tmp_path)
    (tmp_path / 'text.jpg').write_bytes(b'hello')
    (tmp_path / 'empty.png').touch()
    photo().save(tmp_path / 'script.jpg', 'EPS')  # By default Pillow runs Ghostscript on it.
    for name in ('text.jpg', 'empty.png', 'script.jpg'):
        with pytest.raises(ImageError, match=rf'{name}: not an image of a known format; convert it'):
            open_image(tmp_path / name)


@pytest.mark.parametrize('name', ['t.jpg', 't.png', 't.webp', 't.tif', 't.bmp', 't.jp2'])
def test_truncated_files_are_refused(tmp_path, name):
    path = saved(tmp_path / name, photo(200, 150))
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=name):
            open_image(path)


def test_damaged_png_is_refused(tmp_path):
    path = saved(tmp_path / 'd.png', photo(200, 150))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r'd\.png: cannot be read as an image .*; replace the file'):
        open_image(path)


def test_random_damage_raises_only_image_error(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('r.jpg', 'r.png', 'r.gif', 'r.tif', 'r.webp', 'r.bmp', 'r.ppm', 'r.jp2'):
        path = saved(tmp_path / name, photo(), **({'exif': exif(6)} if name in ('r.jpg', 'r.png') else {}))
        whole = path.read_bytes()
        for _ in range(40):
            content = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 400), 4):
                content[place] = rng.integers(256)
            path.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                try:
                    outcome = open_image(path, max_pixels=10_000).mode
                except ImageError as e:
                    outcome = str(e)
            assert outcome == 'RGB' or name in outcome


def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch):
    path = saved(tmp_path / 'big.png', photo())
    assert open_image(path, max_pixels=1200).size == (40, 30)
    monkeypatch.setattr(Image.Image, 'load', lambda self: pytest.fail('decoded'))
    with pytest.raises(ImageError, match=r'big\.png: 40x30 pixels are more than the limit of 1199; resize it'):
        open_image(path, max_pixels=1199)


@pytest.mark.parametrize('side', [9000, 60000])
def test_decompression_bomb(tmp_path, side):
    """A file of a few bytes with a huge size in its header: above our limit, and above the limit of Pillow."""
    content = io.BytesIO()
    Image.new('1', (8, 8)).save(content, 'BMP')
    raw = bytearray(content.getvalue())
    raw[18:26] = np.array([side, side], '<i4').tobytes()
    path = tmp_path / 'bomb.bmp'
    path.write_bytes(raw)
    assert side * side > MAX_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # There is no warning either.
        with pytest.raises(ImageError, match=r'bomb\.bmp: .*resize it'):
            open_image(path)


def test_global_state_of_pillow_is_unchanged(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    open_image(saved(tmp_path / 'a.png', photo()))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_open_mask_gives_gray_levels(tmp_path):
    bits = Image.fromarray(np.eye(4, dtype=bool))
    np.testing.assert_array_equal(open_mask(saved(tmp_path / 'm.png', bits)), 255 * np.eye(4, dtype=np.uint8))
    gray = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    np.testing.assert_array_equal(open_mask(saved(tmp_path / 'g.png', gray)), np.asarray(gray))


def test_list_images(tmp_path):
    for name in ('b/2.JPG', 'b/10.jpeg', 'a/deep/x.Png', 'z.webp', 'notes.txt', '.hidden/h.jpg', 'b/._2.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'folder.jpg').mkdir()
    names = [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)]
    assert names == ['a/deep/x.Png', 'b/10.jpeg', 'b/2.JPG', 'z.webp']
    given = [tmp_path / 'notes.txt', str(tmp_path / 'b'), tmp_path / 'b' / '2.JPG']
    assert [p.name for p in list_images(given)] == ['notes.txt', '10.jpeg', '2.JPG']


def test_list_images_errors(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ImageError, match=r'empty: no images in this folder; known suffixes: \.jpg'):
        list_images([tmp_path / 'empty'])
    with pytest.raises(FileNotFoundError, match='gone: no such file or folder'):
        list_images(tmp_path / 'gone')
    with pytest.raises(ImageError, match='no image given'):
        list_images([])


def test_data_sets_are_imported_without_opencv():
    code = "import sys; sys.modules['cv2'] = None; import fcam_zoo.data"
    subprocess.run([sys.executable, '-c', code], check=True)
