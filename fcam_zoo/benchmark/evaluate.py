"""Scores of the maps of a model, a function or an array on a data set, in one pass over its images."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from .._distributed import gather, picklable, rank
from ._inputs import ArrayLike, BatchError, as_array
from ._parallel import map_in_workers, share_of
from ._sources import CONVENTIONS, Convention, MapFolder, Source, center_map, is_array, score, scoring_mode
from .box_metric import BoxMetric
from .boxes import resize_boxes
from .pixel_ap import PixelAP
from .report import Report, Scores, make_report, measure


def evaluate(source: Source, dataset: Dataset, maps: str = 'fcam', **options: Any) -> Report:
    """Score one kind of map. Arguments, options and errors are those of `evaluate_many`."""
    return evaluate_many(source, dataset, (maps,), **options)[maps]


def evaluate_many(
    source: Source,
    dataset: Dataset,
    maps: Sequence[str] = ('cam', 'fcam'),
    *,
    batch_size: int = 32,
    workers: int = 0,
    device: str | torch.device | None = None,
    thresholds: ArrayLike | None = None,
    multi_contour: bool = False,
    iou: Sequence[float] = (30, 50, 70),
    convention: Convention = 'bilinear',
    limit: int | None = None,
    rows: bool = True,
    quiet: bool = False,
) -> dict[str, Report]:
    """Score several kinds of map in one pass over the images.

    Under torch.distributed each process scores its share of the images, and all return the same reports: those of one
    process, bit for bit. When one fails, all raise its error at the end of their share.

    Data sets with boxes are scored by `BoxMetric`, those with masks by `PixelAP`, at the size of the maps.

    Args:
        source: What makes the maps. One of

            * a model: `model(x)` has `logits` (B,K) and `maps`, 2 logits a pixel (B,2,H,W); `model.cam(x, labels,
              method=…)` returns (B,H,W) in [0,1]; `pretrained_cfg` has `mean` and `std`. A model with the parts of
              `FCAM` (encode, classify, decoder, class_map) runs its backbone once a batch;
            * a function of images uint8 (B,3,H,W) and labels (B) that returns maps (B,H,W) in [0,1], or (maps, logits);
            * an array of maps (N,H,W) in the order of the data set, whose images are not read then;
            * a folder of maps `<image id>.npy` (H,W), as the published evaluator reads them;
            * None, for 'center' alone.
        dataset: Items (image uint8 (3,H,W), label, index); `ids`, `labels`, `sizes` and `boxes`, or `masks` with
            `mask(index, size)`, as in `data.WSOLDataset`.
        maps: 'fcam' (softmax of the foreground channel, never re-normalised), CAM methods (class map of the true label,
            min-max normalised at its own size, then resized bilinearly, as in F-CAM), and 'center' (a Gaussian in the
            middle). A function or an array makes one kind, and the name is free.
        batch_size: Images a batch; processes share the images in whole batches.
        workers: Processes that load images, and as many that find boxes and histograms (a script's code must then stand
            under `if __name__ == '__main__'`).
        device: Where a model is moved to and runs, or where a function gets its images; default: where they are.
        thresholds: Ascending, in [0,1]; default 0, 0.001, ..., 0.999.
        multi_contour: Boxes of all contours (MaxBoxAccV2).
        iou: Wanted IoUs in percent.
        convention: How a model's maps become score maps: 'bilinear' is F-CAM's (class maps min-max normalised, then
            resized; nothing after that), 'bicubic' that of Choe et al. (CVPR 2020: bicubic resize of class maps, then
            min-max of every map). What is no model gives score maps as they are.
        limit: Score the first images only.
        rows: Keep a row for each image in the reports. It takes 4 kB an image and kind of map until the reports are
            made; of that the samples that `compare` draws from stay, 0.4 kB with boxes and all with masks. Without rows
            memory hardly grows with the number of images.
        quiet: No progress bar.

    Returns:
        A report for each kind of map.

    Raises:
        BenchmarkError: When a worker process is ended, as by a lack of memory.
        ValueError: For a data set without images or ground truth, kinds of map that the source does not make, an array
            of another length, and whatever the metrics refuse.
    """
    names = list(dict.fromkeys(maps))
    metric_options = {'thresholds': thresholds, 'iou': iou, 'multi_contour': multi_contour}
    batch_options = {'batch_size': batch_size, 'workers': workers, 'device': device, 'convention': convention}

    def share() -> dict[str, Scores]:
        return _score_share(source, dataset, names, metric_options, limit, rows, quiet, **batch_options)

    first, *others = gather(share)
    for other in others:
        for name in names:
            first[name].merge(other[name])
    made_by = convention if isinstance(source, torch.nn.Module) else None
    return {name: make_report(name, kind, dataset, made_by) for name, kind in first.items()}


def _score_share(
    source: Source,
    dataset: Any,
    names: list[str],
    metric_options: dict[str, Any],
    limit: int | None,
    rows: bool,
    quiet: bool,
    *,
    batch_size: int,
    workers: int,
    device: str | torch.device | None,
    convention: Convention,
) -> dict[str, Scores]:
    """Score the images that this process has to."""
    made = [name for name in names if name != 'center']
    if isinstance(source, (str, os.PathLike)):
        source = MapFolder(source, dataset.ids)
    _check(source, dataset, made, convention)
    _check_numbers(batch_size, workers, device)
    total = len(dataset) if limit is None else min(limit, len(dataset))
    if total < 1 or not names:
        raise ValueError(f'nothing to score: {max(total, 0)} images, kinds of map {names}')
    has_boxes = getattr(dataset, 'boxes', None) is not None
    metric = BoxMetric(**metric_options) if has_boxes else PixelAP(metric_options['thresholds'])
    scores = {name: Scores(copy.deepcopy(metric)) for name in names}
    mine = share_of(total, batch_size)
    batches = _batches(source, dataset, made, mine, batch_size, workers, device, convention)
    jobs = _jobs(batches, dataset, names, metric, has_boxes)
    silent = quiet or rank() > 0
    with scoring_mode(source, device), tqdm(total=len(mine), desc='scoring', unit='image', disable=silent) as bar:
        for (index, logits), results in map_in_workers(jobs, measure, workers):
            labels = None if logits is None else dataset.labels[index]
            for name, result in zip(names, results):
                with _named(name, index, dataset):
                    scores[name].add(result(), labels, logits, rows)
            bar.update(len(index))
    return scores


@contextmanager
def _named(name: str, index: list[int], dataset: Any) -> Iterator[None]:
    """Errors say which map they are of."""
    try:
        yield
    except BatchError as error:
        subject = {'score map': f'{name} map of', 'mask': 'mask of', 'image': 'image'}[error.thing]
        raise ValueError(f'{subject} {dataset.ids[index[error.index]]} {error.fault}') from error
    except ValueError as error:
        first, last = dataset.ids[index[0]], dataset.ids[index[-1]]
        raise ValueError(f'{name} maps of images {first} to {last}: {error}') from error


def _jobs(
    batches: Iterator[tuple[list[int], dict[str, Any], torch.Tensor | None]],
    dataset: Any,
    names: list[str],
    metric: BoxMetric | PixelAP,
    has_boxes: bool,
) -> Iterator[tuple[tuple[list[int], torch.Tensor | None], list[tuple[Any, ...]]]]:
    """Indices and logits of each batch, and the arguments of `measure` for each kind of map."""
    for index, found, logits in batches:
        size = next(iter(found.values())).shape[-2:] if found else dataset[0][0].shape[-2:]
        if 'center' in names:
            found['center'] = np.broadcast_to(center_map(tuple(size)), (len(index), *size))
        truth = cache(partial(_ground_truth, dataset, index, has_boxes))
        arrays = {name: as_array(found[name]) for name in names}
        yield (index, logits), [(metric, arrays[name], truth(tuple(arrays[name].shape[-2:]))) for name in names]


def _check(source: Source | MapFolder, dataset: Any, made: list[str], convention: Convention) -> None:
    if convention not in CONVENTIONS:
        raise ValueError(f'unknown convention {convention!r}: choose one of {", ".join(CONVENTIONS)}')
    if convention == 'bicubic' and isinstance(source, torch.nn.Module) and not hasattr(source, 'class_map'):
        raise ValueError(
            f"{type(source).__name__} has no class_map, whose small maps convention='bicubic' resizes: give an FCAM"
        )
    if getattr(dataset, 'boxes', None) is None and not getattr(dataset, 'masks', None):
        raise ValueError(f'{getattr(dataset, "name", "the data set")} has neither boxes nor masks to score on')
    twice = [image_id for image_id, number in Counter(dataset.ids).items() if number > 1]
    if twice:
        raise ValueError(f'image {twice[0]} is in the data set twice: list each image once')
    if isinstance(source, torch.nn.Module):
        needed = ['pretrained_cfg', 'cam'] if set(made) - {'fcam'} else ['pretrained_cfg']
        missing = [name for name in needed if not hasattr(source, name)]
        if missing:
            raise ValueError(
                f'{type(source).__name__} has no {" and no ".join(missing)}: give fcam_zoo.wrap(classifier), or a '
                f'function of images and labels that returns its maps'
            )
    if source is None and made:
        raise ValueError(f"maps {made} need a source: without one there is 'center' only")
    if not isinstance(source, torch.nn.Module) and len(made) > 1:
        raise ValueError(f'a function or an array makes one kind of map, {len(made)} were asked for: {made}')
    if is_array(source) and len(source) != len(dataset):
        raise ValueError(f'{len(source)} maps for {len(dataset)} images: give one for each, in the same order')


def _check_numbers(batch_size: int, workers: int, device: str | torch.device | None) -> None:
    for name, value, least in (('batch_size', batch_size, 1), ('workers', workers, 0)):
        if value < least:
            raise ValueError(f'{name}={value}: give {least} or more')
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f'device {str(device)!r} cannot be used ({str(error).splitlines()[0]}): choose another, as cpu'
            ) from error


def _batches(
    source: Source,
    dataset: Any,
    made: list[str],
    mine: range,
    batch_size: int,
    workers: int,
    device: str | torch.device | None,
    convention: Convention,
) -> Iterator[tuple[list[int], dict[str, Any], torch.Tensor | None]]:
    """Indices, maps and logits of batches; images are read where these depend on them."""
    if not made or is_array(source):
        for start in range(mine.start, mine.stop, batch_size):
            index = list(range(start, min(start + batch_size, mine.stop)))
            yield index, {made[0]: source[start : index[-1] + 1]} if made else {}, None
        return
    items = _Caught(dataset, mine)
    for start, batch in zip(
        mine[::batch_size], DataLoader(items, batch_size, num_workers=workers, collate_fn=_collate)
    ):
        if isinstance(batch, Exception):
            raise batch
        images, labels, index = batch
        expected = list(range(start, start + len(images)))
        if index.tolist() != expected:
            raise ValueError(
                f'items {start} to {expected[-1]} of the data set call themselves {index.tolist()}: an image would be '
                'scored twice or not at all; return the index as the third element'
            )
        yield expected, *score(source, made, images, labels, device, convention)


class _Caught(Dataset):
    """Items of a data set, or their errors: a process that loads images would wrap its traceback into the message."""

    def __init__(self, dataset: Any, indices: range) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[self.indices[index]]
        except Exception as error:
            return picklable(error)


def _collate(items: list[Any]) -> Any:
    """A batch, or the first error."""
    return next((item for item in items if isinstance(item, Exception)), None) or default_collate(items)


def _ground_truth(dataset: Any, index: list[int], boxes: bool, size: tuple[int, int]) -> Any:
    """Boxes (n,4) of each image, or masks (B,h,w), at a size (h,w)."""
    if boxes:
        return [_resized(dataset, i, size) for i in index]
    return np.stack([dataset.mask(i, size[::-1]) for i in index])


def _resized(dataset: Any, i: int, size: tuple[int, int]) -> np.ndarray:
    try:
        return resize_boxes(dataset.boxes[i], dataset.sizes[i], size[::-1])
    except ValueError as error:
        raise ValueError(f'image {dataset.ids[i]}: {error}') from error
