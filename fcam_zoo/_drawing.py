"""Pictures: heat maps over images, boxes, captions, rows and sheets. Needs no model; `viz` has the public functions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ._io import atomic_path

if TYPE_CHECKING:
    from .localization import Localization

BOX_COLOR = (255, 64, 64)
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')
WIDTH = 900
"""Width of a row of pictures in pixels."""
# Pixels that are colored at a time; characters of a caption.
_STRIP = 2**20
_MAX_CAPTION = 80
# Pixels: the smallest letters, those of captions below pictures and their lines; the largest height of a row, and the
# smallest width of its columns, into which the name of a model fits.
_SMALLEST, _LETTERS, _LINE = 8, 13, 17
_TALLEST, _NARROWEST = 320, 220
# Pictures of a contact sheet: per row, and their width and height.
_COLUMNS, _CELL = 5, (175, 131)


def heat_map(score_map: np.ndarray) -> np.ndarray:
    """Color a score map: (H,W) in [0,1] -> RGB uint8 (H,W,3), from blue (low) to red (high)."""
    bgr = cv2.applyColorMap((score_map.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def blend(image: Image.Image, score_map: np.ndarray, opacity: float = 0.5) -> Image.Image:
    """Draw a score map over an image.

    Args:
        image: Any size.
        score_map: (H,W) in [0,1]; resized to the image.
        opacity: Share of the heat map in the colors, in [0,1].

    Returns:
        RGB, of the size of the image.
    """
    values: np.ndarray = np.asarray(score_map, np.float32)
    if values.shape != (image.height, image.width):
        values = cv2.resize(values, image.size)
    drawn = image.convert('RGB')
    # In strips, because a heat map needs several copies of the image.
    step = max(1, _STRIP // image.width)
    for top in range(0, image.height, step):
        heat = Image.fromarray(heat_map(values[top : top + step]))
        part = drawn.crop((0, top, image.width, top + heat.height))
        drawn.paste(Image.blend(part, heat, opacity), (0, top))
    return drawn


def draw_box(
    image: Image.Image, box: Sequence[int], text: str = '', color: tuple[int, int, int] = BOX_COLOR
) -> Image.Image:
    """Copy the image, and draw a box (x0, y0, x1, y1; ends exclusive) with a caption in its corner."""
    image = image.copy()
    _draw_box(image, box, color)
    _draw_caption(image, box, text)
    return image


def overlay(image: Image.Image, found: Localization, opacity: float = 0.5, *, caption: bool = True) -> Image.Image:
    """Draw the heat map of a localization over its image, the boxes of all its objects, and its label.

    Args:
        image: The localized image, or a resized copy of it.
        found: Its localization.
        opacity: Share of the heat map in the colors, in [0,1].
        caption: Write label and probability into the corner of the largest box.

    Returns:
        RGB, of the size of the image.
    """
    drawn = blend(image, found.map, opacity)
    scale = [new / old for new, old in zip(image.size, found.size)] * 2
    boxes = [[round(edge * s) for edge, s in zip(box, scale)] for box in (found.box, *(r.box for r in found.objects))]
    for box in boxes:
        _draw_box(drawn, box)
    if caption:
        _draw_caption(drawn, boxes[0], f'{found.label} {found.score:.2f}')
    return drawn


def _draw_box(image: Image.Image, box: Sequence[int], color: tuple[int, int, int] = BOX_COLOR) -> None:
    """Draw a box into the image; an empty one has no effect."""
    x0, y0, x1, y1 = box
    if x1 > x0 and y1 > y0:
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), outline=color, width=_line_width(image))


def _line_width(image: Image.Image) -> int:
    return max(2, min(image.size) // 100)


def _draw_caption(image: Image.Image, box: Sequence[int], text: str) -> None:
    """Write white text on black into the corner of a box; it is moved and shortened to stay inside the image."""
    x0, y0, x1, y1 = box
    size = min(max(12, min(image.size) // 20), image.height * 3 // 4)
    if x1 <= x0 or y1 <= y0 or size < _SMALLEST:
        return
    text, font = _fit(text, image.width - 2, size)
    draw, edge = ImageDraw.Draw(image), _line_width(image)
    _, _, width, height = draw.textbbox((0, 0), text, font)
    x, y = (max(0, int(min(a + edge, b - c - 1))) for a, b, c in zip((x0, y0), image.size, (width, height)))
    if text:
        draw.rectangle(draw.textbbox((x, y), text, font), fill='black')
        draw.text((x, y), text, fill='white', font=font)


def _fit(text: str, width: int, size: int) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Return the first line of a text and a font, in which it is at most `width` pixels wide.

    Letters become smaller, down to `_SMALLEST` pixels; then the text is cut. It is empty if not even one letter fits.
    """
    text = text.splitlines()[0] if text.strip() else ''
    text = text if len(text) <= _MAX_CAPTION else f'{text[: _MAX_CAPTION - 1]}…'
    font = ImageFont.load_default(size)
    if (length := font.getlength(text)) > width:
        font = ImageFont.load_default(max(_SMALLEST, int(size * width / length)))
    whole = text.removesuffix('…')
    while text and font.getlength(text) > width:
        whole = whole[:-1]
        text = f'{whole.rstrip()}…' if whole else ''
    return text, font


def grid(
    rows: Sequence[Sequence[tuple[Image.Image, str]]], height: int | None = 240, gap: int = 6, narrowest: int = 1
) -> Image.Image:
    """Arrange pictures in rows.

    Args:
        rows: Pictures and captions. A caption is written below its picture; it may have several lines, each of which is
            shortened to the width of the picture.
        height: Height in pixels to which all pictures are scaled; None: in each row, that of its first picture.
        gap: Pixels between pictures.
        narrowest: Width in pixels to which narrower pictures are extended in white, for their captions.
    """
    drawn = [_captioned(row, height, narrowest) for row in rows]
    width = max(sum(im.width + gap for im in pictures) - gap for pictures in drawn)
    page = Image.new('RGB', (width, sum(pictures[0].height + gap for pictures in drawn) - gap), 'white')
    y = 0
    for pictures in drawn:
        x = 0
        for im in pictures:
            page.paste(im, (x, y))
            x += im.width + gap
        y += pictures[0].height + gap
    return page


def _captioned(row: Sequence[tuple[Image.Image, str]], height: int | None, narrowest: int) -> list[Image.Image]:
    """Scale the pictures of a row to one height, and write their captions below."""
    height = row[0][0].height if height is None else height
    captions = [text.splitlines() for _, text in row]
    below = max(map(len, captions)) * _LINE
    pictures = []
    for (image, _), lines in zip(row, captions):
        scaled = image.resize((max(1, round(image.width * height / image.height)), height))
        picture = Image.new('RGB', (max(scaled.width, narrowest), height + below), 'white')
        picture.paste(scaled)
        draw = ImageDraw.Draw(picture)
        for i, line in enumerate(lines):
            text, font = _fit(line, picture.width, _LETTERS)
            draw.text((0, height + i * _LINE + _LINE // 2), text, 'black', font, anchor='lm')
        pictures.append(picture)
    return pictures


def row(image: Image.Image, found: Sequence[tuple[str, Localization]], width: int = WIDTH) -> Image.Image:
    """Draw a photograph, and beside it the map and boxes of each localization of it.

    Args:
        image: The photograph.
        found: Titles and localizations.
        width: Largest width in pixels.
    """
    number, gap = 1 + len(found), 6
    wide = max(1, (width - (number - 1) * gap) // number)
    height = max(1, min(_TALLEST, int(wide * image.height / image.width)))
    scaled = min(wide, max(1, round(image.width * height / image.height)))
    small = image.resize((scaled, height), Image.Resampling.LANCZOS)
    pictures = [(small, 'photograph')]
    for title, result in found:
        label = f'{result.label} {result.score:.2f}'
        pictures.append((overlay(small, result, caption=False), f'{title}\n{label}' if title else label))
    return grid([pictures], height, gap, min(wide, _NARROWEST))


def contact_sheet(pictures: Iterable[tuple[Image.Image, str]]) -> Image.Image:
    """Draw small copies of captioned RGB pictures, five per row; one picture is needed at a time."""
    cells = [(_padded(picture), text) for picture, text in pictures]
    return grid([cells[i : i + _COLUMNS] for i in range(0, len(cells), _COLUMNS)], _CELL[1])


def _padded(picture: Image.Image) -> Image.Image:
    """Scale a picture into a white cell of the contact sheet."""
    width, height = picture.size
    scale = min(_CELL[0] / width, _CELL[1] / height)
    small = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), reducing_gap=2)
    cell = Image.new('RGB', _CELL, 'white')
    cell.paste(small, ((_CELL[0] - small.width) // 2, _CELL[1] - small.height))
    return cell


def save_picture(picture: Image.Image, path: str | os.PathLike) -> None:
    """Write a picture atomically, in the format of the suffix (`SUFFIXES`).

    Raises:
        ValueError: For an unknown suffix, or a picture that is too large for its format.
    """
    check_suffix(path, SUFFIXES)
    largest = {'.webp': 16383, '.png': 2**31 - 1}.get(Path(path).suffix.lower(), 65535)
    if max(picture.size) > largest:
        raise ValueError(f'{path}: {picture.width}x{picture.height} pixels do not fit into this format; use .png')
    with atomic_path(path) as temporary:
        picture.save(temporary, quality=80, optimize=True)


def check_suffix(path: str | os.PathLike, known: Sequence[str]) -> None:
    """Raise ValueError for a file name without one of these suffixes."""
    if Path(path).suffix.lower() not in known:
        raise ValueError(f'{path}: the suffix is not a supported format; use one of {", ".join(known)}')
