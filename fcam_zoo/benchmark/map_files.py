"""Score maps in `.npy` files. A file is checked before memory is allocated for it, and never unpickled or unzipped."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .._io import is_file, is_folder

# Pixels of a map: 4096 x 4096. The protocol uses 224 x 224.
MAX_PIXELS = 2**24
# numpy.save writes headers of 118 bytes for maps; older versions write a few more or less.
_MAX_HEADER = 2**10
_MAGIC = b'\x93NUMPY'
# Version of the format -> bytes of the header's length.
_LENGTH_BYTES = {b'\1\0': 2, b'\2\0': 4, b'\3\0': 4}
_REAL = re.compile(r'[<>=|]?(b1|[iu][1248]|f[248]|f16)')


class MapFolder:
    """Maps in the layout of the published WSOL evaluator: `<folder>/<image id>.npy`, each (H,W) in [0,1].

    Raises:
        ValueError: When the folder or maps are missing.
    """

    def __init__(self, folder: str | os.PathLike, ids: Sequence[str]) -> None:
        self.folder, self.ids = Path(folder), ids
        self._shape: tuple[int, ...] | None = None
        if not is_folder(self.folder):
            raise ValueError(f'{self.folder} is not a folder: give one with <image id>.npy files')
        missing = [i for i in ids if not is_file(self.path(i))]
        if missing:
            raise ValueError(
                f'{len(missing)} of {len(ids)} maps are missing in {self.folder}, the first {missing[0]}.npy: save one '
                'for each image of the data set'
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Load the maps (B,H,W) of some images.

        Raises:
            ValueError: When a file is not a map, or maps have different sizes.
        """
        if self._shape is None:
            self._shape = read_map(self.path(self.ids[0])).shape
        maps = []
        for image_id in self.ids[part]:
            maps.append(read_map(self.path(image_id)))
            if maps[-1].shape != self._shape:
                raise ValueError(
                    f'{self.path(image_id)} has the shape {maps[-1].shape}, others {self._shape}: save all maps as '
                    '(H,W) of the same size'
                )
        return np.stack(maps)

    def path(self, image_id: str) -> Path:
        return self.folder / f'{image_id}.npy'


def read_map(path: str | os.PathLike) -> np.ndarray:
    """Read a map (H,W) that `numpy.save` wrote.

    Magic number, header, type and shape are compared with the length of the file before its values are read.

    Raises:
        ValueError: When the file cannot be read, or is not a plain array (H,W) of real numbers.
    """
    try:
        with Path(path).open('rb') as file:
            return _read(file)
    except (OSError, ValueError) as error:
        problem = getattr(error, 'strerror', None) or error
        raise ValueError(f'{path} cannot be read as a map ({problem}): save it with numpy.save') from error


def _read(file: BinaryIO) -> np.ndarray:
    header = _read_header(file)
    dtype, shape = _read_type(header), _read_shape(header)
    data = file.tell()
    available = os.fstat(file.fileno()).st_size - data
    expected = shape[0] * shape[1] * dtype.itemsize
    if available != expected:
        raise ValueError(f'a map of {shape[1]} x {shape[0]} pixels needs {expected} bytes, but {available} follow')
    values = np.fromfile(file, dtype, shape[0] * shape[1])
    if len(values) != shape[0] * shape[1]:
        raise ValueError('the file became shorter while it was read')
    return values.reshape(shape, order='F' if header['fortran_order'] else 'C')


def _read_header(file: BinaryIO) -> dict[str, object]:
    """Return the three fields of the header; the file is then at its values."""
    start = file.read(len(_MAGIC) + 2)
    width = _LENGTH_BYTES.get(start[len(_MAGIC) :])
    if not start.startswith(_MAGIC) or width is None:
        raise ValueError('the file does not begin like a .npy file')
    length = int.from_bytes(file.read(width), 'little')
    if length > _MAX_HEADER:
        raise ValueError(f'its header of {length} bytes is not that of a map')
    text = file.read(length)
    try:
        header = ast.literal_eval(text.decode('latin1'))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError('its header is damaged') from error
    named = isinstance(header, dict) and header.keys() == {'descr', 'fortran_order', 'shape'}
    if not named or not isinstance(header['fortran_order'], bool):
        raise ValueError('its header is damaged')
    return header


def _read_type(header: dict[str, object]) -> np.dtype:
    kind = header['descr']
    if not isinstance(kind, str) or not _REAL.fullmatch(kind):
        raise ValueError('its values are not real numbers')
    return np.dtype(kind)


def _read_shape(header: dict[str, object]) -> tuple[int, int]:
    shape = header['shape']
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError('its shape is not (H,W)')
    if shape[0] * shape[1] > MAX_PIXELS:
        raise ValueError(f'its shape is larger than {MAX_PIXELS} pixels')
    return shape
