"""Label images of a source in order: read, run the network, find objects."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch

from .._threads import started_early, threads
from .._version import __version__
from .._weights import digest
from ..data.sources import ImageSource
from ..inference import InferenceOptions
from ..localization import Postprocessor
from ..models import FCAM
from .budget import PixelBudget
from .labeller import ImageRecord, LabelledImage, Labeller
from .loading import ImageReader, LoadedImage
from .options import LabelOptions

logger = logging.getLogger(__name__)
T = TypeVar('T')

KEPT_BYTES = 64 * 2**20
"""Encoded images of a batch that wait in memory to be drawn or copied; larger ones are read again."""

Result = ImageRecord | str
"""The record of an image, or the error when it could not be read."""

Finish = Callable[[LoadedImage, LabelledImage], Result]


def keep_record(loaded: LoadedImage, labelled: LabelledImage) -> ImageRecord:
    """Return the record of a labelled image."""
    return labelled.record


@dataclass(frozen=True)
class Pipeline:
    """Labels the images of a source.

    Attributes:
        model: Runs on its own device in eval mode; its mode is restored.
        inference: Input sizes and mirroring.
        labeller: Finds the objects, and knows the source.
        batch_size: Images per forward pass.
        workers: Threads that read images; 0 reads them between the batches.
    """

    model: FCAM
    inference: InferenceOptions
    labeller: Labeller
    batch_size: int
    workers: int

    @classmethod
    def for_model(cls, model: FCAM, source: ImageSource, options: LabelOptions) -> Pipeline:
        """Validate the settings for a model and all images of a run.

        Raises:
            ValueError, TypeError: As `Postprocessor.for_model`, `InferenceOptions.for_model` and `Labeller`.
        """
        postprocess = Postprocessor.for_model(
            model, options.threshold, options.class_names, options.multi, options.min_area
        )
        inference = InferenceOptions.for_model(model, options.sizes, options.flip)
        labeller = Labeller(source, postprocess, options.labels)
        return cls(model, inference, labeller, int(options.batch_size), int(options.workers))

    def for_source(self, source: ImageSource) -> Pipeline:
        """Return the same pipeline for other images, with the same classes."""
        return replace(self, labeller=self.labeller.for_source(source))

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the results depend on, as JSON values."""
        source = self.labeller.source
        return {
            'version': __version__,
            'weights': f'SHA-256 {digest(self.model.state_dict())}',
            'images': f'{len(source)} with SHA-256 {source.digest}',
            'labels': 'folder' if self.labeller.by_folder else 'predicted',
            'batch_size': self.batch_size,
            **asdict(self.labeller.postprocess),
            **asdict(self.inference),
        }

    def run(
        self, indices: Sequence[int], finish: Finish = keep_record, *, keep: bool = False
    ) -> Generator[list[Result], None, None]:
        """Label images, and yield the results batch by batch, in order.

        Closing the generator waits for what the threads are doing: for a store that does not answer, up to
        `store_reader.SECONDS_OF_TRIES` and one time limit of a request. With several batches, a CPU has two networks at
        the same time, with half of torch's threads each.

        Args:
            indices: Images of the source. Equal batches give equal results.
            finish: Called for each labelled image, by threads, while the network runs on the next batch.
            keep: Give `finish` the encoded images that are not files of this machine.
        """
        budget = PixelBudget()  # For reading and finishing together.
        kept = KEPT_BYTES // self.batch_size if keep else 0
        reader = ImageReader(self.labeller.source, self.inference, budget, kept)
        with (
            _networks(self.model, math.ceil(len(indices) / self.batch_size)) as models,
            threads(max(1, self.workers)) as pool,
            threads(models.qsize()) as networks,
        ):
            most = models.qsize()
            ahead = 1 + math.ceil(2 * self.workers / self.batch_size)  # A batch, and two images per thread.
            batches = reader.read_batches(indices, self.batch_size, pool if self.workers else None, ahead)

            def finish_image(loaded: LoadedImage, score_map: np.ndarray, probs: np.ndarray) -> Result:
                with budget.reserve(loaded.size[0] * loaded.size[1]):
                    return finish(loaded, self.labeller.label(loaded, score_map, probs))

            def start(batch: Sequence[LoadedImage | str]) -> list[Future[Result] | str]:
                outputs = self._outputs(models, [image for image in batch if isinstance(image, LoadedImage)])
                return [
                    image if isinstance(image, str) else pool.submit(finish_image, image, *next(outputs))
                    for image in batch
                ]

            # With one network in this thread: each new thread may have memory of its own, which is kept when it ends.
            jobs = (_done(start(batch)) if most == 1 else networks.submit(start, batch) for batch in batches)
            for job in started_early(jobs, most):
                yield [result if isinstance(result, str) else result.result() for result in job.result()]

    def _outputs(self, models: SimpleQueue[FCAM], batch: list[LoadedImage]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Run a free network: map (s,s) and class probabilities (K,) of each image."""
        if not batch:
            return iter(())
        model = models.get()
        try:
            maps, probs = self.inference.run(model, [image.views for image in batch])
        finally:
            models.put(model)
        return zip(maps.numpy(), probs.numpy())


def _done(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future


class _HalfOfTheThreads:
    """Halves the number of torch's threads until the last of the runs that need it ends."""

    def __init__(self) -> None:
        self._lock, self._runs, self._threads = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        with self._lock:
            if self._runs == 0:
                self._threads = torch.get_num_threads()
                torch.set_num_threads(max(1, self._threads // 2))
            self._runs += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                torch.set_num_threads(self._threads)


_half_of_the_threads = _HalfOfTheThreads()


@contextmanager
def _networks(model: FCAM, batches: int) -> Iterator[SimpleQueue[FCAM]]:
    """Return the model, for several batches on a CPU with several threads also a copy, for two batches at a time.

    Each uses half of torch's threads. Small layers do not get faster with more threads; and torch's threads wait for
    each other at the end of each layer without giving their core to the threads that read images, which took more
    processor time than the layers themselves. benchmarks/results/allocation.md has measurements.
    """
    models: SimpleQueue[FCAM] = SimpleQueue()
    models.put(model)
    is_useful = batches > 1 and torch.get_num_threads() > 1 and next(model.parameters()).device.type == 'cpu'
    if not is_useful or (twin := _copied(model)) is None:
        yield models
        return
    models.put(twin)
    with _half_of_the_threads:
        yield models


def _copied(model: FCAM) -> FCAM | None:
    """Copy a model; None if it holds something that cannot be copied, such as a tensor with a graph."""
    try:
        return deepcopy(model)
    except (RuntimeError, TypeError) as e:
        logger.info('one network labels: the model cannot be copied (%s)', e)
        return None
