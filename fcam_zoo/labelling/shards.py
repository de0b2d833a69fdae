"""A job whose labels are written in parts: `job.json`, and a Parquet file per part in `shards`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tqdm import tqdm

from .._io import is_folder
from .._schema import Positive, build, parse_json, reading
from .job_files import JobFiles
from .journal import differences
from .loading import NotReturned
from .pipeline import Result
from .rows import DamagedShard, PartSummary, ShardError, decode, encode, missing_bytes, read_about, record_of, row_of

logger = logging.getLogger(__name__)

JOB, UNFINISHED = 'job.json', 'unfinished.json'
# A job that replaces another one uses the folder that is free, so that the older parts stay until it has finished.
_FOLDERS: tuple[Literal['shards', 'shards-2'], ...] = ('shards', 'shards-2')
# A progress bar of requests appears after these seconds.
SECONDS = 1.0
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
        sources: The images as they were given, URLs without keys; empty for a source that was made in Python.
        left_out: Whether keys were left out of `sources`, so that they cannot be opened.
        folder: The folder of its parts.
        written_by: The command.
    """

    settings: dict[str, Any]
    images: Annotated[int, Positive]
    shard_size: Annotated[int, Positive]
    classes: list[str]
    model_name: str
    sources: list[str]
    left_out: bool = False
    folder: Literal['shards', 'shards-2'] = 'shards'
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

    def file_of(self, part: int) -> str:
        """Return the file of a part below the folder of the job."""
        return f'{self.folder}/part-{part:06d}.parquet'


class ShardFolder:
    """The folder of a job, on a disk or in a store. A part is written whole, and equal rows give equal files.

    Args:
        where: A path, or a URL that fsspec knows.
    """

    def __init__(self, where: str | os.PathLike) -> None:
        self.files = JobFiles(where)

    def job(self) -> Job | None:
        """Read the job, an unfinished one before the one that it replaces; None when the folder holds none.

        Raises:
            ShardError: When its file is damaged, or was not written by this package.
        """
        return self._read_job(UNFINISHED) or self._read_job(JOB)

    def _read_job(self, name: str) -> Job | None:
        try:
            content = self.files.read(name)
        except FileNotFoundError:
            return None
        with reading(self.files.name_of(name), ShardError, 'give the output folder of fcam-zoo predict --ray'):
            return build(Job, parse_json(content))

    def _write_job(self, name: str, job: Job) -> None:
        self.files.write(name, (json.dumps(asdict(job), indent=2) + '\n').encode())

    def check(self, overwrite: bool, resume: bool) -> Job | None:
        """Return the job of the folder, after checking that another one may start or continue.

        Raises:
            FileExistsError: When it holds a job, and neither `overwrite` nor `resume` is given; or files that this
                package did not write.
            NotADirectoryError: When it is a file.
        """
        if self.files.is_local and os.path.lexists(self.files.where) and not is_folder(Path(self.files.where)):
            raise NotADirectoryError(f'{self.files.where} is not a folder: choose another output folder')
        found = self.job()
        if found is None and (others := [name for name in _FOLDERS if self.files.exists(name)]):
            raise FileExistsError(f'{self.files.name_of(others[0])} was not written by fcam_zoo: move it away')
        if found is not None and not overwrite and not resume:
            raise FileExistsError(
                f'{self.files.name} already holds a job: continue it with --resume (in Python resume=True), or '
                'discard it with --overwrite (overwrite=True)'
            )
        return found

    def start(self, job: Job, resume: bool) -> Job:
        """Prepare the folder for the missing parts of a job, after `check`; an earlier job stays until `finish`.

        Returns:
            The job with the folder of its parts.

        Raises:
            ValueError: When the job to resume has other settings.
        """
        found = self.job()
        if found is not None and resume:
            if found.key != job.key:
                before, after = ({**j.settings, 'shard_size': j.shard_size, 'classes': j.classes} for j in (found, job))
                raise ValueError(
                    f'{self.files.name} holds a job with other settings ({differences(before, after)}): resume it with '
                    'these, or discard it with --overwrite (in Python overwrite=True)'
                )
            self.files.remove_temporary(found.folder)
            return found
        old = self._read_job(JOB)
        job = replace(job, folder=next(name for name in _FOLDERS if old is None or name != old.folder))
        # Parts of an unfinished job that was to replace the old one.
        self.files.remove(job.folder)
        self._write_job(JOB if old is None else UNFINISHED, job)
        return job

    def finish(self, job: Job) -> None:
        """Remove the job that this one, of which all parts exist, replaces."""
        if self._read_job(UNFINISHED) is not None:
            self._write_job(JOB, job)
            self.files.remove_file(UNFINISHED)
        for name in _FOLDERS:
            if name != job.folder:
                self.files.remove(name)

    def existing(self, job: Job) -> set[str]:
        """List the files of parts, below the folder of the job."""
        return {f'{job.folder}/{name}' for name in self.files.names(job.folder)}

    def finished(self, job: Job, progress: bool = False) -> dict[int, PartSummary]:
        """Read the metadata of the finished parts; damaged ones are left out with a warning.

        Args:
            job: The job.
            progress: Show a progress bar on stderr.

        Raises:
            ShardError: When a part is of another job.
            OSError: When a part cannot be read.
        """
        existing = self.existing(job)
        parts = [part for part in range(job.parts) if job.file_of(part) in existing]
        bar = tqdm(parts, 'finished parts', unit='part', disable=not progress, delay=SECONDS)
        known = {part: self.about(job, part) for part in bar}
        return {part: about for part, about in known.items() if about is not None}

    def about(self, job: Job, part: int) -> PartSummary | None:
        """Read the metadata of a part; None when it is missing, or, with a warning, damaged.

        Raises:
            ShardError: When it is a part of another job.
            OSError: When it cannot be read; a part that a store does not return is not damaged.
        """
        name = job.file_of(part)
        try:
            content = self.files.read_end(name, _END)
            if (missing := missing_bytes(content)) > 0:
                content = self.files.read_end(name, len(content) + missing)
            about = read_about(content, self.files.name_of(name))
        except FileNotFoundError:
            return None
        except DamagedShard as e:
            logger.warning('%s', e)
            return None
        self._check(job, part, about)
        return about

    def write(self, job: Job, part: int, ids: Sequence[str], results: Sequence[Result]) -> PartSummary:
        """Write a part, and return its metadata.

        Raises:
            OutputError, StoreError: When it cannot be written.
        """
        records = [result for result in results if not isinstance(result, str)]
        objects = sum(len(record.objects) for record in records)
        unavailable = sum(isinstance(result, NotReturned) for result in results)
        about = PartSummary(job.key, part, len(results), len(records), objects, unavailable)
        rows = [row_of(image_id, result, job.classes) for image_id, result in zip(ids, results, strict=True)]
        self.files.write(job.file_of(part), encode(rows, about))
        return about

    def rows(self, job: Job, parts: Iterable[int]) -> Iterator[tuple[str, Result]]:
        """Read the id, and the record or error, of each image of some parts.

        Raises:
            ShardError: When a part is missing, damaged, or of another job.
        """
        for part in parts:
            name = self.files.name_of(job.file_of(part))
            try:
                content = self.files.read(job.file_of(part))
            except FileNotFoundError as e:
                raise ShardError(f'{name} is missing: {how_to_resume(job, self.files.name)}') from e
            about, rows = decode(content, name)
            self._check(job, part, about)
            for row in rows:
                with reading(name, ShardError, 'remove it, then continue the job with --resume'):
                    result = record_of(row)
                yield row['id'], result

    def _check(self, job: Job, part: int, about: PartSummary) -> None:
        if (about.job, about.part, about.images) != (job.key, part, len(job.indices(part))):
            raise ShardError(
                f'{self.files.name_of(job.file_of(part))} is a part of another job: discard all with --overwrite, or '
                'move it away and continue the job with --resume'
            )


def how_to_resume(job: Job, where: str) -> str:
    """Return the command that labels the missing parts.

    Args:
        job: The job.
        where: Its folder, or its URL without keys.
    """
    images = shlex.join(job.sources) or 'IMAGES'
    options = shlex.join(['--model', job.model_name, '--ray', '--resume', '-o', where])
    keys = ' (with the keys of the URLs, which are not stored)' if job.left_out else ''
    return f'continue the job with its options{keys}: fcam-zoo predict {images} {options}'
