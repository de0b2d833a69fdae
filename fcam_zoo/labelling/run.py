"""Label any number of images in flat memory; a run that was killed goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from .._version import __version__
from .._weights import digest
from ..data.images import as_stored, open_image
from ..errors import FcamZooError
from ..inference import Passes
from ..localization import MIN_AREA, Cut, Localization, resize_map
from ..models import FCAM
from ..objects import Threshold
from .formats import FORMATS, Format, Shot
from .inputs import Inputs, find_inputs, refuse_clashes, refuse_overwriting
from .journal import Journal
from .pictures import Picture, batches, dead_workers_told
from .record import Record, items_of
from .state import Written, sole_run


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        labelled: Images that were labelled.
        objects: Objects in them.
        errors: One line for each image or argument that could not be read.
        files: Main file or folder of each format.
        removed: Files of images of an earlier run that are gone, taken away.
    """

    labelled: int
    objects: int
    errors: tuple[str, ...]
    files: tuple[Path, ...]
    removed: int = 0


def label_images(
    model: FCAM,
    images: str | os.PathLike | Iterable[str | os.PathLike],
    output: str | os.PathLike,
    formats: Sequence[str] = ('coco',),
    *,
    threshold: Threshold | None = None,
    class_names: Sequence[str] | None = None,
    labels: Literal['predicted', 'folder'] = 'predicted',
    multi: bool = False,
    min_area: float = MIN_AREA,
    sizes: Sequence[int] | None = None,
    flip: bool = False,
    batch_size: int = 8,
    workers: int = 0,
    name: str = 'fcam',
    progress: bool = False,
    restart: bool = False,
) -> Summary:
    """Localize images and write annotations of them.

    Annotation files appear at the end, whole; files of single images as they are made, each whole. The same call after
    a kill goes on after the last whole batch, and gives the same files. An unreadable image is reported and left out.

    A call with a finished run's output folder labels all images anew: each format named then describes exactly the
    images that are there now. Files of images that are gone are removed, if a run wrote them (`OUT/.fcam_zoo` holds the
    list); nothing else in the folder is overwritten or removed, and formats that are not named stay as they are.

    Args:
        model: An F-CAM; runs where it is.
        images: Files and folders. Ids in annotations are relative to the folder, or to what several have in common.
            What lies in `output` is left out.
        output: Folder, made if needed; nothing is written outside it.
        formats: Of `FORMATS`: 'coco', 'voc', 'yolo', 'csv', 'masks', 'overlays'. Boxes and masks are in the pixels that
            the file stores, in 'yolo' and 'overlays' in those of the picture turned upright by its EXIF orientation.
        threshold: As in `fcam_zoo.localize`, and so are class_names, multi, min_area, sizes and flip.
        labels: Class of the objects: the predicted one, or the class folder that holds the image (first part of its
            id). The confidence is the mean map inside the object, with a predicted class times its probability.
        batch_size: Images a forward pass.
        workers: Processes that read images; 0 reads here.
        name: Name of the model for the files.
        progress: Show a bar on stderr.
        restart: Give up an unfinished run in `output`, whatever its settings, and begin anew.

    Raises:
        FileNotFoundError: When there is no image at all.
        ValueError: For an argument out of its range, an unknown format, an output folder that is one of the images', an
            unfinished run with other settings in it, or images that would share an output file.
        BlockingIOError: When another run is writing to `output`.
        FileExistsError: When a file would be overwritten that no run wrote.
        OSError: When a file cannot be written.
        FcamZooError: When a reading process dies.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}: at least one image a forward pass')
    if workers < 0:
        raise ValueError(f'workers is {workers}: give 0 or more processes')
    output = Path(output)
    cut, passes = Cut.of(model, threshold, class_names, multi, min_area), Passes.of(model, sizes, flip)
    inputs = find_inputs(images, output)
    labeller = _Labeller(inputs, cut, labels)
    writers = make_writers(formats, output, labeller.classes, name, inputs)
    settings = {
        'version': __version__,
        'weights': digest(model.state_dict()),
        'images': inputs.digest,
        'formats': sorted(set(formats)),
        'labels': labels,
        'name': name,
        'batch_size': batch_size,
        **asdict(cut),
        **asdict(passes),
    }
    with sole_run(output), closing(Written(output)) as written:
        for kind, writer in writers.items():
            written.check(kind, chain(writer.summaries, (file for _, file in writer.files(inputs.ids))))
        with closing(Journal(output, settings, lambda record: _intact(writers, record), restart)) as journal:
            with dead_workers_told():
                _run(model, inputs, passes, labeller, writers, written, journal, batch_size, workers, progress)
            written.add((kind, file) for kind, writer in writers.items() for file in writer.summaries)
            files = tuple(writer.finish(journal.records) for writer in writers.values())
            removed = 0
            for kind, writer in writers.items():
                own = writer.files(record.image for record in journal.records())
                removed += written.settle(kind, chain(writer.summaries, (file for _, file in own)), inputs.paths)
            objects = sum(len(record.items) for record in journal.records())
            errors = (*inputs.problems, *journal.errors())
            journal.remove()
    return Summary(journal.done - journal.failed, objects, errors, files, removed)


def _intact(writers: dict[str, Format], record: Record) -> bool:
    return all(
        (writer.output / file).is_file() for writer in writers.values() for _, file in writer.files([record.image])
    )


def make_writers(
    formats: Sequence[str], output: Path, classes: tuple[str, ...], name: str, inputs: Inputs
) -> dict[str, Format]:
    """One writer a format, by its name.

    Raises:
        ValueError: For an unknown format or none, or where two images would share a file, or one would be overwritten.
    """
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or not formats:
        raise ValueError(f'formats is {list(formats)}: choose from {", ".join(FORMATS)}')
    writers = {f: FORMATS[f](output, classes, name, inputs) for f in formats}
    for writer in writers.values():
        refuse_clashes(writer.files(inputs.ids))
    refuse_overwriting(inputs.paths, output, (f for writer in writers.values() for _, f in writer.files(inputs.ids)))
    return writers


class _Labeller:
    """From a map and probabilities to what is kept of an image."""

    def __init__(self, inputs: Inputs, cut: Cut, labels: str) -> None:
        if labels not in ('predicted', 'folder'):
            raise ValueError(f"labels is {labels!r}: choose 'predicted' or 'folder'")
        self.inputs, self.cut, self.by_folder = inputs, cut, labels == 'folder'
        self.classes = _class_folders(inputs) if self.by_folder else cut.names
        for name in self.classes:
            if not name.isprintable() or name != name.strip() or not name:
                raise ValueError(f'the class name {name!r} cannot be written to annotation files: rename it')

    def shot(self, picture: Picture, score_map: np.ndarray, probs: np.ndarray) -> Shot:
        """Full resolution, objects and record of an image."""
        turned = picture.orientation >= 5
        full = resize_map(score_map, picture.size[::-1] if turned else picture.size)
        upright = self.cut.localization(full, probs)
        stored = upright
        if picture.orientation != 1:
            stored = self.cut.localization(as_stored(full, picture.orientation), probs)
        return Shot(Path(self.inputs.paths[picture.index]), self._record(picture, stored, upright), stored, upright)

    def _record(self, picture: Picture, stored: Localization, upright: Localization) -> Record:
        image_id = self.inputs.ids[picture.index]
        label = self.classes.index(image_id.split('/')[0]) if self.by_folder else stored.class_index
        certainty = 1.0 if self.by_folder else stored.score
        return Record(
            image_id,
            label,
            stored.label,
            stored.class_index,
            round(stored.score, 6),
            stored.size,
            items_of(stored, certainty),
            upright.size,
            items_of(upright, certainty),
        )


def _class_folders(inputs: Inputs) -> tuple[str, ...]:
    for image_id in inputs.ids:
        if '/' not in image_id:
            raise ValueError(f"labels='folder': {image_id} lies in no class folder of {inputs.root}; put it in one")
    return tuple(sorted({image_id.split('/')[0] for image_id in inputs.ids}))


def _run(
    model: FCAM,
    inputs: Inputs,
    passes: Passes,
    labeller: _Labeller,
    writers: dict[str, Format],
    written: Written,
    journal: Journal,
    batch_size: int,
    workers: int,
    progress: bool,
) -> None:
    """The images that are left. While the network looks at a batch, threads finish the one before."""

    draws = any(writer.draws for writer in writers.values())

    def finish(picture: Picture, score_map: np.ndarray, probs: np.ndarray) -> Record | str:
        shot = labeller.shot(picture, score_map, probs)
        if draws:  # It is read again, and may be gone by now; then no format is to have it.
            try:
                shot = replace(shot, picture=open_image(shot.path))
            except (FcamZooError, OSError) as e:
                return str(e)
            if shot.picture.size != shot.upright.size:
                return f'{shot.path}: replaced by another image while it was read; run again'
        for writer in writers.values():
            writer.write(shot)
        return shot.record

    def commit(jobs: list[Future[Record | str] | str]) -> None:
        results = (job if isinstance(job, str) else job.result() for job in jobs)
        entries = [{'error': result} if isinstance(result, str) else result for result in results]
        journal.add(entries)
        bar.update(len(entries))

    bar = tqdm(total=len(inputs.paths), initial=journal.done, unit='image', disable=not progress)
    with bar, ThreadPoolExecutor(max(1, workers)) as pool:
        before: list[Future[Record | str] | str] = []
        for batch in batches(inputs.paths, passes, journal.done, batch_size, workers):
            good = [picture for picture in batch if not picture.error]
            ids = [inputs.ids[picture.index] for picture in good]
            written.add((kind, file) for kind, writer in writers.items() for _, file in writer.files(ids))
            views = [tuple(map(torch.from_numpy, picture.views)) for picture in good]
            results = iter(zip(*(t.numpy() for t in passes.run(model, views)))) if good else iter(())
            jobs: list[Future[Record | str] | str] = []
            for picture in batch:
                if picture.error:
                    jobs.append(picture.error)
                else:
                    jobs.append(pool.submit(finish, picture, *next(results)))
            if before:
                commit(before)
            before = jobs
        if before:
            commit(before)
