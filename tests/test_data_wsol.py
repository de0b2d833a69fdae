"""The WSOL metadata layout: reading, errors, and the list of `check_dataset`."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fcam_zoo.data import EvalTransform, WSOLDataset, check_dataset, open_dataset
from fcam_zoo.errors import DatasetError, ImageError

IDS = ('1.Ant/a.png', '1.Ant/b.png', '2.Bee/c.png')
SIZES = ((60, 40), (50, 70), (64, 64))


def random_image(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def save_image(path: Path, image: Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write_metadata(root: Path, split: str, localization: list[str] | None, **files: list[str] | str | None) -> None:
    """Write a valid split; `files` (ids, labels, sizes) replace the lines of a file, or omit it if None."""
    folder = root / 'metadata' / split
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        'image_ids': list(IDS),
        'class_labels': [f'{i},{label}' for i, label in zip(IDS, (0, 0, 1))],
        'image_sizes': [f'{i},{w},{h}' for i, (w, h) in zip(IDS, SIZES)],
        'localization': localization,
    }
    contents.update(files)
    for name, lines in contents.items():
        if lines is None:
            (folder / f'{name}.txt').unlink(missing_ok=True)
        else:
            # No newline at the end, as in the published files.
            (folder / f'{name}.txt').write_text('\n'.join(lines), encoding='utf-8')


BOXES = ['1.Ant/a.png,1,2,59,40', '1.Ant/b.png,0,0,50,70', '2.Bee/c.png,5,6,7,8', '2.Bee/c.png,9,9,20,20']
MASKS = ['1.Ant/a.png,a0.png,a_ign.png', '1.Ant/a.png,a1.png,', '1.Ant/b.png,sub/b.png,', '2.Bee/c.png,c.png,c_ign.png']


@pytest.fixture
def boxes(tmp_path) -> Path:
    root = tmp_path / 'bugs'
    for k, (image_id, size) in enumerate(zip(IDS, SIZES)):
        save_image(root / 'images' / image_id, random_image(*size, seed=k))
    write_metadata(root, 'test', BOXES)
    return root


@pytest.fixture
def masks(boxes) -> Path:
    write_metadata(boxes, 'test', MASKS)
    rng = np.random.default_rng(1)
    sizes = {'a0': SIZES[0], 'a1': SIZES[0], 'a_ign': SIZES[0], 'sub/b': SIZES[1], 'c': SIZES[2], 'c_ign': SIZES[2]}
    for name, (w, h) in sizes.items():
        gray = rng.choice([0, 1, 255], (h // 5, w // 5), p=[0.6, 0.2, 0.2]).astype(np.uint8)
        gray = cv2.resize(gray, (w, h), interpolation=cv2.INTER_NEAREST)
        save_image(boxes / 'masks' / f'{name}.png', Image.fromarray(gray))
    return boxes


def test_attributes_and_items(boxes):
    dataset = WSOLDataset(str(boxes), 'test')
    assert (dataset.name, dataset.root, dataset.split) == ('bugs', boxes, 'test')
    assert dataset.ids == list(IDS)
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.sizes.tolist() == [list(s) for s in SIZES]
    assert [b.tolist() for b in dataset.boxes] == [[[1, 2, 59, 40]], [[0, 0, 50, 70]], [[5, 6, 7, 8], [9, 9, 20, 20]]]
    assert dataset.boxes[0].dtype == np.int64
    assert dataset.masks is None
    assert dataset.num_classes == 2
    assert dataset.class_names == {0: '1.Ant', 1: '2.Bee'}
    assert dataset.path(1) == boxes / 'images' / '1.Ant' / 'b.png'
    assert len(dataset) == 3
    assert repr(dataset) == 'WSOLDataset(bugs, test: 3 images, 2 classes, boxes)'
    image, label, index = dataset[2]
    assert (label, index) == (1, 2)
    assert isinstance(label, int)
    assert torch.equal(image, EvalTransform()(random_image(*SIZES[2], seed=2)))
    assert dataset[-1][2] == 2
    with pytest.raises(IndexError):
        dataset[3]
    with pytest.raises(DatasetError, match='bugs, test: opened without masks'):
        dataset.mask(0, (224, 224))
    assert open_dataset(boxes, 'test', lambda image: image.size)[0][0] == SIZES[0]
    assert check_dataset(boxes, quiet=True) == []


def test_batches_and_pickling(boxes):
    dataset = pickle.loads(pickle.dumps(WSOLDataset(boxes, 'test')))
    images, labels, indices = next(iter(DataLoader(dataset, batch_size=3)))
    assert images.shape == (3, 3, 224, 224)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [0, 0, 1]
    assert indices.tolist() == [0, 1, 2]


def test_images_keep_their_stored_orientation(boxes):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(boxes / 'images' / IDS[0], random_image(*SIZES[0]), exif=exif)
    assert WSOLDataset(boxes, 'test', lambda image: image.size)[0][0] == SIZES[0]
    assert check_dataset(boxes, quiet=True) == []


def test_training_reads_no_localization(boxes):
    write_metadata(boxes, 'train', ['nonsense'])
    dataset = WSOLDataset(boxes, 'train')
    assert dataset.boxes is None
    assert dataset.masks is None
    with pytest.raises(DatasetError, match='1 fields'):
        WSOLDataset(boxes, 'train', ground_truth=True)
    write_metadata(boxes, 'train', None)
    assert len(open_dataset(boxes, 'train')) == 3
    write_metadata(boxes, 'test', None)
    assert WSOLDataset(boxes, 'test', ground_truth=False).boxes is None


def test_line_ends_blank_lines_and_byte_order_mark(boxes):
    for file in (boxes / 'metadata' / 'test').iterdir():
        file.write_bytes(b'\xef\xbb\xbf' + file.read_bytes().replace(b'\n', b'\r\n') + b'\r\n\r\n')
    dataset = WSOLDataset(boxes, 'test')
    assert dataset.ids == list(IDS)
    assert len(dataset.boxes) == 3


def test_sizes_that_metadata_lack_come_from_the_images(boxes):
    write_metadata(boxes, 'test', BOXES, image_sizes=[])
    assert WSOLDataset(boxes, 'test').sizes.tolist() == [list(s) for s in SIZES]
    # They are read on first use.
    (boxes / 'images' / IDS[1]).unlink()
    write_metadata(boxes, 'train', None, image_sizes=[f'{IDS[0]},60,40'])
    for split in ('train', 'test'):
        dataset = WSOLDataset(boxes, split)
        with pytest.raises(FileNotFoundError, match=r'b\.png: no such image file'):
            _ = dataset.sizes


def test_class_names_are_folders_that_match_labels(boxes):
    save_image(boxes / 'images' / 'train' / 'x' / 'a.png', random_image(8, 8))
    ids = ['train/x/a.png', 'train/y/b.png', 'z/c.png', 'z/d.png', 'e.png']
    labels = [f'{i},{label}' for i, label in zip(ids, (4, 5, 0, 1, 2))]
    write_metadata(boxes, 'train', None, image_ids=ids, class_labels=labels, image_sizes=[])
    dataset = WSOLDataset(boxes, 'train')
    assert dataset.class_names == {0: '0', 1: '1', 2: '2', 4: 'x', 5: 'y'}
    assert dataset.num_classes == 6


@pytest.mark.parametrize('size', [(224, 224), (37, 91), (60, 40)])
def test_masks_follow_the_protocol(masks, size):
    dataset = WSOLDataset(masks, 'test')
    assert dataset.boxes is None
    assert dataset.masks[0] == ((masks / 'masks/a0.png', masks / 'masks/a1.png'), masks / 'masks/a_ign.png')
    assert dataset.masks[1] == ((masks / 'masks/sub/b.png',), None)

    def protocol(name: str) -> np.ndarray:
        gray = cv2.imread(str(masks / 'masks' / f'{name}.png'), cv2.IMREAD_GRAYSCALE).astype(np.float32)
        return cv2.resize(gray, size, interpolation=cv2.INTER_NEAREST) > 0.5

    for index, (files, ignore) in enumerate([(('a0', 'a1'), 'a_ign'), (('sub/b',), None), (('c',), 'c_ign')]):
        objects = sum(protocol(f).astype(int) for f in files) > 0
        want = objects.astype(np.uint8)
        if ignore:
            want[protocol(ignore) & ~objects] = 255
        got = dataset.mask(index, size)
        assert got.dtype == np.uint8
        assert got.shape == size[::-1]
        np.testing.assert_array_equal(got, want)
    assert set(np.unique(dataset.mask(0, size=size))) == {0, 1, 255}
    assert check_dataset(masks, quiet=True) == []


def test_mask_geometry(masks):
    """A rectangle is scaled with the image; object pixels win over ignored pixels."""
    w, h = SIZES[0]
    gray = {name: np.zeros((h, w), np.uint8) for name in ('a0', 'a1', 'a_ign')}
    gray['a0'][10:20, 6:30] = 255
    gray['a_ign'][10:30, 6:30] = 255
    for name, values in gray.items():
        save_image(masks / 'masks' / f'{name}.png', Image.fromarray(values))
    want = np.zeros((2 * h, 2 * w), np.uint8)
    want[20:60, 12:60] = 255
    want[20:40, 12:60] = 1
    np.testing.assert_array_equal(WSOLDataset(masks, 'test').mask(0, (2 * w, 2 * h)), want)


def test_mask_file_errors(masks):
    dataset = WSOLDataset(masks, 'test')
    (masks / 'masks' / 'c.png').write_bytes(b'not an image')
    with pytest.raises(ImageError, match=r'c\.png: not an image'):
        dataset.mask(2, (8, 8))
    (masks / 'masks' / 'c.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'c\.png'):
        dataset.mask(2, (8, 8))


LINE = ',0,0,5,5'
PROBLEMS = [
    ({'image_ids': None}, r'image_ids\.txt: cannot be read \(No such file'),
    ({'image_ids': []}, r'image_ids\.txt: lists no images'),
    ({'image_ids': [*IDS, IDS[0]]}, r'image_ids\.txt, line 4: 1\.Ant/a\.png is listed twice; remove'),
    ({'image_ids': [*IDS, '../../etc/x.png']}, r"line 4: id '\.\./\.\./etc/x\.png' is not a path below .*images"),
    ({'image_ids': [*IDS, '/etc/x.png']}, r"line 4: id '/etc/x\.png' is not a path"),
    ({'image_ids': [*IDS, 'a\\..\\..\\x.png']}, 'is not a path below'),
    ({'image_ids': [*IDS, 'C:/x.png']}, 'is not a path below'),
    ({'image_ids': [*IDS, 'a,b.png']}, 'line 4: an id cannot contain a comma'),
    ({'class_labels': None}, r'class_labels\.txt: cannot be read'),
    ({'class_labels': [f'{IDS[0]},0', f'{IDS[1]},0']}, r'class_labels\.txt: 2\.Bee/c\.png has no label; add the line'),
    ({'class_labels': [*(f'{i},0' for i in IDS), f'{IDS[0]},1']}, 'line 4: 1.Ant/a.png is listed twice'),
    ({'class_labels': [f'{i},x' for i in IDS]}, r'class_labels\.txt, line 1: x are not whole numbers'),
    ({'class_labels': [f'{i},1.0' for i in IDS]}, 'line 1: 1.0 are not whole numbers'),
    ({'class_labels': [f'{i},{"9" * 30}' for i in IDS]}, 'not whole numbers'),
    ({'class_labels': [f'{i},-1' for i in IDS]}, 'line 1: -1 are not whole numbers >= 0; write <id>,<label>'),
    ({'class_labels': list(IDS)}, r'line 1: 1 fields; write <id>,<label>'),
    ({'image_sizes': None}, r'image_sizes\.txt: cannot be read'),
    ({'image_sizes': [f'{IDS[0]},60,40', f'{IDS[1]},50,70']}, r'2\.Bee/c\.png has no size, which its boxes need'),
    ({'image_sizes': [f'{i},60' for i in IDS]}, 'line 1: 2 fields; write <id>,<width>,<height>'),
    ({'image_sizes': [f'{i},0,40' for i in IDS]}, 'line 1: 0,40 are not whole numbers >= 1'),
    ({'image_sizes': [f'{IDS[0]},60,40', f'{IDS[0]},60,40']}, 'line 2: 1.Ant/a.png is listed twice'),
    ({'localization': None}, r'localization\.txt: cannot be read'),
    ({'localization': []}, r'localization\.txt: is empty; .*ground_truth=False'),
    ({'localization': BOXES[:2]}, r'localization\.txt: 2\.Bee/c\.png has no box or mask'),
    ({'localization': [*BOXES, f'{IDS[0]},0,0,5']}, 'line 5: 4 fields; write <id>,<x0>,<y0>,<x1>,<y1>'),
    ({'localization': [*BOXES, f'{IDS[0]},0,0,5,5.5']}, r'line 5: 0,0,5,5\.5 are not whole numbers'),
    (
        {'localization': [*BOXES, f'{IDS[0]},0,0,61,5']},
        r'line 5: box \(0, 0, 61, 5\), .* is outside its image .* of 60x40',
    ),
    ({'localization': [*BOXES, f'{IDS[0]},-1,0,6,5']}, 'line 5: box .* is outside'),
    ({'localization': [*BOXES, f'{IDS[0]},60,0,60,5']}, 'line 5: box .* is outside'),
    ({'localization': [*BOXES, f'{IDS[0]},9,0,6,5']}, 'line 5: box .* is inverted'),
    ({'localization': MASKS[:3]}, 'has no box or mask'),
    ({'localization': [*MASKS, *BOXES]}, 'line 5: 5 fields; write <id>,<mask>,<ignore mask or nothing>'),
    (
        {'localization': [*MASKS, f'{IDS[0]},a2.png,more.png']},
        'line 5: .* the ignore mask on its first line only',
    ),
    ({'localization': [*MASKS, f'{IDS[0]},../a.png,']}, r"line 5: mask '\.\./a\.png' is not a path below .*masks"),
    ({'localization': [f'{IDS[0]},,', *MASKS[2:]]}, "line 1: mask '' is not a path below .*masks"),
]


@pytest.mark.parametrize(('files', 'message'), PROBLEMS)
def test_invalid_metadata(masks, files, message):
    write_metadata(masks, 'test', BOXES, **{k: v for k, v in files.items() if k != 'localization'})
    if 'localization' in files:
        write_metadata(masks, 'test', files['localization'])
    with pytest.raises(DatasetError, match=message) as caught:
        WSOLDataset(masks, 'test')
    assert str(masks / 'metadata' / 'test') in str(caught.value)
    assert any(re.search(message, problem) for problem in check_dataset(masks, quiet=True))


def test_not_utf8(boxes):
    (boxes / 'metadata' / 'test' / 'image_ids.txt').write_bytes(b'caf\xe9.png')
    with pytest.raises(DatasetError, match=r'image_ids\.txt: is not UTF-8 text'):
        WSOLDataset(boxes, 'test')


def test_the_error_counts_the_other_problems(boxes):
    write_metadata(boxes, 'test', BOXES, class_labels=[f'{i},x' for i in IDS])
    with pytest.raises(DatasetError, match=r'\(2 more; check_dataset lists all\)$'):
        WSOLDataset(boxes, 'test')


def test_check_lists_every_problem(masks):
    images, folder = masks / 'images', masks / 'masks'
    (images / IDS[0]).unlink()
    (images / IDS[1]).write_bytes((images / IDS[1]).read_bytes()[:2000])
    save_image(images / IDS[2], random_image(32, 64))
    (folder / 'a1.png').unlink()
    (folder / 'a_ign.png').write_bytes(b'junk')
    save_image(folder / 'c.png', Image.new('L', (5, 5)))
    labels = [f'{i},0' for i in (*IDS, 'extra.png')]
    write_metadata(masks, 'test', MASKS, class_labels=labels)
    write_metadata(masks, 'train', None, image_ids=[IDS[2]])
    wanted = {
        'class_labels.txt: extra.png is not in image_ids.txt': 1,
        'a.png: image is missing; restore it': 1,
        'a1.png: mask is missing; restore it': 1,
        'a_ign.png: not an image': 1,
        'b.png: cannot be read as an image': 1,
        'c.png: 32x64 pixels, but': 2,  # In both splits.
        'c.png: mask of 5x5 for an image of 32x64': 1,
        'c_ign.png: mask of 64x64 for an image of 32x64': 1,
        'c.png: in the splits test and train; remove it from one': 1,
        'is not in image_ids.txt; add it there': 1 + 2 + 2,  # Labels and sizes of the train split contain all images.
    }
    problems = check_dataset(masks, ['test', 'train'], quiet=True)
    assert {want: sum(want in p for p in problems) for want in wanted} == wanted
    assert len(problems) == sum(wanted.values()) - 1
    assert all('\n' not in p for p in problems)
    assert check_dataset(masks, ['val'], quiet=True) == [
        f'{masks / "metadata" / "val"}: no such split; the WSOL layout has its metadata in this folder'
    ]


def test_check_of_missing_and_empty_folders(tmp_path, boxes, capsys):
    with pytest.raises(DatasetError, match='gone: no such folder'):
        check_dataset(tmp_path / 'gone')
    (tmp_path / 'bare' / 'metadata').mkdir(parents=True)
    assert 'no split' in check_dataset(tmp_path / 'bare')[0]
    capsys.readouterr()
    assert check_dataset(boxes) == []
    assert 'bugs test' in capsys.readouterr().err


def test_an_invalid_line_hides_no_other_problem(boxes):
    write_metadata(boxes, 'test', [BOXES[0], f'{IDS[1]},5,6'], class_labels=[f'{IDS[0]},x', f'{IDS[1]},0'])
    problems = check_dataset(boxes, quiet=True)
    for message in (
        r'class_labels.txt, line 1: x are not whole numbers',
        rf'class_labels.txt: {IDS[2]} has no label',
        r'localization.txt, line 2: 3 fields',
        rf'localization.txt: {IDS[2]} has no box or mask',
    ):
        assert sum(message in problem for problem in problems) == 1
    assert len(problems) == 4
