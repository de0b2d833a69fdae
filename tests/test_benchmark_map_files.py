"""Damaged and hostile `.npy` files of score maps."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from benchmark_data import Squares, fcam_maps, save_maps

from fcam_zoo.benchmark import evaluate
from fcam_zoo.benchmark.map_files import MAX_PIXELS, MapFolder, read_map


def npy(header: str, data: bytes = b'', version: int = 1) -> bytes:
    text = header.encode().ljust(79) + b'\n'
    return b'\x93NUMPY' + bytes([version, 0]) + struct.pack('<H' if version == 1 else '<I', len(text)) + text + data


def fields(shape: str, kind: str = "'<f4'", order: str = 'False') -> str:
    return f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}"


def archive() -> bytes:
    with io.BytesIO() as buffer:
        np.savez(buffer, map=np.zeros((24, 24)))
        return buffer.getvalue()


def empty_archive() -> bytes:
    with io.BytesIO() as buffer:
        zipfile.ZipFile(buffer, 'w').close()
        return buffer.getvalue()


DAMAGED = {
    'empty': (b'', 'does not begin like'),
    'start of a zip': (b'PK\x03\x04', 'does not begin like'),
    'zip': (archive(), 'does not begin like'),
    'empty zip': (empty_archive(), 'does not begin like'),
    'pickle': (b'\x80\x04N.', 'does not begin like'),
    'unknown version': (npy(fields('(1, 1)'), bytes(4), 9), 'does not begin like'),
    'unknown minor version': (npy(fields('(1, 1)'), bytes(4)).replace(b'Y\1\0', b'Y\1\1'), 'does not begin like'),
    'cut in the header': (npy(fields('(1, 1)'))[:40], 'header is damaged'),
    'nested header': (npy('(' * 70), 'header is damaged'),
    'python in the header': (npy('__import__("os")'), 'header is damaged'),
    'unhashable key': (npy('{[]: 1}'), 'header is damaged'),
    'huge header': (b'\x93NUMPY\x02\x00' + struct.pack('<I', 2**31), 'header of 2147483648 bytes'),
    'missing field': (npy("{'descr': '<f4', 'shape': (1, 1)}"), 'header is damaged'),
    'order': (npy(fields('(1, 1)', order='7')), 'header is damaged'),
    'objects': (npy(fields('(1, 1)', "'|O'")), 'not real numbers'),
    'complex': (npy(fields('(1, 1)', "'<c8'"), bytes(8)), 'not real numbers'),
    'record': (npy(fields('(1, 1)', "[('a', '<f4')]"), bytes(4)), 'not real numbers'),
    'subarray': (npy(fields('(1, 1)', "'(9999999,)f4'"), bytes(4)), 'not real numbers'),
    'no name of a type': (npy(fields('(1, 1)', '5'), bytes(4)), 'not real numbers'),
    'absurd shape': (npy(fields('(1000000, 1000000)')), f'larger than {MAX_PIXELS} pixels'),
    'overflowing shape': (npy(fields(f'({2**62}, 4)')), f'larger than {MAX_PIXELS} pixels'),
    'zero height': (npy(fields(f'(0, {10**20})')), r'not \(H,W\)'),
    'negative shape': (npy(fields('(-1, -4)'), bytes(16)), r'not \(H,W\)'),
    'float shape': (npy(fields('(2.0, 2)'), bytes(16)), r'not \(H,W\)'),
    'bool shape': (npy(fields('(True, 1)'), bytes(4)), r'not \(H,W\)'),
    'one dimension': (npy(fields('(4,)'), bytes(16)), r'not \(H,W\)'),
    'cut': (npy(fields('(4, 4)'), bytes(63)), '4 x 4 pixels needs 64 bytes, but 63 follow'),
    'too long': (npy(fields('(4, 4)'), bytes(65)), 'needs 64 bytes, but 65 follow'),
}


@pytest.mark.parametrize(('data', 'problem'), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_raise(data: bytes, problem: str, tmp_path: Path) -> None:
    folder = save_maps(tmp_path / 'maps', np.asarray(fcam_maps(Squares())))
    (folder / '4.png.npy').write_bytes(data)
    with pytest.raises(ValueError, match=rf'4\.png\.npy cannot be read as a map \(.*{problem}.*\): save it with'):
        evaluate(folder, Squares(), 'mine', quiet=True)


def test_sparse_files_are_not_read(tmp_path: Path) -> None:
    """A file can have any length on a full disk."""
    side = 10**6
    path = tmp_path / 'a.npy'
    path.write_bytes(npy(fields(f'({side}, {side})')))
    with path.open('r+b') as file:
        file.truncate(path.stat().st_size + 4 * side * side)
    with pytest.raises(ValueError, match='larger than'):
        read_map(path)


@pytest.mark.parametrize('kind', ['?', 'u1', '>u2', '<i8', 'f2', '>f4', '<f8', 'g'])
@pytest.mark.parametrize('order', ['C', 'F'])
def test_what_numpy_writes_is_read(kind: str, order: str, tmp_path: Path) -> None:
    expected = np.asarray(np.random.default_rng(0).integers(0, 2, (5, 7)), kind, order=order)
    for version in ((1, 0), (2, 0), (3, 0)):
        with (tmp_path / 'a.npy').open('wb') as file:
            np.lib.format.write_array(file, expected, version)
        found = read_map(tmp_path / 'a.npy')
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_headers_of_other_writers_are_read(tmp_path: Path) -> None:
    (tmp_path / 'a.npy').write_bytes(npy('{"shape":(1,2),"fortran_order":False,"descr":"<f4"}', bytes(8)))
    np.testing.assert_array_equal(read_map(tmp_path / 'a.npy'), np.zeros((1, 2)))


@pytest.mark.parametrize('image_id', ['a' * 252, 'b/' * 2500 + 'b', 'nul\0byte'])
def test_names_that_no_file_can_have_are_missing(image_id: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='1 of 1 maps are missing'):
        MapFolder(tmp_path, [image_id])


def test_a_folder_in_place_of_a_map_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'cannot be read as a map \(Is a directory\)'):
        read_map(tmp_path)
