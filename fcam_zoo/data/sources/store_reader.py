"""Read objects of stores by their URL, with fsspec: a few tries with growing waits, and a time limit for each.

fsspec comes with huggingface-hub. It opens `http(s)://` with aiohttp, `s3://` with s3fs, `gs://` with gcsfs, and
`hf://datasets/org/name/…` with huggingface-hub; endpoints and keys are those of these libraries.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, TypeVar

from ..._io import one_line
from ...errors import FcamZooError, ImageError, StoreReadError, install_hint
from .base import MAX_BYTES
from .urls import is_http, is_pattern, public_urls_in, shown

T = TypeVar('T')

TRIES = 4
"""How often a request is sent; errors that another try cannot change, such as a missing object, end it at once."""

SECONDS_OF_TRIES = 20.0
"""No further try after these seconds: some clients, such as those of Google Cloud and Hugging Face, try most requests
again by themselves, for half a minute."""

FIRST_WAIT = 0.5
"""Seconds before the second try; each further wait is twice as long."""

SECONDS = 60.0
"""Time limit of a try. Clients of Hugging Face and of a few other stores have their own limits instead."""

BLOCK = 2**20
"""Bytes that are requested at a time while a shard is indexed."""

# Fields by which stores report that content changed.
_STAMPS = ('ETag', 'etag', 'mtime', 'LastModified', 'last_modified', 'updated', 'md5Hash', 'blob_id', 'created')


@dataclass(frozen=True)
class StoredObject:
    """An object of a store.

    Attributes:
        url: Its URL.
        size: Bytes; -1 if unknown.
        stamp: What the store reports about its content, such as an ETag; empty if unknown.
    """

    url: str
    size: int = -1
    stamp: str = ''


def find_objects(url: str) -> tuple[list[StoredObject], bool]:
    """List an object, the objects below a folder, or those that match a pattern (`*`, `**`, `[…]`), sorted.

    Returns:
        The objects, and whether the URL is that of the only one.

    Raises:
        FileNotFoundError: When there is none.
        ImageError: When the store refuses to list them.
        ImportError: When the client of the store is not installed.
    """
    found, is_object = _request(partial(_find, url), url)
    if not found:
        raise FileNotFoundError(f'{shown(url)}: no objects; check the URL')
    return sorted(found, key=lambda entry: entry.url), is_object


def _find(url: str) -> tuple[list[StoredObject], bool]:
    fs, path = file_system(url)
    is_object = False
    fs.invalidate_cache()  # Listings are cached for the whole process, and may be old.
    if is_pattern(url):
        found = fs.glob(path, detail=True)
    elif url.endswith('/') or fs.info(path)['type'] == 'directory':
        found = fs.find(path, detail=True)
    else:
        found, is_object = {path: fs.info(path)}, True
    files = {name: info for name, info in found.items() if info.get('type') != 'directory'}
    return [_object(fs.unstrip_protocol(name), info) for name, info in files.items()], is_object


def _object(url: str, info: dict[str, Any]) -> StoredObject:
    size = info.get('size')
    stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), '')
    return StoredObject(url, size if isinstance(size, int) else -1, stamp)


def read_object(url: str, size: int = -1) -> bytes:
    """Read an object.

    Args:
        url: Its URL.
        size: Its size, if known.

    Raises:
        FileNotFoundError: When it does not exist.
        ImageError: When it cannot be read, or has more than `MAX_BYTES`.
    """
    check_bytes(size, url)
    content = _request(partial(_read_whole, url, size), url)
    check_bytes(len(content), url)
    return content


def check_bytes(size: int, name: str) -> None:
    """Raise ImageError for an image of more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise ImageError(f'{shown(name)}: {size} bytes are more than the limit of {MAX_BYTES}; resize the image')


def read_range(url: str, start: int, size: int) -> bytes:
    """Read `size` bytes of an object from `start`. Errors are those of `read_object`."""

    def read() -> bytes:
        content = _read(url, start, start + size) if size else b''
        if len(content) != size:
            raise OSError(f'{len(content)} bytes instead of {size}; the server must support byte ranges')
        return content

    return _request(read, url)


def _read_whole(url: str, size: int) -> bytes:
    """Read an object, but at most one byte more than `MAX_BYTES`, whatever its size was before."""
    fs, path = file_system(url)
    if is_http(url):
        return _wait(fs, _stream(fs, path, None, MAX_BYTES + 1))
    # Stores refuse the range of an empty object.
    return _read_part(fs, path, *((0, MAX_BYTES + 1) if size else (None, None)))


def _read(url: str, start: int, end: int) -> bytes:
    fs, path = file_system(url)
    if is_http(url):
        return _wait(fs, _stream(fs, path, start, end - start))
    return _read_part(fs, path, start, end)


def _read_part(fs: Any, path: str, start: int | None, end: int | None) -> bytes:
    if getattr(fs, 'async_impl', False):
        return _wait(fs, fs._cat_file(path, start=start, end=end))
    return bytes(fs.cat_file(path, start=start, end=end))


def _wait(fs: Any, request: Coroutine[Any, Any, Any]) -> bytes:
    from fsspec.asyn import sync

    async def run() -> bytes:
        return bytes(await request)

    content: bytes = sync(fs.loop, run, timeout=SECONDS)
    return content


async def _stream(fs: Any, url: str, start: int | None, limit: int) -> bytes:
    """Read up to `limit` bytes from a web server, which may ignore the range or send compressed content.

    Args:
        fs: The file system of fsspec.
        url: The URL.
        start: First byte; None for the whole file.
        limit: The rest of the answer is not read.
    """
    options = dict(fs.kwargs)
    if start is not None:
        # A range of compressed content could not be decompressed.
        headers = {'Range': f'bytes={start}-{start + limit - 1}', 'Accept-Encoding': 'identity'}
        options['headers'] = {**options.get('headers', {}), **headers}
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **options) as response:
        if response.status == 404:
            raise FileNotFoundError(shown(url))
        response.raise_for_status()
        if start and response.status != 206:
            raise ValueError('the server must support byte ranges')
        content = bytearray()
        async for block in response.content.iter_chunked(BLOCK):
            content += block[: limit - len(content)]
            if len(content) == limit:
                break
        return bytes(content)


def open_object(entry: StoredObject) -> BinaryIO:
    """Open an object for reads at any place; each requests at least `BLOCK` bytes."""
    return io.BufferedReader(_RangeFile(entry), BLOCK)


class _RangeFile(io.RawIOBase):
    def __init__(self, entry: StoredObject) -> None:
        super().__init__()
        self._entry, self._place = entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._entry.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._entry.size - self._place))
        buffer[:size] = read_range(self._entry.url, self._place, size)
        self._place += size
        return size


def attempt(action: Callable[[], T], failure: Callable[[Exception, int], Exception]) -> T:
    """Call a function that sends a request to a store, up to `TRIES` times within `SECONDS_OF_TRIES`.

    Args:
        action: The function.
        failure: Returns the error to raise, for that of the last try and the number of tries.

    Raises:
        FileNotFoundError, ImportError, FcamZooError: Those of the function.
    """
    number, began = 1, time.monotonic()
    while True:
        try:
            return action()
        except (FileNotFoundError, ImportError, FcamZooError):
            raise
        except Exception as e:  # Clients of stores raise errors of many libraries.
            if number == TRIES or time.monotonic() - began > SECONDS_OF_TRIES or _is_final(e):
                raise failure(e, number) from e
        time.sleep(FIRST_WAIT * 2 ** (number - 1))
        number += 1


def _request(action: Callable[[], T], url: str) -> T:
    """Request an object or a list of objects.

    Raises:
        FileNotFoundError, ImportError: When there is no object, or no client of the store.
        StoreReadError: When all tries failed, or the store refuses access: a later run may succeed.
        ImageError: For errors that another run cannot change, such as a wrong URL.
    """

    def failure(error: Exception, number: int) -> ImageError:
        tries = f'in {number} tries ' if number > 1 else ''
        kind = StoreReadError if _is_refusal(error) or not _is_final(error) else ImageError
        return kind(
            f'{shown(url)}: the store did not return it {tries}({describe_failure(error)}); check your access, or run '
            'again'
        )

    try:
        return attempt(action, failure)
    except FileNotFoundError as e:
        raise FileNotFoundError(f'{shown(url)}: no such object; check the URL') from e


def _is_refusal(error: Exception) -> bool:
    """Return whether the client of a store lacks access, such as with an expired key; web servers answer with 4xx."""
    return isinstance(error, PermissionError) or type(error).__name__ == 'NoCredentialsError'


def _is_final(error: Exception) -> bool:
    """Return whether another try cannot help."""
    status = _http_status(error)
    refused = status is not None and 400 <= status < 500 and status not in (408, 425, 429)
    kinds = (NotADirectoryError, IsADirectoryError, ValueError, TypeError)
    return refused or isinstance(error, kinds) or _is_refusal(error)


def _http_status(error: Exception) -> int | None:
    """Return the status of an error of aiohttp, or of requests and httpx; None for other errors."""
    status = getattr(error, 'status', getattr(getattr(error, 'response', None), 'status_code', None))
    return status if isinstance(status, int) else None


def describe_failure(error: Exception) -> str:
    """Return the error of a store's client in one line, without keys."""
    status = _http_status(error)
    text = f'HTTP status {status}' if status is not None else (str(error).splitlines() or [''])[0]
    reason = 'time limit' if isinstance(error, TimeoutError) else type(error).__name__
    return one_line(public_urls_in(text), 200) or reason


def file_system(url: str, extra: str = 'stores') -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it. fsspec keeps one per thread and process.

    Raises:
        ImportError: When the client of the store is not installed; the message names the extra.
        ValueError: For an unknown scheme.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except ImportError as e:
        raise _missing_client(url, e, extra) from e


def check_client(url: str) -> None:
    """Raise ImportError when the client of a store is not installed; nothing is sent."""
    try:
        from fsspec import get_filesystem_class

        get_filesystem_class(url.partition('://')[0].lower())
    except ImportError as e:
        raise _missing_client(url, e) from e
    except ValueError:  # An unknown scheme, which reading the object reports.
        return


def _missing_client(url: str, error: ImportError, extra: str = 'stores') -> ImportError:
    scheme = url.partition('://')[0].lower()
    # For other stores the message of fsspec names the package.
    is_ours = scheme in ('s3', 's3a', 'gs', 'gcs', 'http', 'https') or error.name == 'fsspec'
    hint = install_hint(extra) if is_ours else str(error)
    return ImportError(f'{shown(url)} needs the client of its store: {hint}')
