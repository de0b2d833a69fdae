"""Sources of score maps: a model, a function, an array, a folder, or only the size of the image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias, TypeGuard, cast, get_args

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from .._device import usable_device
from .._distributed import picklable
from .._modes import eval_mode
from ..cams import resize
from .classes import LABELS, Labels, ModelLabels, labels_for
from .inputs import as_array, check_kinds, check_whole
from .map_files import MapFolder

# Standard deviation of the center baseline, in units of the sides of the map.
CENTER_SIGMA = 0.25

Function: TypeAlias = Callable[[torch.Tensor, torch.Tensor | None], Any]
Source: TypeAlias = nn.Module | Function | np.ndarray | torch.Tensor | str | os.PathLike | None
# How low-resolution maps become score maps: as in F-CAM, or as in Choe et al. (CVPR 2020).
Convention = Literal['bilinear', 'bicubic']
CONVENTIONS = get_args(Convention)
MapOf = Callable[[int], Any]

_FCAM = 'softmax of the foreground channel'
# In words, by convention and whether the map is a class map.
_CONVENTIONS = {
    ('bilinear', False): f'{_FCAM}, not renormalized',
    ('bilinear', True): 'class map of the {label}, min-max normalized, resized bilinearly, not renormalized',
    ('bicubic', False): f'{_FCAM}, min-max normalized',
    ('bicubic', True): 'class map of the {label}, resized bicubically, then min-max normalized',
}


def center_map(size: tuple[int, int]) -> np.ndarray:
    """Return the center baseline of Choe et al. (CVPR 2020): a Gaussian around the middle, (H,W) in [0,1].

    Its standard deviation is a quarter of each side: thresholds range from the whole image to the middle pixel.
    """
    y, x = (((np.arange(n) + 0.5) / n - 0.5) / CENTER_SIGMA for n in size)
    return np.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2))


Maps: TypeAlias = np.ndarray | torch.Tensor | MapFolder


class Batch(NamedTuple):
    """Maps of some images."""

    indices: list[int]  # (B) of the images
    maps: dict[str, np.ndarray]  # by kind, (B,H,W)
    logits: torch.Tensor | None  # (B,K), if the source returns them and class maps are those of the true label


class MapMaker:
    """Makes the score maps of a data set; for the arguments see `evaluate_many`.

    Raises:
        ValueError: When the source cannot make these kinds of map for the data set, an option is unknown or a device
            cannot be used.
    """

    def __init__(
        self,
        source: Source,
        dataset: Any,
        names: Sequence[str],
        convention: Convention = 'bilinear',
        labels: Labels = 'auto',
        device: str | torch.device | None = None,
    ) -> None:
        for option, value, known in (('convention', convention, CONVENTIONS), ('labels', labels, LABELS)):
            if value not in known:
                raise ValueError(f'unknown {option} {value!r}: choose one of {", ".join(known)}')
        if device is not None:
            usable_device(device)
        self.source = MapFolder(source, dataset.ids) if isinstance(source, (str, os.PathLike)) else source
        self.dataset, self.names, self.convention, self.device = dataset, names, convention, device
        self.made = [name for name in names if name != 'center']
        self._check()
        # As classes of the model, (N); None for class maps of the predicted classes, or if nothing needs labels.
        self.labels = labels_for(self.source, dataset, labels).indices if self._needs_labels() else None
        if isinstance(self.source, nn.Module) and device is not None:
            self.source.to(device)

    def _check(self) -> None:
        if self.source is None and self.made:
            raise ValueError(f"maps {self.made} need a source: without one only 'center' can be scored")
        if not (self.source is None or is_array(self.source) or callable(self.source)):
            raise TypeError(
                f'source has the type {type(self.source).__name__}: give a model, a function, an array of maps, or '
                'their folder'
            )
        if isinstance(self.source, nn.Module):
            self._check_model(self.source)
        elif len(self.made) > 1:
            raise ValueError(
                f'a function or an array makes one kind of map, but {len(self.made)} are requested: {self.made}'
            )
        if is_array(self.source):
            count = len(self.source) if getattr(self.source, 'ndim', 3) else 0
            if count != len(self.dataset):
                raise ValueError(f'{count} maps for {len(self.dataset)} images: give one for each, in the same order')

    def _check_model(self, model: Any) -> None:
        name = type(model).__name__
        if self.convention == 'bicubic' and not hasattr(model, 'class_map'):
            raise ValueError(f"{name} has no class_map, whose small maps convention='bicubic' resizes: give an FCAM")
        needed = ['pretrained_cfg', 'cam'] if set(self.made) - {'fcam'} else ['pretrained_cfg']
        if missing := [attribute for attribute in needed if not hasattr(model, attribute)]:
            raise ValueError(
                f'{name} has no {" and no ".join(missing)}: give fcam_zoo.wrap(classifier), or a function of images '
                'and labels that returns its maps'
            )

    def _needs_labels(self) -> bool:
        return bool(self.made) and callable(self.source) and not is_array(self.source)

    def batches(self, indices: range, batch_size: int, workers: int = 0) -> Iterator[Batch]:
        """Make the maps of some images. Images are read only if the maps depend on them.

        Args:
            indices: Indices of the images.
            batch_size: Images per batch.
            workers: Processes that load images.

        Raises:
            ValueError: When items of the data set return other indices.
        """
        for index, found, logits in self._batches(indices, batch_size, workers):
            maps = {name: _as_maps(name, values, len(index)) for name, values in found.items()}
            if 'center' in self.names:
                size = tuple(next(iter(maps.values())).shape[-2:] if maps else self.dataset[0][0].shape[-2:])
                maps['center'] = np.broadcast_to(center_map(size), (len(index), *size))
            yield Batch(index, {name: maps[name] for name in self.names}, logits)

    def _batches(
        self, indices: range, batch_size: int, workers: int
    ) -> Iterator[tuple[list[int], dict[str, Any], torch.Tensor | None]]:
        parts = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
        if not self.made or is_array(self.source):
            for part in parts:
                maps = self.source[part[0] : part[-1] + 1] if is_array(self.source) and self.made else None
                yield part, dict.fromkeys(self.made, maps), None
            return
        loader = DataLoader(_Items(self.dataset, indices), batch_size, num_workers=workers, collate_fn=_collate)
        for part, batch in zip(parts, loader):
            if isinstance(batch, Exception):
                raise batch
            images, _, index = batch
            if index.tolist() != part:
                raise ValueError(
                    f'items {part[0]} to {part[-1]} of the data set return the indices {index.tolist()}: some images '
                    'would be scored twice or not at all; return the index as the third element'
                )
            yield part, *self._make(images, None if self.labels is None else torch.from_numpy(self.labels[part]))

    @torch.no_grad()
    def _make(self, images: torch.Tensor, labels: torch.Tensor | None) -> tuple[dict[str, Any], torch.Tensor | None]:
        """Make maps of images uint8 (B,3,H,W); labels are None for class maps of the predicted class."""
        if isinstance(self.source, nn.Module):
            with eval_mode(self.source):
                found, logits = _run_model(self.source, self.made, images, labels, self.convention)
        else:
            function = cast(Function, self.source)
            if self.device is not None:
                images, labels = images.to(self.device), None if labels is None else labels.to(self.device)
            result = function(images, labels)
            if isinstance(result, tuple) and len(result) != 2:
                raise ValueError(f'the function returns {len(result)} values: return maps, or maps and logits')
            maps, logits = result if isinstance(result, tuple) else (result, None)
            found = {self.made[0]: maps}
        return found, None if labels is None else logits


def _as_maps(name: str, values: Any, count: int) -> np.ndarray:
    """Convert maps of `count` images to an array (B,H,W); the metrics check types and values."""
    maps = as_array(values)
    if maps.ndim < 3 or len(maps) != count:
        raise ValueError(f'{name} maps of {count} images have the shape {maps.shape}: give (B,H,W), one for each')
    return maps


def is_array(source: object) -> TypeGuard[Maps]:
    """Return whether the source is an array of maps, in memory or in files."""
    return isinstance(source, (np.ndarray, torch.Tensor, MapFolder))


class _Items(Dataset):
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


def describe_maps(name: str, source: Source, convention: Convention, labels: ModelLabels) -> dict[str, str | None]:
    """Return what `Report.meta` says about a kind of map: how it is made, and the class of class maps if relevant."""
    if name == 'center':
        return {'score_maps': 'Gaussian in the middle, standard deviation a quarter of each side', 'labels': None}
    if not isinstance(source, nn.Module):
        return {'score_maps': 'as given', 'labels': labels.kind if callable(source) else None}
    label = 'true label' if labels.kind == 'true' else 'predicted class'
    variant = getattr(source, 'cam_variant', 'published')
    formulas = f', {variant} formulas' if name.endswith('gradcampp') and variant != 'published' else ''
    return {
        'score_maps': _CONVENTIONS[convention, name != 'fcam'].format(label=label) + formulas,
        'labels': labels.kind,
        'class_agnostic': labels.reason,
    }


def _run_model(
    model: Any, names: Sequence[str], images: torch.Tensor, labels: torch.Tensor | None, convention: Convention
) -> tuple[dict[str, Any], torch.Tensor]:
    """Return maps (B,H,W) of each kind, and logits (B,K)."""
    weight = next(model.parameters())
    mean, std = (
        torch.tensor(model.pretrained_cfg[key], device=weight.device).view(1, -1, 1, 1) for key in ('mean', 'std')
    )
    x = ((images.to(weight.device) / 255 - mean) / std).to(weight.dtype)
    if not hasattr(model, 'class_map'):
        output = model(x)
        classes = output.logits.argmax(1) if labels is None else labels.to(weight.device)
        maps = {name: _fcam(output.maps) if name == 'fcam' else model.cam(x, classes, method=name) for name in names}
        return maps, output.logits
    # A model in parts, like FCAM, runs its backbone once for all kinds of map.
    size = (x.shape[-2], x.shape[-1])
    encoding = model.encode(x)
    logits = model.classify(encoding)
    classes = logits.argmax(1) if labels is None else labels.to(weight.device)
    maps = {}
    for name in names:
        if name == 'fcam':
            found = _fcam(model.decoder(encoding.levels, size))
        else:
            # The same noise in each run.
            noise = {'generator': torch.Generator().manual_seed(0)} if name == 'smoothgradcampp' else {}
            found = model.class_map(encoding, classes, name, **noise)
        if convention == 'bicubic':
            maps[name] = _bicubic(found, size)
        else:
            maps[name] = found if name == 'fcam' else resize(found, size)
    return maps, logits


def _bicubic(maps: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Make score maps (B,H,W) as Choe et al.: OpenCV's bicubic resize, then min-max; a constant map becomes zeros."""
    large = np.stack([cv2.resize(m, size[::-1], interpolation=cv2.INTER_CUBIC) for m in maps.double().cpu().numpy()])
    low, high = (f((1, 2), keepdims=True) for f in (large.min, large.max))
    span = high - low
    return np.divide(large - low, span, out=np.zeros_like(large), where=span > 0)


def _fcam(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().softmax(1)[:, 1]


def maps_of(
    source: Source,
    dataset: Any,
    maps: Sequence[str],
    *,
    convention: Convention = 'bilinear',
    labels: Labels = 'auto',
    device: str | torch.device | None = None,
) -> dict[str, MapOf]:
    """Return, for each kind of map, a function of an image's index that makes its map (H,W) as `evaluate_many` does.

    For the arguments and errors see `evaluate_many`. The map of a function must not depend on the order of the images.
    """
    maps = check_kinds(maps)
    maker = MapMaker(source, dataset, maps, convention, labels, device)

    @lru_cache(maxsize=32)
    def find(index: int) -> dict[str, np.ndarray]:
        batch = next(maker.batches(range(index, index + 1), 1))
        return {name: found[0] for name, found in batch.maps.items()}

    def get(name: str, index: int) -> np.ndarray:
        check_whole('index', index, 0)
        if index >= len(dataset):
            raise ValueError(f'index={index}, but the data set has {len(dataset)} images: give a smaller one')
        return find(index)[name]

    return {name: partial(get, name) for name in maps}
