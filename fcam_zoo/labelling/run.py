"""Label any number of images in constant memory; a killed run can be resumed."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .._schema import show
from ..data.images import open_image
from ..data.sources import ImageSource
from ..errors import FcamZooError, StoreReadError
from ..inference import warn_if_untrained
from ..models import FCAM
from .formats import FORMATS, Format
from .inputs import find_inputs
from .journal import Journal
from .labeller import LabelledImage
from .loading import LoadedImage, NotReturned
from .options import LabelOptions
from .output import OutputFolder, lock, output_errors
from .pipeline import Pipeline, Result

logger = logging.getLogger(__name__)

MAX_LOST = 32
"""A run ends when its store has not returned as many images in a row. At the end, when images are tried again, it goes
on: a store may refuse some objects forever."""


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        labelled: Images that were labelled.
        objects: Objects found in them.
        errors: One line for each image or argument that could not be read.
        files: Main file or folder of each format.
    """

    labelled: int
    objects: int
    errors: tuple[str, ...]
    files: tuple[Path, ...]


def label_images(
    model: FCAM,
    images: ImageSource | str | os.PathLike | Iterable[str | os.PathLike],
    output: str | os.PathLike,
    options: LabelOptions | None = None,
) -> Summary:
    """Localize images and write annotations.

    Each format has its own folder in `output`, for example `coco/annotations.json`. The folders appear at the end
    of the run; nothing else in `output` changes, except the state in `.fcam_zoo`. An unreadable image is reported and
    left out. `resume` continues a killed run and ends with the same files as an uninterrupted one.

    Args:
        model: Runs on its own device in eval mode; its mode is restored.
        images: A source, or what `fcam_zoo.data.open_source` takes: files, folders, patterns, lists, URLs and shards.
            Images in `output` are left out.
        output: Output folder, created if needed.
        options: Formats and settings. Default: `LabelOptions()`.

    Raises:
        FileNotFoundError: When no image is found.
        FileExistsError: When `output` holds results of one of the formats, or an unfinished run, and neither
            `overwrite` nor `resume` is given.
        ValueError: For an argument out of range, images in a folder that would be replaced, images that would share an
            output file, or settings that differ from those of the run to resume.
        BlockingIOError: When another run is writing to `output`.
        OutputError: When a file cannot be written.
        StoreReadError: When a store does not return `MAX_LOST` images in a row; `resume` continues the run.
        FcamZooError: When the network needs more memory than there is, or returns NaN.
    """
    options = options or LabelOptions()
    if not isinstance(options, LabelOptions):
        raise TypeError(f'options is {show(options)}: give LabelOptions(...)')
    if not isinstance(output, (str, os.PathLike)) or '\0' in str(output):
        raise TypeError(f'output is {show(output)}: give the path of a folder')
    output = Path(output)
    warn_if_untrained(model)
    pipeline = Pipeline.for_model(model, find_inputs(images, output, options.progress), options)
    source, classes = pipeline.labeller.source, pipeline.labeller.classes
    folder = OutputFolder(output, options.formats)
    folder.check_inputs(source.local_files())
    writers = [FORMATS[f](folder.new / f, classes, options.model_name, source) for f in folder.formats]
    for writer in writers:
        writer.check_files()
    settings = {**pipeline.settings, 'model_name': options.model_name, 'formats': sorted(folder.formats)}
    with output_errors(), lock(output):
        with closing(_open_journal(folder, settings, options)) as journal:
            journal.check(source.ids, len(classes), complete=folder.complete.exists())
            if not folder.complete.exists():
                _Run(pipeline, writers, journal).label_rest(options.progress)
                for writer in writers:
                    writer.finish(journal.records)
                folder.new.rename(folder.complete)
            summary = _summary(journal, source.problems, [output / f / FORMATS[f].main_file for f in folder.formats])
        folder.publish()
    return summary


def _summary(journal: Journal, problems: Sequence[str], files: Sequence[Path]) -> Summary:
    images = objects = 0
    errors = list(problems)
    for result in journal.results():
        if isinstance(result, str):
            errors.append(result)
        else:
            images += 1
            objects += len(result.objects)
    return Summary(images, objects, tuple(errors), tuple(files))


def _open_journal(folder: OutputFolder, settings: dict[str, Any], options: LabelOptions) -> Journal:
    """Continue the unfinished run or start a new one; a run without a finished batch does not count as unfinished."""
    journal = Journal(folder.journal)
    if journal.done and options.resume:
        if differences := journal.differences(settings):
            raise ValueError(
                f'{folder.path} holds an unfinished run with other settings ({differences}): resume it with these, or '
                'discard it with --overwrite (in Python overwrite=True)'
            )
    elif journal.done and not options.overwrite:
        raise FileExistsError(
            f'{folder.path} holds an unfinished run: continue it with --resume (in Python resume=True), or discard it '
            'with --overwrite (overwrite=True)'
        )
    else:
        folder.check_results(options.overwrite, options.resume)
        folder.discard_unfinished()
        journal = Journal(folder.journal)
    journal.open(settings)
    return journal


class _LostImages:
    """Ends a run whose store no longer returns images; a later run can read them."""

    def __init__(self) -> None:
        self._is_told, self._in_a_row = False, 0

    def count(self, results: Sequence[Result]) -> None:
        """Count the images that were not returned; log the first.

        Raises:
            StoreReadError: After `MAX_LOST` in a row.
        """
        for result in results:
            if not isinstance(result, NotReturned):
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            if not self._is_told:
                self._is_told = True
                logger.warning('%s; such images are tried again at the end', result)
            if self._in_a_row == MAX_LOST:
                raise StoreReadError(
                    f'the store did not return {MAX_LOST} images in a row ({result}): when it answers, continue with '
                    '--resume (in Python resume=True)'
                )


@dataclass(frozen=True)
class _Run:
    pipeline: Pipeline
    writers: Sequence[Format]
    journal: Journal

    @property
    def source(self) -> ImageSource:
        return self.pipeline.labeller.source

    def label_rest(self, progress: bool) -> None:
        """Label the images after those in the journal."""
        for writer in self.writers:
            writer.start()
        total, done = len(self.source), self.journal.done
        bar = tqdm(total=total, initial=done, unit='image', disable=not progress)
        lost = _LostImages()
        with bar, closing(self._batches(range(done, total))) as batches:
            for results in batches:
                self.journal.add(results)
                bar.update(len(results))
                lost.count(results)
        self._try_again()

    def _try_again(self) -> None:
        """Label the images that their store did not return; what it does not return now either is an error."""
        if not (images := sorted(self.journal.unavailable)):
            return
        with closing(self._batches(images)) as batches:
            results = (result for batch in batches for result in batch)
            for index, result in zip(images, results):
                self.journal.add_second(index, result)

    def _batches(self, indices: Sequence[int]) -> Generator[list[Result], None, None]:
        return self.pipeline.run(indices, self._write, keep=self._draws or self._copies)

    @property
    def _draws(self) -> bool:
        return any(writer.needs_image for writer in self.writers)

    @property
    def _copies(self) -> bool:
        return any(writer.needs_file for writer in self.writers)

    def _write(self, loaded: LoadedImage, labelled: LabelledImage) -> Result:
        """Write the files of an image; returns the error of one that cannot be read again."""
        copies = self._copies and self.source.local_path(loaded.index) is None
        if self._draws or copies:
            # A file, or a large image, is read a second time. When this fails, no format must contain it.
            name = self.source.describe(loaded.index)
            try:
                with io.BytesIO(loaded.content) if loaded.content else self.source.open(loaded.index) as file:
                    image = open_image(file, name=name) if self._draws else None
                    file.seek(0)
                    copy = io.BytesIO(file.read()) if copies else None
            except StoreReadError as e:
                return NotReturned(e)
            except (FcamZooError, OSError) as e:
                return str(e)
            if image is not None and image.size != labelled.record.upright_size:
                return f'{name}: replaced by another image while it was read; run again'
            labelled = replace(labelled, image=image, file=copy)
        for writer in self.writers:
            writer.write(labelled)
        return labelled.record
