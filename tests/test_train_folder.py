"""A folder of class folders without splits is the training split; anything ambiguous is one clear error."""

from __future__ import annotations

import pytest
from synthetic import make_folder, shape_image, train_config

import fcam_zoo
from fcam_zoo.cli import main
from fcam_zoo.data import FolderDataset, open_dataset
from fcam_zoo.data.formats import train_split
from fcam_zoo.errors import DatasetError
from fcam_zoo.train import TrainConfig, train
from fcam_zoo.train.run import check_folder
from fcam_zoo.train.setting_types import names_of
from fcam_zoo.train.setup import open_data


@pytest.fixture
def photos(tmp_path):
    make_folder(tmp_path, {'photos': 8})
    return tmp_path / 'photos'


def test_class_folders_are_the_training_split(photos):
    assert train_split(photos) == ''
    train_set, val_set = open_data(train_config(photos))
    assert isinstance(train_set, FolderDataset)
    assert (len(train_set), train_set.class_names, train_set.name) == (8, {0: 'disc', 1: 'square'}, 'photos')
    assert val_set is None
    assert open_dataset(photos, '').ids == train_set.ids


def test_folders_with_splits_stay_as_they_are(photos, tmp_path):
    data = make_folder(tmp_path / 'data', {'train': 4, 'val': 4})
    assert train_split(data) == 'train'
    for root in (data, make_folder(tmp_path / 'other', {'val': 4})):
        with pytest.raises(DatasetError, match=r"no split '.*' \(found: "):
            open_dataset(root, '' if root == data else train_split(root))


@pytest.mark.parametrize(
    ('path', 'other'),
    [
        ('annotations/1.png', "the folder 'annotations'"),
        ('notes/1.txt', "the folder 'notes'"),
        ('1.png', 'images outside of folders'),
    ],
)
def test_ambiguous_folders_are_refused(photos, path, other):
    (photos / path).parent.mkdir(parents=True, exist_ok=True)
    shape_image(0, 0)[0].save(photos / path, 'png')
    message = f"photos: has no train folder, and besides class folders such as 'disc' it has {other}: use the layout "
    with pytest.raises(DatasetError, match=message):
        open_data(train_config(photos))


def test_a_class_may_have_its_images_in_nested_folders(photos):
    (photos / 'more' / 'a' / 'b').mkdir(parents=True)
    shape_image(0, 0)[0].save(photos / 'more' / 'a' / 'b' / '1.png')
    train_set, _ = open_data(train_config(photos))
    assert train_set.class_names == {0: 'disc', 1: 'more', 2: 'square'}
    assert len(train_set) == 9


@pytest.mark.parametrize('more', [[], ['--dry-run'], ['--sweep', 'decoder.lr=0.1,0.2']])
def test_a_run_folder_among_the_class_folders_is_refused(photos, tmp_path, capsys, more):
    data = make_folder(tmp_path / 'data', {'train': 4, 'val': 4})
    for root, output in ((photos, photos / 'run'), (photos, photos / '..' / 'photos'), (data, data / 'train' / 'run')):
        assert main(['train', str(root), '-o', str(output), '--backbone', 'test_resnet', *more]) == 1
        error = capsys.readouterr().err.strip()
        assert 'where each folder is a class: give a folder outside of it' in error
        assert '\n' not in error
    assert not (photos / 'run').exists()
    assert not (data / 'train' / 'run').exists()
    # Python has the same check.
    for run in (data / 'train' / 'run', data / 'train'):
        with pytest.raises(ValueError, match='where each folder is a class'):
            train(train_config(data), run, quiet=True)
    for root, output in ((photos, tmp_path / 'run'), (data, data / 'run')):
        assert check_folder(output, train_config(root), resume=False) is None


def test_folders_without_class_folders_get_the_usual_errors(tmp_path, photos):
    (tmp_path / 'empty' / 'nothing').mkdir(parents=True)
    for root in (tmp_path / 'empty', photos / 'disc'):
        with pytest.raises(DatasetError, match="no split 'train'"):
            open_data(train_config(root))
    with pytest.raises(DatasetError, match='the folder does not exist'):
        open_data(train_config(tmp_path / 'nowhere'))
    for path in (photos / 'square').iterdir():
        path.unlink()
    (photos / 'square').rmdir()
    with pytest.raises(DatasetError, match='1 class folders, but a classifier needs two'):
        open_data(train_config(photos))


def test_annotations_need_a_val_split(photos, tmp_path):
    with pytest.raises(DatasetError, match=r'annotations are those of val, and .* has only class folders'):
        open_data(train_config(photos, annotations=str(tmp_path / 'boxes.csv')))


@pytest.mark.parametrize('name', fcam_zoo.list_models(pretrained=True))
def test_recipes_of_released_models_name_the_trainings_they_need(photos, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert main(['train', str(photos), '-o', 'run', '--recipe', name, '--dry-run']) == 1
    (error,) = capsys.readouterr().err.splitlines()
    config = TrainConfig.from_file(name)
    for place, names in (('init', names_of(config.init)), ('teacher.model', config.teacher.models)):
        if names:
            assert f'{place} {", ".join(dict.fromkeys(names))}' in error
    assert 'these model folders do not exist: ' in error
    assert 'They are other trainings, which must be finished first (docs/reproduce.md has' in error
