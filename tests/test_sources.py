"""Sources on this machine: files, folders, patterns, ranges and lists."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from pathlib import Path

import pytest
from stored_images import jpeg, read_all, write_tar

from fcam_zoo.data import ImageSource, open_image, open_source
from fcam_zoo.data.images import image_size, open_stored
from fcam_zoo.data.sources import patterns
from fcam_zoo.errors import ImageError


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working folder, with three photos in two class folders."""
    for name in ('cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg'):
        file = tmp_path / 'photos' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_and_folders(here):
    source = read_all(open_source('photos'))
    assert source.ids == ('cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg')
    assert source.local_path(2) == source.describe(2) == os.path.join('photos', 'dog', '1.jpg')  # noqa: PTH118
    assert (source.label(0), source.class_names) == (None, None)
    assert open_source(source) is source
    assert open_source(Path('photos') / 'cat').ids == ('1.jpg', '2.jpg')


def test_digest_changes_with_a_file(here):
    before = open_source('photos').digest
    assert open_source(here / 'photos').digest == before
    os.utime('photos/cat/1.jpg', ns=(1, 1))
    assert open_source('photos').digest != before


@pytest.mark.parametrize(
    ('pattern', 'ids'),
    [
        ('photos/**/*.jpg', ('cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg')),
        ('photos/*/1.*', ('cat/1.jpg', 'dog/1.jpg')),
        ('photos/c*', ('cat/1.jpg', 'cat/2.jpg')),
        ('photos/cat/{1..2}.jpg', ('1.jpg', '2.jpg')),
        ('**/[2-9].jpg', ('photos/cat/2.jpg',)),
    ],
)
def test_patterns(here, pattern, ids):
    assert read_all(open_source(pattern)).ids == ids


def test_pattern_leaves_out_the_output_and_other_files(here, caplog):
    (here / 'photos' / 'notes.txt').write_text('no list')
    out = here / 'photos' / 'out'
    out.mkdir()
    (out / '1.jpg').write_bytes(jpeg())
    source = open_source('photos/**', leave_out=out)
    assert source.ids == ('cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg')
    assert '1 .txt' in caplog.text


def test_a_file_whose_name_looks_like_a_pattern(here):
    (here / '[1].jpg').write_bytes(jpeg())
    (here / '{1..2}.jpg').write_bytes(jpeg())
    assert read_all(open_source(['[1].jpg', '{1..2}.jpg'])).ids == ('[1].jpg', '{1..2}.jpg')


def test_ranges():
    assert list(patterns.expand_range('a-{08..10}.tar')) == ['a-08.tar', 'a-09.tar', 'a-10.tar']
    assert list(patterns.expand_range('{0..1}/{1..2}')) == ['0/1', '0/2', '1/1', '1/2']
    assert list(patterns.expand_range('{a,b}')) == ['{a,b}']
    for text in ('{5..3}', '{0..999999999}'):
        with pytest.raises(ImageError, match='give 1 to 1000000'):
            list(patterns.expand_range(text))


def test_list_is_relative_to_its_file(here, monkeypatch, tmp_path):
    (here / 'lists').mkdir()
    other = tmp_path / 'other.jpg'
    other.write_bytes(jpeg())
    lines = ['', '../photos/cat/1.jpg', ' ../photos/dog/1.jpg ', 'no.jpg', str(other)]
    (here / 'lists' / 'all.txt').write_text('\ufeff' + '\r\n'.join(lines), encoding='utf-8')
    source = read_all(open_source('lists/all.txt'))
    assert source.ids == ('photos/cat/1.jpg', 'photos/dog/1.jpg', 'other.jpg')
    assert len(source.problems) == 1
    assert 'no.jpg' in source.problems[0]
    (here / 'photos' / 'all.txt').write_text('cat/1.jpg\ncat/2.jpg\n')
    assert open_source('photos/all.txt').ids == ('cat/1.jpg', 'cat/2.jpg')


def test_list_on_standard_input(here, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'photos/cat/1.jpg\nphotos/dog/1.jpg\n')))
    assert read_all(open_source('-')).ids == ('photos/cat/1.jpg', 'photos/dog/1.jpg')


def test_kinds_can_be_mixed(here):
    write_tar(here / 'a.tar', [('cat/1.jpg', jpeg()), ('x.jpg', jpeg())])
    source = read_all(open_source(['a.tar', 'photos']))
    assert source.ids == ('cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg', 'x.jpg')
    assert source.problems == (
        'a.tar/cat/1.jpg: has the name of another image, cat/1.jpg; rename one of them, or label them in separate runs',
    )
    assert [source.local_path(i) is not None for i in range(4)] == [True, True, True, False]
    assert sorted(source.local_files()) == ['a.tar', 'photos/cat/1.jpg', 'photos/cat/2.jpg', 'photos/dog/1.jpg']


@pytest.mark.parametrize(
    ('where', 'kind', 'message'),
    [
        ([], FileNotFoundError, 'no image to localize'),
        ('no.jpg', FileNotFoundError, 'no.jpg: no such file or folder'),
        ('no*.jpg', FileNotFoundError, 'or matches this pattern; check the path'),
        ('no.txt', FileNotFoundError, 'no.txt: no such text file'),
        ('no.tar', FileNotFoundError, 'no.tar: no such shard'),
        ('photos/cat', TypeError, 'images holds'),
        ('b.tar.gz', ValueError, 'compressed'),
        ('s3://bucket/b.TGZ', ValueError, 'compressed'),
        ('nonsense://bucket/a.jpg', FileNotFoundError, 'Protocol not known'),
    ],
)
def test_errors(here, where, kind, message):
    with pytest.raises(kind, match=message):
        open_source([where, 1] if kind is TypeError else where)


def test_a_missing_client_is_named(here, monkeypatch):
    monkeypatch.delitem(import_module('fsspec.registry')._registry, 's3', raising=False)
    monkeypatch.setitem(sys.modules, 's3fs', None)
    with pytest.raises(ImportError, match=r'fcam-zoo\[stores\]'):
        open_source('s3://bucket/a.jpg')


def test_decoding_functions_read_files(here):
    file = io.BytesIO(b'before' + jpeg())
    with pytest.raises(ImageError, match='a name'):
        open_image(file, name='a name')
    file = io.BytesIO(jpeg('blue'))
    assert image_size(file) == (20, 10)
    image, orientation = open_stored(file, name='x')
    assert (image.size, orientation) == ((20, 10), 1)
    assert open_image(file).getpixel((3, 3)) == open_image(io.BytesIO(jpeg('blue'))).getpixel((3, 3))
    with pytest.raises(ImageError, match=r'x: 20x10 pixels are more than the limit of 100'):
        open_image(file, max_pixels=100, name='x')
    assert not file.closed


def test_interface_has_no_labels_by_default():
    class Nothing(ImageSource):
        def open(self, index):
            raise IndexError

        def describe(self, index):
            return ''

    assert (len(Nothing()), Nothing().local_path(0), list(Nothing().local_files())) == (0, None, [])
