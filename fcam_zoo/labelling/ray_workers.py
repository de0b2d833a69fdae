"""Worker processes of a cluster; each holds the model once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from types import ModuleType
from typing import Any

import cv2
import torch

from .._malloc import keep_freed_memory
from .._schema import describe_error
from ..data import ImageSource
from ..errors import FcamZooError
from .pipeline import Pipeline, Result
from .shards import Job, ShardFolder

logger = logging.getLogger(__name__)

KEPT_ERRORS = 20
"""Number of errors of images that a part reports with their text."""


@dataclass(frozen=True)
class Report:
    """Report of a part.

    Attributes:
        part: Number of the part.
        images: Images in it.
        labelled: Those that could be read.
        objects: Objects in them.
        unavailable: Images that their store did not return.
        errors: The first errors of the others.
        failure: Why the part was not written; empty if it was.
        is_final: Whether no other worker should try.
    """

    part: int
    images: int = 0
    labelled: int = 0
    objects: int = 0
    unavailable: int = 0
    errors: list[str] = field(default_factory=list)
    failure: str = ''
    is_final: bool = False


class PartLabeller:
    """Labels parts of a job and writes their files.

    Args:
        pipeline: Reference to a `Pipeline` in Ray's object store, see `put_pipeline`.
        output: Path or URL of the folder of the job.
        job: The job.
        device: 'cpu' or 'cuda'.
        threads: Threads of torch and OpenCV.
        tries: Handle of the actor that counts tries, see `cluster.count_tries`.
    """

    def __init__(self, pipeline: Any, output: str, job: Job, device: str, threads: int, tries: Any) -> None:
        self.pipeline = load_pipeline(pipeline, device, threads)
        self.folder, self.job, self.tries = ShardFolder(output), job, tries

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Label the part of a row of `part_rows`; the row of the result has a JSON report."""
        import ray

        part, images = int(batch['part'][0]), batch['images'][0] if 'images' in batch else None
        try:
            report = self._label(part, images)
        except (FcamZooError, OSError) as e:
            report = Report(part, failure=describe_error(e))
        except Exception as e:
            # After an error of CUDA, for example, this process cannot do anything else; Ray starts another one.
            logger.exception('part %d', part)
            ray.get(self.tries.note.remote(part, describe_error(e)))
            os._exit(1)
        return {'report': [json.dumps(asdict(report))]}

    def _label(self, part: int, images: ImageSource | None) -> Report:
        import ray

        # Written by an earlier try, whose report was lost with its node.
        about = self.folder.about(self.job, part)
        errors: list[str] = []
        if about is None or about.unavailable:
            if reason := ray.get(self.tries.begin.remote(part)):
                return Report(part, failure=reason, is_final=True)
            if images is None:
                pipeline, indices = self.pipeline, self.job.indices(part)
            else:
                pipeline, indices = self.pipeline.for_source(images), range(len(images))
            ids = pipeline.labeller.source.ids[indices.start : indices.stop]
            results: list[Result] = []
            with closing(pipeline.run(indices)) as batches:
                for batch in batches:
                    results += batch
            about = self.folder.write(self.job, part, ids, results)
            errors = [result for result in results if isinstance(result, str)][:KEPT_ERRORS]
        return Report(part, about.images, about.labelled, about.objects, about.unavailable, errors)


def put_pipeline(ray: ModuleType, pipeline: Pipeline) -> Any:
    """Put a pipeline into Ray's object store: without images, which `part_rows` have, if the source can be divided.

    Its model is on the CPU, because workers may have no GPU.
    """
    if next(pipeline.model.parameters()).device.type != 'cpu':
        pipeline = replace(pipeline, model=deepcopy(pipeline.model).cpu())
    none = pipeline.labeller.source.part(range(0))
    return ray.put(pipeline if none is None else pipeline.for_source(none))


def part_rows(source: ImageSource, job: Job, parts: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each part: its number, and its images if the source can be divided."""
    rows: list[dict[str, Any]] = [{'part': part} for part in parts]
    for row in rows:
        if (images := source.part(job.indices(row['part']))) is not None:
            row['images'] = images
    return rows


def load_pipeline(reference: Any, device: str, threads: int) -> Pipeline:
    """Get a pipeline from Ray's object store, and its model on the device."""
    import ray

    keep_freed_memory()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    pipeline: Pipeline = ray.get(reference)
    pipeline.model.to(device)
    return pipeline
