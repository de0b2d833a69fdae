"""Find the images of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from copy import copy
from dataclasses import replace
from pathlib import Path

from .._io import is_folder
from ..data.paths import as_texts
from ..data.sources import ImageSource, open_source
from ..data.sources.joined import JoinedSource
from ..data.sources.local import LocalFiles, real_path
from ..data.sources.parquet import ParquetFiles
from ..data.sources.tar import TarShards
from ..data.sources.urls import is_url, public_url


def find_inputs(
    images: ImageSource | str | os.PathLike | Iterable[str | os.PathLike], output: Path, progress: bool = False
) -> ImageSource:
    """Open a source, without the images in the output folder.

    Args:
        images: A source, or what `open_source` takes.
        output: Output folder of the run.
        progress: As `open_source`.

    Raises:
        FileNotFoundError: When no image is left.
        NotADirectoryError: When `output` is a file.
        ValueError: When `output` is one of the folders.
        TypeError: When `images` holds other objects than paths.
    """
    if os.path.lexists(output) and not is_folder(output):
        raise NotADirectoryError(f'{output} is not a folder: choose another output folder')
    if isinstance(images, ImageSource):
        return images
    given = as_texts(images)
    written = real_path(output)
    folders = (Path(text) for text in given if not is_url(text) and is_folder(Path(text)))
    if any(real_path(folder) == written for folder in folders):
        raise ValueError(
            f'{output} is the folder of the images, so outputs would be read as images: choose another output folder, '
            'for example one inside it'
        )
    return open_source(given, leave_out=output, progress=progress)


def absolute_argument(text: str) -> str:
    """Return an argument of `open_source` that does not depend on the working directory; URLs and `-` unchanged."""
    return text if is_url(text) or text == '-' else os.path.abspath(text)  # noqa: PTH100


def public_places(given: Iterable[str]) -> tuple[list[str], bool]:
    """Return absolute paths, and URLs without keys, of arguments of `open_source`; and whether keys were left out."""
    places = [absolute_argument(text) for text in given]
    public = [public_url(place) for place in places]
    return public, public != places


def with_absolute_paths(source: ImageSource) -> ImageSource:
    """Return the same source with absolute paths, for processes with another working directory."""
    source = copy(source)
    if isinstance(source, LocalFiles):
        source.paths = tuple(absolute_argument(path) for path in source.paths)
    elif isinstance(source, (TarShards, ParquetFiles)):
        source.shards = tuple(replace(shard, place=absolute_argument(shard.place)) for shard in source.shards)
    elif isinstance(source, JoinedSource):
        source.sources = tuple(with_absolute_paths(inner) for inner in source.sources)
    return source
