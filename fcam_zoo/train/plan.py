"""What a training would take, by measuring a few of its steps; nothing is written."""

from __future__ import annotations

import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from .._distributed import process_group
from ..data.base import ImageDataset
from .config import TrainConfig
from .loading import batches
from .loop import StageRun
from .monitor import Monitor
from .run import build_model, check_claim, open_data, resolve_device, stages_of, train_transform
from .validation import selection_of

STEPS = 4


def plan(config: TrainConfig, run_dir: Path) -> dict[str, Any]:
    """Check the data and the settings, and run the first steps of each stage on a model that is thrown away.

    Returns:
        'classes' (name -> images of train), 'images' (split -> images), 'selection' (how the best epoch is chosen),
        'parameters', 'device', 'stages' (name -> 'epochs', 'steps_an_epoch', 'batch_size', 'seconds_a_step' and the
        'hours' of all its steps, loading included and validation not), 'memory_gib' (largest, of the process or, on
        CUDA, of its tensors).

    Raises:
        DatasetError, TrainingError: As `train`.
    """
    check_claim(run_dir, config, resume=False)
    with process_group(config.device) as name:
        device = resolve_device(name)
        train_set, val_set = open_data(config)
        model, keep_head = build_model(config, train_set)
        model.to(device, memory_format=torch.channels_last)
        monitor = Monitor(run_dir, train_set, quiet=True, active=False)
        stages = {}
        for stage_name, make, settings in stages_of(config, model, keep_head):
            train_set.transform = train_transform(config.image_size, settings)
            run = StageRun(make(), config, train_set, lambda stage: None, run_dir / stage_name, monitor)
            seconds = _seconds_a_step(run)
            stages[stage_name] = {
                'epochs': settings.epochs,
                'steps_an_epoch': run.steps,
                'batch_size': run.batch_size,
                'seconds_a_step': round(seconds, 3),
                'hours': round(seconds * run.steps * settings.epochs / 3600, 2),
            }
        return {
            'classes': _class_counts(train_set),
            'images': {'train': len(train_set), 'val': 0 if val_set is None else len(val_set)},
            'selection': selection_of(val_set),
            'parameters': sum(p.numel() for p in model.parameters()),
            'device': str(device),
            'stages': stages,
            'memory_gib': round(_peak_memory(device) / 2**30, 2),
        }


def plan_text(found: dict[str, Any]) -> str:
    """The plan for people."""
    counts = list(found['classes'].values())
    rarest = min(found['classes'], key=found['classes'].__getitem__)
    lines = [
        f'train: {found["images"]["train"]} images of {len(counts)} classes',
        f'images a class: {min(counts)} ({rarest}) to {max(counts)}',
        f'val: {found["images"]["val"]} images; best epoch: {found["selection"]}',
        f'model: {found["parameters"]:,} parameters, on {found["device"]}',
    ]
    for name, stage in found['stages'].items():
        lines.append(
            f'{name}: {stage["epochs"]} epochs of {stage["steps_an_epoch"]} steps of {stage["batch_size"]} images, '
            f'{stage["seconds_a_step"]} s a step: {stage["hours"]} h and validation'
        )
    return '\n'.join([*lines, f'memory: {found["memory_gib"]} GiB'])


def _seconds_a_step(run: StageRun) -> float:
    """Mean time of the steps after the first, which warms up; of that one where there is no other."""
    run.stage.train()
    loader = batches(run.dataset, 1, 0, run.batch_size, run.settings.accumulate, (run.rank, run.world), 0, set())
    times = []
    for _ in range(min(STEPS, run.steps)):
        started = time.perf_counter()
        run.step(1, list(islice(loader, run.settings.accumulate)), [])
        times.append(time.perf_counter() - started)
    later = times[1:] or times
    return sum(later) / len(later)


def _class_counts(dataset: ImageDataset) -> dict[str, int]:
    labels = dataset.labels.tolist()
    return {name: labels.count(label) for label, name in sorted(dataset.class_names.items())}


def _peak_memory(device: torch.device) -> float:
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == 'win32':
        return float('nan')
    # Imported here, since Windows has no such module.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB on Linux.
    return peak if sys.platform == 'darwin' else peak * 1024
