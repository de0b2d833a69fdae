"""Journal of an unfinished run: the batches that are done, so that a killed run resumes after the last of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

from .output import sync_file
from .record import ImageRecord

HASHED_SETTINGS = {
    'images': 'images were added, removed or changed',
    'weights': 'the model has other weights',
}
"""Settings stored as a hash, and how the error describes a difference."""


class Journal:
    """Lines of JSON: the settings, then a list per batch with the record or the error of each image.

    Creating the object reads the file; `open` prepares it for further batches.

    Args:
        path: The file; it may be missing.

    Attributes:
        done: Images in complete batches.
        failed: Those of them that could not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] = {}
        self.done = self.failed = self._end = 0
        for line in self._lines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b'\n'):  # The process was killed while it wrote this line.
                break
            self._end += len(line)
            if isinstance(entry, dict):
                self.settings = entry
            else:
                self._count(entry)

    def _count(self, batch: Sequence[Any]) -> None:
        self.done += len(batch)
        self.failed += sum(isinstance(result, str) for result in batch)

    def difference(self, settings: dict[str, Any]) -> str:
        """Describe the first setting that differs from those of the run; empty when all are the same."""
        for key, value in json.loads(json.dumps(settings)).items():
            if self.settings.get(key) != value:
                change = f'{key} was {_short(self.settings.get(key))} and is now {_short(value)}'
                return HASHED_SETTINGS.get(key, change)
        return ''

    def open(self, settings: dict[str, Any]) -> None:
        """Continue after the last complete batch; without one, start a new journal."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open('r+b' if self.done else 'wb')
        if self.done:
            self._file.truncate(self._end)
            self._file.seek(self._end)
        else:
            self._append(settings)

    def add(self, batch: Sequence[ImageRecord | str]) -> None:
        """Append a batch: for each image its record, or the error when it could not be read."""
        self._append([result if isinstance(result, str) else asdict(result) for result in batch])
        self._count(batch)

    def _append(self, entry: Any) -> None:
        with sync_file(self._file):
            self._file.write(json.dumps(entry, separators=(',', ':')).encode() + b'\n')

    def _lines(self) -> Iterator[bytes]:
        with self.path.open('rb') as lines:
            yield from lines

    def _results(self) -> Iterator[Any]:
        batches = islice(map(json.loads, self._lines()), 1, None)
        return chain.from_iterable(batches)

    def records(self) -> Iterator[ImageRecord]:
        """Read the records from the file, one batch at a time."""
        return (ImageRecord.from_json(result) for result in self._results() if not isinstance(result, str))

    def errors(self) -> Iterator[str]:
        """Read the errors of the images that could not be read."""
        return (result for result in self._results() if isinstance(result, str))

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # Raised again after a failed write.
            self._file.close()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f'{text[:60]}...'
