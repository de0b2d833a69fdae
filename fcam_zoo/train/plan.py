"""Estimate a training: check data and settings, and time a few steps. Nothing is written."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from .config import TrainConfig
from .loading import batches
from .loop import StageRun
from .run import check_folder
from .setup import prepare, training_device
from .validation import selection_of

STEPS = 4


@dataclass(frozen=True)
class StagePlan:
    """Cost of a stage, with loading and without validation."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    seconds_per_step: float


@dataclass(frozen=True)
class TrainPlan:
    """Cost of a training; `str()` formats it.

    Attributes:
        classes: Class name -> number of train images.
        val_images: Number of val images, 0 without a val split.
        selection: How the best epoch of the decoder is selected.
        parameters: Number of parameters of the model.
        device: Where the steps were timed.
        stages: Stage name -> its cost.
        memory: Peak memory in bytes, on CUDA of the tensors, otherwise of the process; NaN on Windows.
    """

    classes: dict[str, int]
    val_images: int
    selection: str
    parameters: int
    device: str
    stages: dict[str, StagePlan]
    memory: float

    def __str__(self) -> str:
        rarest = min(self.classes, key=self.classes.__getitem__)
        lines = [
            f'train: {sum(self.classes.values())} images of {len(self.classes)} classes',
            f'images per class: {self.classes[rarest]} ({rarest}) to {max(self.classes.values())}',
            f'val: {self.val_images} images; best epoch: {self.selection}',
            f'model: {self.parameters:,} parameters, on {self.device}',
        ]
        for name, stage in self.stages.items():
            hours = stage.seconds_per_step * stage.steps_per_epoch * stage.epochs / 3600
            lines.append(
                f'{name}: {stage.epochs} epochs of {stage.steps_per_epoch} steps of {stage.batch_size} images, '
                f'{stage.seconds_per_step:.3f} s per step: {hours:.2f} h plus validation'
            )
        return '\n'.join([*lines, f'memory: {self.memory / 2**30:.2f} GiB'])


def plan(config: TrainConfig, run_dir: Path) -> TrainPlan:
    """Check data and settings as `train` does, and time the first steps of each stage on a temporary model.

    Raises:
        DatasetError, TrainingError: As `train`.
    """
    check_folder(run_dir, config, resume=False)
    with training_device(config.device) as device:
        setup = prepare(config, device)
        stages = {}
        for stage in setup.stages():
            run = StageRun(stage, setup, run_dir)
            stages[stage.name] = StagePlan(stage.config.epochs, run.steps, run.batch_size, _time_step(run))
        labels, names = setup.train_set.labels.tolist(), setup.train_set.class_names
        return TrainPlan(
            classes={name: labels.count(label) for label, name in sorted(names.items())},
            val_images=0 if setup.val_set is None else len(setup.val_set),
            selection=selection_of(setup),
            parameters=sum(p.numel() for p in setup.model.parameters()),
            device=str(device),
            stages=stages,
            memory=_peak_memory(device),
        )


def _time_step(run: StageRun) -> float:
    """Return the mean time of a step in seconds. The first step warms up and is left out if there are others."""
    run.stage.train()
    loader = batches(run.dataset, run.batch_size, run.settings.accumulate, epoch=1)
    times = []
    for _ in range(min(STEPS, run.steps)):
        started = time.perf_counter()
        run.step(1, list(islice(loader, run.settings.accumulate)))
        times.append(time.perf_counter() - started)
    later = times[1:] or times
    return sum(later) / len(later)


def _peak_memory(device: torch.device) -> float:
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == 'win32':
        return float('nan')
    # Windows does not have this module.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB on Linux.
    return peak if sys.platform == 'darwin' else peak * 1024
