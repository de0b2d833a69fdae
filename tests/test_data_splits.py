"""Annotations that describe several splits: only those of the split that is opened are used."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import SIZE, make_folder, make_wsol, shape_image, train_config

from fcam_zoo.data import check_dataset, open_dataset
from fcam_zoo.errors import DatasetError
from fcam_zoo.train.setup import open_data, prepare
from fcam_zoo.train.validation import validate

BOX = (9, 9, 40, 50)


def write_xml(path: Path, name: str, folder: str = '', label: str = 'disc') -> None:
    corners = ''.join(f'<{corner}>{v + 1}</{corner}>' for corner, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), BOX))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<annotation><folder>{folder}</folder><filename>{name}</filename><size><width>{SIZE}</width>'
        f'<height>{SIZE}</height></size><object><name>{label}</name><bndbox>{corners}</bndbox></object></annotation>'
    )


@pytest.fixture
def defects(tmp_path) -> Path:
    """Return a data set with class folders in each split, and flat folders of XML files, as in NEU-DET."""
    root = make_folder(tmp_path / 'defects', {'train': 8, 'val': 4, 'test': 6})
    for split in ('val', 'test'):
        for path in (root / split).glob('*/*.png'):
            label = path.parent.name
            path = path.rename(path.with_name(f'{label}_{split}{path.name}'))
            write_xml(root / 'annotations' / split / f'{path.stem}.xml', path.name, label, label)
    return root


@pytest.mark.parametrize('annotations', ['annotations/{split}', 'annotations'])
def test_flat_xml_files_beside_class_folders(defects, annotations, caplog):
    caplog.set_level(logging.INFO, 'fcam_zoo')
    for split, count in (('val', 4), ('test', 6)):
        dataset = open_dataset(defects, split, annotations=defects / annotations)
        assert len(dataset) == count
        assert {i.split('/')[0] for i in dataset.ids} == {'square', 'disc'}
        assert all(dataset.path(i).is_file() and split in dataset.ids[i] for i in range(count))
        assert [b.tolist() for b in dataset.boxes] == [[list(BOX)]] * count
        dataset.check_files()
    assert ('other splits too, which are left out: 6 of test' in caplog.text) == (annotations == 'annotations')
    assert check_dataset(defects, ['val'], annotations=defects / annotations, quiet=True) == []


def test_the_folder_field_separates_equal_names(tmp_path):
    root = make_folder(tmp_path / 'd', {'train': 4, 'val': 4})
    for folder in ('square', 'disc'):
        (path,) = sorted((root / 'val' / folder).iterdir())[:1]
        path.rename(path.with_name('same.png'))
        write_xml(root / 'xml' / f'{folder}.xml', 'same', folder, folder)
    dataset = open_dataset(root, 'val', annotations=root / 'xml')
    assert sorted(dataset.ids) == ['disc/same.png', 'square/same.png']
    # An unknown folder leaves the name, which is not unique.
    write_xml(root / 'xml' / 'disc.xml', 'same.png', 'elsewhere')
    with pytest.raises(DatasetError, match=r'val.same\.png: no such image file'):
        open_dataset(root, 'val', annotations=root / 'xml').check_files()


def settings(root: Path, annotations: Path | str):
    return train_config(root, annotations=str(annotations))


def test_training_uses_only_annotations_of_val(defects, caplog):
    for path in ('annotations', 'annotations/val', 'annotations/{split}'):
        _, val = open_data(settings(defects, defects / path))
        assert len(val) == 4
    with pytest.raises(DatasetError, match=r'describes no image of val \(but 6 of test\); give the annotations of val'):
        open_data(settings(defects, defects / 'annotations' / 'test'))
    with pytest.raises(DatasetError, match='no such file'):
        open_data(settings(defects, defects / 'annotated'))
    assert 'images of val have' not in caplog.text
    next((defects / 'annotations' / 'val').iterdir()).unlink()
    open_data(settings(defects, defects / 'annotations'))
    assert '3 of 4 images of val have boxes or masks' in caplog.text


def test_training_refuses_annotations_that_may_be_those_of_test(tmp_path):
    root = make_folder(tmp_path / 'd', {'train': 8, 'val': 4, 'test': 4})
    for i, name in enumerate(('square', 'disc') * 2):
        write_xml(root / 'xml' / 'test' / f'{i}.xml', f'{i}.png', name, name)
    with pytest.raises(DatasetError, match=r'is an image of val and of test \(4 such images\).*\{split\}'):
        open_data(settings(root, root / 'xml' / 'test'))
    (root / 'xml' / 'test').rename(root / 'xml' / 'val')
    assert len(open_data(settings(root, root / 'xml' / '{split}'))[1]) == 4


def test_a_coco_file_of_all_splits(tmp_path):
    root = make_folder(tmp_path / 'd', {'train': 4, 'val': 2})
    names = ['disc/1.png', 'disc/3.png', 'square/0.png', 'square/2.png']
    content = {
        'images': [{'id': i, 'file_name': name} for i, name in enumerate(names)],
        'categories': [{'id': 1, 'name': 'thing'}],
        'annotations': [{'id': i, 'image_id': i, 'category_id': 1, 'bbox': [9, 9, 9, 9]} for i in range(4)],
    }
    (root / 'all.json').write_text(json.dumps(content))
    assert open_dataset(root, 'val', annotations=root / 'all.json').ids == ['disc/1.png', 'square/0.png']
    # With {split}, the file claims to describe this split alone.
    (root / 'val.json').write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r'3\.png'):
        open_data(settings(root, root / '{split}.json'))


def test_annotations_beside_wsol_metadata(tmp_path):
    root = make_wsol(tmp_path / 'w', {'train': 4, 'val': 2, 'test': 2})
    ids = [f'{name}/{split}_{i}.png' for split in ('val', 'test') for i, name in enumerate(('square', 'disc'))]
    (root / 'boxes.csv').write_text('image,x0,y0,x1,y1\n' + ''.join(f'{i},9,9,40,50\n' for i in ids))
    assert open_data(settings(root, root / 'boxes.csv'))[1].ids == ids[:2]
    assert open_dataset(root, 'test', annotations=root / 'boxes.csv').ids == ids[2:]


def test_splits_are_the_first_folder_if_images_have_no_folder_of_the_split(tmp_path):
    root = make_folder(tmp_path / 'd', {'train': 4, 'test': 4})
    write_xml(root / 'xml' / 'a.xml', 'test/disc/1.png')
    with pytest.raises(DatasetError, match=r'describes no image of val \(but 1 of test\)'):
        open_data(settings(root, root / 'xml'))


def test_val_with_other_classes_selects_the_epoch_without_them(tmp_path):
    root = make_folder(tmp_path / 'd', {'train': 8})
    (root / 'val').mkdir()
    shape_image(0, 1)[0].save(root / 'val' / 'a.png')
    (root / 'boxes.csv').write_text('image,x0,y0,x1,y1\na.png,9,9,40,50\n')
    setup = prepare(settings(root, root / 'boxes.csv'), torch.device('cpu'))
    assert any("1 of 1 classes of d are not classes of the model, the first 'object'" in w for w in setup.warnings)
    stage = next(setup.stages())
    metrics = validate(stage, setup)
    assert 'cls' not in metrics
    assert stage.score(metrics) == metrics['mean']
    assert stage.score({**metrics, 'cls': 12.0}) == 12


@pytest.mark.parametrize('fault', ['missing', 'size', 'box', 'mask', 'mask size'])
def test_files_of_val_are_checked_before_training(tmp_path, fault):
    """Otherwise they are found after the first epoch of the classifier."""
    root = make_folder(tmp_path / 'd', {'train': 4, 'val': 2})
    image = root / 'val' / 'disc' / '1.png'
    lines = ['disc/1.png,9,9,40,50', 'square/0.png,9,9,40,50']
    annotations = root / 'boxes.csv'
    if fault == 'missing':
        lines.append('disc/7.png,1,1,2,2')
        match = r'7\.png: no such image file'
    elif fault == 'box':
        lines[0] = 'disc/1.png,9,9,400,50'
        match = 'is outside its image'
    elif fault == 'size':
        annotations = root / 'xml'
        write_xml(annotations / 'a.xml', 'disc/1.png')
        Image.new('RGB', (80, 60)).save(image)
        match = '80x60 pixels, but .*a.xml says 72x72'
    else:
        annotations = root / 'masks'
        for name in ('disc/1.png', 'square/0.png'):
            (annotations / name).parent.mkdir(parents=True)
            Image.fromarray(np.eye(SIZE, dtype=np.uint8)).save(annotations / name)
        if fault == 'mask':
            (annotations / 'disc' / '1.png').write_bytes(b'')
            match = r'1\.png: not an image'
        else:
            Image.new('L', (8, 8)).save(annotations / 'disc' / '1.png')
            match = 'mask of 8x8 for an image of 72x72'
    (root / 'boxes.csv').write_text('\n'.join(['image,x0,y0,x1,y1', *lines]))
    with pytest.raises(DatasetError, match=match):
        open_data(settings(root, annotations))
