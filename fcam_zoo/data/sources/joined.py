"""Several sources as one."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from copy import copy
from typing import BinaryIO

from ..._io import one_line
from .base import ImageSource


class JoinedSource(ImageSource):
    """The images of several sources, one after the other; of images with the same id, the first.

    Images have labels if all sources have the same class names.

    Args:
        sources: The sources.
    """

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.sources = tuple(sources)
        self._source, self._index = array('l'), array('q')
        names = {source.class_names for source in sources}
        self.class_names = next(iter(names)) if len(names) == 1 else None
        self.label_problem = next((source.label_problem for source in sources if source.label_problem), '')
        problems = [problem for source in sources for problem in source.problems]
        ids: dict[str, None] = {}
        for number, source in enumerate(sources):
            for index, image_id in enumerate(source.ids):
                if image_id in ids:
                    problems.append(
                        f'{one_line(source.describe(index))}: has the name of another image, {image_id}; rename one of '
                        'them, or label them in separate runs'
                    )
                    continue
                ids[image_id] = None
                self._source.append(number)
                self._index.append(index)
        self.ids, self.problems = tuple(ids), tuple(problems)
        self.digest = hashlib.sha256('\n'.join(source.digest for source in sources).encode()).hexdigest()

    def part(self, images: range) -> JoinedSource | None:
        """Return consecutive images as a source of their own, with the parts of the sources that they are in."""
        part = copy(self)
        chosen = slice(images.start, images.stop)
        part.ids, part.problems, part.sources = self.ids[chosen], (), ()
        part._source, part._index = array('l'), array('q')
        numbers, indices = self._source[chosen], self._index[chosen]
        for number, source in enumerate(self.sources):
            inside = [index for n, index in zip(numbers, indices) if n == number]
            inner = source.part(range(inside[0], inside[-1] + 1) if inside else range(0))
            if inner is None:
                return None
            part._source.extend([number] * len(inside))
            part._index.extend(index - inside[0] for index in inside)
            part.sources += (inner,)
        return part

    def _at(self, index: int) -> tuple[ImageSource, int]:
        return self.sources[self._source[index]], self._index[index]

    def open(self, index: int) -> BinaryIO:
        """Open an image in its source."""
        source, inner = self._at(index)
        return source.open(inner)

    def describe(self, index: int) -> str:
        """Describe an image as its source does."""
        source, inner = self._at(index)
        return source.describe(inner)

    def local_path(self, index: int) -> str | None:
        """Return the path of an image that is a file."""
        source, inner = self._at(index)
        return source.local_path(inner)

    def local_files(self) -> Iterator[str]:
        """List the files of all sources."""
        return (file for source in self.sources for file in source.local_files())

    def label(self, index: int) -> int | None:
        """Return the label of an image."""
        source, inner = self._at(index)
        return None if self.class_names is None else source.label(inner)

    def inner_name(self, index: int) -> str:
        """Return the id of an image without the name of its shard."""
        source, inner = self._at(index)
        return source.inner_name(inner)

    def sidecar_json(self, index: int) -> bytes | None:
        """Read the JSON about an image."""
        source, inner = self._at(index)
        return source.sidecar_json(inner)
