"""Label the images of a `ray.data.Dataset`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

from .._catalog import MIN_AREA
from .._schema import show
from ..data import ImageSource
from ..data.images import open_file
from ..data.sources.parquet import import_pyarrow
from ..data.sources.store_reader import read_object
from ..data.sources.urls import is_url
from ..errors import ImageError
from ..inference import warn_if_untrained
from ..models import FCAM
from ..objects import Threshold
from .cluster import ClusterOptions, Share, actor_options, import_ray, share_devices
from .options import LabelOptions
from .pipeline import Pipeline
from .ray_workers import load_pipeline, put_pipeline
from .rows import row_of, schema

if TYPE_CHECKING:
    import pyarrow
    import ray.data

_IMAGE_COLUMNS = ('image', 'bytes', 'path')


def map_batches(
    dataset: ray.data.Dataset,
    model: FCAM,
    *,
    image: str | None = None,
    threshold: Threshold | None = None,
    class_names: Sequence[str] | None = None,
    multi: bool = False,
    min_area: float = MIN_AREA,
    sizes: Sequence[int] | None = None,
    flip: bool = False,
    batch_size: int = 8,
    workers: int | None = None,
    device: str = 'auto',
) -> ray.data.Dataset:
    """Localize the images of a data set of Ray Data, for use in a pipeline of your own.

    Args:
        dataset: Has a column of images: encoded bytes, a struct with the field `bytes` (as in data sets of the Hugging
            Face Hub), or paths and URLs. If it has a column `id`, these are the ids of the rows; otherwise the path is,
            or without one the first digits of the SHA-256 of the bytes.
        model: On any device; each worker gets a copy.
        image: Column of the images. Default: the first of `image`, `bytes`, `path` that exists.
        threshold: As in `fcam_zoo.localize`, also the following ones.
        class_names: Class names by index.
        multi: Return every region that is large enough.
        min_area: With `multi`, smallest area of a further region as a share of the image.
        sizes: Input sizes of the network.
        flip: Average with the mirrored image.
        batch_size: Images per forward pass.
        workers: Actors, each with the model; default: one per GPU, or one per CPU core without GPUs.
        device: 'auto', 'cpu' or 'cuda'.

    Returns:
        A data set that is computed when it is read, with the columns of `rows.schema` instead of those of the images
        and ids. All other columns are kept; one with the name of a column of labels gets the prefix `input_`. An image
        that cannot be read is a row with its error.

    Raises:
        ImportError: Without the extra `ray`.
        TypeError: For an object that is not a data set, or settings of a wrong type.
        ValueError: For settings out of range.
        RayError: When the cluster has no device for the workers.

    Examples:
        >>> import ray
        >>> photos = ray.data.read_parquet('photos.parquet')  # doctest: +SKIP
        >>> map_batches(photos, model).write_parquet('labels')  # doctest: +SKIP
    """
    ray = import_ray()
    import_pyarrow('ray')
    if not isinstance(dataset, ray.data.Dataset):
        raise TypeError(f'dataset is {show(dataset)}: give a ray.data.Dataset')
    options = LabelOptions(
        threshold=threshold,
        class_names=class_names,
        multi=multi,
        min_area=min_area,
        sizes=sizes,
        flip=flip,
        batch_size=batch_size,
    )
    cluster = ClusterOptions(workers=workers, device=device)
    pipeline = Pipeline.for_model(model, _TableImages(None, ''), options)
    warn_if_untrained(model)
    nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
    share = share_devices(nodes, cluster.workers, cluster.device)
    # Without cores of their own: if the workers had all, the tasks that read the data set would wait for them forever.
    options_of_actors = {**actor_options(ray, share), 'num_cpus': 0, 'scheduling_strategy': 'SPREAD'}
    return dataset.map_batches(
        RowLabeller,
        fn_constructor_args=(put_pipeline(ray, pipeline), image, share),
        batch_size=batch_size,
        batch_format='pyarrow',
        **options_of_actors,
    )


class RowLabeller:
    """Labels batches of rows.

    Args:
        pipeline: Reference to a `Pipeline` in Ray's object store; the source of its labeller is not used.
        column: Column of the images; None as in `map_batches`.
        share: Device and threads.
    """

    def __init__(self, pipeline: Any, column: str | None, share: Share) -> None:
        self.pipeline, self.column = load_pipeline(pipeline, share.device, share.threads), column

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """Replace the images of a table by their labels."""
        pa = import_pyarrow('ray')
        column = self.column or next((name for name in _IMAGE_COLUMNS if name in table.column_names), '')
        if column not in table.column_names:
            raise ValueError(f'no column {column or "image, bytes or path"} among {", ".join(table.column_names)}')
        source = _TableImages(table, column)
        with closing(self.pipeline.for_source(source).run(range(len(source)))) as batches:
            results = list(chain.from_iterable(batches))
        classes = self.pipeline.labeller.classes
        rows = [row_of(image_id, result, classes) for image_id, result in zip(source.ids, results)]
        labels = pa.Table.from_pylist(rows, schema=schema())
        for name in table.column_names:
            if name not in (column, 'id'):
                kept = f'input_{name}' if name in labels.column_names else name
                labels = labels.append_column(kept, table[name])
        return labels


class _TableImages(ImageSource):
    """The images of a column: bytes, structs with bytes and a path, or paths."""

    def __init__(self, table: Any, column: str) -> None:
        self._values = [] if table is None else table[column].to_pylist()
        ids = table['id'].to_pylist() if table is not None and 'id' in table.column_names else self._values
        self.ids = tuple(
            value if isinstance(value, str) else _name_of(value) if ids is self._values else str(value) for value in ids
        )

    def open(self, index: int) -> BinaryIO:
        """Open an image."""
        content, path = _parts(self._values[index])
        if content is not None:
            return io.BytesIO(content)
        if path is None:
            raise ImageError(f'{self.ids[index]}: the row has neither bytes nor a path; remove it')
        return io.BytesIO(read_object(path)) if is_url(path) else open_file(path)

    def describe(self, index: int) -> str:
        """Return the id."""
        return self.ids[index]


def _parts(value: Any) -> tuple[bytes | None, str | None]:
    """Return the bytes and the path of an image."""
    if isinstance(value, dict):
        return value.get('bytes'), value.get('path')
    if isinstance(value, bytes):
        return value, None
    if value is None or isinstance(value, str):
        return None, value
    raise TypeError(f'the images are {show(value)}: give encoded bytes, structs with bytes, or paths')


def _name_of(value: Any) -> str:
    """Return the id of an image without one."""
    content, path = _parts(value)
    return path or hashlib.sha256(content or b'').hexdigest()[:32]
