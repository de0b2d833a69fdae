"""The unfinished part of a run, on disk: batches that are done, so that a killed run goes on after the last of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .record import Record
from .state import STATE, UNFINISHED, append

HASHES = {
    'images': 'images: some were added, removed or changed since',
    'weights': 'weights: those of the model are others',
}
"""Settings that are kept as a hash, and what is said when they differ."""


class Journal:
    """Lines of JSON: the settings, then of each batch its records or errors, and a mark that it is whole.

    Args:
        output: Folder of the run, locked.
        settings: What decides the result; a run with others is not gone on with.
        intact: Whether the files of an image are still there; the run goes on before the first batch of which some are
            lost.
        restart: Begin anew where an unfinished run is found.

    Attributes:
        done: Images of whole batches.
        failed: Those of them that could not be read.

    Raises:
        ValueError: When the folder holds an unfinished run with other settings.
    """

    def __init__(
        self,
        output: Path,
        settings: dict[str, Any],
        intact: Callable[[Record], bool] = lambda record: True,
        restart: bool = False,
    ) -> None:
        self.output, self.folder, self.intact = output, output / STATE / UNFINISHED, intact
        self.path = self.folder / 'journal.jsonl'
        self.done = self.failed = 0
        if self.folder.is_symlink() or self.path.is_symlink():
            raise ValueError(f'{self.folder} holds or is a symbolic link: remove it')
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        keep = self._whole(json.loads(json.dumps(settings)))
        for file in self.folder.iterdir():  # What a killed run was writing.
            if file != self.path:
                file.unlink()
        self._file = self.path.open('r+b' if keep else 'wb')
        self._file.truncate(keep)
        self._file.seek(keep)
        if not keep:
            self._append([{'settings': settings}])

    def _whole(self, settings: dict[str, Any]) -> int:
        """Bytes up to the end of the last whole batch; 0 where there is nothing to go on with."""
        if not self.path.exists():
            return 0
        keep = position = failed = 0
        with self.path.open('rb') as lines:
            for number, line in enumerate(lines):
                position += len(line)
                try:
                    entry = json.loads(line)
                except ValueError:  # The process was killed as it wrote.
                    break
                if number == 0:
                    self._compare(entry.get('settings', {}), settings)
                    keep = position
                if 'items' in entry and not self.intact(Record.from_json(entry)):
                    break
                failed += 'error' in entry
                if 'done' in entry:
                    keep, self.done, self.failed = position, entry['done'], failed
        return keep

    def _compare(self, there: dict[str, Any], now: dict[str, Any]) -> None:
        for key in now:
            if there.get(key) != now[key]:
                difference = f'{key}: {_short(there.get(key))} there, {_short(now[key])} now'
                if key in HASHES:
                    difference = HASHES[key]
                raise ValueError(
                    f'{self.output} holds an unfinished run with other settings ({difference}): '
                    'start it again as it was, or begin anew with --restart (in Python restart=True)'
                )

    def add(self, batch: list[Record | dict[str, str]]) -> None:
        """Append a batch, in the order of its images: a record, or {'image', 'error'}."""
        self.done += len(batch)
        self.failed += sum(isinstance(entry, dict) for entry in batch)
        entries = [entry.to_json() if isinstance(entry, Record) else entry for entry in batch]
        self._append([*entries, {'done': self.done}])

    def _append(self, entries: list[dict[str, Any]]) -> None:
        append(self._file, ''.join(json.dumps(entry, separators=(',', ':')) + '\n' for entry in entries))

    def _entries(self) -> Iterator[dict[str, Any]]:
        with self.path.open('rb') as lines:
            yield from map(json.loads, lines)

    def records(self) -> Iterator[Record]:
        """Records so far, read one by one from the file."""
        return (Record.from_json(entry) for entry in self._entries() if 'items' in entry)

    def errors(self) -> Iterator[str]:
        """What was wrong with images that could not be read."""
        return (entry['error'] for entry in self._entries() if 'error' in entry)

    def close(self) -> None:
        """Leave the file for a later run."""
        with suppress(OSError):  # Of a write that failed before.
            self._file.close()

    def remove(self) -> None:
        """The run is finished."""
        self.close()
        self.path.unlink()
        self.folder.rmdir()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f'{text[:60]}...'
