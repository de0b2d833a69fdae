"""The index of released weights: `weights/index.json`, the one place where released files are described."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from ._download import fetch, split_id, verify_download
from .errors import UnknownModelError, WeightsError


def weights_dir() -> Path:
    """Folder of the released weights: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / 'weights'
    return installed if installed.is_dir() else package.parent / 'weights'


@functools.cache
def index() -> dict[str, dict[str, Any]]:
    """Released models by name; each entry has file, size, sha256, dataset, teacher, metrics, recipe and licence.

    An entry with hf_hub_id, `org/name@commit`, has its file there instead of in the weights folder. One with
    `"holds": "decoder"` has the decoder alone: its classifier is timm's `backbone`, with timm's weights.

    Raises:
        WeightsError: When the index is missing or damaged.
    """
    path = weights_dir() / 'index.json'
    try:
        entries = json.loads(path.read_text(encoding='utf-8'))
        return {entry['name']: entry for entry in entries}
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise WeightsError(f'{path} is missing or damaged ({e}): install fcam-zoo again') from e


def is_decoder(name: str) -> bool:
    """Whether a release holds the decoder alone, so that its classifier must come from elsewhere.

    Raises:
        UnknownModelError: When it is not in the index.
    """
    return released(name).get('holds') == 'decoder'


def released(name: str) -> dict[str, Any]:
    """Entry of a released model.

    Raises:
        UnknownModelError: When it is not in the index.
    """
    try:
        return index()[name]
    except KeyError:
        raise UnknownModelError(f'{name} has no released weights. Released: {", ".join(index()) or "none"}') from None


def local_path(name: str, cache_dir: str | os.PathLike | None = None) -> Path | None:
    """Where the weight file of a released model lies, unchecked; None when it must be downloaded first.

    Raises:
        UnknownModelError: When the model is not released.
    """
    entry = released(name)
    if 'hf_hub_id' not in entry:
        return weights_dir() / Path(entry['file']).name
    repo_id, revision = split_id(entry['hf_hub_id'])
    found = try_to_load_from_cache(repo_id, entry['file'], cache_dir, revision)
    return Path(found) if isinstance(found, str) else None


def fetch_weights(name: str, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False) -> Path:
    """Path of a released weight file, downloaded if it lives on the Hub, after its size and SHA-256 were checked.

    Args:
        name: `fcam_<backbone>.<teacher>_<dataset>`.
        cache_dir: Folder of downloads; default: that of the Hub's client.
        local_files_only: Do not download.

    Raises:
        UnknownModelError: When the model is not released.
        HubError: When the file cannot be downloaded.
        WeightsError: When the file is missing, truncated or altered.
    """
    entry, path = released(name), local_path(name, cache_dir)
    if path is None:
        path = fetch(entry['hf_hub_id'], entry['file'], cache_dir=cache_dir, local_files_only=local_files_only)
    return verify_download(path, entry['size'], entry['sha256'])


def verify(name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """The same without the network: a file of the Hub must have been downloaded.

    Raises:
        UnknownModelError: When the model is not released.
        HubError: When its file was not downloaded yet.
        WeightsError: When the file is missing, truncated or altered.
    """
    return fetch_weights(name, cache_dir, local_files_only=True)


def verify_release(path: str | os.PathLike) -> Path:
    """The same by the path of the file in the weights folder, which must be one of the index.

    Raises:
        WeightsError: When it is not, or is missing, truncated or altered.
    """
    path = Path(path)
    for name, entry in index().items():
        if entry['file'] == path.name and 'hf_hub_id' not in entry:
            return verify(name)
    raise WeightsError(f'{path} is not in the index of released weights: load a model folder with local-dir: instead')
