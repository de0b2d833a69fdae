"""Metrics and cost of a model, as the index of released weights stores them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fcam_zoo._index import Metrics
from fcam_zoo.benchmark import evaluate_many
from fcam_zoo.benchmark.descriptions import describe
from fcam_zoo.data.base import ImageDataset
from fcam_zoo.models import FCAM
from fcam_zoo.train import DecoderConfig
from fcam_zoo.train.stages import DecoderStage
from fcam_zoo.train.validation import accuracy, kept_probability


def measure_metrics(
    model: FCAM,
    dataset: ImageDataset,
    maps: Sequence[str],
    thresholds: Mapping[str, float] | None = None,
    quiet: bool = False,
) -> Metrics:
    """Return metrics by kind of map, rounded to three digits.

    With boxes, a second pass over the images adds MaxBoxAccV2 (multi-contour) to the single-contour metrics.

    Args:
        model: The model.
        dataset: A split with boxes or masks.
        maps: Kinds of map.
        thresholds: Kind of map -> threshold chosen on val, to score at this threshold too. Default: the model's own
            for 'fcam'.
        quiet: Show no progress bars.
    """
    kinds = tuple(dict.fromkeys(maps))
    reports = evaluate_many(model, dataset, kinds, threshold=thresholds, rows=False, quiet=quiet)
    metrics = {kind: dict(report.metrics) for kind, report in reports.items()}
    if describe(metrics[kinds[0]]).kind == 'boxes':
        multi = evaluate_many(model, dataset, kinds, multi_contour=True, rows=False, quiet=quiet)
        for kind, report in multi.items():
            metrics[kind]['max_box_acc_v2'] = report.metrics['max_box_acc_v2']
    return {kind: {key: round(value, 3) for key, value in found.items()} for kind, found in metrics.items()}


def measure_labels(model: FCAM, dataset: ImageDataset) -> Metrics:
    """Return what image labels can measure: accuracy, and the probability of the label without the background."""
    stage = DecoderStage(model, DecoderConfig(), 'cam')
    found = {'cls': accuracy(stage, dataset, False), 'kept': kept_probability(stage, dataset, False)}
    return {'fcam': {key: round(value, 3) for key, value in found.items()}}


def val_thresholds(model: FCAM, val: Metrics) -> dict[str, float]:
    """Threshold by kind of map, chosen on val: the model's own for F-CAM, the best one of each other kind."""
    best = {kind: metrics[describe(metrics).best_threshold] for kind, metrics in val.items()}
    return {**best, 'fcam': model.threshold}


def cost_of(model: FCAM, size: int, batch_size: int = 16) -> dict[str, Any]:
    """Return parameters, 10^9 multiplications of a size x size image, and images per second on this machine."""
    x = torch.rand(batch_size, model.in_chans, size, size).to(next(model.parameters()))
    x = x.contiguous(memory_format=torch.channels_last)
    model = model.eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(x[:1])
        model(x)  # Warm up.
        times = []
        for _ in range(3):
            started = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - started)
    return {
        'parameters': sum(p.numel() for p in model.parameters()),
        'gmacs': round(counter.get_total_flops() / 2e9, 3),
        'images_per_second': round(batch_size / sorted(times)[1], 2),
        'threads': torch.get_num_threads(),
    }
