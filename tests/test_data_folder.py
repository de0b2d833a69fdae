"""One folder per class, and the choice between the layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import make_folder

from fcam_zoo.data import FolderDataset, WSOLDataset, check_dataset, open_dataset
from fcam_zoo.errors import DatasetError


def fill(folder: Path, *names: str, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names, first):
        Image.new('RGB', (12, 8), (k, 0, 0)).save(folder / name)


@pytest.fixture
def animals(tmp_path) -> Path:
    root = tmp_path / 'animals'
    fill(root / 'train' / 'cat', '1.png', '2.PNG')
    fill(root / 'train' / 'ant', '1.png', 'b.png', first=10)
    fill(root / 'train' / 'dog', 'x.png', first=20)
    fill(root / 'val' / 'dog', '1.png', first=30)
    fill(root / 'val' / 'cat', '1.png', first=40)
    return root


def test_attributes_and_items(animals):
    dataset = FolderDataset(animals / 'train')
    assert (dataset.name, dataset.split, dataset.root) == ('train', '', animals / 'train')
    assert dataset.ids == ['ant/1.png', 'ant/b.png', 'cat/1.png', 'cat/2.PNG', 'dog/x.png']
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2]
    assert dataset.class_names == {0: 'ant', 1: 'cat', 2: 'dog'}
    assert dataset.num_classes == 3
    assert (dataset.boxes, dataset.masks) == (None, None)
    assert dataset.sizes.tolist() == [[12, 8]] * 5
    image, label, index = dataset[3]
    assert image.shape == (3, 224, 224)
    assert image[0].unique().tolist() == [1]
    assert (label, index) == (1, 3)
    assert repr(dataset) == 'FolderDataset(train: 5 images, 3 classes, no localization)'


def test_every_split_has_the_labels_of_train(animals):
    dataset = open_dataset(animals, 'val')
    assert isinstance(dataset, FolderDataset)
    assert (dataset.name, dataset.split) == ('animals', 'val')
    assert dataset.ids == ['cat/1.png', 'dog/1.png']
    assert dataset.labels.tolist() == [1, 2]
    assert dataset.class_names == {0: 'ant', 1: 'cat', 2: 'dog'}
    assert dataset.path(1) == animals / 'val' / 'dog' / '1.png'
    assert check_dataset(animals, quiet=True) == []


def test_images_are_turned_upright_and_hidden_files_skipped(animals):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (12, 8)).save(animals / 'train' / 'ant' / '0.jpg', exif=exif)
    (animals / 'train' / 'ant' / '._0.jpg').write_bytes(b'')
    (animals / 'train' / '.cache').mkdir()
    dataset = open_dataset(animals, 'train', lambda image: image.size)
    assert dataset[0][0] == (8, 12)
    assert len(dataset) == 6


def test_problems_of_folders(animals, tmp_path):
    with pytest.raises(DatasetError, match=r'gone: no such folder; expected .*<class>'):
        FolderDataset(tmp_path / 'gone')
    (tmp_path / 'bare').mkdir()
    with pytest.raises(DatasetError, match='bare: 0 class folders, but a classifier needs two'):
        FolderDataset(tmp_path / 'bare')
    fill(tmp_path / 'bare' / 'one', '1.png')
    with pytest.raises(DatasetError, match='bare: 1 class folders'):
        FolderDataset(tmp_path / 'bare')
    (animals / 'train' / 'bee').mkdir()
    (animals / 'train' / 'bee' / 'notes.txt').touch()
    with pytest.raises(DatasetError, match=r'bee: class folder without images; add images or remove it$'):
        FolderDataset(animals, split='train')
    (animals / 'train' / 'elk').mkdir()
    with pytest.raises(DatasetError, match=r'\(1 more; check_dataset lists all\)$'):
        FolderDataset(animals, split='train')
    fill(animals / 'val' / 'yak', '1.png')
    with pytest.raises(DatasetError, match=r'yak: no such class in .*train; add it there or remove it here'):
        open_dataset(animals, 'val')


def test_check_lists_every_problem(animals):
    (animals / 'train' / 'bee').mkdir()
    (animals / 'train' / 'cat' / '2.PNG').write_bytes(b'junk')
    (animals / 'val' / 'cat' / '1.png').write_bytes((animals / 'train' / 'cat' / '1.png').read_bytes())
    problems = check_dataset(animals, quiet=True)
    assert len(problems) == 3
    assert 'bee: class folder without images' in problems[0]
    assert '2.PNG: not an image of a known format' in problems[1]
    assert 'in the splits train and val' in problems[2]
    assert check_dataset(animals, ['val'], quiet=True) == []
    assert check_dataset(animals / 'val', quiet=True) == []
    assert 'test: no such folder' in check_dataset(animals, ['test'], quiet=True)[0]


def test_choice_of_the_layout(animals, tmp_path):
    for split in ('test', '', '.hidden'):
        with pytest.raises(DatasetError, match=r'no split .* \(found: train, val\)\. Use .*<class>.*image_ids\.txt'):
            open_dataset(animals, split)
    with pytest.raises(DatasetError, match='the folder does not exist'):
        open_dataset(tmp_path / 'gone', 'train')
    (tmp_path / 'bare').mkdir()
    with pytest.raises(DatasetError, match=r"no split 'train'\. Use"):
        open_dataset(tmp_path / 'bare', 'train')
    metadata = animals / 'metadata' / 'val'
    metadata.mkdir(parents=True)
    for name, line in (('image_ids', 'cat/1.png'), ('class_labels', 'cat/1.png,0'), ('image_sizes', '')):
        (metadata / f'{name}.txt').write_text(line)
    assert isinstance(open_dataset(animals, 'val', ground_truth=False), WSOLDataset)
    assert isinstance(open_dataset(animals, 'train'), FolderDataset)


def test_skipped_files_are_counted_in_one_line(tmp_path, caplog):
    make_folder(tmp_path / 'd', {'train': 4})
    for name in ('disc/a.HEIC', 'square/b.avif', 'square/c.avif'):
        (tmp_path / 'd' / 'train' / name).touch()
    assert len(open_dataset(tmp_path / 'd', 'train')) == 4
    (line,) = caplog.messages
    assert line.endswith('train: 3 files skipped, not read as images: 2 .avif, 1 .heic')


def test_the_first_level_has_the_classes_and_sets_give_a_warning(tmp_path, caplog):
    for name in ('set1', 'set2'):
        fill(tmp_path / 'sets' / name / 'cat', '1.png')
        fill(tmp_path / 'sets' / name / 'dog', '2.png')
    dataset = FolderDataset(tmp_path / 'sets')
    assert dataset.class_names == {0: 'set1', 1: 'set2'}
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    (message,) = caplog.messages
    text = "the classes are the folders 'set1' and 'set2', which both have all images in folders named 'cat', 'dog': "
    assert text in message
    assert 'use the layout train/<class>/*.jpg and val/<class>/*.jpg' in message


def test_subfolders_of_classes_give_no_warning(animals, tmp_path, caplog):
    for name in ('cat', 'dog'):
        # A folder named alike in each class, or images beside the folders.
        fill(tmp_path / 'one' / name / 'images', '1.png', '2.png')
        fill(tmp_path / 'some' / name, '1.png')
        for year in ('2023', '2024'):
            fill(tmp_path / 'some' / name / year, '1.png')
    for folder in (animals / 'train', tmp_path / 'one', tmp_path / 'some'):
        FolderDataset(folder)
    assert caplog.messages == []
