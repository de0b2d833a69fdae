"""Tar shards and Parquet files."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from stored_images import SIZE, jpeg, read_all, write_parquet, write_tar

from fcam_zoo.data import ImageSource, open_source
from fcam_zoo.data.sources import parquet, shards, store_reader, tar
from fcam_zoo.errors import ImageError

MEMBERS = [
    ('cat/1.jpg', jpeg('red')),
    ('cat/1.cls', b'0'),
    ('./dog/2.left.jpg', jpeg('blue')),
    ('dog/2.right.JPG', jpeg('blue')),
    ('dog/2.cls', b' 1\n'),
    ('dog/2.json', b'{}'),
    ('notes.bin', b'?'),
    ('._hidden.jpg', b'?'),
]


def test_members_of_a_shard(tmp_path, caplog):
    source = read_all(open_source(write_tar(tmp_path / 'a.tar', MEMBERS)))
    assert source.ids == ('cat/1.jpg', 'dog/2.left.jpg', 'dog/2.right.JPG')
    assert [source.label(i) for i in range(3)] == [0, 1, 1]
    assert (source.class_names, source.problems) == (('0', '1'), ())
    assert source.describe(1) == f'{tmp_path}/a.tar/dog/2.left.jpg'
    assert list(source.local_files()) == [str(tmp_path / 'a.tar')]
    assert '2 files skipped' in caplog.text


@pytest.mark.parametrize('kind', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_of_all_formats(tmp_path, kind):
    long = '/'.join(['folder' * 10] * (3 if kind != tarfile.USTAR_FORMAT else 2)) + '/é.jpg'
    source = read_all(open_source(write_tar(tmp_path / 'a.tar', [(long, jpeg()), ('b.jpg', jpeg())], kind)))
    assert source.ids == (long, 'b.jpg')


def test_several_shards(tmp_path):
    names = ['x/a', 'x/b', 'y/a']
    for name in names:
        write_tar(tmp_path / f'{name}.tar', [('1.jpg', jpeg()), ('1.cls', name.encode())])
    two = read_all(open_source(str(tmp_path / 'x' / '*.tar')))
    assert two.ids == ('a/1.jpg', 'b/1.jpg')
    assert two.describe(1).endswith('x/b.tar/1.jpg')
    given = [tmp_path / f'{name}.tar' for name in names]
    assert open_source([*given, given[0]]).ids == ('x/a/1.jpg', 'x/b/1.jpg', 'y/a/1.jpg')
    assert open_source(given).class_names == ('x/a', 'x/b', 'y/a')


def test_names_of_labels(tmp_path):
    write_tar(tmp_path / 's' / 'a.tar', MEMBERS)
    (tmp_path / 'classes.txt').write_text('cat\ndog\nhorse\n')
    source = open_source(tmp_path / 's' / 'a.tar')
    assert (source.class_names, source.label(1)) == (('cat', 'dog', 'horse'), 1)
    (tmp_path / 'classes.txt').write_text('cat\n')
    source = open_source(tmp_path / 's' / 'a.tar')
    assert (source.class_names, source.label(1)) == (None, None)
    assert 'label 1 is too large' in source.label_problem


def test_names_that_are_refused_and_duplicates(tmp_path):
    wrong = ['../up.jpg', '/abs.jpg', 'a\\b.jpg', 'x/../../y.jpg', 'new\nline.jpg', ' .jpg']
    members = [('1.jpg', jpeg()), ('1.jpg', jpeg()), ('./1.jpg', jpeg()), *((name, b'') for name in wrong)]
    path = write_tar(tmp_path / 'a.tar', members, tarfile.PAX_FORMAT)
    with tarfile.open(path, 'a') as archive:
        link = tarfile.TarInfo('link.jpg')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(link)
    source = read_all(open_source(path))
    assert source.ids == ('1.jpg',)
    assert len(source.problems) == 2 + len(wrong) + 1
    assert sum('earlier image of this name' in problem for problem in source.problems) == 2
    assert sum('link or special file' in problem for problem in source.problems) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.tar']


@pytest.mark.parametrize(
    ('size', 'images', 'message'),
    [
        (-10240 + 2 * 3072, 2, 'no end mark'),
        (3 * 1024 + 100, 1, 'incomplete'),
        (700, 0, 'incomplete'),
        (100, 0, 'truncated header'),
        (0, 0, 'empty'),
    ],
)
def test_truncated_shard(tmp_path, size, images, message):
    content = [(f'{n}.jpg', jpeg() + bytes(1500 - len(jpeg()))) for n in range(2)]
    whole = write_tar(tmp_path / 'b.tar', content).read_bytes()
    assert len(whole) == 10240
    (tmp_path / 'a.tar').write_bytes(whole[: 2 * 2048] if size < 0 else whole[:size])
    source = read_all(open_source([tmp_path / 'a.tar', tmp_path / 'b.tar']))
    assert len(source.ids) == images + 2
    assert len(source.problems) == 1
    assert message in source.problems[0]
    assert f'({images} images before the break are used)' in source.problems[0]
    assert 'a.tar: truncated' in source.problems[0]


def test_damaged_compressed_and_joined_shards(tmp_path):
    whole = write_tar(tmp_path / 'b.tar', [('1.jpg', jpeg()), ('2.jpg', jpeg())]).read_bytes()
    second = whole.index(b'2.jpg')
    (tmp_path / 'a.tar').write_bytes(whole[:second] + b'X' * 512 + whole[second + 512 :])
    assert 'no end mark' in open_source(tmp_path / 'a.tar').problems[0]
    (tmp_path / 'a.tar').write_bytes(whole + whole)
    joined = open_source(tmp_path / 'a.tar')
    assert len(joined.ids) == 2
    assert 'more data after its end mark' in joined.problems[0]
    for content, message in ((b'\x1f\x8b12345678', 'compressed'), (b'no tar file' * 100, 'damaged or not a tar')):
        (tmp_path / 'a.tar').write_bytes(content)
        with pytest.raises(FileNotFoundError, match=message):
            open_source(tmp_path / 'a.tar')


def test_huge_members_and_headers_are_refused(tmp_path, monkeypatch):
    path = write_tar(tmp_path / 'a.tar', [('1.jpg', jpeg()), ('2.jpg', jpeg(size=(400, 400)))])
    source = open_source(path)
    monkeypatch.setattr(tar, 'MAX_BYTES', 1000)
    assert source.image(0).size == SIZE
    with pytest.raises(ImageError, match=r'a.tar/2.jpg: \d+ bytes are more than the limit of 1000'):
        source.image(1)
    monkeypatch.setattr(tar, '_MAX_HEADER', 600)
    long = write_tar(tmp_path / 'b.tar', [('1.jpg', jpeg()), ('n' * 2000 + '.jpg', jpeg())], tarfile.GNU_FORMAT)
    assert 'a header of' in open_source(long).problems[0]


def test_shard_that_shrinks_after_it_was_indexed(tmp_path):
    path = write_tar(tmp_path / 'a.tar', [('1.jpg', jpeg())])
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ImageError, match='shorter'):
        source.open(0)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r'a\.tar: no such'):
        source.open(0)


def test_shards_of_webdataset(tmp_path):
    webdataset = pytest.importorskip('webdataset')
    pattern = str(tmp_path / 'train-%03d.tar')
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as writer:
        for n in range(7):
            writer.write({'__key__': f'{n:05d}', 'jpg': jpeg(), 'cls': n % 2, 'json': {'id': n}})
    source = read_all(open_source(f'{tmp_path}/train-{{000..002}}.tar'))
    assert source.ids == tuple(f'train-{n // 3:03d}/{n:05d}.jpg' for n in range(7))
    assert [source.label(n) for n in range(7)] == [n % 2 for n in range(7)]
    assert source.problems == ()


def test_parquet_of_the_hub(tmp_path):
    path = write_parquet(tmp_path / 'a.parquet', ['x/1.jpg', 'x/2.jpg', 'y.jpg'], [0, 1, -1], ['cat', 'dog', 'cow'])
    source = read_all(open_source(path))
    assert source.ids == ('x/1.jpg', 'x/2.jpg', 'y.jpg')
    assert [source.label(i) for i in range(3)] == [0, 1, None]
    assert source.class_names == ('cat', 'dog', 'cow')
    assert source.describe(2) == f'{path}/y.jpg'


@pytest.mark.parametrize('paths', [['1.jpg', '1.jpg'], ['1.jpg', None], ['1.jpg', '../2.jpg'], ['1.jpg', '']])
def test_rows_are_numbered_where_paths_are_not_ids(tmp_path, paths):
    assert read_all(open_source(write_parquet(tmp_path / 'a.parquet', paths))).ids == ('00000000', '00000001')


def test_several_parquet_files(tmp_path):
    for name in 'ab':
        write_parquet(tmp_path / f'{name}.parquet', ['1.jpg', '2.jpg', '3.jpg'], ['cat', 'dog', None])
    source = read_all(open_source(str(tmp_path / '*.parquet')))
    assert source.ids == tuple(f'{name}/{n}.jpg' for name in 'ab' for n in (1, 2, 3))
    assert [source.label(i) for i in range(6)] == [0, 1, None] * 2
    write_parquet(tmp_path / 'a.parquet', ['1.jpg'], [0], ['cat'])
    write_parquet(tmp_path / 'b.parquet', ['1.jpg'], [0], ['dog'])
    assert 'different class names' in open_source(str(tmp_path / '*.parquet')).label_problem


def test_other_columns(tmp_path):
    pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    path = tmp_path / 'a.parquet'
    pq.write_table(pa.table({'jpg': [jpeg(), None], 'label': [0.5, 1.5]}), path)
    source = open_source(path)
    assert (source.ids, source.class_names) == (('00000000', '00000001'), None)
    assert source.image(0).size == SIZE
    with pytest.raises(ImageError, match=r'a.parquet/00000001: the row has no image bytes'):
        source.open(1)
    pq.write_table(pa.table({'a': [b''], 'b': [b'']}), path)
    with pytest.raises(FileNotFoundError, match='no column with the bytes of images among a, b'):
        open_source(path)


def test_damaged_parquet_file(tmp_path, monkeypatch):
    good = write_parquet(tmp_path / 'b.parquet', ['1.jpg'])
    whole = good.read_bytes()
    for content in (whole[:-1], whole[:100], b'PAR1', b'', b'PAR1' + bytes(100) + b'PAR1'):
        (tmp_path / 'a.parquet').write_bytes(content)
        source = read_all(open_source([tmp_path / 'a.parquet', good]))
        assert source.ids == ('b/1.jpg',)
        assert len(source.problems) == 1
        assert 'a.parquet: cannot be read as Parquet' in source.problems[0]
    with pytest.raises(FileNotFoundError, match=r'a\.parquet'):
        open_source(tmp_path / 'a.parquet')
    monkeypatch.setattr(parquet, 'MAX_GROUP', 10)
    with pytest.raises(FileNotFoundError, match='write row groups of about 100 images'):
        open_source(good)


def test_damaged_row_group_and_huge_image(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / 'a.parquet', ['1.jpg', '2.jpg', '3.jpg'], rows=1)
    source = open_source(path)
    monkeypatch.setattr(store_reader, 'MAX_BYTES', 100)
    with pytest.raises(ImageError, match=r'a.parquet/1.jpg: \d+ bytes are more than the limit of 100'):
        source.open(0)
    content = bytearray(path.read_bytes())
    content[8:80] = bytes(72)
    path.write_bytes(content)
    monkeypatch.undo()
    with pytest.raises(ImageError, match=r'a\.parquet'):
        open_source(path).image(0)
    assert open_source(path).image(2).size == SIZE


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / 'a.parquet', ['1.jpg'])
    monkeypatch.setitem(__import__('sys').modules, 'pyarrow.parquet', None)
    with pytest.raises(ImportError, match=r'fcam-zoo\[parquet\]'):
        open_source(path)


def sizes_of(source: ImageSource) -> list[tuple[int, int]]:
    """Read all images."""
    return [source.image(i).size for i in range(len(source))]


@pytest.mark.parametrize('kind', ['tar', 'parquet'])
def test_threads_and_processes_share_a_source(tmp_path, kind):
    names = [f'{n}.jpg' for n in range(9)]
    if kind == 'tar':
        path = write_tar(tmp_path / 'a.tar', [(name, jpeg()) for name in names])
    else:
        path = write_parquet(tmp_path / 'a.parquet', names)
    source = open_source(path)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda n: source.image(n % 9).size, range(60))) == {SIZE}
    fork = multiprocessing.get_context('fork')
    with ProcessPoolExecutor(2, mp_context=fork) as processes:
        assert list(processes.map(sizes_of, [source] * 2)) == [[SIZE] * 9] * 2
    assert isinstance(source.open(0), io.BytesIO)


def test_classes_file_that_is_damaged(tmp_path: Path):
    path = write_tar(tmp_path / 'a.tar', [('1.jpg', jpeg()), ('1.cls', b'cat')])
    (tmp_path / 'classes.txt').write_text('dog\n')
    assert "'cat' is not in classes.txt" in open_source(path).label_problem
    (tmp_path / 'classes.txt').write_text('dog\ndog\n')
    assert 'repeated line' in open_source(path).label_problem


def test_shards_with_equal_paths_have_different_ids(tmp_path):
    entry = [('1.jpg', jpeg()), ('b/1.jpg', jpeg())]
    urls = ['s3://bucket/a.tar', 's3://bucket/a-2.tar', 'gs://bucket/a.tar', 's3://bucket/b.tar']
    found = shards.find_shards([store_reader.StoredObject(url, 10) for url in urls], problems := [])
    assert [shard.prefix for shard in found] == ['bucket/a/', 'bucket/a-2/', 'bucket/a-3/', 'bucket/b/']
    assert problems == []
    # A shard whose name is that of a folder in another one.
    write_tar(tmp_path / 'x' / 'b.tar', entry)
    write_tar(tmp_path / 'x.tar', entry)
    source = read_all(open_source([tmp_path / 'x' / 'b.tar', tmp_path / 'x.tar', tmp_path / 'x' / '..' / 'x.tar']))
    assert source.ids == ('b/1.jpg', 'b/b/1.jpg', 'x/1.jpg', 'x/b/1.jpg')


def test_prefixes_stay_in_the_folder():
    urls = ['s3://b/../x.parquet', 's3://b/y/x.parquet', 's3://x.parquet']
    found = shards.find_shards([store_reader.StoredObject(url, 10) for url in urls], [])
    assert [shard.prefix for shard in found] == ['b/x/', 'y/x/', 'x/']
    problems: list[str] = []
    names = ['https://a.org/x%0A.tar', 'https://a.org/b.tar']
    found = shards.find_shards([store_reader.StoredObject(url, 10) for url in names], problems)
    assert [shard.prefix for shard in found] == ['b/']
    assert 'x%0A.tar: annotation files cannot hold the name of this shard; rename the shard' in problems[0]


def test_equal_ids_of_parquet_files_are_numbered(tmp_path):
    unique, shard = shards.UniqueIds(), shards.Shard('a.parquet', 1, '', 'a/')
    other = shards.Shard('b.tar', 1, '', '')
    assert unique.add(other, 'a/2.jpg') == 'a/2.jpg'
    assert parquet._ids(unique, shard, ['1.jpg', '2.jpg']) == ['a/00000000', 'a/00000001']
    assert parquet._ids(unique, other, ['a/1.jpg']) == ['a/1.jpg']
    with pytest.raises(ImageError, match='earlier image of this name'):
        parquet._ids(unique, shard, [None])


def test_minus_one_is_no_label(tmp_path):
    members = [(f'{n}.jpg', jpeg()) for n in range(4)]
    members += [('0.cls', b'2'), ('1.cls', b'-1\n'), ('2.cls', b''), ('3.cls', b'10')]
    source = open_source(write_tar(tmp_path / 'a.tar', members))
    assert [source.label(i) for i in range(4)] == [2, None, None, 10]
    assert source.class_names == tuple(map(str, range(11)))


def test_values_of_a_dictionary_count_for_every_row(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    path = tmp_path / 'a.parquet'
    image = jpeg()
    rows = [{'bytes': image, 'path': f'{n:0900d}.jpg'} for n in range(100)]
    pq.write_table(pa.table({'image': rows, 'label': ['n' * 2000] * 100}), path)
    monkeypatch.setattr(parquet, 'MAX_TEXT', 100)  # Batches of one row.
    source = open_source(path)
    assert source.ids[99] == '00000099'  # The paths are too long.
    assert source.class_names is None
    assert source.image(99).size == SIZE
    source = open_source(path)
    monkeypatch.setattr(parquet, 'MAX_GROUP', 20 * len(image))
    with pytest.raises(ImageError, match=rf'a\.parquet: a row group has \d+ bytes .*limit of {20 * len(image)}'):
        source.open(0)
    with pytest.raises(FileNotFoundError, match=r'a row group has \d+ bytes in the column image\.path, more than'):
        open_source(path)
    monkeypatch.setattr(parquet, 'MAX_GROUP', 10**6)
    monkeypatch.setattr(parquet, 'MAX_ROWS', 99)
    with pytest.raises(FileNotFoundError, match=r'a\.parquet: has more than 99 rows'):
        open_source(path)


def test_file_that_loses_rows_after_it_was_indexed(tmp_path):
    path = write_parquet(tmp_path / 'a.parquet', ['1.jpg', '2.jpg'])
    source = open_source(path)
    write_parquet(path, ['1.jpg'])
    with pytest.raises(ImageError, match=r'a\.parquet/2\.jpg: the file became shorter'):
        source.open(1)


def test_special_files_are_named_by_their_kind(tmp_path):
    for name in ('a.tar', 'b.txt'):
        os.mkfifo(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r'a\.tar: .*not a shard; give a shard'):
        open_source(tmp_path / 'a.tar')
    with pytest.raises(FileNotFoundError, match=r'b\.txt: .*not a text file; give a text file'):
        open_source(tmp_path / 'b.txt')


@pytest.mark.parametrize('kind', ['tar', 'parquet'])
def test_progress_of_the_index_counts_bytes(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr(shards, 'BAR_DELAY', 0.0)
    if kind == 'tar':
        path = write_tar(tmp_path / 'a.tar', [('1.jpg', jpeg()), ('2.jpg', jpeg())])
        cut = tmp_path / 'b.tar'
        cut.write_bytes(path.read_bytes()[:700])
        given = [path, cut]
    else:
        given = [write_parquet(tmp_path / 'a.parquet', ['1.jpg', '2.jpg'])]
    ids = open_source(given).ids
    assert capsys.readouterr().err == ''
    assert open_source(given, progress=True).ids == ids
    assert re.search(r'index of shards: 100%.*\d', capsys.readouterr().err)
