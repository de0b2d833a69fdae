"""Verify and read weight files. Only safetensors files are read, because they cannot run code."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ._schema import reading
from .errors import WeightsError

# Largest header that is read, in bytes; a header has about 100 bytes per tensor.
MAX_HEADER = 16 * 2**20
AGAIN = 'download the file again, or reinstall fcam-zoo if the file is part of it'


def fingerprint(path: Path) -> dict[str, Any]:
    """Return name, size in bytes and SHA-256 of a file."""
    return {'file': path.name, 'size': path.stat().st_size, 'sha256': _sha256(path)}


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of named tensors, converted to float32; it does not depend on the file or its precision."""
    found = hashlib.sha256()
    for key in sorted(state):
        if state[key].is_floating_point():
            found.update(key.encode())
            found.update(state[key].detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def verify_file(path: Path, size: int, sha256: str) -> Path:
    """Check the size and SHA-256 of a file, and return its path.

    Raises:
        WeightsError: When the file is missing or differs.
    """
    if not path.is_file():
        raise WeightsError(f'weight file {path} is missing: {AGAIN}')
    actual = path.stat().st_size
    if actual != size:
        what = 'truncated' if actual < size else 'a different file'
        raise WeightsError(f'weight file {path} has {actual} bytes instead of {size}: it is {what}; {AGAIN}')
    found = _sha256(path)
    if found != sha256:
        raise WeightsError(f'weight file {path} has SHA-256 {found} instead of {sha256}: it was altered; {AGAIN}')
    return path


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the tensors of a safetensors file from its header.

    Raises:
        WeightsError: When the header is damaged, declares more bytes than the file has, or lists no tensor.
    """
    with reading(path, WeightsError, AGAIN):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # Reading a pipe might never end.
            raise WeightsError(f'{path} is not a file: give a safetensors file')
        total = status.st_size
        with path.open('rb') as f:
            length = int.from_bytes(f.read(8), 'little')
        if total < 8 or length > min(MAX_HEADER, total - 8):
            raise WeightsError(
                f'{path} is truncated, damaged or not a safetensors file: its header claims {length:,} bytes of '
                f'{total:,}; {AGAIN}. Pickles (.bin, .pth) are never read'
            )
        with safe_open(path, 'pt') as f:
            shapes = {k: tuple(f.get_slice(k).get_shape()) for k in f.keys()}  # noqa: SIM118 (not a mapping)
    if not shapes:
        raise WeightsError(f'{path} holds no tensors: {AGAIN}')
    return shapes


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file to the CPU, after checking its header.

    Raises:
        WeightsError: When the file is damaged.
    """
    read_shapes(path)
    with reading(path, WeightsError, AGAIN):
        return load_file(path)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open('rb') as f:
        while block := f.read(1 << 20):
            found.update(block)
    return found.hexdigest()
