"""Jobs of Parquet files for tests, with and without Ray."""

from __future__ import annotations

import os
import time
from itertools import chain
from pathlib import Path

import torch
from glow import Glow

from fcam_zoo import FCAMOutput
from fcam_zoo.data import open_source
from fcam_zoo.labelling import LabelOptions
from fcam_zoo.labelling.pipeline import Pipeline
from fcam_zoo.labelling.shards import Job, ShardFolder


def make_job(images: Path, output: Path | str, batch_size: int = 2) -> tuple[ShardFolder, Job]:
    """Label images in parts of `batch_size`, as workers of a cluster do."""
    source = open_source(images)
    pipeline = Pipeline.for_model(Glow(), source, LabelOptions(multi=True, batch_size=batch_size))
    names = list(pipeline.labeller.classes)
    job = Job(pipeline.settings, len(source), batch_size, names, 'fcam', [os.fspath(images)])
    folder = ShardFolder(output)
    job = folder.start(job, resume=False)
    for part in range(job.parts):
        indices = job.indices(part)
        results = list(chain.from_iterable(pipeline.run(indices)))
        folder.write(job, part, source.ids[indices.start : indices.stop], results)
    return folder, job


def rows(output: Path | str) -> list:
    """Id, and record or error, of all images of a finished job."""
    folder = ShardFolder(output)
    job = folder.job()
    return list(folder.rows(job, range(job.parts)))


class SlowGlow(Glow):
    """Takes some time for each batch, and leaves the number of its process in a folder."""

    def __init__(self, folder: Path, seconds: float = 0.4) -> None:
        super().__init__()
        self.folder, self.seconds = str(folder), seconds

    def forward(self, x: torch.Tensor) -> FCAMOutput:
        Path(self.folder, str(os.getpid())).touch()
        time.sleep(self.seconds)
        return super().forward(x)


class FailingGlow(Glow):
    """Ends its process at an image that is white, and raises an error at one that is gray."""

    def forward(self, x: torch.Tensor) -> FCAMOutput:
        means = x.mean((1, 2, 3))
        if (means > 0.99).any():
            os._exit(1)
        if ((means > 0.49) & (means < 0.51)).any():
            raise RuntimeError('the device is broken')
        return super().forward(x)
