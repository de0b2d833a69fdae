"""Journal of an unfinished run: the batches that are done, so that a killed run resumes after the last of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

from .._schema import build, parse_json, show
from ..errors import FcamZooError
from .labeller import ImageRecord
from .output import sync_file

logger = logging.getLogger(__name__)


class Journal:
    """Lines of JSON with a checksum: the settings, then a list per batch with the record or the error of each image.

    Creating the object reads the file, if it exists, up to the first damaged line: the images from there on are
    labelled again. `open` prepares it for further batches.

    Attributes:
        settings: The settings of the run.
        done: Number of images in complete batches.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] = {}
        self.done = self._end = 0
        if not path.is_file():
            return
        with path.open('rb') as lines:
            for line in lines:
                if not line.endswith(b'\n'):  # The process was killed while it wrote this line.
                    break
                try:
                    self._accept(unseal(parse_json(line)))
                except (ValueError, RecursionError) as e:
                    logger.warning('%s is damaged (%s): images are labelled again from number %d', path, e, self.done)
                    break
                self._end += len(line)

    def _accept(self, entry: Any) -> None:
        """Count a line; raise ValueError when it has another content."""
        if self._end == 0:
            if not isinstance(entry, dict):
                raise ValueError('it has no settings')
            self.settings = entry
            return
        if not isinstance(entry, list):
            raise ValueError('a batch is not a list')
        for result in entry:
            if not isinstance(result, str):
                build(ImageRecord, result)
        self.done += len(entry)

    def differences(self, settings: dict[str, Any]) -> str:
        """List the settings of the run that differ from `settings`, with their values in the run."""
        return differences(self.settings, settings)

    def check(self, ids: Sequence[str], num_classes: int, complete: bool) -> None:
        """Check that the records are those of the first images of the run.

        Args:
            ids: All images.
            num_classes: Number of classes.
            complete: Whether all images must be there.

        Raises:
            FcamZooError: If not.
        """
        fits = self.done == len(ids) if complete else self.done <= len(ids)
        for image_id, result in zip(ids, self._results()):
            fits = fits and (isinstance(result, str) or (result['image'] == image_id and result['label'] < num_classes))
        if not fits:
            raise FcamZooError(f'{self.path} is damaged: discard the run with --overwrite (in Python overwrite=True)')

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
        self._append([result if isinstance(result, str) else result.to_json() for result in batch])
        self.done += len(batch)

    def _append(self, entry: Any) -> None:
        with sync_file(self._file):
            self._file.write(_dump(seal(entry)) + b'\n')

    def _results(self) -> Iterator[Any]:
        with self.path.open('rb') as lines:
            for line in islice(lines, 1, None):
                yield from json.loads(line)[:-1]  # The last item is the checksum.

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


def differences(before: dict[str, Any], after: dict[str, Any]) -> str:
    """List the settings of `after` that differ from those of `before`, with their values before."""
    values = json.loads(json.dumps(after))
    changed = [key for key, value in values.items() if before.get(key) != value]
    return ', '.join(f'{key}: {show(before.get(key))}' for key in changed)


def seal(entry: Any) -> Any:
    """Return a dict or list with the CRC-32 of its JSON as its last field or item."""
    checksum = {'crc32': f'{crc32(_dump(entry)):08x}'}
    return entry | checksum if isinstance(entry, dict) else [*entry, checksum]


def unseal(value: Any) -> Any:
    """Invert `seal`; raise ValueError for another value or a wrong checksum."""
    if not isinstance(value, (dict, list)):
        raise ValueError('a line is neither a dict nor a list')
    entry: Any = value[:-1] if isinstance(value, list) else {key: v for key, v in value.items() if key != 'crc32'}
    if seal(entry) != value:
        raise ValueError('the checksum of a line is wrong')
    return entry


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(',', ':'), allow_nan=False).encode()
