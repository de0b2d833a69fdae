"""Open any source."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..paths import as_paths
from .base import ImageSource
from .local import Argument, LocalFiles

NOTHING = 'no image to localize: give image files or folders of images'


def open_source(
    where: str | os.PathLike | Iterable[str | os.PathLike], *, leave_out: str | os.PathLike | None = None
) -> ImageSource:
    """Find images, without reading them.

    Args:
        where: Image files and folders.
        leave_out: Images of folders and patterns are left out if they are in this folder.

    Raises:
        FileNotFoundError: When no image is left.
        TypeError: When `where` holds other objects than paths.
    """
    source = LocalFiles([Argument.of(path) for path in as_paths(where)], None if leave_out is None else Path(leave_out))
    if not source.ids:
        raise FileNotFoundError('; '.join(source.problems[:3]) or NOTHING)
    return source
