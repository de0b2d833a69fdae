"""Load models and weights from the Hub, from folders, or by released name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from .. import _index
from .._download import fetch_folder
from .._weights import read_weights
from ..models import FCAM, create_model
from ..models.model_folder import verify_folder
from ..models.names import released


def from_pretrained(id_or_dir: str | os.PathLike, *, revision: str | None = None, **kwargs: Any) -> FCAM:
    """Load a model with its weights, in eval mode.

    Args:
        id_or_dir: A model folder; `org/name`, optionally with `@<branch, tag or commit>`; or a released name.
        revision: Revision of a repository, instead of `@<revision>`.
        **kwargs: Arguments of `create_model`: cache_dir, local_files_only, num_classes, reset_head, …

    Raises:
        FileNotFoundError: When a folder lacks a file.
        UnknownModelError: When a name without / is neither a folder nor a released model.
        HubError: When the Hub cannot provide a file.
        WeightsError: When weights are altered, truncated, or do not fit.
    """
    name = _without_source(id_or_dir)
    if Path(name).is_dir():
        name = f'local-dir:{name}'
    elif '/' in name:
        name = f'hf-hub:{name}{f"@{revision}" if revision else ""}'
    return create_model(name, pretrained=True, **kwargs)


def verify(name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the path of a released weight file, after checking its size and SHA-256; never downloads.

    Raises:
        UnknownModelError: When the model is not released.
        HubError: When its file is on the Hub and not downloaded yet.
        WeightsError: When the file is missing, truncated or altered.
    """
    return _index.fetch_weights(released(name), cache_dir, local_files_only=True)


def load_weights(
    name: str, *, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False
) -> dict[str, torch.Tensor]:
    """Read the tensors of a released model by name, on the CPU, in the stored precision (float16 parameters).

    Raises:
        UnknownModelError: When the model is not released.
        HubError: When its file cannot be downloaded.
        WeightsError: When the file is missing, truncated or altered.
    """
    return read_weights(_index.fetch_weights(released(name), cache_dir, local_files_only))


def pull(name: str, *, cache_dir: str | os.PathLike | None = None) -> Path:
    """Download and verify a released model or a repository of the Hub.

    Args:
        name: A released name, or `org/name`, optionally with `@<branch, tag or commit>`.
        cache_dir: Download folder; default: that of the Hub's client.

    Returns:
        The weight file of a released model, or the folder of a repository, which `create_model` can load.

    Raises:
        UnknownModelError: When a name without / is not released.
        HubError: When the Hub cannot provide a file.
        WeightsError: When the download is damaged.
    """
    name = _without_source(name)
    if '/' not in name:
        return _index.fetch_weights(released(name), cache_dir)
    folder = fetch_folder(name, cache_dir=cache_dir)
    verify_folder(folder)
    return folder


def _without_source(name: str | os.PathLike) -> str:
    """Remove the prefix `hf-hub:` or `local-dir:`, which `fcam-zoo push` prints and `create_model` accepts."""
    return re.sub('^(hf[-_]hub|local-dir):', '', os.fspath(name))
