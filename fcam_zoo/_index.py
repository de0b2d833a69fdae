"""The index of released weights: `weights/index.json`, the one place where released files are described."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from .errors import UnknownModelError, WeightsError


def weights_dir() -> Path:
    """Folder of the released weights: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / 'weights'
    return installed if installed.is_dir() else package.parent / 'weights'


@functools.cache
def index() -> dict[str, dict[str, Any]]:
    """Released models by name; each entry has file, size, sha256, dataset, teacher, metrics, recipe and licence.

    Raises:
        WeightsError: When the index is missing or damaged.
    """
    path = weights_dir() / 'index.json'
    try:
        entries = json.loads(path.read_text(encoding='utf-8'))
        return {entry['name']: entry for entry in entries}
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise WeightsError(f'{path} is missing or damaged ({e}): install fcam-zoo again') from e


def released(name: str) -> dict[str, Any]:
    """Entry of a released model.

    Raises:
        UnknownModelError: When it is not in the index.
    """
    try:
        return index()[name]
    except KeyError:
        raise UnknownModelError(f'{name} has no released weights. Released: {", ".join(index()) or "none"}') from None


def verify(name: str) -> Path:
    """Path of a released weight file, after its size and SHA-256 were found equal to the index.

    Raises:
        UnknownModelError: When the model is not released.
        WeightsError: When the file is missing, truncated or altered.
    """
    entry = released(name)
    return verify_file(weights_dir() / Path(entry['file']).name, entry['size'], entry['sha256'])


def verify_release(path: str | os.PathLike) -> Path:
    """The same by the name of the file, which must be one of the index.

    Raises:
        WeightsError: When it is not, or is missing, truncated or altered.
    """
    path = Path(path)
    for entry in index().values():
        if entry['file'] == path.name:
            return verify(entry['name'])
    raise WeightsError(f'{path} is not in the index of released weights: load a model folder with local-dir: instead')


def verify_file(path: Path, size: int, sha256: str) -> Path:
    """Check a file's size and SHA-256.

    Raises:
        WeightsError: When it is missing or differs.
    """
    again = 'install fcam-zoo again, or fetch the file again'
    if not path.is_file():
        raise WeightsError(f'weight file {path} is missing: {again}')
    actual = path.stat().st_size
    if actual != size:
        raise WeightsError(f'weight file {path} has {actual} bytes, the index says {size}: it is truncated; {again}')
    with path.open('rb') as f:
        digest = hashlib.file_digest(f, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else _sha256(f)
    if digest != sha256:
        raise WeightsError(f'weight file {path} has SHA-256 {digest}, the index says {sha256}: it was altered; {again}')
    return path


def _sha256(f: Any) -> str:
    # Python 3.10 has no hashlib.file_digest.
    digest = hashlib.sha256()
    while block := f.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
