"""Reader of the WSOL metadata layout (Choe et al., CVPR 2020).

Plain text without header, comma separated, one folder per split:

    <root>/images/<id>
    <root>/masks/<mask>
    <root>/metadata/<split>/image_ids.txt       <id>                         the order of evaluation
                            class_labels.txt    <id>,<label>                 from 0
                            image_sizes.txt     <id>,<width>,<height>        may be empty
                            localization.txt    <id>,<x0>,<y0>,<x1>,<y1>     any number of lines per image, or
                                                <id>,<mask>,<ignore mask>    the ignore mask on the first line only
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .annotations import Annotations, MaskFiles, Problem
from .paths import leaves_folder

IDS, LABELS, SIZES, LOCALIZATION = 'image_ids.txt', 'class_labels.txt', 'image_sizes.txt', 'localization.txt'

_WHOLE = re.compile(r'-?[0-9]{1,9}')
_Lines = list[tuple[str, list[str]]]  # Place ('image_ids.txt, line 3') and fields.


@dataclass
class Metadata(Annotations):
    """Content of the metadata folder of one split; places begin with the name of a file in it."""

    def location(self, place: str, image_id: str = '') -> str:
        """Return the file and line as text."""
        return str(self.path / place)


def read_metadata(root: Path, split: str, ground_truth: bool) -> Metadata:
    """Read the metadata of a split and collect their problems; `localization.txt` only with `ground_truth`."""
    data = Metadata(root, split, root / 'metadata' / split, root / 'images', reach=1)
    if not data.path.is_dir():
        data.problems.append(f'{data.path}: no such split; the WSOL layout has its metadata in this folder')
        return data
    _read_ids(data)
    _read_labels(data)
    _read_sizes(data)
    if ground_truth:
        _read_localization(data)
    ids = set(data.ids)
    for file, table in ((LABELS, data.labels), (SIZES, data.sizes), (LOCALIZATION, {**data.boxes, **data.masks})):
        extra = (image_id for image_id in table if image_id not in ids)
        data.warnings += [
            f'{data.path / file}: {i} is not in {IDS}; add it there or remove its lines here' for i in extra
        ]
    data.listed = data.ids
    data.classes = _class_names({i: data.labels[i] for i in data.ids if i in data.labels})
    return data


def _read_lines(data: Metadata, file: str) -> _Lines | None:
    """Read the lines that are not blank, split at commas; None, and a problem noted, if the file cannot be read."""
    try:
        text = (data.path / file).read_text(encoding='utf-8-sig')
    except UnicodeDecodeError:
        data.note(file, 'is not UTF-8 text; save it as UTF-8')
    except OSError as e:
        data.note(file, f'cannot be read ({e.strerror}); the WSOL layout needs this file')
    else:
        lines = enumerate(text.splitlines(), 1)
        return [(f'{file}, line {n}', [f.strip() for f in line.split(',')]) for n, line in lines if line.strip()]
    return None


def _whole_numbers(values: list[str], names: str) -> list[int]:
    if len(values) != names.count(',') + 1:
        raise Problem(f'{len(values) + 1} fields; write <id>,{names}')
    if not all(map(_WHOLE.fullmatch, values)):
        raise Problem(f'{",".join(values)} are not whole numbers; write <id>,{names}')
    return list(map(int, values))


def _note_missing(data: Metadata, lines: _Lines | None, file: str, problem: str) -> None:
    """Note the ids that no line of a file begins with; lines with another problem count."""
    if lines is not None:
        named = {fields[0] for _, fields in lines}
        for image_id in data.ids:
            if image_id not in named:
                data.note(file, f'{image_id} {problem.format(image_id)}')


def _check_new(image_id: str, known: Iterable[str], what: str) -> None:
    if image_id in known:
        raise Problem(f'{image_id} already has a {what}; remove one of the lines')


def _read_ids(data: Metadata) -> None:
    seen: set[str] = set()
    lines = _read_lines(data, IDS)
    for place, (image_id, *rest) in lines or ():
        with data.noting(place):
            if rest:
                raise Problem('an id cannot contain a comma; rename the file')
            if leaves_folder(image_id):
                raise Problem(f'{image_id!r} leaves the images folder; write a path below {data.images}')
            if image_id in seen:
                raise Problem(f'{image_id} is listed twice; remove one of the lines')
            seen.add(image_id)
            data.ids.append(image_id)
    if lines is not None and not data.ids:
        data.note(IDS, 'lists no images; write one id per line')


def _read_labels(data: Metadata) -> None:
    lines = _read_lines(data, LABELS)
    for place, (image_id, *values) in lines or ():
        with data.noting(place):
            (label,) = _whole_numbers(values, '<label>')
            if label < 0:
                raise Problem(f'label {label} is negative; labels count from 0')
            _check_new(image_id, data.labels, 'label')
            data.labels[image_id] = label
    _note_missing(data, lines, LABELS, 'has no label; add the line {},<label>')


def _read_sizes(data: Metadata) -> None:
    for place, (image_id, *values) in _read_lines(data, SIZES) or ():
        with data.noting(place):
            width, height = _whole_numbers(values, '<width>,<height>')
            if width < 1 or height < 1:
                raise Problem(f'{width}x{height} is not a size; write width and height in pixels')
            _check_new(image_id, data.sizes, 'size')
            data.sizes[image_id] = width, height


def _read_localization(data: Metadata) -> None:
    lines = _read_lines(data, LOCALIZATION)
    if lines == []:
        data.note(LOCALIZATION, 'is empty; write boxes or masks, or open the split with ground_truth=False')
    if not lines:
        return
    if len(lines[0][1]) == 3:
        for place, (image_id, *values) in lines:
            with data.noting(place):
                _add_mask(data, image_id, values)
    else:
        for image_id in data.ids if data.sizes else ():
            if image_id not in data.sizes:
                data.note(SIZES, f'{image_id} has no size, which its boxes need; add {image_id},<width>,<height>')
        for place, (image_id, *values) in lines:
            with data.noting(place):
                x0, y0, x1, y1 = _whole_numbers(values, '<x0>,<y0>,<x1>,<y1>')
                if x1 < x0 or y1 < y0:
                    raise Problem(f'box ({x0}, {y0}, {x1}, {y1}) is inverted; write x0 <= x1 and y0 <= y1')
                data.add_box(image_id, (x0, y0, x1, y1), place)
    _note_missing(data, lines, LOCALIZATION, 'has no box or mask; add a line, or remove the image')


def _add_mask(data: Metadata, image_id: str, values: list[str]) -> None:
    if len(values) != 2:
        raise Problem(f'{len(values) + 1} fields; write <id>,<mask>,<ignore mask or nothing>')
    mask, ignore = values
    folder = data.root / 'masks'
    for name in (mask, ignore or mask):
        if leaves_folder(name):
            raise Problem(f'{name!r} is not a file below {folder}; write a relative path in that folder')
    files = data.masks.get(image_id)
    if files is None:
        data.masks[image_id] = MaskFiles((folder / mask,), folder / ignore if ignore else None)
    elif ignore:
        raise Problem(f'{image_id} already has a line; write the ignore mask on its first line only')
    else:
        data.masks[image_id] = files._replace(objects=(*files.objects, folder / mask))


def _class_names(labels: dict[str, int]) -> dict[int, str]:
    """Name a label after the folder of its images if folders and labels match one to one, else by its number."""
    folders: dict[int, set[str]] = {}
    owners: dict[str, set[int]] = {}
    for image_id, label in labels.items():
        folder = PurePosixPath(image_id).parent.name
        folders.setdefault(label, set()).add(folder)
        owners.setdefault(folder, set()).add(label)
    names = {}
    for label in sorted(folders):
        folder = next(iter(folders[label]))
        is_name = folder and len(folders[label]) == 1 and len(owners[folder]) == 1
        names[label] = folder if is_name else str(label)
    return names
