"""Check single values of untrusted annotation files; a `Problem` says what is wrong and how to fix it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from .._schema import DamagedText, read_bytes, show
from .images import MAX_PIXELS
from .paths import is_too_long, leaves_folder

MAX_BYTES = 1 << 30
"""Largest text file that is read; the instances of COCO train2017 are less than half of it."""

MAX_CLASSES = 1 << 16
"""Largest number of classes; ImageNet-21k has a third of it."""

FEW_CLASSES = 1000
"""Number of classes that a training split may always have: a subset of ImageNet keeps its labels."""

NUMBER = re.compile(r'-?[0-9]{1,9}(\.[0-9]{0,20})?')
"""A coordinate as text; longer numbers, 'nan' and exponents are refused."""

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels from 0; x1, y1 is the last pixel inside."""

_MAX_NAME = 200
_SPACES = dict.fromkeys(map(ord, '\xa0\u202f\u3000'), ' ')


class Problem(ValueError):
    """A problem in an entry of an annotation file; the message says how to fix it."""


@contextmanager
def collect_problem(problems: list[str], where: object) -> Iterator[None]:
    """Add a `Problem` that is raised in the block to `problems`, and continue after the block."""
    try:
        yield
    except Problem as problem:
        problems.append(f'{where}: {problem}')


def plain(text: str) -> str:
    """Return untrusted text for a message; it is quoted and shortened only if it is long or cannot be printed."""
    return text if 0 < len(text) <= 100 and text.isprintable() else show(text)


def read_text(path: Path, fix: str) -> str:
    """Read a UTF-8 file, with or without byte order mark; raise a `Problem`, with `fix`, if that is not possible."""
    try:
        return read_bytes(path, MAX_BYTES).decode('utf-8-sig')
    except UnicodeDecodeError:
        raise Problem('is not UTF-8 text; save it as UTF-8') from None
    except (DamagedText, OSError) as e:
        raise Problem(f'cannot be read ({getattr(e, "strerror", e)}); {fix}') from e


def relative_path(folder: Path, name: object, field_name: str) -> str:
    """Check that the value of a field is a path below a folder, and return it with forward slashes."""
    if not isinstance(name, str) or leaves_folder(name) or not is_printable(name):
        raise Problem(
            f'{field_name} {show(name)} is not a path below {folder}; write a relative path in that folder, without '
            'control characters'
        )
    if is_too_long(name):
        raise Problem(f'{field_name} {show(name)} is longer than the path of a file can be; correct or shorten it')
    return PurePosixPath(name.replace('\\', '/')).as_posix()


def is_printable(text: str) -> bool:
    """Return whether a path is one line without control characters; no-break spaces are usual in file names."""
    return text.translate(_SPACES).isprintable()


def class_name(name: object, fix: str) -> str:
    """Check the name of a class, and return it without space around it."""
    if not isinstance(name, str) or not name.strip():
        raise Problem(f'has no name; {fix}')
    if not name.isprintable():  # Stricter than for files, since models and exports record it.
        raise Problem(f'name {show(name)} has characters that cannot be printed; remove them')
    if len(name) > _MAX_NAME:
        raise Problem(f'name {show(name)} has {len(name)} characters; shorten it to at most {_MAX_NAME}')
    return name.strip()


def check_label(label: int, split: str, n_images: int) -> None:
    """Refuse a label that no classifier of these images needs: its number of outputs is the largest label + 1.

    Only the split train defines this number, so other splits may have few images of many classes.
    """
    few = f' for {n_images} images' if split == 'train' and label < MAX_CLASSES else ''
    if label >= MAX_CLASSES or (few and label >= max(n_images, FEW_CLASSES)):
        raise Problem(f'label {label} is too large{few}; number the classes from 0, without gaps')


def check_image_size(width: int, height: int) -> tuple[int, int]:
    """Check an annotated image size, for which maps and masks are created."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise Problem(f'{width}x{height} is not an image size of 1 to {MAX_PIXELS} pixels; correct it')
    return width, height


def parse_box(texts: Sequence[str], names: Sequence[str] = ('x0', 'y0', 'x1', 'y1')) -> Box:
    """Round the coordinates of a box to whole pixels; raise a `Problem` if it is inverted or they are not numbers."""
    if not all(map(NUMBER.fullmatch, texts)):
        raise Problem(f'{show(",".join(texts))} are not four numbers; write {",".join(names)} in pixels')
    x0, y0, x1, y1 = (math.floor(float(text) + 0.5) for text in texts)
    if x1 < x0 or y1 < y0:
        order = f'{names[0]} <= {names[2]} and {names[1]} <= {names[3]}'
        raise Problem(f'box ({x0}, {y0}, {x1}, {y1}) is inverted; write {order}')
    return x0, y0, x1, y1
