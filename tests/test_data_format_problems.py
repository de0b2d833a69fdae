"""Annotation files that are malformed, hostile or contradictory: one line per problem, and all of them in the check."""

from __future__ import annotations

import re

import pytest
from PIL import Image
from shapes import make, refused

from fcam_zoo.data import CocoDataset, check_dataset, open_dataset, values
from fcam_zoo.errors import DatasetError


def edited(index: int, key: str, **values: object):
    def edit(content: dict) -> None:
        entry = content[key][index]
        for name, value in values.items():
            entry[name] = value

    return edit


def drop(key: str, index: int, name: str):
    return lambda content: content[key][index].pop(name)


COCO_PROBLEMS = [
    (edited(1, 'images', file_name='../x.jpg'), r"images\[1\] \(id 7\): file_name '\.\./x\.jpg' is not a path below"),
    (edited(1, 'images', file_name='/etc/passwd'), "'/etc/passwd' is not a path below"),
    (edited(1, 'images', file_name='C:\\x.jpg'), 'is not a path below'),
    (edited(1, 'images', file_name='a\n\x1b[31m.jpg'), r'a\\n\\x1b\[31m\.jpg'),
    (edited(1, 'images', file_name='a\0.jpg'), r'a\\x00\.jpg'),
    (edited(1, 'images', file_name='x' * 5000), r'file_name .x+\.\.\.x+. is longer than the path of a file can be'),
    (edited(1, 'images', file_name=None), 'file_name None is not a path below'),
    (edited(1, 'images', file_name='./0.jpg'), r'images\[1\] \(id 7\): 0\.jpg is listed twice'),
    (edited(1, 'images', id=0), 'or another image has its id'),
    (edited(1, 'images', id=[]), r'images\[1\]: has no id'),
    (edited(1, 'images', id=True), r'images\[1\]: has no id'),
    (edited(1, 'images', width=0), r'0x62 is not an image size of 1 to 80000000 pixels; correct it'),
    (drop('images', 1, 'width'), 'is not a width and height; write both in pixels, or neither'),
    (lambda c: c['images'].__setitem__(1, 'x'), r'images\[1\]: is not an object'),
    (edited(1, 'annotations', category_id=3), r'annotations\[1\] \(id 1\): category_id 3 is not among the categories'),
    (edited(1, 'annotations', category_id={}), r'category_id \{\} is not among'),
    (edited(1, 'annotations', bbox=[1, 2, 3]), r'bbox of 1\.jpg is not four numbers; write x, y, width, height'),
    (edited(1, 'annotations', bbox=[1, 2, '3', 4]), 'is not four numbers'),
    (edited(1, 'annotations', bbox=[1, 2, 10**400, 4]), 'is not four numbers'),
    (edited(1, 'annotations', bbox=[1, 2, True, 4]), 'is not four numbers'),
    (drop('annotations', 1, 'bbox'), 'is not four numbers'),
    (edited(1, 'annotations', bbox=[1, 2, 0, 4]), r'bbox of 1\.jpg is 0 wide and 4 high'),
    (edited(1, 'annotations', bbox=[1, 2, 3, -4]), 'is 3 wide and -4 high'),
    (edited(1, 'annotations', bbox=[60, 2, 13, 4]), r'box \(60, 2, 72, 5\), .* outside its image 1\.jpg of 72x62'),
    (edited(1, 'annotations', bbox=[-1, 2, 13, 4]), r'box \(-1, 2, 11, 5\)'),
    (edited(1, 'categories', id=44), r'categories\[1\] \(id 44\): another category has the id 44'),
    (edited(1, 'categories', name=' '), r'categories\[1\] \(id 18\): has no name; write the name of the category'),
    (lambda c: c.pop('categories'), 'must be an object with the lists images, annotations, categories'),
    (lambda c: c.__setitem__('images', []), 'lists no images of'),
    (lambda c: c.__setitem__('annotations', []), 'no image has a box or mask'),
]


@pytest.mark.parametrize(('edit', 'message'), COCO_PROBLEMS)
def test_invalid_coco(flat, edit, message):
    content = flat.coco()
    edit(content)
    refused(flat, flat.write_coco(content), message)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"images": [', 'is not valid JSON'),
        ('{"images": NaN}', 'NaN is not a JSON number'),
        ('{"images": ' + '9' * 5000 + '}', 'is not'),
        ('[' * 200_000, 'is not valid JSON'),
        ('[]', 'must be an object with the lists'),
        ('{"images": {}, "annotations": [], "categories": []}', 'must be an object with the lists'),
    ],
)
def test_invalid_json(flat, text, message):
    refused(flat, flat.write('x.json', text), message)
    (flat.root / 'x.json').write_bytes(b'{"\xe9"')
    refused(flat, flat.root / 'x.json', 'is not UTF-8 text; save it as UTF-8')


BOX = '<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>8</ymax></bndbox>'
VOC_PROBLEMS = [
    ({'filename': '<filename>../../x.jpg</filename>'}, r"0\.xml: filename '\.\./\.\./x\.jpg' is not a path below"),
    ({'filename': '<filename>/etc/passwd</filename>'}, 'is not a path below'),
    ({'filename': '<filename>a&#10;b.jpg</filename>'}, r'a\\nb\.jpg'),
    ({'filename': '<filename>1.jpg</filename>'}, r'0\.xml also describes 1\.jpg; remove one'),
    ({'size': '<size><width>x</width><height>3</height></size>'}, "'x' x '3' is not a size"),
    ({'size': '<size><width>-4</width><height>3</height></size>'}, 'is not a size'),
    ({'object': f'<object>{BOX.format(3, 9)}</object>'}, 'object 1: has no name; write its class'),
    ({'object': '<object><name>disc</name></object>'}, 'object 1: .* are not four numbers; write xmin,ymin,xmax,ymax'),
    ({'object': f'<object><name>disc</name>{BOX.format("nan", 9)}</object>'}, "'nan,2,9,8' are not four numbers"),
    (
        {'object': f'<object><name>disc</name>{BOX.format(9, 3)}</object>'},
        r'box \(9, 2, 3, 8\) is inverted; write xmin <= xmax and ymin <= ymax',
    ),
    ({'object': f'<object><name>disc</name>{BOX.format(9, 73)}</object>'}, r'0\.xml, object 1: box \(8, 1, 72, 7\)'),
    ({'object': f'<object><name>disc</name>{BOX.format(-9, 7)}</object>'}, r'object 1: box \(-10, 1, 6, 7\)'),
    ({'object': '<object>'}, r'0\.xml: cannot be read as XML'),
]


@pytest.mark.parametrize(('replaced', 'message'), VOC_PROBLEMS)
def test_invalid_voc(flat, replaced, message):
    refused(flat, flat.write_voc(**replaced), message)


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation><filename>&b;</filename></annotation>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (BOMB.encode(), 'it declares a DOCTYPE'),
        (EXTERNAL.encode(), 'it declares a DOCTYPE'),
        (BOMB.encode('utf-16'), 'it declares a DOCTYPE'),
        (b'<annotation><filename>&lol;</filename></annotation>', 'undefined entity'),
        (b'<annotation>' + b' ' * (1 << 20) + b'</annotation>', 'more than the limit of 1,048,576'),
        (b'<a>' * 300_000, 'cannot be read as XML'),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', 'cannot be read as XML'),
        (b'<annotations/>', r"0\.xml: has the root 'annotations', but in Pascal VOC it is <annotation>"),
        (b'', 'cannot be read as XML'),
    ],
)
def test_hostile_xml(flat, content, message):
    path = flat.write_voc()
    (path / '0.xml').write_bytes(content)
    refused(flat, path, message)


CSV_PROBLEMS = [
    (
        ['image;x0;y0;x1;y1'],
        r'boxes\.csv: the header must be image,x0,y0,x1,y1,label,score \(the last two',
    ),
    ([], 'the header must be'),
    (['image,x0,y0,x1,y1,label'], 'lists no images of'),
    ([None, '0.jpg,1,2,3,4'], 'line 8: 5 fields; write image,x0,y0,x1,y1,label'),
    ([None, '../0.jpg,1,2,3,4,disc'], r"line 8: image '\.\./0\.jpg' is not a path below"),
    ([None, '0.jpg,1,2,3,,disc'], "line 8: '1,2,3,' are not four numbers"),
    ([None, '0.jpg,1,2,3,1e3,disc'], 'are not four numbers'),
    ([None, '0.jpg,9,2,3,4,disc'], r'line 8: box \(9, 2, 3, 4\) is inverted'),
    ([None, '0.jpg,1,2,3,4,"di\nsc"'], r"line 9: name 'di\\nsc' has characters that cannot be printed"),
    ([None, 'new.jpg,1,2,3,4,'], r'new\.jpg has no label; add one, or remove the image'),
    ([None, f'0.jpg,1,2,3,4,{"x" * 200_000}'], r'is not CSV \(line 8: field larger than'),
]


@pytest.mark.parametrize(('lines', 'message'), CSV_PROBLEMS)
def test_invalid_csv(flat, lines, message):
    lines = flat.csv() + lines[1:] if lines[:1] == [None] else lines
    refused(flat, flat.write_csv(lines), message)


def test_csv_dialect(flat):
    """Quotes, byte order mark, line ends, blank lines, backslashes, fractions."""
    text = '\ufeff' + '\r\n'.join([*flat.csv(label=False), '', '"a,b.jpg", 1.4 ,1.5,9,9.0', 'sub\\c.jpg,1,1,2,2', ''])
    path = flat.root / 'boxes.csv'
    path.write_bytes(text.encode())
    dataset = open_dataset(flat.root, 'test', annotations=path)
    assert dataset.ids[6:] == ['a,b.jpg', 'sub/c.jpg']
    assert dataset.boxes[6].tolist() == [[1, 2, 9, 9]]
    assert dataset.class_names == {0: 'object'}
    path.write_bytes(b'image,x0,y0,x1,y1\ncaf\xe9.jpg,1,2,3,4')
    refused(flat, path, 'is not UTF-8 text; save it as UTF-8')


def test_files_that_are_not_utf8_or_too_large(flat, monkeypatch):
    flat.write('ImageSets/Main/test.txt', '0')
    for name, write in (('classes.txt', flat.write_csv), ('ImageSets/Main/test.txt', flat.write_voc)):
        (flat.root / name).write_bytes(b'caf\xe9')
        refused(flat, write(), rf'{name}: is not UTF-8 text; save it as UTF-8')
        (flat.root / name).unlink()
    with pytest.raises(DatasetError, match=r'gone\.json: cannot be read \(No such file .*; give a COCO instances file'):
        CocoDataset(flat.root, 'test', flat.root / 'gone.json')
    monkeypatch.setattr(values, 'MAX_BYTES', 100)
    refused(flat, flat.write_coco(), r'instances\.json: cannot be read \(it has .* bytes, more than the limit of 100\)')


def test_the_error_counts_the_other_problems(flat):
    path = flat.write_csv([*flat.csv(), *['0.jpg,9,9,1,1,disc'] * 3])
    with pytest.raises(DatasetError, match=r'line 8: .*\(2 more; check_dataset lists all\)$'):
        open_dataset(flat.root, 'test', annotations=path)


def test_check_lists_every_problem(flat):
    images = flat.root / 'images'
    (images / '0.jpg').unlink()
    (images / '1.jpg').write_bytes((images / '1.jpg').read_bytes()[:300])
    Image.new('RGB', (30, 20)).save(images / '2.jpg')
    content = flat.coco()
    content['annotations'] += [
        {'id': 90, 'image_id': 999, 'category_id': 18, 'bbox': [1, 1, 2, 2]},
        dict(content['annotations'][3], id=91),
        {'id': 92, 'image_id': 28, 'category_id': 18, 'bbox': [1, 1, 200, 2]},
    ]
    problems = check_dataset(flat.root, ['test'], annotations=flat.write_coco(content), quiet=True)
    wanted = [
        r'annotations\[6\] \(id 90\): image_id 999 is not among its images; remove the annotation',
        r'annotations\[7\] \(id 91\): the box .* of 3\.jpg is already at .*annotations\[3\] \(id 3\); remove one',
        r'0\.jpg: image is missing; restore it, or remove it from .*instances\.json',
        r'1\.jpg: cannot be read as an image',
        r'2\.jpg: 30x20 pixels, but .*instances\.json says 72x64',
        r'annotations\[8\] \(id 92\): box \(1, 1, 200, 2\), in pixels from 0, is outside its image 4\.jpg',
    ]
    assert len(problems) == len(wanted)
    for pattern, problem in zip(wanted, problems):
        assert re.search(pattern, problem)


def test_check_of_masks(flat):
    masks = flat.write_masks()
    (flat.root / 'images' / '0.jpg').write_bytes(b'junk')
    (masks / '1.png').write_bytes(b'junk')
    Image.new('L', (5, 6)).save(masks / '2.png')
    Image.new('RGB', flat.shapes[3].size, 'red').save(masks / '3.png')
    problems = check_dataset(flat.root, ['test'], annotations=masks, quiet=True)
    wanted = [
        '0.jpg: not an image',
        '1.png: not an image',
        '2.png: mask of 5x6 for an image',
        '3.png: masks of mode RGB',
    ]
    assert len(problems) == 4
    assert all(want in problem for want, problem in zip(wanted, problems))


def test_check_of_several_splits(tmp_path, capsys):
    root = tmp_path / 'shapes'
    for split in ('train', 'val', 'test'):
        shapes = make(root, folders=True, images=split)
        shapes.write_csv().rename(root / f'{split}.csv')
        Image.new('RGB', shapes.shapes[0].size, (9, len(split), ord(split[0]))).save(root / split / 'disc' / '0.jpg')
    problems = check_dataset(root, annotations=root / '{split}.csv')
    assert len(problems) == 3 * 5
    assert all('remove it from one, or results will be invalid' in p for p in problems)
    assert 'shapes val' in capsys.readouterr().err
    dataset = open_dataset(root, 'val', annotations=f'{root}/{{split}}.csv')
    assert (len(dataset), dataset.images_root) == (6, root / 'val')
    with pytest.raises(DatasetError, match=r'has the splits train, val, test; give the split .*\{split\} in the path'):
        check_dataset(root, annotations=root / 'test.csv')
    with pytest.raises(DatasetError, match='does not exist for any split'):
        check_dataset(root, annotations=root / 'gone' / '{split}.csv')
    assert check_dataset(root, ['test'], annotations=root / 'test.csv', quiet=True) == []
    # Training needs no localization.
    masks = shapes.write_masks()
    assert check_dataset(root, ['train'], annotations=masks, quiet=True) == []
    for path in masks.rglob('*.png'):
        path.unlink()
    Image.new('L', (3, 3)).save(masks / 'other.png')
    (problem,) = check_dataset(root, ['train'], annotations=masks, quiet=True)
    assert 'other.png: mask without image' in problem


def test_check_without_splits(flat):
    for write in (flat.write_coco, flat.write_voc, flat.write_csv, flat.write_masks):
        assert check_dataset(flat.root, annotations=write(), quiet=True) == []
