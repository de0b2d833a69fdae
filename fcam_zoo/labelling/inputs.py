"""Find the images of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .._io import is_folder
from ..data.paths import as_texts
from ..data.sources import ImageSource, open_source
from ..data.sources.local import real_path
from ..data.sources.store import is_url


def find_inputs(images: ImageSource | str | os.PathLike | Iterable[str | os.PathLike], output: Path) -> ImageSource:
    """Open a source, without the images in the output folder.

    Args:
        images: A source, or what `open_source` takes.
        output: Output folder of the run.

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
    return open_source(given, leave_out=output)
