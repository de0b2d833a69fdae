"""Images from untrusted files, always as RGB."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError

MAX_PIXELS = 100_000_000
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm')


def open_image(path: str | os.PathLike, *, exif: bool = True, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image whole, as RGB.

    Transparency is laid on white, 16-bit grey is scaled to 8 bits, an animation gives its first frame.

    Args:
        path: Image file.
        exif: Turn the image upright by its EXIF orientation. WSOL metadata refers to the stored pixels: False there.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        FileNotFoundError: When there is no such file.
        ImageError: When it cannot be decoded or is too large.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'image {path} does not exist or is not a file')
    try:
        with warnings.catch_warnings():
            # The limit is checked here, with an error of our own.
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageError(f'{path} has {width}x{height} pixels, over the limit of {max_pixels}: shrink it first')
                image.load()
                image = ImageOps.exif_transpose(image) if exif else image
                return _to_rgb(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as e:
        raise ImageError(f'{path} is refused as a decompression bomb: shrink it first') from e
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as e:
        raise ImageError(f'{path} is not a readable image ({e}): replace or remove it') from e


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I') or image.mode == 'F':
        values = np.asarray(image, dtype=np.float64)
        # 16-bit files use the whole range; anything else is stretched from its own.
        low, high = (0, 65535) if values.min() >= 0 and 255 < values.max() <= 65535 else (values.min(), values.max())
        if values.min() >= 0 and values.max() <= 255:
            low, high = 0, 255
        grey = (values - low) / max(high - low, 1) * 255
        return Image.fromarray(grey.round().astype(np.uint8)).convert('RGB')
    if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
        rgba = image.convert('RGBA')
        return Image.alpha_composite(Image.new('RGBA', rgba.size, 'white'), rgba).convert('RGB')
    return image.convert('RGB')


def list_images(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Expand files and folders (recursively, sorted, by suffix) to image paths.

    Raises:
        FileNotFoundError: For a path that does not exist.
        ImageError: For a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise ImageError(f'folder {path} holds no images ({", ".join(SUFFIXES)})')
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f'{path} does not exist')
    return found
