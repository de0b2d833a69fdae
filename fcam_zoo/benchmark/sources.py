"""Where score maps come from: a model, a function, an array, a folder, or only the size of the image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard, get_args

import cv2
import numpy as np
import torch
from torch import nn

from ..cams import resize
from .inputs import as_array

# Standard deviation of the centre baseline, in units of the sides of the map.
CENTER_SIGMA = 0.25

Source: TypeAlias = (
    nn.Module
    | Callable[[torch.Tensor, torch.Tensor | None], Any]
    | np.ndarray
    | torch.Tensor
    | str
    | os.PathLike
    | None
)
# How low-resolution maps become score maps: as in F-CAM, or as in Choe et al. (CVPR 2020).
Convention = Literal['bilinear', 'bicubic']
CONVENTIONS = get_args(Convention)
# Class of the class maps.
Labels = Literal['true', 'predicted']
LABELS = get_args(Labels)
MapOf = Callable[[int], Any]
Found: TypeAlias = tuple[dict[str, Any], torch.Tensor | None]

_FCAM = 'softmax of the foreground channel'
# In words, by convention and whether the map is a class map.
_CONVENTIONS = {
    ('bilinear', False): f'{_FCAM}, not renormalised',
    ('bilinear', True): 'class map of the {label}, min-max normalised, resized bilinearly, not renormalised',
    ('bicubic', False): f'{_FCAM}, min-max normalised',
    ('bicubic', True): 'class map of the {label}, resized bicubically, then min-max normalised',
}


@dataclass(frozen=True)
class MapOptions:
    """How maps are made; see `evaluate_many`."""

    device: str | torch.device | None = None
    convention: Convention = 'bilinear'
    labels: Labels = 'true'


def center_map(size: tuple[int, int]) -> np.ndarray:
    """Return the centre baseline of Choe et al. (CVPR 2020): a Gaussian around the middle, (H,W) in [0,1].

    Its standard deviation is a quarter of each side: thresholds range from the whole image to the middle pixel.
    """
    y, x = (((np.arange(n) + 0.5) / n - 0.5) / CENTER_SIGMA for n in size)
    return np.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2))


class MapFolder:
    """Maps in the layout of the published WSOL evaluator: `<folder>/<image id>.npy`, each (H,W) in [0,1].

    Raises:
        ValueError: When the folder or maps are missing.
    """

    def __init__(self, folder: str | os.PathLike, ids: Sequence[str]) -> None:
        self.folder, self.ids = Path(folder), ids
        self._shape: tuple[int, ...] | None = None
        if not self.folder.is_dir():
            raise ValueError(f'{self.folder} is not a folder: give one with <image id>.npy files')
        missing = [i for i in ids if not self.path(i).is_file()]
        if missing:
            raise ValueError(
                f'{len(missing)} of {len(ids)} maps are missing in {self.folder}, the first {missing[0]}.npy: save one '
                'for each image of the data set'
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Load the maps (B,H,W) of some images.

        Raises:
            ValueError: When a file is not a plain array, or maps have different sizes.
        """
        if self._shape is None:
            self._shape = self._load(self.ids[0]).shape
        maps = []
        for image_id in self.ids[part]:
            maps.append(self._load(image_id))
            if maps[-1].ndim != 2 or maps[-1].shape != self._shape:
                raise ValueError(
                    f'{self.path(image_id)} has the shape {maps[-1].shape}, others {self._shape}: save all maps as '
                    '(H,W) of the same size'
                )
        return np.stack(maps)

    def _load(self, image_id: str) -> np.ndarray:
        path = self.path(image_id)
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as e:
            raise ValueError(f'{path} cannot be read as a map ({e}): save it with numpy.save') from e

    def path(self, image_id: str) -> Path:
        return self.folder / f'{image_id}.npy'


Maps: TypeAlias = np.ndarray | torch.Tensor | MapFolder
Opened: TypeAlias = nn.Module | Callable[[torch.Tensor, torch.Tensor | None], Any] | Maps | None


def open_source(source: Source, dataset: Any) -> Opened:
    """Open a folder of maps; other sources stay as they are."""
    return MapFolder(source, dataset.ids) if isinstance(source, (str, os.PathLike)) else source


def is_array(source: Opened) -> TypeGuard[Maps]:
    """Return whether the source is an array of maps, in memory or in files."""
    return isinstance(source, (np.ndarray, torch.Tensor, MapFolder))


def check_source(source: Opened, dataset: Any, made: Sequence[str], options: MapOptions) -> None:
    """Check that a source can make some kinds of map for a data set.

    Raises:
        ValueError: If not, or if an option is unknown or a device cannot be used.
    """
    for name, value, known in (('convention', options.convention, CONVENTIONS), ('labels', options.labels, LABELS)):
        if value not in known:
            raise ValueError(f'unknown {name} {value!r}: choose one of {", ".join(known)}')
    if options.device is not None:
        try:
            torch.empty(0, device=options.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f'device {str(options.device)!r} cannot be used ({str(error).splitlines()[0]}): choose another one, '
                'such as cpu'
            ) from error
    if source is None and made:
        raise ValueError(f"maps {made} need a source: without one only 'center' can be scored")
    if isinstance(source, nn.Module):
        _check_model(source, dataset, made, options)
    elif len(made) > 1:
        raise ValueError(f'a function or an array makes one kind of map, but {len(made)} are requested: {made}')
    if is_array(source) and len(source) != len(dataset):
        raise ValueError(f'{len(source)} maps for {len(dataset)} images: give one for each, in the same order')


def _check_model(model: nn.Module, dataset: Any, made: Sequence[str], options: MapOptions) -> None:
    name = type(model).__name__
    if options.convention == 'bicubic' and not hasattr(model, 'class_map'):
        raise ValueError(f"{name} has no class_map, whose small maps convention='bicubic' resizes: give an FCAM")
    needed = ['pretrained_cfg', 'cam'] if set(made) - {'fcam'} else ['pretrained_cfg']
    if missing := [attribute for attribute in needed if not hasattr(model, attribute)]:
        raise ValueError(
            f'{name} has no {" and no ".join(missing)}: give fcam_zoo.wrap(classifier), or a function of images and '
            'labels that returns its maps'
        )
    classes, labels = getattr(model, 'num_classes', None), np.asarray(dataset.labels)
    if made and options.labels == 'true' and isinstance(classes, int) and labels.size and labels.max() >= classes:
        raise ValueError(
            f'{getattr(dataset, "name", "the data set")} has labels up to {labels.max()}, but the model only has '
            f"{classes} classes: to score maps of classes that the model does not know, use labels='predicted' "
            '(--labels predicted)'
        )


def describe_maps(name: str, source: Source, options: MapOptions) -> str:
    """Describe in words how a kind of map is made."""
    if name == 'center':
        return 'Gaussian in the middle, standard deviation a quarter of each side'
    if not isinstance(source, nn.Module):
        return 'as given'
    label = 'true label' if options.labels == 'true' else 'predicted class'
    return _CONVENTIONS[options.convention, name != 'fcam'].format(label=label)


def score(
    source: Opened, names: Sequence[str], images: torch.Tensor, labels: torch.Tensor, options: MapOptions
) -> Found:
    """Make maps of a batch.

    Args:
        source: A model or a function.
        names: Kinds of map.
        images: uint8 (B,3,H,W).
        labels: (B) true labels.
        options: Device, convention and labels.

    Returns:
        Maps (B,H,W) of each kind; logits (B,K) if the source returns them and class maps are of the true label.
    """
    known = options.labels == 'true'
    if isinstance(source, nn.Module):
        maps, logits = _score_model(source, names, images, labels if known else None, options.convention)
    else:
        assert callable(source)
        if options.device is not None:
            images, labels = images.to(options.device), labels.to(options.device)
        result = source(images, labels if known else None)
        found, logits = result if isinstance(result, tuple) else (result, None)
        maps = {names[0]: found}
    return maps, logits if known else None


def _score_model(
    model: Any, names: Sequence[str], images: torch.Tensor, labels: torch.Tensor | None, convention: Convention
) -> Found:
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
            found = model.class_map(encoding, classes, name)
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


@contextmanager
def scoring_mode(source: Opened, device: str | torch.device | None) -> Iterator[None]:
    """Disable gradients; move a model to the device and set eval mode. The modes of its modules are restored."""
    modes = {}
    if isinstance(source, nn.Module):
        modes = {module: module.training for module in source.modules()}
        source.eval()
        if device is not None:
            source.to(device)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def maps_of(
    source: Source,
    dataset: Any,
    maps: Sequence[str],
    *,
    convention: Convention = 'bilinear',
    labels: Labels = 'true',
    device: str | torch.device | None = None,
) -> dict[str, MapOf]:
    """Return, for each kind of map, a function of an image's index that makes its map (H,W) as `evaluate_many` does.

    Args:
        source: As in `evaluate_many`; a function must not depend on the order of the images.
        dataset: As there.
        maps: Kinds of map.
        convention: As there.
        labels: As there.
        device: As there.
    """
    opened = open_source(source, dataset)
    made = [name for name in maps if name != 'center']
    options = MapOptions(device, convention, labels)

    @lru_cache(maxsize=32)
    def find(index: int) -> dict[str, Any]:
        if is_array(opened):
            return dict.fromkeys(made, opened[index : index + 1][0])
        image, label, _ = dataset[index]
        with scoring_mode(opened, device):
            found, _ = score(opened, made, image[None], torch.tensor([label]), options)
        return {name: as_array(batch)[0] for name, batch in found.items()}

    def get(name: str, index: int) -> np.ndarray:
        return find(index)[name]

    def center(index: int) -> np.ndarray:
        return center_map(tuple((find(index)[made[0]] if made else dataset[index][0]).shape[-2:]))

    return {name: center if name == 'center' else partial(get, name) for name in maps}
