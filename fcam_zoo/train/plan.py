"""Estimate a training: check data and settings, and time a few steps. Nothing is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path

import torch

from .._io import duration
from .config import TrainConfig
from .loading import batches
from .loop import StageRun
from .run import check_folder
from .setup import Setup, prepare, training_device
from .teacher import NetworkTeacher
from .validation import selection_text

STEPS = 4


def plan(config: TrainConfig, run_dir: Path, auto_epochs: Collection[str] = ()) -> str:
    """Check data and settings as `train` does, and time the first steps of each stage on a temporary model.

    Args:
        config: All settings.
        run_dir: Output folder, which must be free.
        auto_epochs: As for `train`.

    Returns:
        Lines of text: images per class, how the best epoch is selected, size of the model, time of each stage without
        validation, warnings, and peak memory: on CUDA of the tensors, otherwise of the process (NaN on Windows).

    Raises:
        DatasetError, TrainingError: As `train`.
    """
    check_folder(run_dir, config, resume=False)
    with training_device(config.device) as device:
        setup = prepare(config, device, auto_epochs)
        labels = setup.train_set.labels.tolist()
        counts = {name: labels.count(label) for label, name in setup.train_set.class_names.items()}
        lines = [
            f'train: {len(labels)} images of {len(counts)} classes',
            f'images per class: {images_per_class(counts)}',
            f'val: {len(setup.val_set or ())} images; {selection_text(setup)}',
            f'model: {sum(p.numel() for p in setup.model.parameters()):,} parameters, on {device}',
        ]
        for stage in setup.stages():
            run, epochs = StageRun(stage, setup, run_dir), stage.config.epochs
            seconds = _time_step(run)
            lines.append(
                f'{stage.name}: {epochs} epochs of {run.steps} steps of {run.sizes[0]} images, '
                f'{seconds:.3f} s per step: {duration(seconds * run.steps * epochs)} plus validation'
            )
        trains_classifier = config.classifier.epochs or config.decoder.classification_weight
        if trains_classifier and (frozen := config.classifier.frozen_layers):
            lines.append(f'classifier: frozen layers {", ".join(frozen)}')
        if config.teacher.supervision:
            lines.append(f'supervision: {len(setup.images_of("decoder"))} images of train have boxes or masks')
        if isinstance(setup.teacher, NetworkTeacher):
            seconds = _time_maps(setup.teacher, setup, device)
            lines.append(f'teacher: maps of {len(labels)} images, computed once: {duration(seconds * len(labels))}')
        lines += [f'warning: {warning}' for warning in setup.warnings]
        return '\n'.join([*lines, f'memory: {_peak_memory(device) / 2**30:.2f} GiB'])


def images_per_class(counts: Mapping[str, int]) -> str:
    """Describe the number of images per class: '20', or '3 (cat) to 20'."""
    rarest, most = min(counts, key=counts.__getitem__), max(counts.values())
    return str(most) if counts[rarest] == most else f'{counts[rarest]} ({rarest}) to {most}'


def _time_step(run: StageRun) -> float:
    """Return the mean time of a step in seconds. The first step warms up and is left out if there are others."""
    run.stage.train()
    loader = batches(run.dataset, run.sizes, run.settings.accumulate, epoch=1)
    times = []
    for _ in range(min(STEPS, run.steps)):
        started = time.perf_counter()
        run.step(1, list(islice(loader, run.settings.accumulate)))
        times.append(time.perf_counter() - started)
    later = times[1:] or times
    return sum(later) / len(later)


def _time_maps(teacher: NetworkTeacher, setup: Setup, device: torch.device) -> float:
    """Return the time of the map of an image in seconds."""
    side = max(setup.config.teacher.sizes or [setup.config.image_size])
    images = torch.zeros(STEPS, 3, side, side, dtype=torch.uint8, device=device)
    teacher.to(device)
    started = time.perf_counter()
    teacher.maps(images, torch.zeros(STEPS, dtype=torch.int64, device=device))
    return (time.perf_counter() - started) / STEPS


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
