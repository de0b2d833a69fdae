"""Score the maps of a model, a function, an array or a folder on a data set, in one pass over its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from .._catalog import MIN_AREA
from .._checks import MAX_WORKERS
from .._distributed import gather, rank
from .._schema import show
from ._object_scores import ObjectScores
from ._scores import BoxScores, MaskScores, Scores, measure
from ._workers import map_in_workers, share_of
from .boxes import resize_boxes
from .classes import Labels, ModelLabels, labels_for
from .inputs import ArrayLike, BatchError, check_kinds, check_whole
from .object_metric import ObjectTruth
from .report import Report, make_report
from .sources import Batch, Convention, MapMaker, Source, describe_maps
from .subset import Subset, limit_images

# By kind of ground truth: all objects of an image, one box of it, or its pixels.
SCORES: dict[str, Callable[..., Scores]] = {'objects': ObjectScores, 'boxes': BoxScores, 'masks': MaskScores}


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
    iou: Sequence[float] | None = None,
    objects: bool = False,
    min_area: float = MIN_AREA,
    convention: Convention = 'bilinear',
    labels: Labels = 'auto',
    threshold: float | Mapping[str, float] | None = None,
    limit: int | None = None,
    rows: bool = True,
    quiet: bool = False,
) -> dict[str, Report]:
    """Score several kinds of map in one pass over the images.

    Data sets with boxes are scored by `BoxMetric`, those with masks by `PixelAP`, at the size of the maps. With
    `objects`, all boxes of each image are scored by `ObjectMetric`, at the size of the images.

    Under torch.distributed each process scores a part of the images, and all return the same reports, bit for bit
    those of a single process. If one process fails, all raise its error after they have scored their part.

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
        maps: 'fcam' (softmax of the foreground channel, not renormalized), CAM methods (class map, min-max normalized
            at its own size, then resized bilinearly, as in F-CAM), and 'center' (a Gaussian in the middle). A function
            or an array makes one kind of map, with any name.
        batch_size: Images per batch. Under torch.distributed each process scores whole batches.
        workers: Processes that load images, and as many that find boxes and histograms. A script that uses them must
            have its code under `if __name__ == '__main__'`.
        device: Device that a model, or the images for a function, are moved to. Default: they are not moved.
        thresholds: Ascending, in [0,1]. Default: 0, 0.001, ..., 0.999; with `objects` 0, 0.05, ..., 0.95.
        multi_contour: Use the boxes of all contours (MaxBoxAccV2).
        iou: IoUs in percent. Default: 30, 50, 70; with `objects` 30, 50.
        objects: Score all boxes of each image: precision, recall, F1 and AP of objects. Needs pycocotools (extra
            `objects`).
        min_area: With `objects`, smallest area of a further object as a share of the image.
        convention: How a model's maps become score maps. 'bilinear' is that of F-CAM (class maps are min-max
            normalized, then resized). 'bicubic' is that of Choe et al. (CVPR 2020: class maps are resized bicubically,
            then every map is min-max normalized). Other sources must return final score maps.
        labels: Class of the class maps. 'auto': that of the image if the classes of the images are classes of the
            model, by name; else the result is class-agnostic: class maps of the predicted class, and no metrics that
            depend on classes (top1, top5, cls). Data sets whose classes have only numbers: see `classes.labels_for`.
            'true': that of the image, whose number is the output of the model. 'predicted': always class-agnostic; the
            labels of a function are then None.
        threshold: Threshold in [0,1) that was chosen on other images, such as a validation set. Reports then also
            contain the metric at this threshold. A number for all kinds of map, or kind -> number. Default:
            `model.threshold` for 'fcam'.
        limit: Score at most so many images, spread over the classes. An array still has a map for each image.
        rows: Keep a row per image in the reports. Needs 4 kB of memory per image and kind of map while scoring, and
            then, for `compare`, 0.4 kB with boxes or 4 kB with masks. Without rows, memory hardly depends on the
            number of images.
        quiet: Show no progress bar.

    Returns:
        A report for each kind of map.

    Raises:
        BenchmarkError: When a worker process ends early, for example for lack of memory.
        ImportError: With `objects`, without pycocotools.
        ValueError: For a data set without images or ground truth, kinds of map that the source does not make, labels
            beyond the classes of the model, an array of another length, and as the metrics.
    """
    names = check_kinds(maps)
    source, limited = _limited(source, dataset, limit)
    fixed = _fixed_thresholds(source, names, threshold)
    metric = {'thresholds': thresholds, 'iou': iou, 'multi_contour': multi_contour, 'min_area': min_area}
    if objects and multi_contour:
        raise ValueError('objects=True scores the boxes of all regions anyway: leave out multi_contour')

    def score_share() -> dict[str, Scores]:
        """Score the images of this process."""
        maker = MapMaker(source, limited, names, convention, labels, device)
        kind = _check(limited, names, objects, batch_size, workers)
        scores = {name: SCORES[kind](fixed.get(name), **metric) for name in names}
        mine = share_of(len(limited), batch_size)
        jobs = _jobs(maker.batches(mine, batch_size, workers), limited, kind, scores)
        with tqdm(total=len(mine), desc='scoring', unit='image', disable=quiet or rank() > 0) as bar:
            for batch, results in map_in_workers(jobs, measure, workers):
                true = None if batch.logits is None or maker.labels is None else maker.labels[batch.indices]
                for (name, found), result in zip(scores.items(), results):
                    with _named(name, batch.indices, limited):
                        found.add(result(), true, batch.logits, rows)
                bar.update(len(batch.indices))
        return scores

    first, *others = gather(score_share)
    for other in others:
        for name in names:
            first[name].merge(other[name])
    classes = labels_for(source, limited, labels) if callable(source) and names != ['center'] else ModelLabels(None)
    return {
        name: make_report(name, scores, limited, describe_maps(name, source, convention, classes))
        for name, scores in first.items()
    }


def _limited(source: Source, dataset: Any, limit: int | None) -> tuple[Source, Any]:
    """Return the data set of at most `limit` images, and the source; of an array, only the maps of these images."""
    limited = limit_images(dataset, limit)
    # An array of another length is reported by `MapMaker`.
    if isinstance(limited, Subset) and isinstance(source, (np.ndarray, torch.Tensor)):
        source = source[limited.indices] if source.ndim and len(source) == len(dataset) else source[:0]
    return source, limited


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
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
            raise ValueError(f'threshold of {name} is {show(value)}: choose a value in [0,1)')
    return {name: float(value) for name, value in found.items()}


@contextmanager
def _named(name: str, index: list[int], dataset: Any) -> Iterator[None]:
    """Name the image and the kind of map in errors."""
    try:
        yield
    except BatchError as error:
        subject = {'score map': f'{name} map of', 'mask': 'mask of', 'image': 'image'}[error.thing]
        raise ValueError(f'{subject} {dataset.ids[index[error.index]]} {error.problem}') from error
    except ValueError as error:
        first, last = dataset.ids[index[0]], dataset.ids[index[-1]]
        raise ValueError(f'{name} maps of images {first} to {last}: {error}') from error


def _jobs(
    batches: Iterable[Batch], dataset: Any, kind: str, scores: Mapping[str, Scores]
) -> Iterator[tuple[Batch, list[tuple[Any, ...]]]]:
    """Yield each batch, and the arguments of `measure` for each kind of map."""
    for batch in batches:
        truth = cache(partial(_ground_truth, dataset, kind, batch.indices))
        yield batch, [(scores[name].metrics, maps, truth(maps.shape[-2:])) for name, maps in batch.maps.items()]


def ground_truth_kind(dataset: Any, objects: bool = False) -> str:
    """Return the kind of ground truth, 'objects', 'boxes' or 'masks'.

    Raises:
        ValueError: For a data set without ground truth, or without boxes for `objects`.
    """
    boxes = getattr(dataset, 'boxes', None) is not None
    kind = 'masks' if not boxes else 'objects' if objects else 'boxes'
    if objects and not boxes:
        raise ValueError(
            f'{getattr(dataset, "name", "the data set")} has no boxes, which metrics of objects need: name their file '
            'or folder with annotations (--annotations), or leave out objects (--objects)'
        )
    if kind == 'masks' and not getattr(dataset, 'masks', None):
        raise ValueError(
            f'{getattr(dataset, "name", "the data set")} has neither boxes nor masks to score on: name their file or '
            'folder with annotations (--annotations); in a CSV data set, fill the columns x0,y0,x1,y1'
        )
    return kind


def _check(dataset: Any, names: Sequence[str], objects: bool, batch_size: int, workers: int) -> str:
    """Check a data set and options, and return the kind of ground truth."""
    kind = ground_truth_kind(dataset, objects)
    twice = [image_id for image_id, number in Counter(dataset.ids).items() if number > 1]
    if twice:
        raise ValueError(f'image {twice[0]} is in the data set twice: list each image once')
    check_whole('batch_size', batch_size, 1)
    check_whole('workers', workers, 0)
    if workers > MAX_WORKERS:
        raise ValueError(f'workers={show(workers)}: give at most {MAX_WORKERS} processes')
    if not len(dataset) or not names:
        raise ValueError(f'nothing to score: {len(dataset)} images, kinds of map {list(names)}')
    return kind


def _ground_truth(dataset: Any, kind: str, index: list[int], size: tuple[int, int]) -> Any:
    """Return boxes (n,4) of each image, or masks (B,h,w), at a size (h,w); objects at the size of their image."""
    if kind == 'masks':
        return np.stack([dataset.mask(i, size[::-1]) for i in index])
    if kind == 'objects':
        sizes = [(int(width), int(height)) for width, height in (dataset.sizes[i] for i in index)]
        return ObjectTruth([dataset.boxes[i] for i in index], sizes)
    found = []
    for i in index:
        try:
            found.append(resize_boxes(dataset.boxes[i], dataset.sizes[i], size[::-1]))
        except ValueError as error:
            raise ValueError(f'image {dataset.ids[i]}: {error}') from error
    return found
