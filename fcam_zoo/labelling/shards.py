"""A job whose labels are written in parts: `job.json`, and a Parquet file per part in `shards`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from .._io import is_folder
from .._schema import Positive, build, parse_json, reading
from .journal import differences
from .pipeline import Result
from .rows import About, DamagedShard, ShardError, decode, encode, missing_bytes, read_about, record_of, row_of
from .store import Store

logger = logging.getLogger(__name__)

JOB, FOLDER = 'job.json', 'shards'
# Bytes at the end of a part that usually hold its metadata.
_END = 2**16


@dataclass(frozen=True)
class Job:
    """A job, as `job.json` describes it.

    Attributes:
        settings: What the labels depend on.
        images: Number of images.
        shard_size: Images per part; the last part may have fewer.
        classes: Class names.
        model_name: Name of the model in annotation files.
        sources: The images as they were given; empty for a source that was made in Python.
        written_by: The command.
    """

    settings: dict[str, Any]
    images: Annotated[int, Positive]
    shard_size: Annotated[int, Positive]
    classes: list[str]
    model_name: str
    sources: list[str]
    written_by: Literal['fcam-zoo predict --ray'] = 'fcam-zoo predict --ray'

    @property
    def key(self) -> str:
        """Return a key that all parts hold, so that those of two jobs are never mixed."""
        known = [self.settings, self.images, self.shard_size, self.classes]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def parts(self) -> int:
        """Return the number of parts."""
        return -(-self.images // self.shard_size)

    def indices(self, part: int) -> range:
        """Return the images of a part."""
        first = part * self.shard_size
        return range(first, min(first + self.shard_size, self.images))


def name_of(part: int) -> str:
    """Return the file of a part below the folder of the job."""
    return f'{FOLDER}/part-{part:06d}.parquet'


class ShardFolder:
    """The folder of a job, on a disk or in a store. A part is written whole, and equal rows give equal files.

    Args:
        where: A path, or a URL that fsspec knows.
    """

    def __init__(self, where: str | os.PathLike) -> None:
        self.store = Store(where)

    def job(self) -> Job | None:
        """Read the job; None when the folder holds none.

        Raises:
            ShardError: When `job.json` is damaged, or was not written by this package.
        """
        try:
            content = self.store.read(JOB)
        except FileNotFoundError:
            return None
        with reading(self.store.path(JOB), ShardError, 'give the output folder of fcam-zoo predict --ray'):
            return build(Job, parse_json(content))

    def check(self, overwrite: bool, resume: bool) -> Job | None:
        """Return the job of the folder, after checking that another one may start or continue.

        Raises:
            FileExistsError: When it holds a job, and neither `overwrite` nor `resume` is given; or files of others.
            NotADirectoryError: When it is a file.
        """
        if self.store.is_local and os.path.lexists(self.store.where) and not is_folder(Path(self.store.where)):
            raise NotADirectoryError(f'{self.store.where} is not a folder: choose another output folder')
        found = self.job()
        if found is None and self.store.exists(FOLDER):
            raise FileExistsError(f'{self.store.path(FOLDER)} was not written by fcam_zoo: move it away')
        if found is not None and not overwrite and not resume:
            raise FileExistsError(
                f'{self.store.where} already holds a job: continue it with --resume (in Python resume=True), or '
                'discard it with --overwrite (overwrite=True)'
            )
        return found

    def start(self, job: Job, resume: bool) -> None:
        """Prepare the folder for the missing parts of a job, after `check`.

        Raises:
            ValueError: When the job to resume has other settings.
        """
        found = self.job()
        self.store.remove_temporary(FOLDER)
        if found is None or not resume:
            self.store.remove(FOLDER)
            self.store.write(JOB, (json.dumps(asdict(job), indent=2) + '\n').encode())
        elif found.key != job.key:
            before, after = ({**j.settings, 'shard_size': j.shard_size, 'classes': j.classes} for j in (found, job))
            raise ValueError(
                f'{self.store.where} holds a job with other settings ({differences(before, after)}): resume it with '
                'these, or discard it with --overwrite (in Python overwrite=True)'
            )

    def existing(self) -> set[str]:
        """List the files of parts, below the folder of the job."""
        return {f'{FOLDER}/{name}' for name in self.store.names(FOLDER)}

    def finished(self, job: Job) -> dict[int, About]:
        """Read what the finished parts say about themselves; damaged ones are left out with a warning.

        Raises:
            ShardError: When a part is of another job.
        """
        existing = self.existing()
        known = {part: self.about(job, part) for part in range(job.parts) if name_of(part) in existing}
        return {part: about for part, about in known.items() if about is not None}

    def about(self, job: Job, part: int) -> About | None:
        """Read what a part says about itself; None when it is missing, or, with a warning, damaged.

        Raises:
            ShardError: When it is a part of another job.
            OSError: When it cannot be read; a part that a store does not return is not damaged.
        """
        name = name_of(part)
        try:
            content = self.store.read_end(name, _END)
            if (missing := missing_bytes(content)) > 0:
                content = self.store.read_end(name, len(content) + missing)
            about = read_about(content, self.store.name_of(name))
        except FileNotFoundError:
            return None
        except DamagedShard as e:
            logger.warning('%s', e)
            return None
        self._check(job, part, about)
        return about

    def write(self, job: Job, part: int, ids: Sequence[str], results: Sequence[Result]) -> About:
        """Write a part, and return what it says about itself.

        Raises:
            OutputError, StoreError: When it cannot be written.
        """
        records = [result for result in results if not isinstance(result, str)]
        objects = sum(len(record.objects) for record in records)
        about = About(job.key, part, len(results), len(records), objects)
        rows = [row_of(image_id, result, job.classes) for image_id, result in zip(ids, results, strict=True)]
        self.store.write(name_of(part), encode(rows, about))
        return about

    def rows(self, job: Job, parts: Iterable[int]) -> Iterator[tuple[str, Result]]:
        """Read the id, and the record or error, of each image of some parts.

        Raises:
            ShardError: When a part is missing, damaged, or of another job.
        """
        for part in parts:
            name = self.store.path(name_of(part))
            try:
                content = self.store.read(name_of(part))
            except FileNotFoundError as e:
                raise ShardError(f'{name} is missing: {how_to_resume(job, self.store.where)}') from e
            about, rows = decode(content, name)
            self._check(job, part, about)
            for row in rows:
                with reading(name, ShardError, 'remove it, then continue the job with --resume'):
                    result = record_of(row)
                yield row['id'], result

    def _check(self, job: Job, part: int, about: About) -> None:
        if (about.job, about.part, about.images) != (job.key, part, len(job.indices(part))):
            raise ShardError(
                f'{self.store.path(name_of(part))} is a part of another job: discard all with --overwrite, or move it '
                'away and continue the job with --resume'
            )


def how_to_resume(job: Job, where: str) -> str:
    """Return the command that labels the missing parts."""
    images = ' '.join(job.sources) or 'IMAGES'
    return (
        f'continue the job with its options: fcam-zoo predict {images} --model {job.model_name} --ray --resume -o '
        f'{where}'
    )
