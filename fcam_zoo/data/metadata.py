"""Reader of the WSOL metadata layout (Choe et al., CVPR 2020) that collects every contradiction it meets.

Plain text without header, comma separated, one folder a split:

    <root>/images/<id>
    <root>/masks/<mask>
    <root>/metadata/<split>/image_ids.txt       <id>                         the order of evaluation
                            class_labels.txt    <id>,<label>                 from 0
                            image_sizes.txt     <id>,<width>,<height>        may be empty
                            localization.txt    <id>,<x0>,<y0>,<x1>,<y1>     any number of lines an image, or
                                                <id>,<mask>,<ignore mask>    the ignore mask on the first line alone
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from ..errors import ImageError
from .images import image_size

IDS, LABELS, SIZES, LOCALIZATION = 'image_ids.txt', 'class_labels.txt', 'image_sizes.txt', 'localization.txt'

_WHOLE = re.compile(r'-?[0-9]{1,9}')
_Lines = list[tuple[int, list[str]]]  # Line number and fields.


@dataclass
class Metadata:
    """Metadata of one split, as far as they could be read, and all that is wrong with them.

    Attributes:
        folder: The split's metadata folder.
        images: The folder that ids are relative to.
        ids: Image ids in the order of the file.
        labels: Id -> label.
        sizes: Id -> (width, height).
        boxes: Id -> boxes x0, y0, x1, y1; empty for a set of masks.
        masks: Id -> mask files and ignore file ('' for none), relative to the masks folder; empty for a set of boxes.
        problems: One line each, naming the file, its line, and the mend.
    """

    folder: Path
    images: Path
    ids: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    boxes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    masks: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note(self, file: str, number: int | None, problem: str) -> None:
        """Add a problem of a metadata file, and of one of its lines."""
        line = '' if number is None else f', line {number}'
        self.problems.append(f'{self.folder / file}{line}: {problem}')


def read_metadata(root: Path, split: str, ground_truth: bool) -> Metadata:
    """Read the metadata of a split; `localization.txt` only on demand. Never raises for their content."""
    data = Metadata(root / 'metadata' / split, root / 'images')
    if not data.folder.is_dir():
        data.problems.append(f'{data.folder}: no such split; the WSOL layout keeps its metadata in this folder')
        return data
    _read_ids(data)
    _read_labels(data)
    _read_sizes(data)
    if ground_truth:
        _read_localization(data)
    return data


def _lines(data: Metadata, file: str) -> _Lines | None:
    """Numbered lines that are not blank, split at commas; None, and a problem noted, when the file cannot be read."""
    try:
        text = (data.folder / file).read_text(encoding='utf-8-sig')
    except UnicodeDecodeError:
        return data.note(file, None, 'is not UTF-8 text; save it as UTF-8')
    except OSError as e:
        return data.note(file, None, f'cannot be read ({e.strerror}); the WSOL layout needs this file')
    return [(n, [f.strip() for f in line.split(',')]) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


def _numbers(data: Metadata, file: str, lines: _Lines, names: str) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """Lines of an id and whole numbers: (line number, id, numbers). Other lines are noted and left out."""
    for number, (image_id, *values) in lines:
        if len(values) != names.count(',') + 1:
            data.note(file, number, f'{len(values) + 1} fields; write <id>,{names}')
        elif not all(map(_WHOLE.fullmatch, values)):
            data.note(file, number, f'{",".join(values)} are not whole numbers; write <id>,{names}')
        else:
            yield number, image_id, tuple(map(int, values))


def leads_out(name: str) -> bool:
    """Whether a path from a file could reach outside the folder it is relative to."""
    # Windows rules know both separators and drive letters, so they refuse all that POSIX rules would.
    path = PureWindowsPath(name)
    return bool(path.anchor) or '..' in path.parts or not path.name


def _read_ids(data: Metadata) -> None:
    seen: set[str] = set()
    lines = _lines(data, IDS)
    for number, (image_id, *rest) in lines or ():
        if rest:
            data.note(IDS, number, 'an id cannot hold a comma; rename the file')
        elif leads_out(image_id):
            data.note(IDS, number, f'{image_id!r} leads out of the images folder; write a path below {data.images}')
        elif image_id in seen:
            data.note(IDS, number, f'{image_id} is listed twice; remove one of the lines')
        else:
            seen.add(image_id)
            data.ids.append(image_id)
    if lines is not None and not data.ids:
        data.note(IDS, None, 'lists no image; write one id a line')


def _without_line(data: Metadata, lines: _Lines | None) -> Iterator[str]:
    """Ids that no line of a file begins with; faulty lines, which are noted, count."""
    if lines is not None:
        named = {fields[0] for _, fields in lines}
        yield from (image_id for image_id in data.ids if image_id not in named)


def _read_labels(data: Metadata) -> None:
    lines = _lines(data, LABELS)
    for number, image_id, (label,) in _numbers(data, LABELS, lines or [], '<label>'):
        if label < 0:
            data.note(LABELS, number, f'label {label} is negative; labels count from 0')
        elif image_id in data.labels:
            data.note(LABELS, number, f'{image_id} has a label already; remove one of the lines')
        else:
            data.labels[image_id] = label
    for image_id in _without_line(data, lines):
        data.note(LABELS, None, f'{image_id} has no label; add the line {image_id},<label>')


def _read_sizes(data: Metadata) -> None:
    for number, image_id, (width, height) in _numbers(data, SIZES, _lines(data, SIZES) or [], '<width>,<height>'):
        if width < 1 or height < 1:
            data.note(SIZES, number, f'{width}x{height} is no size; write width and height in pixels')
        elif image_id in data.sizes:
            data.note(SIZES, number, f'{image_id} has a size already; remove one of the lines')
        else:
            data.sizes[image_id] = width, height


def _read_localization(data: Metadata) -> None:
    lines = _lines(data, LOCALIZATION)
    if not lines:
        if lines is not None:
            data.note(LOCALIZATION, None, 'is empty; write boxes or masks, or open the split with ground_truth=False')
        return
    if len(lines[0][1]) == 3:
        _read_masks(data, lines)
    else:
        _read_boxes(data, lines)
    for image_id in _without_line(data, lines):
        data.note(LOCALIZATION, None, f'{image_id} has no box or mask; add a line, or remove the image')


def _read_boxes(data: Metadata, lines: _Lines) -> None:
    if data.sizes:
        for image_id in data.ids:
            if image_id not in data.sizes:
                data.note(SIZES, None, f'{image_id} has no size, which its boxes need; add {image_id},<width>,<height>')
    else:  # The file may be left empty; boxes cannot be scaled without sizes, so the images themselves are asked.
        for image_id in data.ids:
            try:
                data.sizes[image_id] = image_size(data.images / image_id)
            except (OSError, ImageError) as e:
                data.problems.append(str(e))
    for number, image_id, box in _numbers(data, LOCALIZATION, lines, '<x0>,<y0>,<x1>,<y1>'):
        data.boxes.setdefault(image_id, []).append(box)
        x0, y0, x1, y1 = box
        if x1 < x0 or y1 < y0:
            data.note(LOCALIZATION, number, f'box {box} is inverted; write x0,y0,x1,y1 with x0 <= x1 and y0 <= y1')
        elif image_id in data.sizes:
            width, height = data.sizes[image_id]
            if not (0 <= x0 < width and 0 <= y0 < height and x1 <= width and y1 <= height):
                data.note(LOCALIZATION, number, f'box {box} is outside its image of {width}x{height}; correct either')


def _read_masks(data: Metadata, lines: _Lines) -> None:
    for number, fields in lines:
        if len(fields) != 3:
            data.note(LOCALIZATION, number, f'{len(fields)} fields; write <id>,<mask>,<ignore mask or nothing>')
            continue
        image_id, mask, ignore = fields
        escaped = [name for name in (mask, ignore or mask) if leads_out(name)]
        if escaped:
            data.note(LOCALIZATION, number, f'{escaped[0]!r} is no file below the masks folder; write a path inside it')
        elif image_id not in data.masks:
            data.masks[image_id] = [mask], ignore
        elif ignore:
            data.note(LOCALIZATION, number, f'{image_id} has a line already; name the ignore mask on the first alone')
        else:
            data.masks[image_id][0].append(mask)
