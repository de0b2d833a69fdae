"""Rows of Parquet files: one per image, with its labels or its error."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from .._schema import NotNegative, build, describe_error, parse_json, show
from ..data import MAX_PIXELS
from ..data.sources.parquet import import_pyarrow
from ..errors import FcamZooError
from .labeller import ImageRecord, ObjectRecord
from .loading import NotReturned

if TYPE_CHECKING:
    import pyarrow

_ABOUT = b'fcam_zoo'
# Rows that are converted at a time.
_BATCH = 1000
# Fields of an object by their columns.
_COLUMNS = {'boxes': 'box', 'object_scores': 'score', 'areas': 'area', 'masks': 'counts'}


class ShardError(FcamZooError, ValueError):
    """Labels in Parquet files that are missing, damaged, or of another job."""


class DamagedShard(ShardError):
    """A Parquet file that cannot be read."""


@dataclass(frozen=True)
class PartSummary:
    """The metadata of a part.

    Attributes:
        job: Key of the job.
        part: Number of the part, from 0.
        images: Number of rows.
        labelled: Rows with labels; the others have an error.
        objects: Objects in all rows.
        unavailable: Rows of images that their store did not return.
    """

    job: str
    part: Annotated[int, NotNegative]
    images: Annotated[int, NotNegative]
    labelled: Annotated[int, NotNegative]
    objects: Annotated[int, NotNegative]
    unavailable: Annotated[int, NotNegative] = 0


def schema() -> pyarrow.Schema:
    """Return the columns of a row.

    - `id`: name of the image.
    - `status`: 'ok'; 'error' for an image that could not be read; or 'unavailable' for one that its store did not
      return, which `resume` labels again. `error` says why, and all others are null.
    - `label`, `label_index`: class of the objects, by its name and its index among the classes of the run.
    - `predicted`, `predicted_index`, `score`: the class that the model predicts, and its probability.
    - `width`, `height`: stored size in pixels.
    - `boxes`, `object_scores`, `areas`, `masks`: per object its box [x0, y0, x1, y1] in stored pixels, ends exclusive;
      its confidence; its number of pixels; and the run lengths of its mask in the whole image, column by column,
      background first (COCO's RLE).
    - `upright`: size and objects in pixels of the image rotated by its EXIF orientation; null when it is not rotated.
    """
    pa = import_pyarrow('ray')
    whole, real = pa.int32(), pa.float64()
    objects = [
        ('width', whole),
        ('height', whole),
        ('boxes', pa.list_(pa.list_(whole))),
        ('object_scores', pa.list_(real)),
        ('areas', pa.list_(whole)),
        ('masks', pa.list_(pa.list_(whole))),
    ]
    return pa.schema(
        [
            pa.field('id', pa.string(), nullable=False),
            pa.field('status', pa.string(), nullable=False),
            ('error', pa.string()),
            ('label', pa.string()),
            ('label_index', whole),
            ('predicted', pa.string()),
            ('predicted_index', whole),
            ('score', real),
            *objects,
            ('upright', pa.struct(objects)),
        ]
    )


def row_of(image_id: str, result: ImageRecord | str, classes: Sequence[str]) -> dict[str, Any]:
    """Return the row of an image, given its record, or the error of an unreadable image."""
    if isinstance(result, str):
        return {'id': image_id, 'status': _status(result), 'error': result}
    stored = _objects(result.size, result.objects)
    upright = _objects(result.upright_size, result.upright_objects)
    return {
        'id': image_id,
        'status': 'ok',
        'label': classes[result.label],
        'label_index': result.label,
        'predicted': result.predicted,
        'predicted_index': result.predicted_index,
        'score': result.probability,
        **stored,
        'upright': None if upright == stored else upright,
    }


def _status(error: str) -> str:
    return 'unavailable' if isinstance(error, NotReturned) else 'error'


def _objects(size: tuple[int, int], objects: list[ObjectRecord]) -> dict[str, Any]:
    columns = {column: [getattr(found, name) for found in objects] for column, name in _COLUMNS.items()}
    return {'width': size[0], 'height': size[1], **columns, 'boxes': [list(found.box) for found in objects]}


def record_of(row: dict[str, Any]) -> ImageRecord | str:
    """Invert `row_of`; further columns are ignored.

    Raises:
        ValueError: When the row has other content.
    """
    if row['status'] not in ('ok', 'error', 'unavailable'):
        raise ValueError(f'the status of a row is {show(row["status"])}')
    if row['status'] != 'ok':
        return (str if row['status'] == 'error' else NotReturned)(row['error'])
    upright = row['upright'] or row
    return build(
        ImageRecord,
        {
            'image': row['id'],
            'label': row['label_index'],
            'predicted': row['predicted'],
            'predicted_index': row['predicted_index'],
            'probability': row['score'],
            'size': (row['width'], row['height']),
            'objects': _records(row),
            'upright_size': (upright['width'], upright['height']),
            'upright_objects': _records(upright),
        },
    )


def _records(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a row or of its `upright`, after checking that they fit the image."""
    width, height = columns['width'], columns['height']
    pixels = width * height
    if min(width, height) < 1 or pixels > MAX_PIXELS:
        raise ValueError(f'an image of {width}x{height} pixels')
    objects = [dict(zip(_COLUMNS.values(), values)) for values in zip(*(columns[c] for c in _COLUMNS), strict=True)]
    for found in objects:
        x0, y0, x1, y1 = found['box']
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError('a box is not inside its image')
        if (
            min(found['counts'], default=0) < 0
            or sum(found['counts']) != pixels
            or sum(found['counts'][1::2]) != found['area']
        ):
            raise ValueError('a mask does not fit its image')
    return objects


def encode(rows: Sequence[dict[str, Any]], about: PartSummary) -> bytes:
    """Return a Parquet file of rows, with checksums; equal rows give equal bytes."""
    pa = import_pyarrow('ray')
    metadata = {_ABOUT: json.dumps(asdict(about))}
    table = pa.Table.from_pylist(list(rows), schema=schema().with_metadata(metadata))
    content = io.BytesIO()
    pa.parquet.write_table(table, content, compression='zstd', write_page_checksum=True)
    return content.getvalue()


def missing_bytes(end: bytes) -> int:
    """Return how many bytes of a Parquet file's metadata are before these bytes of its end; 0 or less if none are."""
    # The file ends with the metadata, their length in four bytes, and four bytes that are the same in all files.
    return int.from_bytes(end[-8:-4], 'little') + 12 - len(end)


def read_about(content: bytes, name: str) -> PartSummary:
    """Read the metadata of a Parquet file that `encode` returned.

    Args:
        content: The file, or its end with all metadata.
        name: Its name, for messages.

    Raises:
        ShardError: When it is damaged, or was not written by this package.
    """
    pa = import_pyarrow('ray')
    with _damaged(name):
        found = pa.parquet.read_schema(io.BytesIO(content)).metadata or {}
    if _ABOUT not in found:
        raise ShardError(f'{name} was not written by fcam-zoo predict --ray: move it away')
    with _damaged(name):
        return build(PartSummary, parse_json(found[_ABOUT]))


def decode(content: bytes, name: str) -> tuple[PartSummary, Iterator[dict[str, Any]]]:
    """Read the metadata and the rows of a Parquet file that `encode` returned; errors are those of `read_about`."""
    pa = import_pyarrow('ray')
    about = read_about(content, name)
    with _damaged(name):
        table = pa.parquet.read_table(io.BytesIO(content), page_checksum_verification=True)
        if not table.schema.equals(schema()) or table.num_rows != about.images:
            raise ValueError('it has other columns or rows')
    return about, (row for batch in table.to_batches(_BATCH) for row in batch.to_pylist())


@contextmanager
def _damaged(name: str) -> Iterator[None]:
    """Convert the errors of reading a Parquet file in memory in the block to `ShardError`."""
    try:
        yield
    except (ValueError, OSError, LookupError) as e:  # Those of Arrow are subclasses.
        raise DamagedShard(
            f'{name} is damaged ({describe_error(e)}): remove it, then label its images again with fcam-zoo predict '
            '--ray --resume'
        ) from e
