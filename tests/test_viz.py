"""Results as pictures, text and JSON."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from glow import Glow
from PIL import Image, ImageDraw

import fcam_zoo
from fcam_zoo import _drawing, viz
from fcam_zoo.errors import ImageError
from fcam_zoo.localization import Localization

SIZE = (200, 160)  # width, height
BOXES = [(8, 8, 96, 120), (120, 16, 192, 80)]


def scene(size: tuple[int, int] = SIZE, boxes=BOXES) -> Image.Image:
    image = Image.new('RGB', size)
    for x0, y0, x1, y1 in boxes:
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), fill='white')
    return image


@pytest.fixture
def found() -> Localization:
    return fcam_zoo.localize(Glow(200), scene(), multi=True)[0]


def is_line(image: Image.Image, box) -> bool:
    """Whether the four sides of a box are drawn."""
    x0, y0, x1, y1 = box
    middle = [(x0, (y0 + y1) // 2), (x1 - 1, (y0 + y1) // 2), ((x0 + x1) // 2, y0), ((x0 + x1) // 2, y1 - 1)]
    return all(image.getpixel(at) == viz.BOX_COLOR for at in middle)


def test_repr_is_short(found):
    assert repr(found).startswith("Localization(label='dim', score=0.")
    assert f'box={found.box}, objects=2, size=(200, 160))' in repr(found)
    assert repr(found.objects[0]).startswith(f'Region(box={found.objects[0].box}, area=')
    (long,) = fcam_zoo.localize(Glow(), scene(), class_names=['a\n' * 5000, 'b'])
    assert len(repr(long)) < 400
    assert '\n' not in repr(long)


def test_comparison_is_by_identity(found):
    (again,) = fcam_zoo.localize(Glow(200), scene(), multi=True)
    assert found == found
    assert found != again
    assert found in [again, found]
    assert len({found, again}) == 2
    assert found.objects[0] != again.objects[0]
    assert found.to_dict() == again.to_dict()


def test_dict_is_json(found, tmp_path):
    values = json.loads(json.dumps(found.to_dict()))
    assert values['label'] == 'dim'
    assert values['class_index'] == 0
    assert values['size'] == [200, 160]
    assert values['box'] == list(found.box)
    assert [entry['box'] for entry in values['objects']] == [list(region.box) for region in found.objects]
    assert values['objects'][1]['score'] == pytest.approx(found.score * found.objects[1].strength)
    assert values['objects'][1]['area'] == found.objects[1].area
    assert values['image'] is None
    scene().save(tmp_path / 'a.png')
    assert fcam_zoo.localize(Glow(), tmp_path / 'a.png')[0].to_dict()['image'] == str(tmp_path / 'a.png')


def test_overlay_draws_every_box(found):
    picture = found.plot()
    assert picture.size == SIZE
    assert [is_line(picture, region.box) for region in found.objects] == [True, True]
    (single,) = fcam_zoo.localize(Glow(200), scene())
    assert not is_line(single.plot(), found.objects[1].box)
    # A smaller copy of the image: the boxes are scaled.
    half = viz.overlay(scene().resize((100, 80)), found)
    assert [is_line(half, [edge // 2 for edge in region.box]) for region in found.objects] == [True, True]


def test_opacity_and_caption(found):
    clear = np.asarray(viz.overlay(scene(), found, 0, caption=False))
    assert (clear[120:, 100:] == 0).all()
    assert (np.asarray(viz.overlay(scene(), found, 0))[8:40, 8:96] == 0).any()  # its background
    assert (np.asarray(found.plot(opacity=1))[150, 150] == viz.heat_map(np.full((1, 1), found.map[150, 150]))).all()


def caption_box(size, box, text) -> tuple[int, int, int, int] | None:
    """Box of what a caption changes in a gray image, besides the lines of its box."""
    plain = Image.new('RGB', size, 'gray')
    with_text, lines = (np.asarray(viz.draw_box(plain, box, t), int) for t in (text, ''))
    return Image.fromarray((np.abs(with_text - lines).max(2) > 0).astype(np.uint8)).getbbox()


@pytest.mark.parametrize('text', ['cat 0.91', 'a long name of a class, which is wider than the picture 0.91'])
@pytest.mark.parametrize('box', [(0, 0, 200, 160), (150, 120, 200, 160), (195, 155, 200, 160)])
def test_captions_stay_inside(text, box):
    x0, y0, x1, y1 = caption_box(SIZE, box, text)
    # No letter is at the edge of the black background, so nothing was cut.
    drawn = np.asarray(viz.draw_box(Image.new('RGB', SIZE, 'gray'), box, text))
    assert (drawn[y0:y1, x1 - 1] == 0).all()
    assert (drawn[y1 - 1, x0:x1] == 0).all()
    assert (drawn[y0:y1, x0:x1] > 150).any()


def test_short_captions_are_not_shortened():
    text, font = _drawing._fit('029.American_Crow 0.14', 200, 40)
    assert text == '029.American_Crow 0.14'
    assert font.getlength(text) <= 200
    text, font = _drawing._fit('a class with a name that is much too long', 60, 40)
    assert text.endswith('…')
    assert font.getlength(text) <= 60
    assert _drawing._fit('a class', 3, 40)[0] == ''


def test_images_without_room_for_letters(found):
    assert caption_box((40, 8), (2, 2, 30, 7), 'cat') is None
    assert caption_box((4, 40), (0, 2, 3, 30), 'cat') is None
    assert viz.overlay(scene().resize((2, 300)), found).size == (2, 300)


def test_notebooks_show_photograph_and_map(found, tmp_path):
    shown = Image.open(io.BytesIO(found._repr_png_()))
    assert shown.width <= viz.WIDTH
    scale = (shown.height - 2 * _drawing._LINE) / SIZE[1]
    width = round(SIZE[0] * scale)
    white = tuple(round(value * scale) for value in (50, 60))
    assert shown.getpixel(white) == (255, 255, 255)  # the photograph
    assert shown.getpixel((width + 6 + white[0], white[1])) != (255, 255, 255)  # its map
    assert is_line(shown, [round(e * scale) + d for e, d in zip(found.box, (width + 6, 0) * 2)])
    path = tmp_path / 'a.png'
    scene().save(path)
    (by_path,) = fcam_zoo.localize(Glow(200), path, multi=True)
    assert by_path._repr_png_() == found._repr_png_()
    path.unlink()
    assert by_path._repr_png_() is None
    assert repr(by_path) == repr(found)


def test_large_and_long_images_are_shown_small():
    for size in ((3000, 2000), (1000, 1), (1, 1000)):
        (result,) = fcam_zoo.localize(Glow(), Image.new('RGB', size, 'white'))
        shown = Image.open(io.BytesIO(result._repr_png_()))
        assert shown.width <= viz.WIDTH
        assert shown.height <= 400


def test_save(found, tmp_path):
    path = found.save(tmp_path / 'new' / 'result.png')
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(found.plot()))
    assert Image.open(found.save(str(tmp_path / 'result.jpg'))).format == 'JPEG'
    with pytest.raises(ValueError, match=r'x\.bmp: the suffix is not a supported format; use one of \.png'):
        found.save(tmp_path / 'x.bmp')
    assert not (tmp_path / 'x.bmp').exists()


def test_the_image_that_is_plotted(found, tmp_path):
    pixels = np.asarray(scene()).copy()
    (kept,) = fcam_zoo.localize(Glow(200), pixels, multi=True)
    pixels[:] = 0  # as a video reader does with its buffer
    np.testing.assert_array_equal(np.asarray(kept.plot()), np.asarray(found.plot()))
    with pytest.raises(ValueError, match='the image has 20x10 pixels, its localization 200x160'):
        found.plot(Image.new('RGB', (20, 10)))
    unknown = Localization('a', 0.5, (0, 0, 0, 0), found.mask, found.map, SIZE, 0)
    with pytest.raises(ValueError, match=r'the image of this localization is unknown: give it, as in plot\(image\)'):
        unknown.plot()
    assert unknown._repr_png_() is None
    assert unknown.plot(scene()).size == SIZE
    path = tmp_path / 'a.png'
    scene().save(path)
    (by_path,) = fcam_zoo.localize(Glow(), path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r'a\.png: cannot be read as an image'):
        by_path.plot()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r'a\.png'):
        by_path.plot()


def test_compare_draws_one_row(model_dir, found):
    other = fcam_zoo.create_model(f'local-dir:{model_dir}')
    names = [f'local-dir:{model_dir}', other]
    picture = viz.compare(scene(), names)
    assert picture.width <= viz.WIDTH
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(viz.compare(np.asarray(scene()), names)))
    one = viz.compare(scene(), {'glow': Glow(200)}, multi=True)
    assert one.size == (2 * 400 + 6, 320 + 2 * _drawing._LINE)
    boxes = [[2 * edge for edge in region.box] for region in found.objects]
    assert all(is_line(one, (x0 + 406, y0, x1 + 406, y1)) for x0, y0, x1, y1 in boxes)
    assert viz.compare(scene(), Glow(), width=300).width <= 300
    assert viz.compare(scene(), Glow(), threshold=0.999).size == viz.compare(scene(), Glow()).size


def test_titles_of_models(model_dir):
    assert viz._title('fcam_mobilenetv1_075_cub50') == 'fcam_mobilenetv1_075_cub50'
    assert viz._title('local-dir:/data/runs/birds/best') == 'birds/best'
    assert viz._title(fcam_zoo.create_model('fcam_resnet50.cam_cub')) == 'fcam_resnet50.cam_cub'
    assert viz._title(Glow()) == 'Glow'


@pytest.mark.parametrize(
    ('models', 'options', 'message'),
    [
        ([], {}, 'models is empty: give at least one name or model'),
        ('fcam_nothing', {}, "unknown model 'fcam_nothing'"),
        (3, {}, 'int is not an F-CAM'),
        (Glow(), {'width': 3}, 'width is 3: give at least 64 pixels'),
        (Glow(), {'threshold': 2}, 'threshold is 2: choose a value'),
    ],
)
def test_wrong_arguments_of_compare(models, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        viz.compare(scene(), models, **options)
