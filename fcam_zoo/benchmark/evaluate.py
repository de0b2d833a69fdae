"""Score the maps of a model, a function or an array on a data set, in one pass over its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from ..cams import resize
from ._inputs import as_array as to_numpy
from .box_metric import BoxMetric
from .boxes import resize_boxes
from .pixel_ap import PixelAP
from .report import Report, make_report

# Standard deviation of the centre baseline, in units of the side of the map.
CENTER_SIGMA = 0.25

Source = nn.Module | Callable[[torch.Tensor, torch.Tensor], Any] | np.ndarray | torch.Tensor | None


def center_map(size: tuple[int, int]) -> np.ndarray:
    """The centre-Gaussian baseline of Choe et al. (CVPR 2020): an isotropic Gaussian in the middle, (H,W) in [0,1]."""
    y, x = (np.linspace(-0.5, 0.5, n) / CENTER_SIGMA for n in size)
    return np.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2))


def evaluate(source: Source, dataset: Dataset, maps: str = 'fcam', **options: Any) -> Report:
    """Score one kind of map; see `evaluate_many` for the arguments."""
    return evaluate_many(source, dataset, (maps,), **options)[maps]


def evaluate_many(
    source: Source,
    dataset: Dataset,
    maps: Sequence[str] = ('cam', 'fcam'),
    *,
    batch_size: int = 32,
    workers: int = 0,
    device: str | torch.device | None = None,
    thresholds: Sequence[float] | None = None,
    multi_contour: bool = False,
    iou: Sequence[int] = (30, 50, 70),
    limit: int | None = None,
    rows: bool = False,
    quiet: bool = False,
) -> dict[str, Report]:
    """Score several kinds of map with one forward pass of the network an image batch.

    Args:
        source: A model with `encode`, `classify`, `decoder`-like methods of `FCAM`; or a function of raw images uint8
            (B,3,H,W) and labels (B,) that returns maps (B,H,W) in [0,1], or (maps, logits); or an array of maps
            (N,H,W) in the order of the data set; or None for 'center' alone.
        dataset: Items (image uint8 (3,H,W), label, index); `boxes` with `sizes`, or `masks`, as in `data.WSOLDataset`.
        maps: 'fcam' (softmax of the foreground channel, never re-normalised), a CAM method (class map of the true
            label, min-max normalised, resized bilinearly without re-normalising), or 'center'. For a function or an
            array it only names the result.
        batch_size: Images a batch.
        workers: Processes that load images.
        device: Where a model runs; default: where it is.
        thresholds: tau; default 0, 0.001, ... 0.999.
        multi_contour: Best of all contours (MaxBoxAccV2).
        iou: IoU levels in percent.
        limit: Score the first images only.
        rows: Keep a row an image (best IoU at the best tau); costs 4 kB an image with 1000 thresholds.
        quiet: No progress bar.

    Returns:
        A report for each kind of map.

    Raises:
        ValueError: For a data set without ground truth, or an array of another length.
    """
    has_boxes = getattr(dataset, 'boxes', None) is not None
    if not has_boxes and not getattr(dataset, 'masks', None):
        raise ValueError(f'{getattr(dataset, "name", "the data set")} has neither boxes nor masks: nothing to score on')
    total = len(dataset) if limit is None else min(limit, len(dataset))
    if isinstance(source, (np.ndarray, torch.Tensor)) and len(source) != len(dataset):
        raise ValueError(f'{len(source)} maps for {len(dataset)} images: they must be equal and in the same order')
    metrics = {name: BoxMetric(thresholds, iou, multi_contour) if has_boxes else PixelAP(thresholds) for name in maps}
    best_iou: dict[str, list[np.ndarray]] = {name: [] for name in maps}
    n_correct = n_classified = 0
    loader = DataLoader(Subset(dataset, range(total)), batch_size, num_workers=workers)
    with _EvalMode(source), torch.inference_mode():
        for images, labels, index in tqdm(loader, 'scoring', unit='batch', disable=quiet, leave=False):
            found, logits = _score_maps(source, images, labels, index, maps, device)
            if logits is not None:
                n_correct += int((logits.argmax(1).cpu() == labels).sum())
                n_classified += len(labels)
            size = tuple(images.shape[-2:])
            for name, score_maps in found.items():
                # float32 arithmetic may leave [0,1] by one rounding.
                score_maps = to_numpy(score_maps.clamp(0, 1) if isinstance(score_maps, torch.Tensor) else score_maps)
                if has_boxes:
                    boxes = [resize_boxes(dataset.boxes[i], dataset.sizes[i], size[::-1]) for i in index.tolist()]
                    if rows:
                        best_iou[name].append(metrics[name].best_iou(score_maps, boxes).astype(np.float32))
                    with_logits = {} if logits is None else {'labels': labels, 'logits': logits}
                    metrics[name].update(score_maps, boxes, **with_logits)
                else:
                    masks = np.stack([dataset.mask(i, size[::-1]) for i in index.tolist()])
                    metrics[name].update(score_maps, masks)
    cls = 100 * n_correct / n_classified if n_classified else None
    return {name: make_report(name, metric, dataset, cls, best_iou[name]) for name, metric in metrics.items()}


def _score_maps(
    source: Source,
    images: torch.Tensor,
    labels: torch.Tensor,
    index: torch.Tensor,
    maps: Sequence[str],
    device: str | torch.device | None,
) -> tuple[dict[str, Any], torch.Tensor | None]:
    found: dict[str, Any] = {}
    logits = None
    if 'center' in maps:
        found['center'] = np.broadcast_to(center_map(tuple(images.shape[-2:])), (len(images), *images.shape[-2:]))
    wanted = [name for name in maps if name != 'center']
    if not wanted:
        return found, None
    if isinstance(source, nn.Module):
        device = device or next(source.parameters()).device
        cfg = source.pretrained_cfg
        mean, std = (torch.tensor(cfg[k], device=device).view(1, -1, 1, 1) for k in ('mean', 'std'))
        x = (images.to(device).float() / 255 - mean) / std
        size = tuple(x.shape[-2:])
        levels, features = source.encode(x)
        logits = source.classify(features)
        for name in wanted:
            if name == 'fcam':
                found[name] = source.decoder(levels, size).softmax(1)[:, 1]
            else:
                # Gradients of a head that is not linear need autograd on ordinary tensors.
                with torch.inference_mode(False):
                    low = source.class_map(features.clone(), labels.to(device), name)
                found[name] = resize(low, size)
    elif callable(source):
        result = source(images, labels)
        maps_, logits = result if isinstance(result, tuple) else (result, None)
        logits = None if logits is None else torch.as_tensor(logits)
        found[wanted[0]] = maps_
    elif source is not None:
        found[wanted[0]] = source[index]
    else:
        raise ValueError(f'maps={wanted[0]!r} needs a source of maps: only the centre baseline needs none')
    return found, logits


class _EvalMode:
    """Put a module in eval mode for a while; anything else is left alone."""

    def __init__(self, source: Source) -> None:
        self.source = source if isinstance(source, nn.Module) else None

    def __enter__(self) -> None:
        if self.source is not None:
            self.training = self.source.training
            self.source.eval()

    def __exit__(self, *_: object) -> None:
        if self.source is not None:
            self.source.train(self.training)
