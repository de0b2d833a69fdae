"""Find the images of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .._io import is_folder
from ..data.paths import as_paths
from ..data.sources import ImageSource, open_source
from ..data.sources.local import real_path


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
    given = as_paths(images)
    written = real_path(output)
    if any(is_folder(path) and real_path(path) == written for path in given):
        raise ValueError(
            f'{output} is the folder of the images, so outputs would be read as images: choose another output folder, '
            'for example one inside it'
        )
    return open_source(given, leave_out=output)
