"""Journal of an unfinished run: the batches that are done, so that a killed run resumes after the last of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

from .labeller import ImageRecord
from .output import sync_file


class Journal:
    """Lines of JSON: the settings, then a list per batch with the record or the error of each image.

    Creating the object reads the file, if it exists; `open` prepares it for further batches.

    Attributes:
        settings: The settings of the run.
        done: Number of images in complete batches.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] = {}
        self.done = self._end = 0
        with suppress(FileNotFoundError), path.open('rb') as lines:
            for line in lines:
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
                    self.done += len(entry)

    def differences(self, settings: dict[str, Any]) -> str:
        """List the settings of the run that differ from `settings`, with their values in the run."""
        values = json.loads(json.dumps(settings))
        changed = [key for key, value in values.items() if self.settings.get(key) != value]
        return ', '.join(f'{key}: {str(self.settings.get(key))[:60]}' for key in changed)

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
        self.done += len(batch)

    def _append(self, entry: Any) -> None:
        with sync_file(self._file):
            self._file.write(json.dumps(entry, separators=(',', ':')).encode() + b'\n')

    def _results(self) -> Iterator[Any]:
        with self.path.open('rb') as lines:
            yield from chain.from_iterable(map(json.loads, islice(lines, 1, None)))

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
