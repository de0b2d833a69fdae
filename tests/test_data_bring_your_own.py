"""Data sets of the `datasets` library, and CSV files of paths and labels."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from synthetic import SIZE, make_folder, shape_image, train_config

from fcam_zoo.cli import main
from fcam_zoo.data import HubDataset, TableDataset, check_dataset, open_dataset
from fcam_zoo.errors import DatasetError, ImageError
from fcam_zoo.train.setup import open_data

NAMES = ['square', 'disc']


class Rows:
    """Rows of a split, as `datasets.Dataset`: columns by name, rows by number."""

    def __init__(self, features: dict, columns: dict) -> None:
        self.features, self.columns = features, columns

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        row = {name: values[key] for name, values in self.columns.items()}
        if isinstance(row.get('image'), Exception):
            raise row['image']
        return row


class FakeImage:
    """Stands for datasets.Image."""


class FakeClassLabel(SimpleNamespace):
    """Stands for datasets.ClassLabel."""


@pytest.fixture
def library(monkeypatch) -> SimpleNamespace:
    """Stand for the library `datasets`, with a data set org/shapes; `asked` records what is loaded."""
    features = {'id': object(), 'image': FakeImage(), 'coarse': FakeClassLabel(names=['x']), 'label': None}
    features['label'] = FakeClassLabel(names=NAMES)

    def rows(count: int) -> Rows:
        images = [shape_image(i % 2, i)[0] for i in range(count)]
        labels = [i % 2 for i in range(count)]
        return Rows(features, {'id': list(range(count)), 'image': images, 'coarse': [0] * count, 'label': labels})

    splits = {'train': rows(8), 'validation': rows(4), 'empty': rows(0)}
    state = SimpleNamespace(splits=splits, features=features, asked=[])

    def names(*place: str) -> list[str]:
        if place[0] != 'org/shapes':
            raise RuntimeError(f'{place[0]} is not on the Hub\nmore lines')
        return list(splits)

    def load(*place: str, split: str) -> Rows:
        state.asked.append((*place, split))
        return splits[split]

    module = ModuleType('datasets')
    module.Image, module.ClassLabel = FakeImage, FakeClassLabel
    module.load_dataset, module.get_dataset_split_names = load, names
    monkeypatch.setitem(sys.modules, 'datasets', module)
    return state


def test_hub_dataset(library):
    train = open_dataset('hf-dataset:org/shapes', 'train')
    assert isinstance(train, HubDataset)
    assert (len(train), train.num_classes, train.boxes) == (8, 2, None)
    assert train.class_names == {0: 'square', 1: 'disc'}
    image, label, index = train[3]
    assert (image.shape, label, index) == ((3, 224, 224), 1, 3)
    assert len(open_dataset('hf-dataset:org/shapes:small', 'val')) == 4  # Called validation there.
    assert library.asked == [('org/shapes', 'train'), ('org/shapes', 'small', 'validation')]
    train_set, val_set = open_data(train_config(Path('hf-dataset:org/shapes')))
    assert (len(train_set), len(val_set)) == (8, 4)
    del library.splits['validation']
    assert open_data(train_config(Path('hf-dataset:org/shapes')))[1] is None


def test_hub_dataset_of_other_modes_and_damaged_rows(library):
    images = library.splits['train'].columns['image']
    images[0] = images[0].convert('RGBA')
    images[1] = ValueError('broken data stream')
    train = open_dataset('hf-dataset:org/shapes', 'train')
    assert train[0][0].shape == (3, 224, 224)
    with pytest.raises(ImageError, match=r'000001: cannot be read as an image \(broken data stream\); remove the row'):
        train[1]


def test_hub_dataset_errors(library, monkeypatch, capsys):
    with pytest.raises(DatasetError, match=r"no split 'test' \(found: train, validation, empty\)"):
        open_dataset('hf-dataset:org/shapes', 'test')
    with pytest.raises(DatasetError, match='empty has no images'):
        open_dataset('hf-dataset:org/shapes', 'empty')
    with pytest.raises(DatasetError, match=r'cannot be loaded \(org/none is not on the Hub\); check the name'):
        open_dataset('hf-dataset:org/none', 'train')
    with pytest.raises(DatasetError, match='annotations need a folder of images'):
        open_dataset('hf-dataset:org/shapes', 'train', annotations='boxes.csv')
    with pytest.raises(DatasetError, match='is checked by the datasets library'):
        check_dataset('hf-dataset:org/shapes')
    assert main(['benchmark', 'hf-dataset:org/shapes', '--scoremaps', 'maps', '--split', 'train', '--quiet']) == 1
    assert 'has neither boxes nor masks to score on' in capsys.readouterr().err
    library.splits['train'].columns['label'][2] = -1
    with pytest.raises(DatasetError, match='images of train have no label'):
        open_dataset('hf-dataset:org/shapes', 'train')
    library.features['label'] = library.features['coarse'] = object()
    with pytest.raises(DatasetError, match=r'no column of class labels .* among .*label'):
        open_dataset('hf-dataset:org/shapes', 'train')
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(ImportError, match=r"pip install 'fcam-zoo\[datasets\]'"):
        open_dataset('hf-dataset:org/shapes', 'train')


def test_the_real_library(tmp_path):
    """A folder of images, which `datasets.load_dataset` reads."""
    pytest.importorskip('datasets')
    make_folder(tmp_path / 'd', {'train': 4, 'validation': 2})
    dataset = open_dataset(f'hf-dataset:{tmp_path / "d"}', 'val')
    assert sorted(dataset.class_names.values()) == sorted(NAMES)
    assert dataset[0][0].shape == (3, 224, 224)


@pytest.fixture
def table(tmp_path) -> Path:
    """Return a CSV file of 6 images, 4 of train and 2 of val; those of val have boxes."""
    lines = ['label,image,note,split,x0,y0,x1,y1']
    for i in range(6):
        path = tmp_path / 'pictures' / f'{i}.png'
        path.parent.mkdir(exist_ok=True)
        shape_image(i % 2, i)[0].save(path)
        lines.append(f'{NAMES[i % 2]},pictures/{i}.png,x,{"train,,,," if i < 4 else "val,9,9,40,50"}')
    (tmp_path / 'shapes.csv').write_text('\n'.join(lines))
    return tmp_path / 'shapes.csv'


def test_table(table):
    train, val = (open_dataset(table, split) for split in ('train', 'val'))
    assert isinstance(train, TableDataset)
    assert (train.name, len(train), train.boxes, train.exif) == ('shapes', 4, None, True)
    assert train.class_names == val.class_names == {0: 'disc', 1: 'square'}
    assert train.labels.tolist() == [1, 0, 1, 0]
    assert val.ids == ['pictures/4.png', 'pictures/5.png']
    assert ([b.tolist() for b in val.boxes], val.exif) == ([[[9, 9, 40, 50]]] * 2, False)
    assert train[1][0].shape == (3, 224, 224)
    train_set, val_set = open_data(train_config(table))
    assert (len(train_set), len(val_set)) == (4, 2)
    assert check_dataset(table, quiet=True) == []
    (table.parent / 'classes.txt').write_text('square\ndisc\n')
    assert open_dataset(table, 'train').labels.tolist() == [0, 1, 0, 1]


def test_table_without_splits(table, capsys):
    table.write_text('image,label\npictures/0.png,7\npictures/1.png,3\n')
    assert open_dataset(table, 'train').labels.tolist() == [7, 3]
    assert open_data(train_config(table))[1] is None
    with pytest.raises(DatasetError, match=r"has no image of the split 'test' \(found: train\); write it in a column"):
        open_dataset(table, 'test')
    assert main(['benchmark', str(table), '--check', '--quiet']) == 0
    assert 'no problems found' in capsys.readouterr().out


def test_benchmark_of_a_table(table, tmp_path, capsys):
    for i in (4, 5):
        path = tmp_path / 'maps' / 'pictures' / f'{i}.png.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((SIZE, SIZE))
        values[9:51, 9:41] = 1
        np.save(path, values)
    command = ['benchmark', str(table), '--split', 'val', '--scoremaps', str(tmp_path / 'maps'), '--quiet']
    assert main(command) == 0
    assert 'shapes/val, 2 images' in (out := capsys.readouterr().out)
    assert '100.0' in out


def test_images_of_a_table_without_box_are_left_out(table, caplog):
    table.write_text(table.read_text() + '\ndisc,pictures/0.png,x,val,,,,')
    with caplog.at_level(logging.WARNING, 'fcam_zoo'):
        assert len(open_dataset(table, 'val')) == 2
    assert '1 of 3 images have no box and are left out' in caplog.text


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('path,label\na.png,cat', 'the header must have the columns image and label'),
        ('image,label,image\na.png,cat,b.png', 'each once'),
        ('', 'the header must have'),
        ('image,label\na.png', 'line 2: 1 fields; write image,label'),
        ('image,label\n../a.png,cat', r"line 2: image '\.\./a\.png' is not a path below"),
        ('image,label\n/a.png,cat', 'is not a path below'),
        ('image,label\na.png,', 'line 2: has no name; write its class'),
        ('image,label\na.png,cat\na.png,dog', r'line 3: a\.png already has another label; remove one'),
        ('image,label,x0,y0,x1,y1\na.png,cat,9,1,2,3', r'line 2: box \(9, 1, 2, 3\) is inverted'),
    ],
)
def test_invalid_tables(tmp_path, text, problem):
    path = tmp_path / 'labels.csv'
    path.write_text(text)
    with pytest.raises(DatasetError, match=problem):
        open_dataset(path, 'train')


def test_check_reports_missing_images_of_a_table(table):
    (table.parent / 'pictures' / '2.png').unlink()
    Image.new('RGB', (20, 20)).save(table.parent / 'pictures' / '4.png')
    problems = check_dataset(table, quiet=True)
    assert len(problems) == 2
    assert '2.png: image is missing; restore it, or remove it from' in problems[0]
    assert 'line 6: box (9, 9, 40, 50), in pixels from 0, is outside its image' in problems[1]
