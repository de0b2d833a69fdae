"""Hostile data sets: absurd numbers, names that no file can have, pipes, and text that floods the terminal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from shapes import refused
from test_data_wsol import BOXES, IDS, MASKS, boxes, masks, write_metadata  # noqa: F401

from fcam_zoo.data import FolderDataset, WSOLDataset, check_dataset, open_dataset
from fcam_zoo.errors import DatasetError

LONG = 'x' * 300
LONG_UTF8 = 'ä' * 130 + '.png'  # 264 bytes.
DEEP = '/'.join(['dir'] * 1000)


def refused_split(root: Path, message: str, split: str = 'test') -> None:
    """Opening raises the problem, the check lists it; messages are short and can be printed."""
    with pytest.raises(DatasetError, match=message) as caught:
        WSOLDataset(root, split)
    problems = check_dataset(root, [split], quiet=True)
    assert any(message in problem for problem in problems)
    for text in (str(caught.value), *problems):
        assert text.isprintable()
        assert len(text) < 700


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (
            {'class_labels': [f'{IDS[0]},0', f'{IDS[1]},1', f'{IDS[2]},999999999']},
            'line 3: label 999999999 is too large',
        ),
        ({'class_labels': [f'{i},65536' for i in IDS]}, 'line 1: label 65536 is too large; number the classes from 0'),
        ({'image_sizes': [f'{i},999999999,999999999' for i in IDS]}, 'is not an image size of 1 to 80000000 pixels'),
        ({'image_ids': [*IDS, LONG]}, 'is longer than the path of a file can be'),
        ({'image_ids': [*IDS, LONG_UTF8]}, 'is longer than the path of a file can be'),
        ({'image_ids': [*IDS, DEEP]}, 'is longer than the path of a file can be'),
        ({'image_ids': [*IDS, 'a\x1b[31m.png']}, 'is not a path below'),
        ({'image_ids': [*IDS, 'a\0.png']}, 'is not a path below'),
        ({'class_labels': [f'{IDS[0]},{"9" * 5000}']}, 'are not whole numbers'),
        ({'class_labels': [f'{i},0' for i in IDS] + [f'\x1b[2J{LONG},x', f'{LONG},0', f'{LONG},0']}, 'are not whole'),
        ({'localization': [f'{IDS[0]},{LONG}.png,', *MASKS[2:]]}, 'is longer than the path of a file can be'),
        ({'localization': [f'{IDS[0]},a\x07.png,', *MASKS[2:]]}, 'is not a path below'),
    ],
)
def test_hostile_metadata(masks, files, message):  # noqa: F811
    write_metadata(masks, 'test', files.pop('localization', MASKS), **files)
    refused_split(masks, message)


def test_unknown_ids_do_not_flood_the_check(boxes):  # noqa: F811
    labels = [f'{i},0' for i in (*IDS, 'y' * 5000, 'a\x1b[2J.png')]
    write_metadata(boxes, 'test', BOXES, class_labels=labels)
    problems = check_dataset(boxes, quiet=True)
    assert len(problems) == 2
    assert all('is not in image_ids.txt' in p and p.isprintable() and len(p) < 400 for p in problems)


def test_number_of_classes_is_bounded_by_the_images(boxes):  # noqa: F811
    """Labels of the training images define the outputs of a classifier; a subset of ImageNet may keep its labels."""
    for label in (1000, 5000):
        write_metadata(boxes, 'train', None, class_labels=[f'{i},{label}' for i in IDS])
        refused_split(boxes, f'line 1: label {label} is too large for 3 images; number the classes from 0', 'train')
    write_metadata(boxes, 'train', None, class_labels=[f'{i},999' for i in IDS])
    assert WSOLDataset(boxes, 'train').num_classes == 1000
    # A few images can evaluate a model of many classes.
    write_metadata(boxes, 'test', BOXES, class_labels=[f'{i},21840' for i in IDS])
    assert WSOLDataset(boxes, 'test').num_classes == 21841
    assert check_dataset(boxes, ['test'], quiet=True) == []


def test_labels_and_names_of_other_formats_are_bounded(flat):
    lines = flat.csv()
    numbered = [lines[0], *(line.rsplit(',', 1)[0] + ',999999' for line in lines[1:])]
    refused(flat, flat.write_csv(numbered), r'boxes\.csv: label 999999 is too large; number the classes from 0')
    refused(flat, flat.write_csv([*lines, f'0.jpg,1,2,3,4,{LONG}']), 'has 300 characters; shorten it')
    content = flat.coco()
    content['categories'][0]['name'] = LONG
    refused(flat, flat.write_coco(content), r'categories\[0\] .*has 300 characters; shorten it')
    box = '<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>'
    refused(
        flat, flat.write_voc(object=f'<object><name>{LONG}</name>{box}</object>'), 'object 1: .* has 300 characters'
    )
    flat.write('classes.txt', f'disc\nsquare\n{LONG}\na\x1b[2Jb')
    refused(flat, flat.write_csv(), 'has 300 characters; shorten it')


@pytest.mark.parametrize('name', [LONG, LONG_UTF8, DEEP])
def test_names_that_no_file_can_have(flat, name):
    message = 'is longer than the path of a file can be'
    content = flat.coco()
    content['images'][1]['file_name'] = name
    refused(flat, flat.write_coco(content), rf'images\[1\] \(id 7\): .* {message}')
    refused(flat, flat.write_voc(filename=f'<filename>{name}</filename>'), message)
    refused(flat, flat.write_csv([*flat.csv(), f'{name},1,2,3,4,disc']), f'line 8: .* {message}')


def test_sizes_are_bounded(flat):
    content = flat.coco()
    content['images'][1] |= {'width': 10**8, 'height': 10**8}
    refused(flat, flat.write_coco(content), 'is not an image size of 1 to 80000000 pixels; correct it')
    size = '<size><width>99999999</width><height>99999999</height></size>'
    refused(flat, flat.write_voc(size=size), 'is not an image size of 1 to 80000000 pixels; correct it')


@pytest.mark.timeout(20)
def test_pipes_and_folders_are_not_read(flat, boxes):  # noqa: F811
    """Opening a pipe would wait forever."""
    ids = boxes / 'metadata' / 'test' / 'image_ids.txt'
    ids.unlink()
    os.mkfifo(ids)
    refused_split(boxes, 'it is not a file')
    ids.unlink()
    ids.mkdir()
    refused_split(boxes, 'it is not a file')
    os.mkfifo(flat.root / 'boxes.csv')
    refused(flat, flat.root / 'boxes.csv', 'boxes.csv: annotations cannot be read')


@pytest.mark.parametrize('name', [LONG, 'a\0b', 'a\nb', '/'.join(['d'] * 3000)])
def test_paths_that_cannot_exist(tmp_path, name):
    for call in (
        lambda: open_dataset(name, 'train'),
        lambda: open_dataset(tmp_path, name),
        lambda: open_dataset(tmp_path, 'train', annotations=name),
        lambda: check_dataset(name, quiet=True),
        lambda: WSOLDataset(tmp_path, name),
        lambda: FolderDataset(name),
    ):
        with pytest.raises(DatasetError) as caught:
            call()
        assert str(caught.value).isprintable()
        assert 40 < len(str(caught.value)) < 1400
    assert check_dataset(tmp_path, [name], quiet=True)


def test_names_of_files_and_folders_that_cannot_be_printed(tmp_path):
    for folder in ('a', 'b'):
        (tmp_path / 'train' / folder).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path / 'train' / folder / 'Foto\xa01\u202fPM.png')
    assert len(open_dataset(tmp_path, 'train')) == 2
    names = ('c\x1b[2J.png', os.fsdecode(b'caf\xe9.png'))
    for name in names:
        Image.new('RGB', (8, 8)).save(tmp_path / 'train' / 'a' / name)
    with pytest.raises(DatasetError, match='has characters that cannot be printed; rename it'):
        open_dataset(tmp_path, 'train')
    assert len(check_dataset(tmp_path, quiet=True)) == 2
    for name in names:
        (tmp_path / 'train' / 'a' / name).unlink()
    folder = tmp_path / 'train' / 'b'
    for name in ('b\x1b[2J', 'b\xa0b'):  # Models and exports record the names of classes.
        folder = folder.rename(tmp_path / 'train' / name)
        with pytest.raises(DatasetError, match='has characters that cannot be printed'):
            open_dataset(tmp_path, 'train')


def test_folder_without_permission(tmp_path, monkeypatch):
    (tmp_path / 'train').mkdir()

    def refuse(self):
        raise PermissionError(13, 'Permission denied', str(self))

    monkeypatch.setattr(Path, 'iterdir', refuse)
    with pytest.raises(DatasetError, match=r'train: cannot be listed \(Permission denied\); check'):
        open_dataset(tmp_path, 'train')


def test_splits_are_a_list(boxes):  # noqa: F811
    with pytest.raises(TypeError, match=r"splits is 'test': give a list, such as \['test'\]"):
        check_dataset(boxes, 'test')
