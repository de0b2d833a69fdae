"""Small images as bytes, tar shards and Parquet files, for tests."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from fcam_zoo.data import ImageSource

SIZE = (20, 10)


def jpeg(color: str = 'red', size: tuple[int, int] = SIZE) -> bytes:
    """Return a JPEG file of one color."""
    file = io.BytesIO()
    Image.new('RGB', size, color).save(file, 'JPEG')
    return file.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w', format=kind) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_parquet(
    path: Path,
    paths: Sequence[str | None],
    labels: Sequence[int | str | None] | None = None,
    names: Sequence[str] = (),
    rows: int = 2,
) -> Path:
    """Write a Parquet file as the Hub does, with `rows` images per row group; `names` are those of its classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = {'image': [{'bytes': jpeg(size=(20, 10)), 'path': name} for name in paths]}
    features = {'image': {'_type': 'Image'}}
    if labels is not None:
        table['label'] = list(labels)
    if names:
        features['label'] = {'_type': 'ClassLabel', 'names': list(names)}
    written = pa.table(table)
    metadata = {b'huggingface': json.dumps({'info': {'features': features}}).encode()}
    pq.write_table(written.replace_schema_metadata(metadata), path, row_group_size=rows)
    return path


class OwnImages(ImageSource):
    """A source that a user wrote, which cannot be divided."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.ids, self.contents = tuple(contents), contents

    def open(self, index: int) -> BinaryIO:
        return io.BytesIO(self.contents[self.ids[index]])

    def describe(self, index: int) -> str:
        return self.ids[index]


def read_all(source: ImageSource, size: tuple[int, int] = SIZE) -> ImageSource:
    """Read all images of a copy of the source that was pickled, last first; return the source."""
    copy = pickle.loads(pickle.dumps(source))
    assert copy.ids == source.ids
    assert copy.digest == source.digest
    for index in reversed(range(len(copy))):
        assert copy.image(index).size == size
    return source
