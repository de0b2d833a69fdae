"""Score the maps of a model, a function, an array or a folder on a data set, in one pass over its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from .._distributed import gather, picklable, rank
from ._scores import SCORES, Scores, measure
from ._workers import map_in_workers, share_of
from .boxes import resize_boxes
from .inputs import ArrayLike, BatchError, as_array
from .report import Report, make_report
from .sources import (
    Convention,
    Labels,
    MapOptions,
    Opened,
    Source,
    center_map,
    check_source,
    describe_maps,
    is_array,
    open_source,
    score,
    scoring_mode,
)


@dataclass(frozen=True)
class Options:
    """Arguments of `evaluate_many`, and what follows from them.

    Attributes:
        names: Kinds of map, each once.
        made: Those that the source makes: all but the centre baseline.
        metric: Arguments of the metric.
        maps: How maps are made.
        thresholds: Kind of map -> threshold that was chosen elsewhere.
    """

    names: list[str]
    made: list[str]
    metric: dict[str, Any]
    maps: MapOptions
    thresholds: dict[str, float]
    batch_size: int
    workers: int
    limit: int | None
    rows: bool
    quiet: bool


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
    labels: Labels = 'true',
    threshold: float | Mapping[str, float] | None = None,
    limit: int | None = None,
    rows: bool = True,
    quiet: bool = False,
) -> dict[str, Report]:
    """Score several kinds of map in one pass over the images.

    Data sets with boxes are scored by `BoxMetric`, those with masks by `PixelAP`, at the size of the maps.

    Under torch.distributed each process scores a part of the images, and all return the same reports, bit for bit
    those of a single process. If one process fails, all raise its error once they have scored their part.

    Args:
        source: Where the maps come from. One of

            * a model: `model(x)` has `logits` (B,K) and `maps`, 2 logits per pixel (B,2,H,W); `model.cam(x, labels,
              method=…)` returns (B,H,W) in [0,1]; `pretrained_cfg` has `mean` and `std`. The backbone of a model with
              the parts of `FCAM` (encode, classify, decoder, class_map) runs once per batch;
            * a function of images uint8 (B,3,H,W) and labels (B) that returns maps (B,H,W) in [0,1], or (maps, logits);
            * an array of maps (N,H,W) in the order of the data set, whose images are then not read;
            * a folder of maps `<image id>.npy` (H,W), as the published evaluator reads them;
            * None, for 'center' only.
        dataset: Items (image uint8 (3,H,W), label, index); `ids`, `labels`, `sizes` and `boxes`, or `masks` with
            `mask(index, size)`, as in `data.WSOLDataset`.
        maps: 'fcam' (softmax of the foreground channel, not renormalised), CAM methods (class map, min-max normalised
            at its own size, then resized bilinearly, as in F-CAM), and 'center' (a Gaussian in the middle). A function
            or an array makes one kind, whose name is free.
        batch_size: Images per batch. Processes share the images in whole batches.
        workers: Processes that load images, and as many that find boxes and histograms. A script that uses them must
            have its code under `if __name__ == '__main__'`.
        device: Where a model is moved to and runs, or where a function gets its images. Default: where they are.
        thresholds: Ascending, in [0,1]. Default: 0, 0.001, ..., 0.999.
        multi_contour: Use the boxes of all contours (MaxBoxAccV2).
        iou: IoUs in percent.
        convention: How a model's maps become score maps. 'bilinear' is that of F-CAM (class maps are min-max
            normalised, then resized). 'bicubic' is that of Choe et al. (CVPR 2020: class maps are resized bicubically,
            then every map is min-max normalised). Other sources must return final score maps.
        labels: 'true': class maps of the true label. 'predicted': class maps of the predicted class and no
            classification metrics (top1, top5, cls), for data sets whose classes the model does not know. A function
            then gets None as labels.
        threshold: Threshold in [0,1) that was chosen elsewhere, such as on a validation set: reports then hold the
            metric at this threshold too. A number for all kinds of map, or kind -> number. Default: that of the model
            (`model.threshold`) for 'fcam'.
        limit: Score only the first images.
        rows: Keep a row per image in the reports. Takes 4 kB per image and kind of map while scoring; afterwards the
            samples that `compare` needs remain, 0.4 kB with boxes, the whole with masks. Without rows memory hardly
            grows with the number of images.
        quiet: Show no progress bar.

    Returns:
        A report for each kind of map.

    Raises:
        BenchmarkError: When a worker process ends early, for example for lack of memory.
        ValueError: For a data set without images or ground truth, kinds of map that the source does not make, labels
            beyond the classes of the model, an array of another length, and as `BoxMetric` and `PixelAP`.
    """
    names = list(dict.fromkeys(maps))
    options = Options(
        names=names,
        made=[name for name in names if name != 'center'],
        metric={'thresholds': thresholds, 'iou': iou, 'multi_contour': multi_contour},
        maps=MapOptions(device, convention, labels),
        thresholds=_fixed_thresholds(source, names, threshold),
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        rows=rows,
        quiet=quiet,
    )
    first, *others = gather(partial(_score_share, source, dataset, options))
    for other in others:
        for name in names:
            first[name].merge(other[name])
    made_here = isinstance(source, torch.nn.Module) or callable(source)
    return {
        name: make_report(
            name,
            scores,
            dataset,
            describe_maps(name, source, options.maps),
            labels if made_here and name != 'center' else None,
        )
        for name, scores in first.items()
    }


def _fixed_thresholds(
    source: Source, names: Sequence[str], threshold: float | Mapping[str, float] | None
) -> dict[str, float]:
    """Return the threshold of each kind of map that has one."""
    if threshold is None:
        own = getattr(source, 'threshold', None) if isinstance(source, torch.nn.Module) else None
        return {'fcam': float(own)} if 'fcam' in names and isinstance(own, (int, float)) else {}
    found = dict(threshold) if isinstance(threshold, Mapping) else dict.fromkeys(names, threshold)
    if unknown := [name for name in found if name not in names]:
        raise ValueError(f'threshold of {", ".join(unknown)}: only {", ".join(names)} are scored')
    for name, value in found.items():
        if not 0 <= value < 1:
            raise ValueError(f'threshold of {name} is {value}: choose a value in [0,1)')
    return {name: float(value) for name, value in found.items()}


def _score_share(given: Source, dataset: Any, options: Options) -> dict[str, Scores]:
    """Score the images of this process."""
    source = open_source(given, dataset)
    check_source(source, dataset, options.made, options.maps)
    _check(dataset, options)
    total = len(dataset) if options.limit is None else min(options.limit, len(dataset))
    if total < 1 or not options.names:
        raise ValueError(f'nothing to score: {max(total, 0)} images, kinds of map {options.names}')
    kind = 'boxes' if getattr(dataset, 'boxes', None) is not None else 'masks'
    scores = {name: SCORES[kind](options.thresholds.get(name), **options.metric) for name in options.names}
    mine = share_of(total, options.batch_size)
    jobs = _jobs(_batches(source, dataset, mine, options), dataset, scores)
    silent = options.quiet or rank() > 0
    with (
        scoring_mode(source, options.maps.device),
        tqdm(total=len(mine), desc='scoring', unit='image', disable=silent) as bar,
    ):
        for (index, logits), results in map_in_workers(jobs, measure, options.workers):
            labels = None if logits is None else dataset.labels[index]
            for (name, found), result in zip(scores.items(), results):
                with _named(name, index, dataset):
                    found.add(result(), labels, logits, options.rows)
            bar.update(len(index))
    return scores


@contextmanager
def _named(name: str, index: list[int], dataset: Any) -> Iterator[None]:
    """Name the image and the kind of map in errors."""
    try:
        yield
    except BatchError as error:
        subject = {'score map': f'{name} map of', 'mask': 'mask of', 'image': 'image'}[error.thing]
        raise ValueError(f'{subject} {dataset.ids[index[error.index]]} {error.fault}') from error
    except ValueError as error:
        first, last = dataset.ids[index[0]], dataset.ids[index[-1]]
        raise ValueError(f'{name} maps of images {first} to {last}: {error}') from error


def _jobs(
    batches: Iterator[tuple[list[int], dict[str, Any], torch.Tensor | None]], dataset: Any, scores: dict[str, Scores]
) -> Iterator[tuple[tuple[list[int], torch.Tensor | None], list[tuple[Any, ...]]]]:
    """Yield indices and logits of each batch, and the arguments of `measure` for each kind of map."""
    for index, found, logits in batches:
        size = next(iter(found.values())).shape[-2:] if found else dataset[0][0].shape[-2:]
        if 'center' in scores:
            found['center'] = np.broadcast_to(center_map(tuple(size)), (len(index), *size))
        truth = cache(partial(_ground_truth, dataset, index))
        arrays = {name: as_array(found[name]) for name in scores}
        yield (
            (index, logits),
            [(scores[name].metrics, maps, truth(tuple(maps.shape[-2:]))) for name, maps in arrays.items()],
        )


def _check(dataset: Any, options: Options) -> None:
    if getattr(dataset, 'boxes', None) is None and not getattr(dataset, 'masks', None):
        raise ValueError(f'{getattr(dataset, "name", "the data set")} has neither boxes nor masks to score on')
    twice = [image_id for image_id, number in Counter(dataset.ids).items() if number > 1]
    if twice:
        raise ValueError(f'image {twice[0]} is in the data set twice: list each image once')
    for name, least in (('batch_size', 1), ('workers', 0)):
        if (value := getattr(options, name)) < least:
            raise ValueError(f'{name}={value}: give {least} or more')


def _batches(
    source: Opened, dataset: Any, mine: range, options: Options
) -> Iterator[tuple[list[int], dict[str, Any], torch.Tensor | None]]:
    """Yield indices, maps and logits of batches. Images are read only if the maps depend on them."""
    made, batch_size = options.made, options.batch_size
    if not made or is_array(source):
        for start in range(mine.start, mine.stop, batch_size):
            index = list(range(start, min(start + batch_size, mine.stop)))
            yield index, {made[0]: source[start : index[-1] + 1]} if made and is_array(source) else {}, None
        return
    items = _Caught(dataset, mine)
    loader = DataLoader(items, batch_size, num_workers=options.workers, collate_fn=_collate)
    for start, batch in zip(mine[::batch_size], loader):
        if isinstance(batch, Exception):
            raise batch
        images, labels, index = batch
        expected = list(range(start, start + len(images)))
        if index.tolist() != expected:
            raise ValueError(
                f'items {start} to {expected[-1]} of the data set return the indices {index.tolist()}: some images '
                'would be scored twice or not at all; return the index as the third element'
            )
        yield expected, *score(source, made, images, labels, options.maps)


class _Caught(Dataset):
    """Items of a data set, or their errors: DataLoader workers would put their traceback into the message."""

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
    """Return a batch, or the first error."""
    return next((item for item in items if isinstance(item, Exception)), None) or default_collate(items)


def _ground_truth(dataset: Any, index: list[int], size: tuple[int, int]) -> Any:
    """Return boxes (n,4) of each image, or masks (B,h,w), at a size (h,w)."""
    if getattr(dataset, 'boxes', None) is not None:
        return [_resized(dataset, i, size) for i in index]
    return np.stack([dataset.mask(i, size[::-1]) for i in index])


def _resized(dataset: Any, i: int, size: tuple[int, int]) -> np.ndarray:
    try:
        return resize_boxes(dataset.boxes[i], dataset.sizes[i], size[::-1])
    except ValueError as error:
        raise ValueError(f'image {dataset.ids[i]}: {error}') from error
