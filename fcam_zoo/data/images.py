"""Read images and masks from untrusted files: decode them completely to 8 bits, or raise one clear error."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from .._io import describe_os_error, short_path
from .._schema import show
from ..errors import ImageError
from .paths import as_paths, files_within, status_of

logger = logging.getLogger(__name__)

MAX_PIXELS = 80_000_000
"""Largest image that is decoded: 320 MB in Pillow, and below the size from which Pillow itself warns."""

MAX_RATIO = 1000
"""Largest ratio of the sides: the tables of a resize grow with the longer side, whatever the number of pixels."""

# Pixels that are converted at a time where a conversion needs several copies.
_STRIP = 2**20

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.jp2')
"""Suffixes of the images that are found in a folder; a file that is given by its path may have any suffix."""

# Only raster formats: by default Pillow runs Ghostscript on a PostScript file, whatever its suffix.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM', 'JPEG2000')

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The inverse: quarter turns, then whether to mirror left and right.
_STORED = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (1, False), 7: (1, True), 8: (3, False)}


def open_image(
    file: str | os.PathLike | BinaryIO, *, exif: bool = True, max_pixels: int = MAX_PIXELS, name: str = ''
) -> Image.Image:
    """Read an image file as 8-bit RGB (see `to_rgb`); of an animation, the first frame.

    Args:
        file: Path of an image, or a binary file that can seek and is read from its start; JPEG, PNG, WebP, BMP, GIF,
            TIFF, PPM/PGM or JPEG 2000.
        exif: Turn the image upright by its EXIF orientation; an unreadable EXIF block is ignored. Set False if boxes or
            masks refer to the stored pixels, as in the WSOL layout.
        max_pixels: Images with more pixels in their header are refused before decoding. Pillow also refuses images
            above twice `PIL.Image.MAX_IMAGE_PIXELS`.
        name: Name in messages; default: the path.

    Returns:
        Image of mode RGB, decoded; a file that was given by its path is closed.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: If it is a folder, has an unknown format, is damaged or truncated, has pixels of unknown range (32
            bits), too many pixels, or is more than `MAX_RATIO` times as long as wide.
    """
    image, orientation = open_stored(file, max_pixels, name)
    return upright(image, orientation) if exif else image


def open_stored(
    file: str | os.PathLike | BinaryIO, max_pixels: int = MAX_PIXELS, name: str = ''
) -> tuple[Image.Image, int]:
    """Read an image like `open_image`, but as stored; also return its EXIF orientation, 1 (upright) to 8."""
    with opened(file, max_pixels, name) as image:
        return decode_stored(image)


def decode_stored(image: Image.Image) -> tuple[Image.Image, int]:
    """Decode an image in the block of `opened`; results as `open_stored`."""
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Parsing a damaged EXIF block raises many kinds of errors; the pixels may be intact.
        orientation = 1
    return to_rgb(image), orientation


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image upright by its EXIF orientation; an unknown orientation has no effect."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def as_stored(upright_pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Invert `upright` for an array (H,W): upright -> the order of the stored pixels."""
    turns, mirror = _STORED.get(orientation, (0, False))
    turned = np.rot90(upright_pixels, turns)
    return np.ascontiguousarray(np.fliplr(turned) if mirror else turned)


def decode(image: Image.Image) -> Image.Image:
    """Convert an image that the caller opened to 8-bit RGB, as `open_image` does, but without EXIF orientation.

    Raises:
        ImageError: As `open_image`.
    """
    name = _name_of(image)
    with _decoder_errors(name):
        check_size(image.size, name)
        image.load()
        return to_rgb(image)


def check_size(size: tuple[int, int], name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ImageError for a (width, height) without pixels, with too many, or longer than `MAX_RATIO` allows."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f'{name}: {width}x{height} is not the size of an image; give one of at least 1x1 pixels')
    if width * height > max_pixels:
        raise ImageError(f'{name}: {width}x{height} pixels are more than the limit of {max_pixels}; resize it')
    if max(size) > MAX_RATIO * min(size):
        raise ImageError(f'{name}: {width}x{height} pixels, one side is over {MAX_RATIO} times the other; crop it')


def image_size(file: str | os.PathLike | BinaryIO, name: str = '') -> tuple[int, int]:
    """Read width and height from the header of an image, without EXIF orientation; errors as in `open_image`."""
    with opened(file, name=name) as image:
        return image.size


def open_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a mask as gray levels, uint8 (H,W); a 1-bit mask has 0 and 255. Errors are those of `open_image`."""
    with opened(path) as image:
        return np.array(image.convert('L'))


def open_levels(path: str | os.PathLike) -> np.ndarray:
    """Read a mask file as the stored numbers, uint8 (H,W): gray levels, or palette indices.

    Errors are those of `open_image`, and `ImageError` if the file has colors, transparency or more than 8 bits.
    """
    with opened(path) as image:
        if image.mode in ('1', 'L', 'P'):
            return np.array(image if image.mode == 'P' else image.convert('L'))
        values = np.array(image)
        if image.mode != 'RGB' or (values != values[..., :1]).any():
            raise ImageError(
                f'{short_path(path)}: masks of mode {image.mode} are not supported; save it as 8-bit gray or palette'
            )
        return values[..., 0].copy()


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask, uint8 (H,W), to (width, height) by nearest neighbor, at the sampling positions of OpenCV."""
    import cv2  # Only masks need it: data sets of images work without OpenCV.

    return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image of any mode to a new 8-bit RGB image of the same size.

    Transparent pixels become white, since most cut-out images are made for a white page. 16-bit gray is scaled (65535
    becomes 255), while Pillow's conversion clips. Palettes, CMYK and other modes are converted by Pillow, without a
    color profile.

    Raises:
        ImageError: If pixels are 32-bit integers or floats, which have no defined white, or Pillow cannot convert them.
    """
    name = _name_of(image)
    # 16-bit PNG and PGM have the mode 'I' in older versions of Pillow.
    if image.mode.startswith('I;16') or (image.mode == 'I' and image.format in ('PNG', 'PPM')):
        return _scaled_16_bit(image).convert('RGB')
    if image.mode in ('I', 'F'):
        raise ImageError(f'{name}: 32-bit pixels (mode {image.mode}) have no defined white; save it with 8 or 16 bits')
    try:
        return _on_white(image) if image.has_transparency_data else image.convert('RGB')
    except ValueError as e:
        raise ImageError(f'{name}: pixels of mode {image.mode} are not supported ({e}); save it as RGB') from e


def _scaled_16_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits."""
    values = np.asarray(image)
    gray = np.empty(values.shape, np.uint8)
    for rows in _strips(image.size):
        gray[rows] = (values[rows].astype(np.uint32) + 128) // 257
    return Image.fromarray(gray)


def _on_white(image: Image.Image) -> Image.Image:
    """Draw an image with transparency on white: RGB."""
    # Pillow converts La, with premultiplied alpha, only to LA.
    alpha = 'LA' if image.mode == 'La' else 'RGBA'
    drawn = Image.new('RGB', image.size)
    for rows in _strips(image.size):
        part = image.crop((0, rows.start, image.width, rows.stop)).convert(alpha).convert('RGBA')
        white = Image.new('RGBA', part.size, 'white')
        drawn.paste(Image.alpha_composite(white, part).convert('RGB'), (0, rows.start))
    return drawn


def _strips(size: tuple[int, int]) -> Iterator[slice]:
    """Divide the rows of an image of (width, height) into strips of about `_STRIP` pixels."""
    width, height = size
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def list_images(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    unreadable: list[OSError] | None = None,
    skipped: list[str] | None = None,
) -> list[Path]:
    """Expand files and folders to image files, in the given order, each file once.

    Args:
        paths: One or more paths. A file is listed whatever its suffix; a folder contributes its images by suffix
            (`SUFFIXES`, either case) from all its subfolders, sorted by path, without hidden files and folders.
        unreadable: Gets the errors of folders that cannot be read; without it they count as empty.
        skipped: Gets the paths of the files in folders that have another suffix; without it their number is logged.

    Raises:
        FileNotFoundError: If a path does not exist.
        ImageError: If a folder has no images, a path cannot be read, or none is given.
    """
    found: list[Path] = []
    others: list[str] = []
    for path in as_paths(paths):
        if stat.S_ISDIR(status_of(path).st_mode):
            inside = images_within(path, unreadable, others)
            if not inside:
                skips = f' ({describe_skipped(others)})' if others else ''
                raise ImageError(
                    f'{short_path(path)}: no images in this folder{skips}; known suffixes: {" ".join(SUFFIXES)}'
                )
            found += inside
        else:
            found.append(path)
    if not found:
        raise ImageError('no image given: pass image files or folders of images')
    if skipped is not None:
        skipped += others
    elif others:
        logger.warning('%s', describe_skipped(others))
    return list(dict.fromkeys(found))


def images_within(
    folder: Path, unreadable: list[OSError] | None = None, skipped: list[str] | None = None
) -> list[Path]:
    """List the image files by suffix in a folder and its subfolders, as `files_within`."""
    return files_within(folder, *SUFFIXES, unreadable=unreadable, skipped=skipped)


def has_images(folder: Path) -> bool:
    """Return whether there is an image file, by suffix, directly in a folder."""
    try:
        with os.scandir(folder) as entries:
            return any(not e.name.startswith('.') and Path(e.name).suffix.lower() in SUFFIXES for e in entries)
    except OSError:  # Reading the data set reports it.
        return False


def describe_skipped(paths: Sequence[str]) -> str:
    """Count files by their suffix in one line, such as '3 files skipped, not read as images: 2 .heic, 1 .txt'."""
    counts = Counter(Path(path).suffix.lower() or 'without suffix' for path in paths)
    common = ', '.join(f'{count} {show(suffix)[1:-1]}' for suffix, count in counts.most_common(5))
    more = ', …' if len(counts) > 5 else ''
    return f'{len(paths)} file{"s" * (len(paths) > 1)} skipped, not read as images: {common}{more}'


def open_file(path: str | os.PathLike, kind: str = 'image') -> BinaryIO:
    """Open an image file, or a file of another kind, for reading.

    Raises:
        FileNotFoundError: If it does not exist.
        ImageError: If it is a folder or a special file, or the system refuses it.
    """
    check_is_file(path, kind)
    try:
        return Path(path).open('rb')
    except OSError as e:
        raise ImageError(describe_os_error(e)) from e


def check_is_file(path: str | os.PathLike, kind: str = 'image') -> None:
    """Raise the errors of `open_file` for a path that is not a file; reading a pipe or a device might never end."""
    file = 'image file' if kind == 'image' else kind
    if not stat.S_ISREG(status_of(Path(path), file).st_mode):
        article = 'an' if kind == 'image' else 'a'
        raise ImageError(f'{short_path(path)}: a folder or a special file, not {article} {kind}; give {article} {file}')


@contextmanager
def opened(file: str | os.PathLike | BinaryIO, max_pixels: int = MAX_PIXELS, name: str = '') -> Iterator[Image.Image]:
    """Read the header of an image and check its size; every error of a decoder in the block becomes `ImageError`."""
    if isinstance(file, (str, os.PathLike)):
        name = short_path(name or file)
        check_is_file(file)
    else:
        name = short_path(name or 'image')
        file.seek(0)
    with _decoder_errors(name), Image.open(file, formats=_FORMATS) as image:
        image.filename = name
        check_size(image.size, name, max_pixels)
        yield image


def _name_of(image: Image.Image) -> str:
    """Return the file name of an opened image for messages."""
    return short_path(getattr(image, 'filename', '') or 'image')


@contextmanager
def _decoder_errors(name: str) -> Iterator[None]:
    """Convert every error of a decoder in the block to `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as e:
        raise ImageError(f'{name}: not enough memory to decode it; resize it, or use fewer workers') from e
    except UnidentifiedImageError as e:
        raise ImageError(f'{name}: not an image of a known format; convert it to one of {", ".join(_FORMATS)}') from e
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise ImageError(f'{name}: refused by Pillow because of its size ({e}); resize it') from e
    except Exception as e:  # On damaged files, decoders raise nearly every kind of error.
        raise ImageError(
            f'{name}: cannot be read as an image ({str(e)[:200] or type(e).__name__}); replace the file'
        ) from e
