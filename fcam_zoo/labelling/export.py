"""Annotation files from the Parquet files of a job."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from .._io import one_line
from .._schema import show
from ..data import ImageSource, image_size, open_source
from ..data.sources.base import is_writable
from ..data.sources.urls import is_url, public_url
from ..errors import ImageError
from .formats import FORMATS, Format
from .journal import Journal
from .labeller import ImageRecord, LabelledImage
from .output import OutputFolder, lock, output_errors
from .rows import ShardError
from .run import Summary
from .shards import SECONDS, Job, ShardFolder, how_to_resume

_SHOWN = 3


def export_labels(
    shards: str | os.PathLike,
    output: str | os.PathLike,
    formats: Sequence[str] = ('coco',),
    *,
    source: ImageSource | str | os.PathLike | Iterable[str | os.PathLike] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Summary:
    """Convert the Parquet files of a job to the annotation files of `label_images`.

    Args:
        shards: Output of `label_on_ray`: a folder or a URL.
        output: Output folder, created if needed.
        formats: One or more of 'coco', 'voc', 'yolo', 'csv', 'masks'.
        source: The images, which only 'yolo' needs. Default: where the job found them.
        overwrite: Replace earlier results of these formats.
        progress: Show a progress bar on stderr.

    Raises:
        FileNotFoundError: When `shards` holds no job, or an image that 'yolo' needs is missing.
        FileExistsError: When `output` holds results of one of the formats and `overwrite` is False.
        ShardError: When a part of the job is missing, damaged or of another job, or two rows have the same id.
        ValueError: For an unknown format, 'overlays', or images that would share an output file.
        ImageError: When an image that 'yolo' needs cannot be read, or has changed.
        OutputError: When a file cannot be written.
    """
    _check_formats(formats)
    job_folder, folder = ShardFolder(shards), OutputFolder(Path(output), formats)
    job = job_folder.job()
    if job is None:
        raise FileNotFoundError(f'{job_folder.files.name} holds no job: give the output of fcam-zoo predict --ray')
    _check_complete(job_folder, job)
    rows = _Rows(job_folder, job)
    with output_errors(), lock(folder.path):
        folder.check_results(overwrite)
        if Journal(folder.journal).done and not overwrite:
            raise FileExistsError(f'{folder.path} holds an unfinished run: resume it, or choose another output folder')
        ids, errors = rows.check(progress)
        images = _images_of(job, ids, source, job_folder, progress) if 'yolo' in formats else _NoImages(ids)
        names = tuple(job.classes)
        writers = [FORMATS[f](folder.new / f, names, job.model_name, images) for f in folder.formats]
        for writer in writers:
            writer.check_files()
        folder.discard_unfinished()
        objects = _write(writers, rows, len(ids) - len(errors), progress)
        folder.new.rename(folder.complete)
        folder.publish()
    files = tuple(folder.path / name / FORMATS[name].main_file for name in folder.formats)
    return Summary(len(ids) - len(errors), objects, errors, files)


def check_export(output: str, formats: Sequence[str], replace: bool) -> None:
    """Check before a job that its labels can be exported to its own folder.

    Args:
        output: The folder.
        formats: Names of formats.
        replace: Whether earlier results of these formats are replaced.

    Raises:
        FileExistsError: When it holds results of one of the formats and `replace` is False, or an unfinished run of
            `label_images`, which the export would discard.
        ValueError: For an unknown format, 'overlays', or a URL.
    """
    _check_formats(formats)
    if is_url(output):
        raise ValueError(
            f'{public_url(output)} is a URL, and annotation files are written to a folder: run fcam-zoo export-labels '
            'afterwards'
        )
    folder = OutputFolder(Path(output), formats)
    folder.check_results(overwrite=True)
    if not replace and (found := [name for name in folder.formats if (folder.path / name).exists()]):
        command = shlex.join(['fcam-zoo', 'export-labels', output, '-o', output, '--overwrite', '--export', *formats])
        raise FileExistsError(
            f'{folder.path / found[0]} already holds results: choose another output folder, or label without --export, '
            f'then replace them with {command}'
        )
    if Journal(folder.journal).done:
        raise FileExistsError(f'{folder.path} holds an unfinished run: finish it, or choose another output folder')


def _check_formats(formats: Sequence[str]) -> None:
    if 'overlays' in formats:
        raise ValueError(
            'overlays show the maps, which the files of a job do not hold: run fcam-zoo predict --export overlays on '
            'the images'
        )
    if isinstance(formats, str) or not formats or not set(formats) <= set(FORMATS):
        raise ValueError(f'formats is {show(formats)}: choose from {", ".join(f for f in FORMATS if f != "overlays")}')


def _check_complete(folder: ShardFolder, job: Job) -> None:
    existing = folder.existing(job)
    missing = [job.file_of(part) for part in range(job.parts) if job.file_of(part) not in existing]
    if missing:
        names = ', '.join(missing[:_SHOWN]) + ', …' * (len(missing) > _SHOWN)
        where = folder.files.name
        raise ShardError(
            f'{where}: {len(missing)} of {job.parts} parts are missing ({names}): {how_to_resume(job, where)}'
        )


class _Rows:
    """The rows of a job; each call reads them again, so that memory does not grow with their number."""

    def __init__(self, folder: ShardFolder, job: Job) -> None:
        self.folder, self.job = folder, job

    def check(self, progress: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return all ids and all errors, with a progress bar if wanted.

        Raises:
            ShardError: For an id that occurs twice or that annotation files cannot hold, or an unknown class.
        """
        parts: dict[str, int] = {}
        errors: list[str] = []
        bar = tqdm(range(self.job.parts), 'check', unit='part', disable=not progress, delay=SECONDS)
        for part in bar:
            for image_id, result in self.folder.rows(self.job, [part]):
                if not _is_path_below(image_id):
                    raise ShardError(
                        f'{self._name(part)}: {one_line(image_id)} is not the name of an '
                        'image below a folder: label the images again with --overwrite'
                    )
                if image_id in parts:
                    raise ShardError(
                        f'{one_line(image_id)} is in {self.job.file_of(parts[image_id])} and in {self._name(part)}: '
                        'discard the job with --overwrite'
                    )
                parts[image_id] = part
                if isinstance(result, str):
                    errors.append(result)
                elif result.label >= len(self.job.classes):
                    raise ShardError(f'{self._name(part)}: {image_id} has an unknown class')
        return tuple(parts), tuple(errors)

    def _name(self, part: int) -> str:
        return f'{self.job.file_of(part)} of {self.folder.files.name}'

    def records(self) -> Iterator[ImageRecord]:
        """Read all records."""
        results = (result for _, result in self.folder.rows(self.job, range(self.job.parts)))
        return (result for result in results if not isinstance(result, str))


def _is_path_below(image_id: str) -> bool:
    """Return whether an id is a relative path that stays below a folder of this system."""
    path = PurePath(image_id)
    below = not path.anchor and '..' not in path.parts and PurePosixPath(image_id).as_posix() == image_id
    return below and bool(path.name) and is_writable(image_id)


class _NoImages(ImageSource):
    """Names of images whose files are not needed."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids

    def open(self, index: int) -> BinaryIO:
        raise ImageError(f'{self.ids[index]}: its file is unknown; give the source')

    def describe(self, index: int) -> str:
        return self.ids[index]


def _images_of(
    job: Job,
    ids: Sequence[str],
    source: ImageSource | str | os.PathLike | Iterable[str | os.PathLike] | None,
    folder: ShardFolder,
    progress: bool,
) -> ImageSource:
    """Open the images of a job."""
    fix = 'give the images with --source (in Python source=)'
    # '-' was standard input.
    if source is None and (not job.sources or job.left_out or '-' in job.sources):
        raise ValueError(f'yolo copies the images, and the job does not say where they are: {fix}')
    leave_out = folder.files.where if folder.files.is_local else None
    images = open_source(job.sources if source is None else source, leave_out=leave_out, progress=progress)
    if missing := set(ids).difference(images.ids):
        raise FileNotFoundError(
            f'yolo copies the images, but {len(missing)} of {len(ids)} are not there ({one_line(min(missing))}): {fix}'
        )
    return images


def _write(writers: Sequence[Format], rows: _Rows, images: int, progress: bool) -> int:
    """Write all files, and return the number of objects."""
    objects = 0
    for writer in writers:
        writer.start()
    with tqdm(total=images, unit='image', disable=not progress) as bar:
        for record in rows.records():
            labelled = LabelledImage(record, file=_file_of(writers, record))
            for writer in writers:
                writer.write(labelled)
            objects += len(record.objects)
            bar.update()
    for writer in tqdm(writers, 'files of all images', unit='format', disable=not progress, delay=SECONDS):
        writer.finish(rows.records)
    return objects


def _file_of(writers: Sequence[Format], record: ImageRecord) -> BinaryIO | None:
    """Read the image of a record if a format copies it; None for a file of this machine, which formats link.

    Raises:
        ImageError: When it has another size than its labels.
    """
    writer = next((writer for writer in writers if writer.needs_file), None)
    if writer is None:
        return None
    index = writer.indices[record.image]
    name = writer.source.describe(index)
    with writer.source.open(index) as file:
        size = image_size(file, name)
        if size != record.size:
            raise ImageError(
                f'{name}: {size[0]}x{size[1]} pixels, but its labels are of {record.size[0]}x{record.size[1]}; give '
                'the labelled images with --source (in Python source=)'
            )
        if writer.source.local_path(index) is not None:
            return None
        file.seek(0)
        return io.BytesIO(file.read())
