"""Images that are objects of a store, by their URLs."""

from __future__ import annotations

import hashlib
import io
import posixpath
from array import array
from collections.abc import Sequence
from copy import copy
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from .base import ImageSource, safe_id
from .store_reader import StoredObject, read_object
from .urls import is_http, path_of_url, public_url, shown


class RemoteFiles(ImageSource):
    """Images that are objects of stores.

    Ids are relative to the folder, or to the common parent of several; an object that is given twice is listed once.

    Args:
        found: Each object, with the URL of the folder that its id is relative to, if the others allow it.
    """

    def __init__(self, found: Sequence[tuple[StoredObject, str]]) -> None:
        roots = {path_of_url(folder).rstrip('/') for _, folder in found}
        root = posixpath.commonpath(roots) if roots else ''
        urls: dict[str, str] = {}
        problems: list[str] = []
        digest = hashlib.sha256()
        self._sizes = array('q')
        for entry in dict.fromkeys(entry for entry, _ in found):
            image_id = safe_id(posixpath.relpath(path_of_url(entry.url), root or '.'))
            if image_id in urls and is_http(entry.url):
                image_id = _with_query(image_id, entry.url)
            if image_id is None:
                problems.append(f"'{shown(entry.url)}': annotation files cannot hold this name; rename the object")
            elif urls.setdefault(image_id, entry.url) != entry.url:
                problems.append(f'{shown(entry.url)}: has the id of {shown(urls[image_id])}; rename one of them')
            else:
                self._sizes.append(entry.size)
                digest.update(f'{image_id}\0{entry.url}\0{entry.size}\0{entry.stamp}\n'.encode())
        self.ids, self.urls = tuple(urls), tuple(urls.values())
        self.problems, self.digest = tuple(problems), digest.hexdigest()

    def open(self, index: int) -> BinaryIO:
        """Read an object into memory."""
        return io.BytesIO(read_object(self.urls[index], self._sizes[index]))

    def describe(self, index: int) -> str:
        """Return the URL, without the parts that may hold keys."""
        return public_url(self.urls[index])

    def part(self, images: range) -> RemoteFiles:
        """Return consecutive images as a source of their own."""
        part = copy(self)
        chosen = slice(images.start, images.stop)
        part.ids, part.urls, part.problems = self.ids[chosen], self.urls[chosen], ()
        part._sizes = self._sizes[chosen]
        return part


def _with_query(image_id: str, url: str) -> str:
    """Add a hash of the query to an id, since URLs may differ only there."""
    path = PurePosixPath(image_id)
    query = hashlib.sha256(urlsplit(url).query.encode()).hexdigest()[:8]
    return path.with_name(f'{path.stem}-{query}{path.suffix}').as_posix()
