"""Objects found by `localize`: exact to rounding in image pixels, for any input size of the network."""

from __future__ import annotations

import doctest
import importlib

import cv2
import numpy as np
import pytest
from glow import Glow
from synthetic import shape_image

import fcam_zoo
from fcam_zoo.labelling.labeller import run_lengths
from fcam_zoo.objects import find_regions, foreground


def scene(size: tuple[int, int], *boxes: tuple[int, int, int, int], level: int = 255) -> np.ndarray:
    """White boxes on black, uint8 (H,W,3)."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = level
    return image


def tolerance(size: tuple[int, int], side: int) -> list[int]:
    """Rounding error at each edge: half a pixel of the network input and half of the original image."""
    x, y = (int(np.ceil(0.5 * max(1.0, s / side) + 0.5)) for s in size)
    return [x, y, x, y]


SIZES = [(224, 224), (500, 375), (375, 500), (97, 61), (1000, 150), (33, 700)]
CORNERS = {
    'top left': (0.0, 0.0, 0.4, 0.3),
    'bottom right': (0.55, 0.7, 1.0, 1.0),
    'left edge': (0.0, 0.3, 0.25, 0.8),
    'whole': (0.0, 0.0, 1.0, 1.0),
    'inside': (0.3, 0.2, 0.7, 0.9),
}


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('place', CORNERS)
@pytest.mark.parametrize('options', [{}, {'flip': True}, {'sizes': [320]}, {'sizes': [192, 224, 288], 'flip': True}])
def test_boxes_are_exact_to_rounding(size, place, options):
    box = tuple(round(share * side) for share, side in zip(CORNERS[place], size * 2))
    (found,) = fcam_zoo.localize(Glow(), scene(size, box), **options)
    smallest = min(options.get('sizes', [224]))
    assert (np.abs(np.subtract(found.box, box)) <= tolerance(size, smallest)).all(), (found.box, box)
    assert found.size == size
    if place == 'whole':
        assert found.box == box


@pytest.mark.parametrize('threshold', [0.2, 0.5, 'otsu'])
def test_several_objects_largest_first(threshold):
    boxes = [(10, 10, 60, 60), (100, 20, 190, 120), (0, 170, 40, 200), (150, 150, 156, 156)]
    (found,) = fcam_zoo.localize(Glow(200), scene((200, 200), *boxes), threshold, multi=True, min_area=0.002)
    assert [region.box for region in found.objects] == [boxes[1], boxes[0], boxes[2]]
    assert found.box == boxes[1]
    assert [region.area for region in found.objects] == [9000, 2500, 1200]
    assert all(region.mask.all() and region.strength > 0.99 for region in found.objects)
    assert found.mask[152, 152]
    (single,) = fcam_zoo.localize(Glow(200), scene((200, 200), *boxes), threshold)
    assert [region.box for region in single.objects] == [boxes[1]]


def test_largest_object_is_kept_even_if_small():
    (found,) = fcam_zoo.localize(Glow(100), scene((100, 100), (3, 3, 5, 5)), multi=True, min_area=0.5)
    assert [region.box for region in found.objects] == [(3, 3, 5, 5)]


def test_region_inside_a_ring_is_not_part_of_it():
    image = scene((90, 90), (5, 5, 85, 85))
    image[15:75, 15:75] = 0
    image[30:40, 30:60] = 255
    (found,) = fcam_zoo.localize(Glow(90), image, multi=True, min_area=0)
    (ring,) = found.objects
    assert ring.area == 80 * 80 - 60 * 60
    assert not ring.mask[30 - 5, 35 - 5]


def test_otsu_adapts_to_the_map():
    image = scene((100, 100), (10, 10, 90, 90), level=120)
    image[40:60, 40:60] = 255
    boxes = [fcam_zoo.localize(Glow(100), image, t)[0].box for t in (0.2, 'otsu', 0.8)]
    assert boxes == [(10, 10, 90, 90), (10, 10, 90, 90), (40, 40, 60, 60)]


def test_dark_image_has_no_object():
    (found,) = fcam_zoo.localize(Glow(64), scene((80, 50)))
    assert found.box == (0, 0, 0, 0)
    assert found.objects == ()
    assert found.label == 'dim'


def test_average_of_equal_maps_is_the_map():
    image = scene((224, 224), (20, 30, 90, 100))
    plain, flipped = (fcam_zoo.localize(Glow(), image, flip=flip)[0] for flip in (False, True))
    assert np.allclose(plain.map, flipped.map, atol=1e-6)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'threshold': 'mean'}, r"threshold is 'mean': choose a value in \[0,1\), or 'otsu'"),
        ({'threshold': float('nan')}, 'threshold is nan'),
        ({'min_area': 1.0}, r'min_area is 1.0: choose a share of the image in \[0,1\)'),
        ({'sizes': []}, r'sizes is \[\]: give one or more sizes'),
        ({'sizes': [224, 8]}, 'at least 32 pixels'),
        ({'batch_size': 0}, 'at least one image per forward pass'),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        fcam_zoo.localize(Glow(), scene((40, 40)), **options)


def test_run_lengths_decode_to_the_mask():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random(tuple(rng.integers(1, 12, 2))) > 0.4
        union = np.zeros_like(mask)
        regions = find_regions(mask, mask.astype(np.float32), True, 0)
        for region in regions:
            x0, y0, x1, y1 = region.box
            union[y0:y1, x0:x1] |= region.mask
            counts = run_lengths(region, mask.shape[::-1])
            decoded = np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.shape[::-1]).T
            assert decoded.sum() == region.area
            assert (decoded[y0:y1, x0:x1] == region.mask).all()
        assert not (union & ~mask).any()


def test_regions_are_the_connected_components_of_the_whole_image():
    rng = np.random.default_rng(1)
    number = 0
    for _ in range(30):
        mask = rng.random((20, 30)) > 0.7
        _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
        for region in find_regions(mask, mask.astype(np.float32), True, 0):
            x0, y0, x1, y1 = region.box
            whole = np.zeros_like(mask)
            whole[y0:y1, x0:x1] = region.mask
            (label,) = set(labels[whole])
            assert (whole == (labels == label)).all()
            number += (mask[y0:y1, x0:x1] & ~region.mask).any()
    assert number > 30  # Boxes that other regions reach into.


def test_threshold_is_relative_to_the_largest_level():
    levels = np.array([[0, 50, 100, 200]], np.float32) / 255
    assert foreground(levels + 1e-4, 0.5).tolist() == [[False, False, False, True]]


def test_localize_accepts_paths_images_and_arrays(tmp_path):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    image, _ = shape_image(0, 1)
    gray, rgba = image.convert('L'), image.convert('RGBA')
    image.save(tmp_path / 'image.png')
    images = [image, np.asarray(image), np.asarray(gray), np.asarray(rgba), tmp_path / 'image.png']
    found = fcam_zoo.localize(model, images, batch_size=3)
    assert len(found) == 5
    assert np.array_equal(found[0].map, found[1].map)
    assert np.array_equal(found[0].map, found[4].map)
    assert found[0].mask.shape == found[0].map.shape == (72, 72)
    with pytest.raises(TypeError, match='float64'):
        fcam_zoo.localize(model, np.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match='int is not an image'):
        fcam_zoo.localize(model, [3])
    with pytest.raises(ValueError, match='class names'):
        fcam_zoo.localize(model, image, class_names=['a'])
    assert fcam_zoo.localize(model, []) == []


def test_examples_of_localize():
    failed, tried = doctest.testmod(importlib.import_module('fcam_zoo.localization'))
    assert failed == 0
    assert tried > 8
