"""COCO, Pascal VOC, CSV and masks: equality with the WSOL layout, labels, sizes, and the choice of the format."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import CLASSES, make

from fcam_zoo.benchmark import evaluate
from fcam_zoo.data import (
    CocoDataset,
    CsvDataset,
    FolderDataset,
    MaskDataset,
    VocDataset,
    WSOLDataset,
    check_dataset,
    open_dataset,
)
from fcam_zoo.data.coco import whole_pixels
from fcam_zoo.errors import DatasetError

WRITERS = {'coco': CocoDataset, 'voc': VocDataset, 'csv': CsvDataset, 'masks': MaskDataset}


def same(got, want) -> None:
    assert (got.name, got.split, got.ids, got.class_names) == (want.name, want.split, want.ids, want.class_names)
    np.testing.assert_array_equal(got.labels, want.labels)
    np.testing.assert_array_equal(got.sizes, want.sizes)
    assert got.sizes.dtype == got.labels.dtype == np.int64
    assert (got.boxes is None, got.masks is None) == (want.boxes is None, want.masks is None)
    for mine, other in zip(got.boxes or [], want.boxes or []):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == np.int64
    for index in range(len(want)):
        assert torch.equal(got[index][0], want[index][0])
        assert got[index][1:] == want[index][1:]
        if want.masks:
            np.testing.assert_array_equal(got.mask(index, (37, 91)), want.mask(index, (37, 91)))


@pytest.mark.parametrize('format', WRITERS)
def test_equal_to_the_wsol_layout(nested, format):
    path = getattr(nested, f'write_{format}')()
    nested.write_wsol('masks' if format == 'masks' else 'boxes')
    dataset = open_dataset(nested.root, 'test', annotations=path)
    assert type(dataset) is WRITERS[format]
    same(dataset, WSOLDataset(nested.root, 'test'))
    same(pickle.loads(pickle.dumps(dataset)), dataset)
    assert check_dataset(nested.root, ['test'], annotations=path, quiet=True) == []
    kind = 'masks' if format == 'masks' else 'boxes'
    assert repr(dataset) == f'{type(dataset).__name__}(shapes, test: 6 images, 2 classes, {kind})'


@pytest.mark.parametrize('format', ['coco', 'voc', 'csv'])
def test_labels_without_class_folders(flat, format):
    path = getattr(flat, f'write_{format}')()
    dataset = open_dataset(flat.root, 'test', annotations=path)
    assert dataset.class_names == dict(enumerate(CLASSES))
    assert dataset.labels.tolist() == [s.label for s in flat.shapes]
    assert [b.tolist() for b in dataset.boxes] == [[s.box] for s in flat.shapes]


@pytest.mark.parametrize('format', ['coco', 'voc', 'csv', 'masks'])
def test_training_reads_only_labels(flat, format):
    path = getattr(flat, f'write_{format}')()
    for dataset in (
        open_dataset(flat.root, 'train', annotations=path),
        open_dataset(flat.root, 'test', annotations=path, ground_truth=False),
    ):
        assert (dataset.boxes, dataset.masks, len(dataset)) == (None, None, 6)
        if format == 'masks':
            assert (dataset.class_names, dataset.labels.tolist()) == ({0: 'object'}, [0] * 6)
            with pytest.raises(DatasetError, match='opened without masks'):
                dataset.mask(0, (8, 8))
        else:
            assert dataset.labels.tolist() == [s.label for s in flat.shapes]


def test_evaluation_is_equal_for_every_format(nested):
    nested.write_wsol('boxes')
    maps = np.stack([np.full((224, 224), k / 8, np.float32) for k in range(6)])
    maps[:, 60:150, 60:150] = 1
    reports = [
        evaluate(maps, dataset, quiet=True).metrics
        for dataset in (
            open_dataset(nested.root, 'test'),
            *(
                open_dataset(nested.root, 'test', annotations=write())
                for write in (nested.write_coco, nested.write_csv)
            ),
        )
    ]
    assert reports[0] == reports[1] == reports[2]


def test_folder_of_the_images(tmp_path):
    """`<root>/<split>` before `<root>/images` before `<root>/JPEGImages` before `<root>`."""
    for images in ('.', 'JPEGImages', 'images', 'test'):
        shapes = make(tmp_path / 'shapes', folders=False, images=images)
        dataset = open_dataset(shapes.root, 'test', annotations=shapes.write_csv())
        assert dataset.path(0) == shapes.root / images / '0.jpg'
    with pytest.raises(DatasetError, match='gone: no such folder'):
        open_dataset(tmp_path / 'gone', 'test', annotations=shapes.write_csv())


def test_class_folders_have_the_labels_of_training(tmp_path):
    """Class folders win over a single category; the folders of `train` give the numbers."""
    shapes = make(tmp_path / 'shapes', folders=True, images='test')
    for name in (*CLASSES, 'cross'):
        (shapes.root / 'train' / name).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(shapes.root / 'train' / name / '1.png')
    numbers = FolderDataset(shapes.root, split='train').class_names
    content = shapes.coco()
    content['categories'] = [{'id': 1, 'name': 'thing'}]
    for entry in content['annotations']:
        entry['category_id'] = 1
    for path in (shapes.write_coco(content), shapes.write_csv(shapes.csv(label=False)), shapes.write_csv()):
        dataset = open_dataset(shapes.root, 'test', annotations=path)
        assert dataset.class_names == numbers == {0: 'cross', 1: 'disc', 2: 'square'}
        assert dataset.labels.tolist() == [1, 1, 1, 2, 2, 2]
    (shapes.root / 'test' / 'yak').mkdir()
    (shapes.root / 'test' / '0.jpg').write_bytes(b'')
    content['images'][0]['file_name'] = 'yak/0.jpg'
    with pytest.raises(DatasetError, match=r'class folder yak, which .*train does not have'):
        open_dataset(shapes.root, 'test', annotations=shapes.write_coco(content))


def test_order_of_classes(flat):
    """Sorted, or in the order of `classes.txt`; whole numbers are labels."""
    (flat.root / 'classes.txt').write_text('square\nring\ndisc\n')
    for path in (flat.write_csv(), flat.write_voc()):
        dataset = open_dataset(flat.root, 'test', annotations=path)
        assert dataset.class_names == {0: 'square', 1: 'ring', 2: 'disc'}
        assert dataset.labels.tolist() == [2, 2, 2, 0, 0, 0]
    (flat.root / 'classes.txt').write_text('square\n')
    with pytest.raises(DatasetError, match=r"classes\.txt: the class 'disc' of .* is missing; add it as a line"):
        open_dataset(flat.root, 'test', annotations=flat.write_csv())
    (flat.root / 'classes.txt').write_text('square\n\ndisc')
    with pytest.raises(DatasetError, match=r'classes\.txt: has an empty or repeated line'):
        open_dataset(flat.root, 'test', annotations=flat.write_csv())
    numbers = [line.replace('disc', '7').replace('square', '2') for line in flat.csv()]
    dataset = open_dataset(flat.root, 'test', annotations=flat.write_csv(numbers))
    assert (dataset.class_names, dataset.num_classes) == ({2: '2', 7: '7'}, 8)


def test_label_is_the_class_of_the_largest_object(flat, caplog):
    content = flat.coco()
    content['annotations'] += [
        {'image_id': 0, 'category_id': 44, 'bbox': [1, 1, 50, 50]},
        {'image_id': 7, 'category_id': 44, 'bbox': [1, 1, 5, 5]},
        {'image_id': 14, 'category_id': 44, 'bbox': [1, 1, 60, 60], 'iscrowd': 1},
    ]
    dataset = open_dataset(flat.root, 'test', annotations=flat.write_coco(content))
    assert dataset.labels.tolist() == [1, 0, 0, 1, 1, 1]
    assert [len(b) for b in dataset.boxes] == [2, 2, 1, 1, 1, 1]
    lines = [*flat.csv(), '0.jpg,1,1,50,50,square', '1.jpg,1,1,5,5,square']
    csv = open_dataset(flat.root, 'test', annotations=flat.write_csv(lines))
    assert csv.labels.tolist() == [1, 0, 0, 1, 1, 1]
    for mine, other in zip(dataset.boxes[2:], csv.boxes[2:]):
        np.testing.assert_array_equal(mine, other)


def test_images_without_annotation_are_left_out_and_counted(flat, caplog):
    def check(path: Path, left: int = 2) -> None:
        caplog.clear()
        with caplog.at_level(logging.WARNING, 'fcam_zoo'):
            dataset = open_dataset(flat.root, 'test', annotations=path)
        assert dataset.ids == [s.id for s in flat.shapes[left:]]
        assert f'{left} of 6 images have no annotation and are left out' in caplog.text
        assert check_dataset(flat.root, ['test'], annotations=path, quiet=True) == []

    content = flat.coco()
    content['annotations'][0]['iscrowd'] = 1
    del content['annotations'][1]
    check(flat.write_coco(content))
    check(flat.write_csv([*flat.csv()[:1], '0.jpg,,,,,disc', '1.jpg,,,,,', *flat.csv()[3:]]))
    check(flat.write_voc(object=''), left=1)
    masks = flat.write_masks()
    for name in '01':
        (masks / f'{name}.png').unlink()
    check(masks)
    # Training needs only the label.
    path = flat.write_csv([*flat.csv()[:1], '0.jpg,,,,,disc', '1.jpg,,,,,', *flat.csv()[3:]])
    assert open_dataset(flat.root, 'train', annotations=path).ids == [f'{k}.jpg' for k in (0, 2, 3, 4, 5)]


def test_boxes_of_coco_are_rounded_to_pixels(flat):
    w, h = flat.shapes[0].size
    content = flat.coco()
    for k, bbox in enumerate([[10.4, 10.6, 10.2, 9.8], [w - 0.3, h - 0.4, 0.3, 0.4], [0, 0, w, h]]):
        content['annotations'][k] |= {'bbox': bbox, 'image_id': 0}
    dataset = open_dataset(flat.root, 'test', annotations=flat.write_coco(content))
    assert dataset.boxes[0].tolist() == [[10, 11, 20, 19], [w - 1, h - 1, w - 1, h - 1], [0, 0, w - 1, h - 1]]
    assert whole_pixels(639.6, 100.01, 0.4, 539.99) == (639, 100, 639, 639)


def test_sizes_that_are_not_annotated_come_from_the_images(flat):
    w, h = flat.shapes[2].size
    sizes = [list(s.size) for s in flat.shapes]
    content = flat.coco()
    for entry in content['images']:
        del entry['width'], entry['height']
    paths = [flat.write_coco(content), flat.write_voc(size='<size><width>0</width><height>0</height></size>')]
    for path in [*paths, flat.write_csv()]:
        assert open_dataset(flat.root, 'test', annotations=path).sizes.tolist() == sizes
    # A box may end one pixel beyond the image, as in the WSOL layout; others are reported when the size is read.
    dataset = open_dataset(flat.root, 'test', annotations=flat.write_csv([*flat.csv(), f'2.jpg,0,0,{w},{h},disc']))
    assert dataset.sizes.tolist() == sizes
    path = flat.write_csv([*flat.csv(), f'2.jpg,0,0,{w + 1},{h},disc'])
    with pytest.raises(DatasetError, match=rf'boxes\.csv, line 8: box .* outside its image 2\.jpg of {w}x{h}'):
        _ = open_dataset(flat.root, 'test', annotations=path).sizes
    assert len(check_dataset(flat.root, ['test'], annotations=path, quiet=True)) == 1
    (flat.root / 'images' / '2.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'2\.jpg'):
        _ = open_dataset(flat.root, 'test', annotations=path).sizes


def test_an_image_of_another_size_is_refused_on_access(flat):
    path = flat.write_voc()
    Image.new('RGB', (40, 30)).save(flat.root / 'images' / '1.jpg')
    dataset = open_dataset(flat.root, 'test', annotations=path)
    assert len(dataset[0]) == 3
    with pytest.raises(DatasetError, match=r'1\.jpg: 40x30 pixels, but .*1\.xml says 72x62'):
        dataset[1]
    assert open_dataset(flat.root, 'train', annotations=path)[1][2] == 1


def test_unknown_annotations(flat, tmp_path):
    (tmp_path / 'bare').mkdir()
    (tmp_path / 'notes.txt').write_text('hello')
    for name, message in (
        ('gone.json', r'gone\.json: annotations cannot be read \(no such file'),
        ('bare', 'contains neither XML files'),
        ('notes.txt', r'neither COCO instances \(JSON\) nor boxes with the header image,x0'),
    ):
        with pytest.raises(DatasetError, match=message):
            open_dataset(flat.root, 'test', annotations=tmp_path / name)
        assert re.search(message, check_dataset(flat.root, ['test'], annotations=tmp_path / name, quiet=True)[0])
    # The content decides, not the suffix.
    assert type(open_dataset(flat.root, 'test', annotations=flat.write_csv().rename(tmp_path / 'c.txt'))) is CsvDataset
    assert type(open_dataset(flat.root, 'test', annotations=flat.write_coco().rename(tmp_path / 'c'))) is CocoDataset
