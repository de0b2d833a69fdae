"""Parts of sources, which the workers of a cluster get instead of the whole."""

from __future__ import annotations

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pytest
from stored_images import OwnImages, jpeg, write_parquet, write_tar

from fcam_zoo.data import ImageSource, open_source
from fcam_zoo.data.sources import parquet
from fcam_zoo.data.sources.joined import JoinedSource

KINDS = ['files', 'store', 'tar', 'parquet', 'joined']
NUMBER = 12


def make(kind: str, folder, number: int = NUMBER) -> ImageSource:
    """Make a source of images: files, objects, two tar shards, two Parquet files, or files, shards and objects."""
    names = [f'{"cat" if n % 3 else "dog"}/{n:03d}.jpg' for n in range(number)]
    if kind == 'files':
        for name in names:
            (folder / 'photos' / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / 'photos' / name).write_bytes(jpeg())
        return open_source(folder / 'photos')
    if kind == 'store':
        files = fsspec.filesystem('memory')
        for name in names:
            files.pipe(f'/parts/{name}', jpeg())
        return open_source('memory://parts')
    halves = (names[: number // 2], names[number // 2 :])
    if kind == 'tar':
        for half, letter in zip(halves, 'ab'):
            members = []
            for n, name in enumerate(half):
                key = name.removesuffix('.jpg')
                note = json.dumps({'box': n}).encode()
                members += [(name, jpeg()), (f'{key}.cls', b'%d' % (n % 3))]
                members += [(f'{key}.json', note)] if n % 2 else []
            write_tar(folder / f'{letter}.tar', members)
        return open_source(str(folder / '*.tar'))
    if kind == 'parquet':
        pytest.importorskip('pyarrow')
        for half, letter in zip(halves, 'ab'):
            labels = [n % 2 for n in range(len(half))]
            write_parquet(folder / f'{letter}.parquet', half, labels, ['dark', 'light'], rows=4)
        return open_source(str(folder / '*.parquet'))
    return JoinedSource([make('files', folder, number // 2), make('store', folder, number), make('tar', folder)])


def about(source: ImageSource, index: int) -> tuple[Any, ...]:
    with source.open(index) as file:
        content = file.read()
    places = source.ids[index], source.describe(index), source.local_path(index), source.inner_name(index)
    return *places, source.label(index), source.sidecar_json(index), content


@pytest.mark.parametrize('kind', KINDS)
def test_a_part_has_the_images_of_the_whole(kind, tmp_path):
    source = make(kind, tmp_path)
    number = len(source)
    assert number >= NUMBER
    expected = [about(source, index) for index in range(number)]
    for images in (range(number), range(1, number - 1), range(5, 7), range(number - 1, number), range(3, 3), range(0)):
        part = pickle.loads(pickle.dumps(source.part(images)))
        assert [about(part, index) for index in range(len(part))] == expected[images.start : images.stop]
        assert (part.class_names, part.problems, part.digest) == (source.class_names, (), source.digest)
    inner = source.part(range(2, number)).part(range(1, 8))
    assert [about(inner, index) for index in range(len(inner))] == expected[3:10]
    assert [about(source, index) for index in range(number)] == expected


@pytest.mark.parametrize('kind', KINDS)
def test_a_part_holds_nothing_about_other_images(kind, tmp_path):
    source = make(kind, tmp_path, 600)
    none, few, all_images = (len(pickle.dumps(source.part(range(number)))) for number in (0, 3, len(source)))
    assert none < few < none + (all_images - none) / 10


def test_threads_read_a_row_group_once(tmp_path, monkeypatch):
    source = make('parquet', tmp_path)
    real, read = parquet._read_group, []

    def read_group(shard, leaf, group):
        read.append(group)
        return real(shard, leaf, group)

    monkeypatch.setattr(parquet, '_read_group', read_group)
    start = threading.Barrier(4)

    def image(index):
        start.wait(60)
        return source.image(index).size

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(image, range(4))) == {(20, 10)}
    assert read == [0]


def test_files_of_a_part(tmp_path):
    part = make('tar', tmp_path).part(range(NUMBER - 1, NUMBER))
    assert list(part.local_files()) == [str(tmp_path / 'b.tar')]


def test_a_source_that_cannot_be_divided(tmp_path):
    own = OwnImages({'own': jpeg()})
    assert own.part(range(1)) is None
    assert JoinedSource([make('files', tmp_path), own]).part(range(2)) is None
