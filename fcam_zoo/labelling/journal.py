"""Journal of an unfinished run: the batches that are done, so that a killed run resumes after the last of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from zlib import crc32

from .._schema import NotNegative, build, parse_json, show
from ..errors import FcamZooError
from .labeller import ImageRecord
from .loading import NotReturned
from .output import sync_file

logger = logging.getLogger(__name__)


# Field of an image that its store did not return; its value is the error.
_KEY = 'not_returned'


@dataclass(frozen=True)
class _SecondTry:
    index: Annotated[int, NotNegative]
    result: Any

    def __post_init__(self) -> None:
        if not _is_error(self.result):
            build(ImageRecord, self.result)


class Journal:
    """Lines of JSON with a checksum: the settings, then a list per batch with the record or the error of each image.

    A line that is a dict has the result of a second try, for an image that its store did not return at first.

    Creating the object reads the file, if it exists, up to the first damaged line: the images from there on are
    labelled again. `open` prepares it for further batches.

    Attributes:
        settings: The settings of the run.
        done: Number of images in complete batches.
        unavailable: Images that their store did not return in their only try.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] = {}
        self.done = self._end = 0
        self.unavailable: set[int] = set()
        self._second: dict[int, int] = {}  # Image -> place of the line of its second try.
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
        if isinstance(entry, dict):
            second = build(_SecondTry, entry)
            if second.index not in self.unavailable:
                raise ValueError('a second try without a first one')
            self._add_second(second.index, self._end)
            return
        for result in entry:
            if not _is_error(result):
                build(ImageRecord, result)
        self._add_batch(entry)

    def _add_batch(self, batch: Sequence[Any]) -> None:
        self.unavailable.update(
            index for index, result in enumerate(batch, self.done) if isinstance(result, dict) and _KEY in result
        )
        self.done += len(batch)

    def _add_second(self, index: int, place: int) -> None:
        self.unavailable.remove(index)
        self._second[index] = place

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
        for image_id, result in zip(ids, self._read()):
            fits = fits and (_is_error(result) or (result['image'] == image_id and result['label'] < num_classes))
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
        results = [_to_json(result) for result in batch]
        self._append(results)
        self._add_batch(results)

    def add_second(self, index: int, result: ImageRecord | str) -> None:
        """Append the result of the second try of an image that its store did not return at first."""
        place = self._file.tell()
        self._append({'index': index, 'result': _to_json(result)})
        self._add_second(index, place)

    def _append(self, entry: Any) -> None:
        with sync_file(self._file):
            self._file.write(_dump_sealed(entry) + b'\n')

    def _read(self) -> Iterator[Any]:
        """Read the last result of each image, one batch at a time."""
        index = 0
        with self.path.open('rb') as lines, self.path.open('rb') as others:
            for line in islice(lines, 1, None):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    continue
                for result in entry[:-1]:  # The last item is the checksum.
                    if index in self._second:
                        others.seek(self._second[index])
                        result = json.loads(others.readline())['result']
                    yield result
                    index += 1

    def results(self) -> Iterator[ImageRecord | str]:
        """Read the record of each image, or the error when it could not be read, one batch at a time."""
        return (_text(result) if _is_error(result) else ImageRecord.from_json(result) for result in self._read())

    def records(self) -> Iterator[ImageRecord]:
        """Read the records of the images that could be read."""
        return (result for result in self.results() if not isinstance(result, str))

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # Raised again after a failed write.
            self._file.close()


def _to_json(result: ImageRecord | str) -> Any:
    if isinstance(result, NotReturned):
        return {_KEY: str(result)}
    return result if isinstance(result, str) else result.to_json()


def _is_error(result: Any) -> bool:
    return isinstance(result, str) or (isinstance(result, dict) and result.keys() == {_KEY})


def _text(result: Any) -> str:
    return str(result if isinstance(result, str) else result[_KEY])


def differences(before: dict[str, Any], after: dict[str, Any]) -> str:
    """List the settings of `after` that differ from those of `before`, with their values before."""
    values = json.loads(json.dumps(after))
    changed = [key for key, value in values.items() if before.get(key) != value]
    return ', '.join(f'{key}: {show(before.get(key))}' for key in changed)


def seal(entry: Any) -> Any:
    """Return a dict or list with the CRC-32 of its JSON as its last field or item."""
    return json.loads(_dump_sealed(entry))


def _dump_sealed(entry: Any) -> bytes:
    """Return the JSON of `seal`, without converting the entry twice."""
    content = _dump(entry)
    checksum = b'"crc32":"%08x"' % crc32(content)
    comma = b',' if entry else b''
    return content[:-1] + comma + (checksum + b'}' if isinstance(entry, dict) else b'{' + checksum + b'}]')


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
