"""Photographs for the demo, the viewer and pictures: files of the user, or those that come with scikit-image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .data import list_images
from .errors import install_hint

# Title -> file of scikit-image, in the public domain, CC0 or without known copyright.
PHOTOS = {'cat': 'chelsea.png', 'cup': 'coffee.png'}
# Photographs on which the general model fails, each for a reason of docs/limits.md.
DIFFICULT = {
    'photographer': 'camera.png',
    'astronaut': 'astronaut.png',
    'rocket': 'rocket.jpg',
    'coins': 'coins.png',
}


def bundled(files: Mapping[str, str] = PHOTOS) -> dict[str, Path]:
    """Return the paths of photographs of scikit-image by title.

    Raises:
        ImportError: Without scikit-image (extra `demo`).
    """
    try:
        from skimage import data
    except ImportError as e:
        raise ImportError(f'the example photographs come with scikit-image: {install_hint("demo")}') from e
    folder = Path(data.__path__[0])
    return {title: folder / file for title, file in files.items()}


def photographs(given: Sequence[str | os.PathLike]) -> dict[str, Path]:
    """Return images by title: the given files and those of the given folders, by default the photographs `PHOTOS`.

    Titles are file names, or paths if two files have the same name.

    Raises:
        FileNotFoundError: If a path does not exist.
        ImageError: If a folder has no images.
        ImportError: As `bundled`.
    """
    if not given:
        return bundled()
    paths = list_images(given)
    unique = len({path.name for path in paths}) == len(paths)
    return {path.name if unique else str(path): path for path in paths}
