"""Annotations of folders: their content, read back by several libraries, and invalid arguments."""

from __future__ import annotations

import csv
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from glow import Glow
from PIL import Image
from scenes import SCENES, draw, label, tree

from fcam_zoo import viz
from fcam_zoo.data import check_dataset, open_dataset, open_image, open_source
from fcam_zoo.labelling import FORMATS, SHEET_IMAGES, LabelOptions, label_images
from fcam_zoo.labelling.journal import Journal
from fcam_zoo.labelling.labeller import ImageRecord, ObjectRecord


def exclusive(boxes: np.ndarray) -> list[tuple[int, ...]]:
    return sorted(tuple((box + np.array([0, 0, 1, 1])).tolist()) for box in boxes)


@pytest.mark.parametrize('annotations', ['coco/annotations.json', 'voc/Annotations', 'csv/boxes.csv'])
def test_own_readers_find_every_box(photos, tmp_path, annotations):
    done = label(photos, tmp_path / 'out')
    assert (done.labelled, done.objects, done.errors) == (5, 5, ())
    path = tmp_path / 'out' / annotations
    assert check_dataset(photos, [''], annotations=path) == []
    dataset = open_dataset(photos, '', annotations=path)
    assert sorted(dataset.ids) == sorted(name for name, (_, boxes) in SCENES.items() if boxes)
    for image_id, boxes in zip(dataset.ids, dataset.boxes):
        assert exclusive(boxes) == sorted(SCENES[image_id][1])


def test_own_reader_finds_every_mask(photos, tmp_path):
    label(photos, tmp_path / 'out')
    dataset = open_dataset(photos, '', annotations=tmp_path / 'out' / 'masks')
    assert len(dataset) == len(SCENES)
    for i, image_id in enumerate(dataset.ids):
        size, boxes = SCENES[image_id]
        mask = dataset.mask(i, size)
        assert mask.sum() == sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)


def test_pycocotools_reads_boxes_masks_and_scores(photos, tmp_path):
    coco = pytest.importorskip('pycocotools.coco')
    label(photos, tmp_path / 'out')
    data = coco.COCO(str(tmp_path / 'out/coco/annotations.json'))
    assert {image['file_name'] for image in data.loadImgs(data.getImgIds())} == set(SCENES)
    assert [c['name'] for c in data.loadCats(data.getCatIds())] == ['dim', 'bright']
    for image in data.loadImgs(data.getImgIds()):
        size, boxes = SCENES[image['file_name']]
        assert (image['width'], image['height']) == size
        found = data.loadAnns(data.getAnnIds(imgIds=image['id']))
        assert sorted(tuple(a['bbox']) for a in found) == sorted((x, y, x1 - x, y1 - y) for x, y, x1, y1 in boxes)
        for annotation in found:
            x, y, width, height = annotation['bbox']
            mask = data.annToMask(annotation)
            assert mask.shape == size[::-1]
            assert mask.sum() == mask[y : y + height, x : x + width].sum() == annotation['area'] == width * height
            assert 0.4 < annotation['score'] <= 1


@pytest.mark.parametrize('objects', [None, 0, 2])
def test_coco_of_no_image_and_of_no_object(photos, tmp_path, objects):
    found = Journal(tmp_path / 'journal')
    found.open({})
    regions = [ObjectRecord((1, 0, 3, 2), 0.5, 4, [3, 2, 1, 2, 4])] * (objects or 0)
    image = ImageRecord('a.png', 0, 'dim', 0, 0.5, (4, 3), regions, (4, 3), [])
    found.add([] if objects is None else ['cannot be read', image])
    found.close()
    writer = FORMATS['coco'](tmp_path / 'new', ('dim', 'bright'), 'glow', open_source(photos))
    writer.finish(found.records)
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['annotations.json']
    written = json.loads((tmp_path / 'new/annotations.json').read_text())
    assert [entry['file_name'] for entry in written['images']] == ([] if objects is None else ['a.png'])
    assert [(entry['id'], entry['image_id'], entry['bbox']) for entry in written['annotations']] == [
        (number, 1, [1, 0, 2, 2]) for number in range(1, (objects or 0) + 1)
    ]


def test_torchvision_reads_voc(photos, tmp_path):
    from torchvision.datasets import VOCDetection

    flat = tmp_path / 'flat'
    for i, (size, boxes) in enumerate(SCENES.values()):
        draw(flat / f'{i} x.jpg', size, boxes, quality=95)
    label(flat, tmp_path / 'out', ['voc'])
    voc = tmp_path / 'VOCdevkit' / 'VOC2012'
    voc.parent.mkdir()
    voc.symlink_to(tmp_path / 'out' / 'voc', target_is_directory=True)
    (tmp_path / 'out' / 'voc' / 'JPEGImages').symlink_to(flat, target_is_directory=True)
    data = VOCDetection(str(tmp_path), image_set='train')
    assert len(data) == len(SCENES)
    for (image, target), (size, boxes) in zip(data, SCENES.values()):
        annotation = target['annotation']
        assert image.size == size == (int(annotation['size']['width']), int(annotation['size']['height']))
        found = [{k: int(v) for k, v in o['bndbox'].items()} for o in annotation.get('object', [])]
        corners = [(o['xmin'] - 1, o['ymin'] - 1, o['xmax'], o['ymax']) for o in found]
        assert sorted(corners) == sorted(boxes)
    split = open_dataset(tmp_path / 'out' / 'voc', 'train', annotations=tmp_path / 'out/voc/Annotations')
    assert len(split) == 4  # One has no object.


def read_yolo(folder: Path, image: Path, root: Path) -> list[tuple[int, ...]]:
    """Boxes of an image in pixels of the upright image, as YOLO trainers read them."""
    width, height = open_image(image).size
    boxes = []
    lines = (folder / 'labels' / image.relative_to(root).with_suffix('.txt')).read_text().splitlines()
    for line in lines:
        number, *values = line.split()
        assert int(number) in yaml.safe_load((folder / 'data.yaml').read_text())['names']
        cx, cy, w, h = (float(value) for value in values)
        edges = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        assert np.abs(np.subtract(edges, np.round(edges))).max() < 1e-3
        boxes.append(tuple(round(edge) for edge in edges))
    return sorted(boxes)


def test_yolo_labels(photos, tmp_path):
    label(photos, tmp_path / 'out', ['yolo'])
    for image_id, (_, boxes) in SCENES.items():
        assert read_yolo(tmp_path / 'out' / 'yolo', photos / image_id, photos) == sorted(boxes)


def yolo_label(image: Path) -> Path:
    """The label of an image, as Ultralytics' img2label_paths finds it."""
    return Path('/labels/'.join(str(image).rsplit('/images/', 1)).rsplit('.', 1)[0] + '.txt')


@pytest.mark.parametrize('link', [True, False])
def test_yolo_folder_is_complete(photos, tmp_path, monkeypatch, link):
    """Every image of `train` and `val` of data.yaml is there with its label, also below a folder named images."""
    if not link:
        monkeypatch.setattr(os, 'link', lambda *_: (_ for _ in ()).throw(OSError('another file system')))
    draw(photos / 'images' / 'cat' / 'a.jpg', (112, 56), [(0, 32, 56, 48)])
    draw(photos / 'moving.gif', (112, 56), [(0, 32, 56, 48)])
    label(photos, tmp_path / 'out', ['yolo'])
    folder = tmp_path / 'out' / 'yolo'
    data = yaml.safe_load((folder / 'data.yaml').read_text())
    assert (data['train'], data['val']) == ('images', 'images')
    images = {
        path.relative_to(folder / 'images').as_posix(): path
        for path in folder.rglob('*')
        if path.suffix in ('.jpg', '.png')
    }
    assert images.keys() == {*SCENES, 'images/cat/a.jpg', 'moving.png'}
    for image_id, path in images.items():
        assert yolo_label(path).is_file()
        assert not path.is_symlink()
        if image_id != 'moving.png':
            assert path.read_bytes() == (photos / image_id).read_bytes()
            assert path.samefile(photos / image_id) == link
    assert Image.open(images['moving.png']).size == (112, 56)
    assert len([path for path in folder.rglob('*.txt') if path.name[0] != '.']) == len(images)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    box = (0, 32, 56, 48)
    draw(tmp_path / 'in' / 'turned.jpg', (112, 56), [box], exif=exif, quality=95)
    label(tmp_path / 'in', tmp_path / 'out', ['coco', 'masks', 'yolo', 'overlays'])
    coco = json.loads((tmp_path / 'out/coco/annotations.json').read_text())
    assert (coco['images'][0]['width'], coco['images'][0]['height']) == (112, 56)
    assert coco['annotations'][0]['bbox'] == [0, 32, 56, 16]
    mask = np.array(Image.open(tmp_path / 'out' / 'masks' / 'turned.png')) == 255
    assert mask.sum() == mask[32:48, :56].sum() == 56 * 16
    upright = np.array(open_image(tmp_path / 'in' / 'turned.jpg').convert('L')) > 128
    rows, columns = np.nonzero(upright)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert read_yolo(tmp_path / 'out' / 'yolo', tmp_path / 'in' / 'turned.jpg', tmp_path / 'in') == [expected]
    prediction = json.loads((tmp_path / 'out/overlays/predictions.json').read_text())['predictions'][0]
    assert tuple(prediction['box']) == expected
    assert tuple(prediction['size']) == upright.shape[::-1]


def test_image_modes_and_file_types(tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    gray = np.zeros((64, 64), np.uint8)
    gray[16:48, 16:48] = 255
    rgb = Image.fromarray(gray).convert('RGB')
    rgb.convert('L').save(folder / 'gray.png')
    rgb.convert('1').save(folder / 'bit.png')
    rgb.convert('P').save(folder / 'palette.gif')
    rgb.convert('RGBA').save(folder / 'alpha.png')
    rgb.convert('CMYK').save(folder / 'cmyk.jpg', quality=95)
    Image.fromarray(gray.astype(np.uint16) * 257).save(folder / 'deep.png')
    rgb.save(folder / 'moving.webp', save_all=True, append_images=[Image.new('RGB', (64, 64))], lossless=True)
    done = label_images(Glow(64), folder, tmp_path / 'out', LabelOptions(['csv'], workers=1))
    assert done.errors == ()
    rows = list(csv.DictReader((tmp_path / 'out/csv/boxes.csv').open()))
    assert len(rows) == 7
    for row in rows:
        assert [int(row[k]) for k in ('x0', 'y0', 'x1', 'y1')] == [16, 16, 47, 47], row
        assert 0 < float(row['score']) <= 1


def test_labels_from_class_folders(photos, tmp_path):
    label(photos, tmp_path / 'out', ['csv', 'yolo'], labels='folder')
    rows = list(csv.DictReader((tmp_path / 'out/csv/boxes.csv').open()))
    assert all(row['label'] == row['image'].split('/')[0] for row in rows)
    assert yaml.safe_load((tmp_path / 'out/yolo/data.yaml').read_text())['names'] == {0: 'bright', 1: 'dim'}
    draw(photos / 'loose.png', (56, 56), [])
    with pytest.raises(ValueError, match=r'loose\.png is not in a class folder'):
        label(photos, tmp_path / 'out', ['csv'], labels='folder')


def test_bad_files_are_reported_and_skipped(photos, tmp_path):
    good = (photos / 'dim' / 'b c.jpg').read_bytes()
    (photos / 'cut.jpg').write_bytes(good[: len(good) // 2])
    (photos / 'empty.png').write_bytes(b'')
    (photos / 'text.png').write_text('not an image')
    # A header of 60000x60000 pixels.
    bomb = bytearray((photos / 'dim' / 'a.png').read_bytes())
    bomb[16:24] = (60000).to_bytes(4, 'big') * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, 'big')
    (photos / 'bomb.png').write_bytes(bomb)
    os.mkfifo(photos / 'pipe.png')
    (photos / 'loop.png').symlink_to('loop.png')
    (photos / 'round').symlink_to(photos, target_is_directory=True)
    (photos / 'line\nbreak.png').write_bytes((photos / 'dim' / 'a.png').read_bytes())
    (photos / 'back\\slash.png').write_bytes((photos / 'dim' / 'a.png').read_bytes())
    Path(os.fsdecode(os.fsencode(photos) + b'/\xff.png')).write_bytes((photos / 'dim' / 'a.png').read_bytes())
    done = label(photos, tmp_path / 'out', batch_size=3)
    assert done.labelled == 5
    text = '\n'.join(done.errors)
    for name in ('cut.jpg', 'empty.png', 'text.png', 'bomb.png', 'line\\nbreak.png', 'back', '\\udcff.png'):
        assert name in text
    assert len(done.errors) == 7
    masks = {path.stem for path in (tmp_path / 'out' / 'masks').rglob('*.png')}
    assert masks == {Path(name).stem for name in SCENES}


def test_output_inside_the_input_is_not_read(photos):
    first = label(photos, photos / 'out')
    before = tree(photos / 'out')
    assert label(photos, photos / 'out', overwrite=True) == first
    assert tree(photos / 'out') == before


def test_images_that_share_a_file(photos, tmp_path):
    draw(photos / 'dim' / 'a.bmp', (56, 56), [])
    with pytest.raises(ValueError, match=r'dim/a\.bmp and dim/a\.png would share .*a\.xml: rename one'):
        label(photos, tmp_path / 'out', ['voc'])
    assert label(photos, tmp_path / 'out', ['coco', 'csv', 'overlays']).labelled == 6
    overlays = {name for name in tree(tmp_path / 'out' / 'overlays') if name.startswith('dim')}
    assert overlays == {'dim/a.bmp.png', 'dim/a.png.png', 'dim/b c.png'}


def test_ids_of_several_folders_and_files(photos, tmp_path):
    label([photos / 'dim', photos / 'bright' / 'two.png'], tmp_path / 'out', ['coco'])
    images = json.loads((tmp_path / 'out/coco/annotations.json').read_text())['images']
    assert [image['file_name'] for image in images] == ['dim/a.png', 'dim/b c.jpg', 'bright/two.png']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'formats': ['coco', 'xls']}, f'choose from {", ".join(FORMATS)}'),
        ({'formats': []}, 'choose from'),
        ({'batch_size': 0}, 'at least one image'),
        ({'workers': -1}, 'workers is -1'),
        ({'labels': 'guess'}, "labels is 'guess'"),
        ({'overwrite': True, 'resume': True}, 'exclude each other'),
        ({'class_names': ['a\x01', 'b']}, 'cannot be written'),
    ],
)
def test_arguments_out_of_range(photos, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        label(photos, tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


def test_folder_without_images(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='empty: no images in this folder'):
        label(tmp_path / 'empty', tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match=r'no such file or folder; check the path$'):
        label(tmp_path / 'missing', tmp_path / 'out')


def test_repeated_format_is_written_once(photos, tmp_path):
    assert label(photos, tmp_path / 'out', ['csv', 'csv']).files == (tmp_path / 'out/csv/boxes.csv',)
    assert len(list(csv.reader((tmp_path / 'out/csv/boxes.csv').open()))) == 7


def test_contact_sheet_shows_the_results(photos, tmp_path):
    label(photos, tmp_path / 'out', ['overlays'])
    sheet = Image.open(tmp_path / 'out/overlays/contact_sheet.jpg')
    assert sheet.size == (5 * 175 + 4 * 6, 131 + 2 * 17)  # one row, two lines of captions
    pictures = [np.asarray(sheet.crop((x, 0, x + 175, 131)), int) for x in range(0, sheet.width, 181)]
    for name, shown in zip(sorted(SCENES), pictures):
        overlay = Image.open(tmp_path / 'out/overlays' / f'{name.rpartition(".")[0]}.png')
        width = round(overlay.width * 131 / overlay.height)
        expected = np.asarray(overlay.resize((width, 131)), int) if width <= 175 else None
        if expected is not None:
            left = (175 - width) // 2
            assert np.abs(shown[:, left : left + width] - expected).mean() < 8


def test_contact_sheet_of_many_images_is_bounded(tmp_path, monkeypatch):
    for i in range(SHEET_IMAGES + 7):
        draw(tmp_path / 'in' / f'{i:03}.png', (16, 16), [(2, 2, 9, 9)])
    titles = []
    whole = viz.contact_sheet
    monkeypatch.setattr(
        viz, 'contact_sheet', lambda found: whole((titles.append(text) or image, text) for image, text in found)
    )
    label(tmp_path / 'in', tmp_path / 'out', ['overlays'])
    assert len(titles) == SHEET_IMAGES
    assert titles[0].startswith('000.png\ndim 0.')
    assert titles == sorted(set(titles))
    assert Image.open(tmp_path / 'out/overlays/contact_sheet.jpg').size == (899, 12 * 165 + 11 * 6)


def test_no_contact_sheet_without_results(tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'bad.png').write_text('no image')
    assert label(tmp_path / 'in', tmp_path / 'out', ['overlays']).labelled == 0
    assert sorted(tree(tmp_path / 'out' / 'overlays')) == ['.fcam_zoo.txt', 'predictions.json']


def test_skipped_files_are_counted_in_one_line(photos, tmp_path, caplog):
    for name in ('a.HEIC', 'bright/b.heic', 'c.avif', 'notes.txt', 'LICENSE', '.hidden.heic'):
        (photos / name).touch()
    label(photos, photos / 'out', ['csv'])
    label(photos, photos / 'out', ['csv'], overwrite=True)  # Earlier results are not counted.
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        start, counts = message.split(': ')
        assert start == '5 files skipped, not read as images'
        assert sorted(counts.split(', ')) == ['1 .avif', '1 .txt', '1 without suffix', '2 .heic']


def test_a_folder_of_unknown_formats_says_so(tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.heic').touch()
    with pytest.raises(FileNotFoundError, match=r'no images in this folder \(1 file skipped, .*: 1 \.heic\)'):
        label(tmp_path / 'in', tmp_path / 'out', ['csv'])
