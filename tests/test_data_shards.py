"""Data sets in tar shards and Parquet files: labels, boxes, training and scoring."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest
from stored_images import jpeg, write_parquet, write_tar
from synthetic import make_wsol, shape_image, train_config

from fcam_zoo.cli import main
from fcam_zoo.data import ShardDataset, check_dataset, open_dataset
from fcam_zoo.data.formats import has_split, train_split
from fcam_zoo.errors import DatasetError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, train

NAMES = ('square', 'disc')


def make_shards(root: Path, counts: dict[str, int], shards: int = 2) -> Path:
    """Write the images, labels and boxes of `make_wsol` as shards `<split>-<n>.tar`; train has no boxes."""
    for number, (split, count) in enumerate(counts.items()):
        members: list[list[tuple[str, bytes]]] = [[] for _ in range(shards)]
        for i in range(count):
            image, mask = shape_image(i % 2, 1000 * number + i)
            file = io.BytesIO()
            image.save(file, 'PNG')
            y, x = np.nonzero(mask)
            box = [int(v) for v in (x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min())]
            note = {'bbox': box, 'width': image.width, 'height': image.height} if split != 'train' else {'id': i}
            key = f'{NAMES[i % 2]}/{split}_{i}'
            members[i * shards // count] += [
                (f'{key}.png', file.getvalue()),
                (f'{key}.cls', str(i % 2).encode()),
                (f'{key}.json', json.dumps(note).encode()),
            ]
        for shard, content in enumerate(members):
            write_tar(root / f'{split}-{shard:03d}.tar', content)
    (root / 'classes.txt').write_text('\n'.join(NAMES))
    return root


@pytest.fixture
def shards(tmp_path) -> Path:
    return make_shards(tmp_path / 'data', {'train': 8, 'val': 6, 'test': 6})


def test_split_has_the_images_labels_and_boxes_of_the_same_data_as_files(shards, tmp_path):
    wsol = open_dataset(make_wsol(tmp_path / 'wsol', {'train': 8, 'val': 6, 'test': 6}), 'test')
    dataset = pickle.loads(pickle.dumps(open_dataset(shards, 'test')))
    assert isinstance(dataset, ShardDataset)
    assert [i.partition('/')[2] for i in dataset.ids] == wsol.ids
    assert dataset.ids[0] == 'test-000/square/test_0.png'
    assert dataset.labels.tolist() == wsol.labels.tolist()
    assert dataset.class_names == {0: 'square', 1: 'disc'}
    assert (dataset.sizes == wsol.sizes).all()
    for i in range(len(wsol)):
        np.testing.assert_array_equal(dataset.boxes[i] + [[0, 0, 1, 1]], wsol.boxes[i])
        np.testing.assert_array_equal(dataset[i][0], wsol[i][0])
    dataset.check_files()
    assert open_dataset(shards, 'train').boxes is None
    assert (train_split(shards), has_split(shards, 'val'), has_split(shards, 'more')) == ('train', True, False)
    assert check_dataset(shards, quiet=True) == []
    assert 'test-000.tar/square/test_0.png' in str(dataset.path(0))


@pytest.mark.parametrize('layout', ['train/a.tar', 'train/b-1.tar', 'train.tar', 'train-00000-of-00001.tar'])
def test_places_of_shards(tmp_path, layout):
    write_tar(tmp_path / layout, [('a.jpg', jpeg()), ('a.cls', b'1')])
    dataset = open_dataset(tmp_path, 'train')
    assert (dataset.ids, dataset.labels.tolist(), dataset.class_names) == (['a.jpg'], [1], {0: '0', 1: '1'})
    with pytest.raises(DatasetError, match=r"no split 'val'"):
        open_dataset(tmp_path, 'val')


def test_class_folders_beside_their_archives_stay_class_folders(tmp_path):
    for name in 'ab':
        (tmp_path / 'train' / name).mkdir(parents=True)
        (tmp_path / 'train' / name / '1.jpg').write_bytes(jpeg())
        write_tar(tmp_path / 'train' / f'{name}.tar', [('1.jpg', jpeg())])
    write_tar(tmp_path / 'train.tar', [('1.jpg', jpeg())])
    assert open_dataset(tmp_path, 'train').ids == ['a/1.jpg', 'b/1.jpg']


def test_parquet_of_the_hub(tmp_path):
    write_parquet(tmp_path / 'train-00000-of-00001.parquet', ['1.jpg', '2.jpg'], [0, 1], NAMES)
    write_parquet(tmp_path / 'validation-00000-of-00001.parquet', ['1.jpg'], [1], NAMES)
    train_set, val_set = open_dataset(tmp_path, 'train'), open_dataset(tmp_path, 'val')
    assert (train_set.labels.tolist(), val_set.labels.tolist()) == ([0, 1], [1])
    assert val_set.class_names == {0: 'square', 1: 'disc'}
    assert val_set[0][0].shape == (3, 224, 224)


def test_names_as_labels_are_numbered_as_in_train(tmp_path):
    write_tar(
        tmp_path / 'train.tar', [(f'{n}.{s}', c) for n in 'abc' for s, c in (('jpg', jpeg()), ('cls', n.encode()))]
    )
    write_tar(tmp_path / 'val.tar', [('1.jpg', jpeg()), ('1.cls', b'c')])
    val_set = open_dataset(tmp_path, 'val')
    assert (val_set.labels.tolist(), val_set.class_names) == ([2], {0: 'a', 1: 'b', 2: 'c'})
    write_tar(tmp_path / 'val.tar', [('1.jpg', jpeg()), ('1.cls', b'd')])
    with pytest.raises(DatasetError, match=r'val.tar/1.jpg: has the class d, which train does not have'):
        open_dataset(tmp_path, 'val')


def test_data_set_by_url(shards):
    files = fsspec.filesystem('memory')
    for path in shards.glob('*.tar'):
        files.pipe(f'/sets/shapes/{path.name}', path.read_bytes())
    try:
        dataset = open_dataset('memory://sets/shapes', 'test')
        assert dataset.ids == open_dataset(shards, 'test').ids
        assert dataset.name == 'shapes'
        assert has_split('memory://sets/shapes', 'val')
        assert check_dataset('memory://sets/shapes', ['test'], quiet=True) == []
        with pytest.raises(DatasetError, match='no shards of'):
            open_dataset('memory://sets/none', 'test')
        with pytest.raises(DatasetError, match='no shards of train, val or test'):
            check_dataset('memory://sets/none')
    finally:
        files.rm('/sets', recursive=True)


@pytest.mark.parametrize(
    ('members', 'message'),
    [
        ([('1.jpg', jpeg())], '1.jpg: has no label'),
        ([('1.jpg', jpeg()), ('1.cls', b'1'), ('1.jpg', jpeg())], 'earlier image of this name'),
        ([('1.jpg', jpeg()), ('1.cls', b'123456')], 'too large'),
        ([('1.jpg', jpeg()), ('1.cls', b'1'), ('1.json', b'{')], r'its .json is not valid JSON'),
        ([('1.jpg', jpeg()), ('1.cls', b'1'), ('1.json', b'{"bbox": [1, 2]}')], 'is not four numbers'),
        ([('1.jpg', jpeg()), ('1.cls', b'1'), ('1.json', b'{"bbox": [1, 2, 0, 3]}')], 'is 0 wide'),
        ([('1.jpg', jpeg()), ('1.cls', b'1'), ('1.json', b'{"boxes": 7}')], 'not a list of boxes'),
    ],
)
def test_problems(tmp_path, members, message):
    write_tar(tmp_path / 'test.tar', members)
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path, 'test')
    assert len(check_dataset(tmp_path, quiet=True)) == 1


def test_problems_of_images(tmp_path):
    note = json.dumps({'boxes': [[0, 0, 99, 5]], 'width': 30, 'height': 10}).encode()
    write_tar(
        tmp_path / 'test.tar', [('1.jpg', jpeg()), ('1.cls', b'1'), ('1.json', note), ('2.jpg', b'?'), ('2.cls', b'0')]
    )
    problems = check_dataset(tmp_path, quiet=True)
    assert len(problems) == 3
    assert '20x10 pixels, but' in problems[0]
    assert 'is outside its image' in problems[1]
    assert '2.jpg: not an image of a known format' in problems[2]
    with pytest.raises(DatasetError, match='give the folder'):
        open_dataset(tmp_path / 'test.tar', 'train')


def test_boxes_without_sizes(tmp_path):
    note = json.dumps({'boxes': [[0, 0, 5, 5], [2.4, 3, 6, 2]]}).encode()
    write_tar(
        tmp_path / 'test.tar', [('1.jpg', jpeg()), ('1.cls', b'0'), ('1.json', note), ('2.jpg', b''), ('2.cls', b'0')]
    )
    dataset = open_dataset(tmp_path, 'test')
    assert dataset.ids == ['1.jpg']  # The other has no box.
    assert dataset.boxes[0].tolist() == [[0, 0, 4, 4], [2, 3, 7, 4]]
    assert dataset.sizes.tolist() == [[20, 10]]


def test_train_and_benchmark(shards, tmp_path, capsys):
    """The decoder is selected by the boxes of val."""
    once = {'classifier': ClassifierConfig(epochs=1, batch_size=8), 'decoder': DecoderConfig(epochs=1, batch_size=8)}
    train(train_config(shards, **once), tmp_path / 'run', quiet=True)
    model = str(tmp_path / 'run' / 'best')
    arguments = ['--models', model, '--maps', 'fcam', '--workers', '0', '--quiet', '--device', 'cpu']
    assert main(['benchmark', str(shards), *arguments, '-o', str(tmp_path / 'report')]) == 0
    assert '6 images' in capsys.readouterr().out
    assert (tmp_path / 'report' / 'report.html').is_file()
