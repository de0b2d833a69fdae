"""Label a large collection of images on a Ray cluster; a killed job can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from .._schema import describe_error, show
from ..data import ImageSource, open_source
from ..data.paths import as_texts
from ..data.sources.parquet import import_pyarrow
from ..inference import warn_if_untrained
from ..models import FCAM
from .cluster import (
    ClusterOptions,
    RayError,
    Share,
    actor_options,
    connected,
    count_tries,
    import_ray,
    share_devices,
    tolerant,
    warn_if_busy,
)
from .inputs import find_inputs, public_places, with_absolute_paths
from .job_files import JobFiles
from .options import LabelOptions
from .output import lock, output_errors
from .pipeline import Pipeline
from .ray_workers import KEPT_ERRORS, PartLabeller, Report, part_rows, put_pipeline
from .rows import PartSummary
from .shards import Job, ShardFolder

SHARD_SIZE = 1024
"""Images per part of a large job: a file of about 2 MB, and the most that a worker does again after a failure."""

TRIES = 3
"""How often a part is begun; only the death of a process or a node ends a try early."""

_ROUNDS = 3


@dataclass(frozen=True)
class JobSummary:
    """The result of a job.

    Attributes:
        images: Images of the job, without those that were left out before it started.
        labelled: Images that were labelled.
        objects: Objects found in them.
        error_count: Images that could not be read, in finished parts, and arguments that were left out.
        errors: The first errors, one line each.
        failed: Why each missing part failed, by its number; `resume` tries them again.
        shards: Folder or URL of the Parquet files.
        unavailable: Images that their store did not return, among those that could not be read; `resume` tries them
            again.
    """

    images: int
    labelled: int
    objects: int
    error_count: int
    errors: tuple[str, ...]
    failed: dict[int, str]
    shards: str
    unavailable: int


def label_on_ray(
    model: FCAM,
    images: ImageSource | str | os.PathLike | Iterable[str | os.PathLike],
    output: str | os.PathLike,
    options: LabelOptions | None = None,
    cluster: ClusterOptions | None = None,
) -> JobSummary:
    """Localize images on a Ray cluster, and write Parquet files with a row per image (see `rows.schema`).

    The images are divided into parts of consecutive images. Each part is a file, `shards/part-000012.parquet`, which
    appears whole. An unreadable image is a row with its error. When a worker or a node is lost, its part is labelled
    again; a part that fails in every try is reported, and the others are finished. `resume` labels the missing parts.
    `export_labels` converts the files to annotation formats.

    Args:
        model: On any device; each worker gets a copy.
        images: A source, or what `fcam_zoo.data.open_source` takes. All nodes must be able to read it.
        output: Folder, or a URL that fsspec knows (`s3://bucket/labels`). All nodes must be able to write to it.
        options: Settings; `formats` and `workers` are not used: see `export_labels` and `ClusterOptions.readers`.
        cluster: Address, number of workers, images per part. Default: Ray on this machine.

    Raises:
        FileNotFoundError: When no image is found.
        FileExistsError: When `output` holds a job, and neither `overwrite` nor `resume` is given.
        ValueError: For an argument out of range, or settings that differ from those of the job to resume.
        BlockingIOError: When another process is writing to the folder `output`.
        ImportError: Without the extra `ray`.
        RayError: When there is no cluster, it has no device for the workers, or they cannot start.
        StoreError, OutputError: When `job.json` cannot be written.
    """
    options, cluster = options or LabelOptions(), cluster or ClusterOptions()
    if not isinstance(output, (str, os.PathLike)) or '\0' in str(output):
        raise TypeError(f'output is {show(output)}: give the path of a folder, or a URL')
    import_ray()
    import_pyarrow('ray')
    warn_if_untrained(model)
    folder = ShardFolder(output)
    found = folder.check(options.overwrite, options.resume)
    given = [] if isinstance(images, ImageSource) else as_texts(images)
    images = images if isinstance(images, ImageSource) else given
    if folder.files.is_local:
        source = find_inputs(images, Path(folder.files.where), options.progress)
    else:
        source = open_source(images, progress=options.progress)
    pipeline = Pipeline.for_model(model, with_absolute_paths(source), options)
    with connected(cluster.address) as ray, tolerant(ray), output_errors(), _locked(folder.files):
        nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
        share = share_devices(nodes, cluster.workers, cluster.device)
        warn_if_busy(ray.available_resources(), share)
        pipeline = replace(pipeline, workers=share.readers if cluster.readers is None else cluster.readers)
        size = found.shard_size if found and options.resume else None
        size = _shard_size(cluster.shard_size or size or _default_size(len(source), share), options.batch_size)
        names = list(pipeline.labeller.classes)
        job = Job(pipeline.settings, len(source), size, names, options.model_name, *public_places(given))
        run = _Run(ray, folder, folder.start(job, options.resume), share)
        run.label_rest(pipeline, options.progress)
        return run.summary(source.problems)


def _default_size(images: int, share: Share) -> int:
    return min(SHARD_SIZE, -(-images // (4 * share.workers)))


def _shard_size(wanted: int, batch_size: int) -> int:
    """Round up to whole batches: with the batches of `label_images`, the results are equal."""
    return -(-wanted // batch_size) * batch_size


def _locked(files: JobFiles) -> Any:
    """Lock a folder; stores have no locks, but two equal jobs write equal files."""
    return lock(Path(files.where)) if files.is_local else nullcontext()


@dataclass
class _Run:
    ray: ModuleType
    folder: ShardFolder
    job: Job
    share: Share
    done: dict[int, PartSummary] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)

    def label_rest(self, pipeline: Pipeline, progress: bool) -> None:
        """Label the missing parts, in several rounds: Ray drops a part when a worker or a node dies repeatedly."""
        finished = self.folder.finished(self.job, progress)
        # Parts with images that their store did not return are labelled again; if that fails, the old ones are kept.
        self.done = {part: about for part, about in finished.items() if not about.unavailable}
        self._read_errors()
        initial = sum(about.images for about in self.done.values())
        with tqdm(total=self.job.images, initial=initial, unit='image', disable=not progress) as bar:
            if self._missing():
                self._label_missing(pipeline, bar)
        for part in self._missing():
            self.failed.setdefault(part, 'Ray lost it repeatedly')
        if not self.failed:
            self.folder.finish(self.job)

    def _label_missing(self, pipeline: Pipeline, bar: tqdm) -> None:
        reference, tries = put_pipeline(self.ray, pipeline), count_tries(self.ray, TRIES)
        for _ in range(_ROUNDS):
            known, parts = len(self.done), [part for part in self._missing() if part not in self.given_up]
            if not parts:
                return
            rows = part_rows(pipeline.labeller.source, self.job, parts)
            for report in self._reports(rows, reference, tries):
                self._take(report)
                bar.update(report.images)
            self._check_files(parts)
            bar.n = sum(about.images for about in self.done.values())
            # Without progress, another round would fail in the same way; parts without a reason were lost.
            if len(self.done) == known and self.failed.keys() >= set(self._missing()):
                return

    def _missing(self) -> list[int]:
        return [part for part in range(self.job.parts) if part not in self.done]

    def _reports(self, parts: list[dict[str, Any]], reference: Any, tries: Any) -> Iterator[Report]:
        """Label parts, given by their rows; yields a report for each, except those that Ray dropped."""
        share = replace(self.share, workers=min(self.share.workers, len(parts)))
        arguments = (reference, self.folder.files.where, self.job, share.device, share.threads, tries)
        rows = self.ray.data.from_items(parts, override_num_blocks=len(parts))
        rows = rows.map_batches(
            PartLabeller, fn_constructor_args=arguments, batch_size=1, **actor_options(self.ray, share)
        )
        try:
            for row in rows.iter_rows():
                yield Report(**json.loads(row['report']))
        except self.ray.exceptions.RayError as e:
            raise RayError(
                f'the workers cannot start or continue ({describe_error(e)}): check that fcam-zoo[ray] of this version '
                'is installed on all nodes, then continue with --resume'
            ) from e

    def _take(self, report: Report) -> None:
        if report.failure:
            self.failed[report.part] = report.failure
            if report.is_final:
                self.given_up.add(report.part)
            return
        self.failed.pop(report.part, None)
        self.errors += report.errors[: KEPT_ERRORS - len(self.errors)]
        counts = (report.images, report.labelled, report.objects, report.unavailable)
        self.done[report.part] = PartSummary(self.job.key, report.part, *counts)

    def _check_files(self, parts: list[int]) -> None:
        """Count the parts whose report was lost with a node, and check that this machine sees those of all nodes."""
        existing = self.folder.existing(self.job)
        for part in parts:
            exists = self.job.file_of(part) in existing
            if part in self.done and not exists:
                raise RayError(
                    f'{self.folder.files.name_of(self.job.file_of(part))} was written by a worker, but does not exist '
                    'here: the nodes do not share this folder; choose one on a shared disk, or a URL such as s3://bucket/labels'
                )
            if exists and part not in self.done and (about := self.folder.about(self.job, part)):
                self.done[part] = about
                self.failed.pop(part, None)

    def _read_errors(self) -> None:
        """Read the first errors of the parts that an earlier run finished."""
        parts = (part for part, about in self.done.items() if about.labelled < about.images)
        for _, result in self.folder.rows(self.job, parts):
            if len(self.errors) == KEPT_ERRORS:
                return
            if isinstance(result, str):
                self.errors.append(result)

    def summary(self, problems: tuple[str, ...]) -> JobSummary:
        """Count images, objects and errors of all finished parts."""
        labelled = sum(about.labelled for about in self.done.values())
        unread = sum(about.images for about in self.done.values()) - labelled
        return JobSummary(
            images=self.job.images,
            labelled=labelled,
            objects=sum(about.objects for about in self.done.values()),
            error_count=len(problems) + unread,
            errors=(*problems, *self.errors)[:KEPT_ERRORS],
            failed=dict(sorted(self.failed.items())),
            shards=self.folder.files.name_of(self.job.folder),
            unavailable=sum(about.unavailable for about in self.done.values()),
        )
