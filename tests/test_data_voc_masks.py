"""Rules of Pascal VOC and of mask folders."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image
from shapes import CLASSES, Shapes, make

from fcam_zoo.data import MaskDataset, check_dataset, open_dataset
from fcam_zoo.errors import DatasetError, ImageError


def test_voc_counts_from_0_if_a_corner_is_0(flat, caplog):
    box = '<bndbox><xmin>0</xmin><ymin>3.6</ymin><xmax>71</xmax><ymax>59</ymax></bndbox>'
    path = flat.write_voc(0, object=f'<object><name>disc</name>{box}</object>')
    with caplog.at_level(logging.WARNING, 'fcam_zoo'):
        dataset = open_dataset(flat.root, 'test', annotations=path)
    assert 'assumed to count from 0' in caplog.text
    assert dataset.boxes[0].tolist() == [[0, 4, 71, 59]]
    assert [b.tolist() for b in dataset.boxes[1:]] == [[s.box] for s in flat.shapes[1:]]
    # Then a box must not end at the width.
    flat.write_voc(0, object=f'<object><name>disc</name>{box.replace("71", "72")}</object>')
    with pytest.raises(DatasetError, match=r'0\.xml, object 1: box \(0, 4, 72, 59\), in pixels from 0, is outside'):
        open_dataset(flat.root, 'test', annotations=path)


def test_voc_official_layout(tmp_path):
    """JPEGImages, ImageSets/Main; labels are numbered over all files."""
    shapes = make(tmp_path / 'VOC2007', folders=False, images='JPEGImages')
    path = shapes.write_voc()
    shapes.write('ImageSets/Main/test.txt', '4  1\n1 -1\n')
    shapes.write('ImageSets/Main/val.txt', '5')
    shapes.write('Annotations/0.xml', '<broken')  # In another split.
    dataset = open_dataset(shapes.root, 'test', annotations=path)
    assert (dataset.ids, dataset.labels.tolist()) == (['4.jpg', '1.jpg'], [1, 0])
    assert open_dataset(shapes.root, 'val', annotations=path).labels.tolist() == [1]
    shapes.write('ImageSets/Main/test.txt', '9\n')
    with pytest.raises(DatasetError, match=r"test\.txt: .*Annotations has no XML file '9'"):
        open_dataset(shapes.root, 'test', annotations=path)


@pytest.mark.parametrize('name', ['', '<filename>0</filename>', '<filename> 0.jpg </filename>'])
def test_voc_filename(nested, name):
    """A name without suffix finds the image; without a name, the XML file has the name of the image."""
    path = nested.write_voc(filename=name)
    assert open_dataset(nested.root, 'test', annotations=path).ids == [s.id for s in nested.shapes]
    nested.write('Annotations/disc/0.xml', nested.xml(nested.shapes[0], filename='<filename>disc/0.jpg</filename>'))
    assert open_dataset(nested.root, 'test', annotations=path).ids[0] == 'disc/0.jpg'


def test_voc_finds_images_in_class_folders(nested):
    """As in NEU-DET: one folder of XML files, images in class folders. A name must be unique."""
    shape = nested.shapes[0]
    for other in nested.shapes[1:]:
        (nested.root / 'images' / other.id).unlink()
    nested.write('Annotations/0.xml', nested.xml(shape, filename=f'<filename>{shape.id.split("/")[-1]}</filename>'))
    assert open_dataset(nested.root, 'test', annotations=nested.root / 'Annotations').ids == [shape.id]
    twin = nested.root / 'images' / 'twin' / shape.id.split('/')[-1]
    twin.parent.mkdir()
    Image.new('RGB', (72, 72)).save(twin)
    dataset = open_dataset(nested.root, 'test', annotations=nested.root / 'Annotations')
    with pytest.raises(FileNotFoundError, match=r'images.0\.jpg'):
        dataset[0]


def save_mask(flat: Shapes, values: np.ndarray, **palette: object) -> MaskDataset:
    path = flat.write_masks()
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image.putpalette(palette['colors'])
    image.save(path / '0.png')
    return open_dataset(flat.root, 'test', annotations=path)


def test_levels_of_masks(flat):
    w, h = flat.shapes[0].size
    mask = flat.shapes[0].mask.astype(np.uint8)
    border = np.zeros_like(mask)
    border[:5] = 1
    border &= 1 - mask
    cases = [
        (mask * 255, mask),  # Two levels: 255 is the object.
        (mask, mask),
        (mask * 37 + border * 254, mask | border),
        (mask * 1 + border * 255, np.where(border, 255, mask)),  # Otherwise it is ignored.
        (np.zeros_like(mask), np.zeros_like(mask)),
        (np.full_like(mask, 255), np.ones_like(mask)),
    ]
    colors = [c for k in range(256) for c in (255 - k, 7 * k % 256, 0)]
    for values, want in cases:
        for palette in ({}, {'colors': colors}):
            got = save_mask(flat, values, **palette).mask(0, (w, h))
            assert got.dtype == np.uint8
            np.testing.assert_array_equal(got, want)
    Image.fromarray(mask > 0).save(flat.root / 'masks' / '0.png')
    np.testing.assert_array_equal(
        open_dataset(flat.root, 'test', annotations=flat.root / 'masks').mask(0, (w, h)), mask
    )
    # The levels are interpreted before resizing, even if no object pixel remains.
    values = border * 255
    values[-1, -1] = 1
    np.testing.assert_array_equal(save_mask(flat, values).mask(0, (1, 1)), [[255]])


def test_invalid_masks(flat):
    path = flat.write_masks()
    dataset = open_dataset(flat.root, 'test', annotations=path)
    rgb = np.repeat(flat.shapes[0].mask[..., None] * np.uint8(255), 3, 2)
    Image.fromarray(rgb).save(path / '0.png')
    assert set(np.unique(dataset.mask(0, (9, 9)))) == {0, 1}
    rgb[0, 0] = (200, 0, 0)
    Image.fromarray(rgb).save(path / '0.png')
    with pytest.raises(
        ImageError, match=r'0\.png: masks of mode RGB are not supported; save it as 8-bit gray or palette'
    ):
        dataset.mask(0, (9, 9))
    Image.fromarray(np.ones((60, 72), np.uint16)).save(path / '0.png')
    with pytest.raises(ImageError, match='are not supported'):
        dataset.mask(0, (9, 9))
    (path / '0.png').write_bytes(b'junk')
    with pytest.raises(ImageError, match=r'0\.png: not an image'):
        dataset.mask(0, (9, 9))
    Image.new('L', (5, 6)).save(path / '0.png')
    with pytest.raises(DatasetError, match=r'0\.png: mask of 5x6 for an image of 72x60; give it the same size'):
        dataset.mask(0, (9, 9))


def test_masks_beside_the_images(flat, tmp_path):
    masks = flat.write_masks()
    Image.new('L', (72, 60)).save(flat.root / 'images' / '0.png')
    with pytest.raises(DatasetError, match='contains the images too'):
        open_dataset(flat.root, 'test', annotations=flat.root / 'images')
    with pytest.raises(DatasetError, match=r'0\.jpg and 0\.png would share the mask 0\.png|0\.png and 0\.jpg would'):
        open_dataset(flat.root, 'test', annotations=masks)
    # A mask folder inside the image folder contains no images.
    shapes = make(tmp_path / 'bare', folders=True, images='.')
    dataset = open_dataset(shapes.root, 'test', annotations=shapes.write_masks())
    assert (dataset.ids, dataset.class_names) == ([s.id for s in shapes.shapes], dict(enumerate(CLASSES)))


def test_masks_without_images(flat):
    masks = flat.write_masks()
    (masks / '0.png').rename(masks / 'O.png')
    (problem,) = check_dataset(flat.root, ['test'], annotations=masks, quiet=True)
    assert 'O.png: mask without image; name it like its image' in problem
    (flat.root / 'val').mkdir()
    Image.new('RGB', (72, 60)).save(flat.root / 'val' / 'O.jpg')
    assert check_dataset(flat.root, ['test'], annotations=masks, quiet=True) == []
    for path in masks.iterdir():
        path.rename(path.with_stem(f'x{path.stem}'))
    with pytest.raises(
        DatasetError, match=r'no mask matches an image of .*images; .* the mask of 0\.jpg must be 0\.png'
    ):
        open_dataset(flat.root, 'test', annotations=masks)
