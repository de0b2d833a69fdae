"""Annotations, score maps, images and arrays."""

from __future__ import annotations

import io
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

import fcam_zoo
from fcam_zoo.benchmark import evaluate
from fcam_zoo.benchmark.map_files import read_map
from fcam_zoo.data import EvalTransform, check_dataset, open_dataset

from .judge import PLANTED
from .mutations import Draw, mutated_bytes, mutated_file, mutated_json, texts
from .surface import Surface, small_model

SIDE = 24
IDS = ['a/0.png', 'a/1.png', 'b/2.png']
SPLIT = 'test'


def write_images(folder: Path) -> None:
    for i, image_id in enumerate(IDS):
        path = folder / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (SIDE, SIDE), (60 * i, 9, 9)).save(path)


class _Metadata(Surface):
    """A data set whose annotations are damaged: every problem is listed, and opening it raises one error."""

    annotations: str | None = None
    # Name of the file or files that are damaged -> content.
    files: dict[str, Any]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_images(folder / 'images')
        for name, content in self.files.items():
            self.write(name, content)
        self.valid = list(self.files.items())
        self.inputs = st.sampled_from(sorted(self.files)).flatmap(
            lambda name: self.damaged(self.files[name]).map(lambda data: (name, data))
        )

    def damaged(self, content: Any) -> st.SearchStrategy:
        return mutated_file(content)

    def write(self, name: str, content: Any) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def try_input(self, value: tuple[str, bytes]) -> None:
        name, data = value
        self.write(name, data)
        annotations = self.annotations and self.folder / self.annotations
        try:
            problems = check_dataset(self.folder, [SPLIT], quiet=True, annotations=annotations)
            if wrong := [p for p in problems if '\n' in p or not 20 <= len(p) <= 1000]:
                raise AssertionError(f'unclear problem {wrong[0][:200]!r}')
            dataset = open_dataset(self.folder, SPLIT, EvalTransform(SIDE), annotations=annotations)
            for i in range(min(len(dataset), 3)):
                dataset[i]
            _use(dataset)
        finally:
            self.write(name, self.files[name])


def _use(dataset: Any) -> None:
    """Score the data set, as `fcam-zoo benchmark` does."""
    if dataset.boxes or dataset.masks:
        evaluate(None, dataset, 'center', thresholds=[0, 0.5], quiet=True)


class Wsol(_Metadata):
    files = {  # noqa: RUF012 (not changed)
        f'metadata/{SPLIT}/image_ids.txt': '\n'.join(IDS),
        f'metadata/{SPLIT}/class_labels.txt': '\n'.join(f'{i},{int(i[0] == "b")}' for i in IDS),
        f'metadata/{SPLIT}/image_sizes.txt': '\n'.join(f'{i},{SIDE},{SIDE}' for i in IDS),
        f'metadata/{SPLIT}/localization.txt': '\n'.join(f'{i},2,3,12,13' for i in IDS),
    }


class WsolMasks(_Metadata):
    files = {  # noqa: RUF012
        **Wsol.files,
        f'metadata/{SPLIT}/localization.txt': '\n'.join(f'{i},{i},' for i in IDS),
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_images(folder / 'masks')


def _coco() -> dict[str, Any]:
    sizes = {'width': SIDE, 'height': SIDE}
    return {
        'images': [{'id': i, 'file_name': name, **sizes} for i, name in enumerate(IDS)],
        'annotations': [
            {'id': i, 'image_id': i, 'category_id': 1 + (i > 1), 'iscrowd': 0, 'area': 100, 'bbox': [2, 3, 10, 10]}
            for i in range(len(IDS))
        ],
        'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}],
    }


class Coco(_Metadata):
    annotations = 'instances.json'
    files = {'instances.json': json.dumps(_coco())}  # noqa: RUF012

    def damaged(self, content: Any) -> st.SearchStrategy:
        return mutated_json(json.loads(content))


def _xml(name: str) -> str:
    box = '<bndbox>\n<xmin>2</xmin>\n<ymin>3</ymin>\n<xmax>12</xmax>\n<ymax>13</ymax>\n</bndbox>'
    size = f'<size>\n<width>{SIDE}</width>\n<height>{SIDE}</height>\n<depth>3</depth>\n</size>'
    return (
        f'<annotation>\n<filename>{Path(name).name}</filename>\n{size}\n<object>\n<name>{name[0]}</name>\n{box}\n'
        '</object>\n</annotation>'
    )


class Voc(_Metadata):
    annotations = 'Annotations'
    files = {f'Annotations/{name[:-4]}.xml': _xml(name) for name in IDS}  # noqa: RUF012

    def damaged(self, content: Any) -> st.SearchStrategy:
        # Tags are the fields.
        return mutated_file(content, '<') | mutated_file(content, '>')


class Csv(_Metadata):
    annotations = 'boxes.csv'
    files = {  # noqa: RUF012
        'boxes.csv': '\n'.join(['image,x0,y0,x1,y1,label', *(f'{i},2,3,12,13,{i[0]}' for i in IDS)])
    }


class _Boxes:
    """A data set of two images, for maps."""

    name, split, ids = 'two', SPLIT, ('0.png', '1.png')
    labels, boxes = np.zeros(2, np.int64), [np.array([[1, 1, 9, 9]])] * 2
    sizes = np.full((2, 2), SIDE)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        return torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), 0, index


class Maps(Surface):
    """`.npy` files of score maps."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        valid = np.random.default_rng(0).random((SIDE, SIDE))
        bases = [_npy(valid.astype(kind)) for kind in ('<f4', '<f8', '<f2', 'u1', '?')]
        bases += [_npy(np.asfortranarray(valid)), _npz(valid), _npy(np.array([{'a': 1}]))]
        self.inputs = st.sampled_from(bases).flatmap(mutated_bytes) | hostile_npy() | arrays().map(_npy)
        np.save(folder / '1.png.npy', valid)
        self.valid = [*bases[:3], bases[4], bases[5]]

    def try_input(self, value: bytes) -> None:
        path = self.folder / '0.png.npy'
        path.write_bytes(value)
        report = evaluate(self.folder, _Boxes(), thresholds=[0, 0.5], limit=1, quiet=True)
        np.testing.assert_array_equal(read_map(path), np.load(path, allow_pickle=False))
        if not 0 <= report.metrics['mean'] <= 100:
            raise AssertionError(f'metrics {report.metrics}')


def _npy(array: np.ndarray) -> bytes:
    with io.BytesIO() as buffer:
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()


def _npz(array: np.ndarray) -> bytes:
    with io.BytesIO() as buffer:
        np.savez(buffer, map=array)
        return buffer.getvalue()


@st.composite
def hostile_npy(draw: Draw) -> bytes:
    """Build a file from a header of hostile fields."""
    kinds = ["'<f4'", "'<f8'", "'|b1'", "'|O'", "'|V9'", "'<U9'", "'<M8[s]'", "[('a', '<f4')]", "'f4,f4'", '7', 'None']
    sides = st.sampled_from([0, 1, 2, SIDE, 10**3, 10**6, 2**31, 2**62, 2**64, -1, 1.5, None, 'a', True])
    shape = draw(st.lists(sides, max_size=4).map(tuple) | st.just((SIDE, SIDE)))
    order = draw(st.sampled_from(['False', 'True', '0', 'None', '"F"']))
    header = f"{{'descr': {draw(st.sampled_from(kinds))}, 'fortran_order': {order}, 'shape': {shape!r}, }}"
    if draw(st.booleans()):
        header = draw(st.sampled_from(['(' * 200 + header, header + '}', header * 99, header.replace('shape', 'size')]))
    text = header.encode() + b'\n'
    version = draw(st.sampled_from([1, 1, 1, 2, 3, 0, 255]))
    length = draw(st.sampled_from([len(text)] * 4 + [0, 1, 2**16 - 1]))
    data = bytes(draw(st.sampled_from([0, 1, 4 * SIDE * SIDE, 8 * SIDE * SIDE])))
    return b'\x93NUMPY' + bytes([version, 0]) + struct.pack('<H' if version == 1 else '<I', length) + text + data


@st.composite
def arrays(draw: Draw) -> np.ndarray:
    """Build an array of any type with a small shape and special values."""
    kind = draw(
        st.sampled_from(['u1', 'i1', 'u2', 'i4', 'i8', 'f2', 'f4', 'f8', 'g', '?', 'c8', 'U3', 'S2', 'O', 'M8[s]'])
    )
    shape = draw(st.sampled_from([(), (0,), (5,), (0, 5), (SIDE, SIDE), (SIDE, SIDE, 3), (SIDE, SIDE, 4), (3, 9, 9)]))
    shape = draw(
        st.sampled_from([shape, (*shape, 2), (1, 900), (900, 1), (SIDE, SIDE, 1), (1, 1, 3), (2, SIDE, SIDE, 3)])
    )
    values = np.resize(np.array(draw(st.lists(st.sampled_from([0, 1, 0.5, 255, -1, 65535]), min_size=1))), shape)
    special = draw(st.sampled_from([None, np.nan, np.inf, -np.inf, 1e300, 1 + 1e-7, -1e-7]))
    with warnings.catch_warnings(), np.errstate(all='ignore'):
        warnings.simplefilter('ignore')
        if special is not None and np.dtype(kind).kind in 'fc' and values.size:
            values = values.astype(kind)
            values.flat[draw(st.integers(0, values.size - 1))] = special
        array = values.astype('i8').astype(kind) if kind == 'M8[s]' else values.astype(kind)
    changes = [
        lambda a: a,
        np.asfortranarray,
        lambda a: a[::-1] if a.ndim else a,
        lambda a: a.newbyteorder() if 0 else a,
    ]
    return draw(st.sampled_from(changes))(array)


def _encoded(mode: str, kind: str, **options: Any) -> bytes:
    with io.BytesIO() as buffer:
        _picture(mode, (SIDE, SIDE + 3)).save(buffer, kind, **options)
        return buffer.getvalue()


def _picture(mode: str, size: tuple[int, int]) -> Image.Image:
    gradient = Image.linear_gradient('L').resize(size) if min(size) else Image.new('L', size)
    if mode in ('I;16', 'I', 'F'):
        return Image.fromarray(np.asarray(gradient).astype({'I;16': 'u2', 'I': 'i4', 'F': 'f4'}[mode]) * 200)
    return gradient.convert('RGBA' if mode in ('La', 'RGBa') else mode).convert(mode)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


class ImageFiles(Surface):
    """Image files of all formats."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        frames = [_picture('L', (SIDE, SIDE))] * 3
        bases = [
            *(_encoded(mode, 'PNG') for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16', 'I')),
            *(_encoded(mode, 'JPEG') for mode in ('L', 'RGB', 'CMYK')),
            *(_encoded(mode, 'TIFF') for mode in ('L', 'RGB', 'F', 'I;16', 'CMYK')),
            _encoded('RGB', 'TIFF', compression='tiff_lzw'),
            *(_encoded('RGB', kind) for kind in ('BMP', 'WEBP', 'PPM')),
            _encoded('P', 'GIF'),
            _encoded('P', 'GIF', save_all=True, append_images=frames),
            _encoded('RGB', 'JPEG', exif=_exif(6)),
            _encoded('RGB', 'PNG', exif=_exif(99)),
        ]
        self.valid = [base for base in bases if base[:4] != b'II*\0']
        self.inputs = st.sampled_from(bases).flatmap(mutated_bytes)

    def try_input(self, value: bytes) -> None:
        path = self.folder / 'image.png'
        path.write_bytes(value)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of Pillow
            check_maps(fcam_zoo.localize(small_model(), path, sizes=[32]))


def _as_uint8(array: np.ndarray) -> np.ndarray:
    with np.errstate(all='ignore'):
        return array.astype(np.uint8)


def check_maps(results: list[fcam_zoo.Localization]) -> None:
    for found in results:
        good = np.isfinite(found.map).all() and found.map.min() >= 0 and found.map.max() <= 1
        if not good or found.map.shape != found.size[::-1]:
            raise AssertionError(f'map of {found.map.shape} for {found.size} with {found.map.min()}, {found.map.max()}')


@st.composite
def pictures(draw: Draw) -> Image.Image:
    modes = ['1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'LAB', 'HSV']
    mode = draw(st.sampled_from([*modes, 'I', 'F', 'I;16']))
    sizes = [(0, 0), (0, 5), (5, 0), (1, 1), (1, 3000), (3000, 1), (SIDE, SIDE), (33, 47)]
    size = draw(st.sampled_from(sizes))
    try:
        image = _picture(mode, size)
    except ValueError:  # Pillow has no such conversion.
        image = Image.new(mode if mode not in ('La', 'RGBa') else 'RGBA', size)
    how = draw(st.sampled_from(['as it is', 'as it is', 'closed', 'truncated', 'exif', 'transparency', 'lazy']))
    if how == 'closed':
        image.close()
    elif how in ('truncated', 'lazy') and image.mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16') and min(size):
        with io.BytesIO() as buffer:
            image.save(buffer, 'PNG')
            data = buffer.getvalue()
        cut = draw(st.integers(50, len(data))) if how == 'truncated' else len(data)
        try:
            image = Image.open(io.BytesIO(data[:cut]))
        except OSError:
            return image
    elif how == 'exif':
        image.getexif()[0x0112] = draw(st.sampled_from([0, 1, 6, 8, 9, 'a', -1, 2**40]))
    elif how == 'transparency':
        image.info['transparency'] = draw(st.sampled_from([0, 255, -1, 10**9, b'\0' * 256, b'', 'a', (1, 2, 3), None]))
    return image


class Objects(Surface):
    """PIL images, arrays and other objects given to `localize`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        other = st.sampled_from([None, 5, 1.5, b'abc', {}, [], [[]], object(), torch.zeros(3, 9, 9), [None], [5], ()])
        # A path that the caller gives may be opened, also the planted file.
        names = texts.filter(lambda text: not text.endswith(PLANTED))
        paths = names | names.map(lambda text: folder / text.replace('\ud800', ''))
        pixels = arrays().filter(lambda array: array.dtype.kind in 'biuf').map(_as_uint8)
        one = st.one_of(pictures(), pictures(), pictures(), pixels, pixels, arrays(), paths, other)
        options = st.just({}) | st.fixed_dictionaries(
            {},
            optional={
                'threshold': st.sampled_from(
                    [0, 0.5, 0.999, 1, -1, 'otsu', 'x', None, float('nan'), True, 10**400, []]
                ),
                'class_names': st.sampled_from([None, [], ['a'], ['a', 'b'], 'ab', [1, 2], 5, [None, None]]),
                'batch_size': st.sampled_from([1, 2, 0, -1, 1.5, None, '2', 10**400, True]),
                'multi': st.sampled_from([True, False, None, 'x']),
                'min_area': st.sampled_from([0, 0.5, 1, -1, float('nan'), 'a', None, 10**400]),
                'sizes': st.sampled_from(
                    [None, [32], [32, 48], [], [0], [31], [32.5], [10**6], [10**30], ['a'], 32, [True], [None], [-64]]
                ),
                'flip': st.booleans(),
            },
        )
        self.valid = [(_picture(mode, (SIDE, 9)), {}) for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16')]
        self.inputs = st.tuples(one | st.lists(one, max_size=3), options)

    def try_input(self, value: tuple[Any, dict[str, Any]]) -> None:
        images, options = value
        check_maps(fcam_zoo.localize(small_model(), images, **{'sizes': [32], **options}))
