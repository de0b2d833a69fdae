"""Draw heat maps over images, boxes and grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from .localization import Localization

BOX_COLOR = (255, 64, 64)
# Pixels that are colored at a time; characters of a caption.
_STRIP = 2**20
_MAX_CAPTION = 80


def heat_map(score_map: np.ndarray) -> np.ndarray:
    """Color a score map: (H,W) in [0,1] -> RGB uint8 (H,W,3), from blue (low) to red (high)."""
    bgr = cv2.applyColorMap((score_map.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def blend(image: Image.Image, score_map: np.ndarray, opacity: float = 0.5) -> Image.Image:
    """Draw a score map over an image; the map is resized to the image."""
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


def draw_box(image: Image.Image, box: Sequence[int], text: str = '') -> Image.Image:
    """Copy the image, and draw a box (x0, y0, x1, y1; ends exclusive) with a caption in its corner."""
    image = image.copy()
    _draw_box(image, box, text)
    return image


def _draw_box(image: Image.Image, box: Sequence[int], text: str) -> None:
    """Draw a box into the image."""
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return
    draw = ImageDraw.Draw(image)
    width = max(2, min(image.size) // 100)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=BOX_COLOR, width=width)
    if text:
        caption(draw, (x0 + width, y0 + width), text, max(12, min(image.size) // 20))


def caption(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int) -> None:
    """Draw white text on black: the first line, shortened."""
    text = text.splitlines()[0] if text.strip() else ''
    text = text if len(text) <= _MAX_CAPTION else f'{text[: _MAX_CAPTION - 1]}…'
    font = ImageFont.load_default(size)
    draw.rectangle(draw.textbbox(at, text, font), fill='black')
    draw.text(at, text, fill='white', font=font)


def overlay(image: Image.Image, found: Localization, opacity: float = 0.5) -> Image.Image:
    """Draw heat map, box and label of a localization over its image."""
    drawn = blend(image, found.map, opacity)
    _draw_box(drawn, found.box, f'{found.label} {found.score:.2f}')
    return drawn


def grid(rows: Sequence[Sequence[tuple[Image.Image, str]]], height: int = 240, gap: int = 6) -> Image.Image:
    """Arrange captioned pictures in rows, all scaled to the same height."""
    scaled = []
    for row in rows:
        scaled.append([im.resize((max(1, round(im.width * height / im.height)), height)) for im, _ in row])
        for im, (_, text) in zip(scaled[-1], row):
            if text:
                caption(ImageDraw.Draw(im), (4, height - 22), text, 14)  # Box labels are at the top.
    width = max(sum(im.width + gap for im in pictures) - gap for pictures in scaled)
    page = Image.new('RGB', (width, len(rows) * (height + gap) - gap), 'white')
    for i, pictures in enumerate(scaled):
        x = 0
        for im in pictures:
            page.paste(im, (x, i * (height + gap)))
            x += im.width + gap
    return page
