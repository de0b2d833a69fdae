"""Label any number of images in constant memory; a killed run can be resumed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .._schema import show
from .._version import __version__
from .._weights import digest
from ..data.images import open_image
from ..data.sources import ImageSource
from ..errors import FcamZooError
from ..inference import InferenceOptions, warn_if_untrained
from ..localization import Postprocessor
from ..models import FCAM
from .budget import PixelBudget
from .formats import FORMATS, Format
from .inputs import find_inputs
from .journal import Journal
from .labeller import ImageRecord, Labeller
from .loading import LoadedImage, explain_worker_death, load_batches
from .options import LabelOptions
from .output import OutputFolder, lock, output_errors


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
        FcamZooError: When a process that reads images dies, memory runs out, or the model returns NaN.
    """
    options = options or LabelOptions()
    if not isinstance(options, LabelOptions):
        raise TypeError(f'options is {show(options)}: give LabelOptions(...)')
    if not isinstance(output, (str, os.PathLike)) or '\0' in str(output):
        raise TypeError(f'output is {show(output)}: give the path of a folder')
    output = Path(output)
    postprocess = Postprocessor.for_model(
        model, options.threshold, options.class_names, options.multi, options.min_area
    )
    inference = InferenceOptions.for_model(model, options.sizes, options.flip)
    warn_if_untrained(model)
    source = find_inputs(images, output)
    labeller = Labeller(source, postprocess, options.labels)
    folder = OutputFolder(output, options.formats)
    folder.check_inputs(source.local_files())
    writers = [FORMATS[f](folder.new / f, labeller.classes, options.model_name, source) for f in folder.formats]
    for writer in writers:
        writer.check_files()
    settings = {
        'version': __version__,
        'weights': f'SHA-256 {digest(model.state_dict())}',
        'images': f'{len(source.ids)} with SHA-256 {source.digest}',
        **{key: getattr(options, key) for key in ('labels', 'model_name')},
        'batch_size': int(options.batch_size),
        'formats': sorted(folder.formats),
        **asdict(postprocess),
        **asdict(inference),
    }
    with output_errors(), lock(output):
        with closing(_open_journal(folder, settings, options)) as journal:
            journal.check(source.ids, len(labeller.classes), complete=folder.complete.exists())
            if not folder.complete.exists():
                with explain_worker_death():
                    _Run(model, source, inference, labeller, writers, journal, options).label_rest()
                for writer in writers:
                    writer.finish(journal.records)
                folder.new.rename(folder.complete)
            objects = [len(record.objects) for record in journal.records()]
            errors = (*source.problems, *journal.errors())
        folder.publish()
    files = tuple(output / name / FORMATS[name].main_file for name in folder.formats)
    return Summary(len(objects), sum(objects), errors, files)


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
        folder.check_results(options.overwrite)
        folder.discard_unfinished()
        journal = Journal(folder.journal)
    journal.open(settings)
    return journal


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Create a pool of threads; after an error, jobs that did not start are left out."""
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Run:
    model: FCAM
    source: ImageSource
    inference: InferenceOptions
    labeller: Labeller
    writers: Sequence[Format]
    journal: Journal
    options: LabelOptions
    budget: PixelBudget = field(default_factory=PixelBudget)

    def label_rest(self) -> None:
        """Label the images after those in the journal. Threads finish a batch while the network runs on the next."""
        for writer in self.writers:
            writer.start()
        done, options = self.journal.done, self.options
        indices = range(done, len(self.source))
        bar = tqdm(total=len(self.source), initial=done, unit='image', disable=not options.progress)
        loading = load_batches(self.source, self.inference, indices, options.batch_size, options.workers)
        with bar, _threads(max(1, options.workers)) as pool, closing(loading) as batches:
            previous: list[Future[ImageRecord | str] | str] = []
            for batch in batches:
                outputs = self._outputs([image for image in batch if isinstance(image, LoadedImage)])
                jobs = [
                    image if isinstance(image, str) else pool.submit(self._finish_image, image, *next(outputs))
                    for image in batch
                ]
                self._commit(previous, bar)
                previous = jobs
            self._commit(previous, bar)

    def _outputs(self, batch: list[LoadedImage]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Run the network: map (s,s) and class probabilities (K,) of each image."""
        if not batch:
            return iter(())
        maps, probs = self.inference.run(self.model, [tuple(map(torch.from_numpy, image.views)) for image in batch])
        return zip(maps.numpy(), probs.numpy())

    def _finish_image(self, loaded: LoadedImage, score_map: np.ndarray, probs: np.ndarray) -> ImageRecord | str:
        """Label an image and write its files; returns the error of an unreadable image."""
        with self.budget.reserve(loaded.size[0] * loaded.size[1]):
            return self._label_image(loaded, score_map, probs)

    def _label_image(self, loaded: LoadedImage, score_map: np.ndarray, probs: np.ndarray) -> ImageRecord | str:
        labelled = self.labeller.label(loaded, score_map, probs)
        draws = any(writer.needs_image for writer in self.writers)
        copies = any(writer.needs_file for writer in self.writers) and self.source.local_path(loaded.index) is None
        if draws or copies:
            # The image is read a second time. When this fails, no format must contain it.
            name = self.source.describe(loaded.index)
            try:
                with self.source.open(loaded.index) as file:
                    image = open_image(file, name=name) if draws else None
                    file.seek(0)
                    copy = io.BytesIO(file.read()) if copies else None
            except (FcamZooError, OSError) as e:
                return str(e)
            if image is not None and image.size != labelled.upright.size:
                return f'{name}: replaced by another image while it was read; run again'
            labelled = replace(labelled, image=image, file=copy)
        for writer in self.writers:
            writer.write(labelled)
        return labelled.record

    def _commit(self, jobs: Sequence[Future[ImageRecord | str] | str], bar: tqdm) -> None:
        if jobs:
            self.journal.add([job if isinstance(job, str) else job.result() for job in jobs])
            bar.update(len(jobs))
