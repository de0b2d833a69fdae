"""Run an F-CAM over images of any size, with optional test-time augmentation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

from ._checks import as_flag, as_number
from ._modes import eval_mode
from ._schema import as_whole, show
from .data.transforms import EvalTransform, normalize
from .errors import FcamZooError, UntrainedModelWarning
from .models import FCAM
from .models.backbone_arguments import MAX_SIDE

MIN_SIDE = 32
MAX_SIZES = 16
MAX_BATCH = 4096


@dataclass(frozen=True)
class InferenceOptions:
    """Test-time augmentation: input sizes and mirroring.

    Attributes:
        sizes: Sides in pixels to which images are resized; the maps of several sizes are averaged at the largest.
        flip: Average with the map of the mirrored image.
    """

    sizes: tuple[int, ...]
    flip: bool = False

    @classmethod
    def for_model(cls, model: FCAM, sizes: Sequence[int] | None = None, flip: bool = False) -> InferenceOptions:
        """Validate the options; `sizes` None is the input size of the model.

        Raises:
            ValueError: When `sizes` is empty, has more than 16 values, or one outside 32 to `MAX_SIDE` pixels.
            TypeError: When the model is not an F-CAM.
        """
        check_model(model)
        flip = as_flag(flip, 'flip')
        if sizes is None:
            return cls((model.pretrained_cfg['input_size'][-1],), flip)
        given = list(sizes) if isinstance(sizes, Iterable) else []
        sides = tuple(side for size in given if (side := as_whole(size, MIN_SIDE, MAX_SIDE)))
        if not 0 < len(given) <= MAX_SIZES or len(sides) < len(given):
            raise ValueError(
                f'sizes is {show(sizes)}: give one or more sizes of at least {MIN_SIDE} pixels, at most {MAX_SIZES} '
                f'sizes and {MAX_SIDE} pixels'
            )
        return cls(sides, flip)

    def prepare(self, image: Image.Image) -> tuple[torch.Tensor, ...]:
        """Resize an RGB image to each size: uint8 (3,s,s) per size."""
        return tuple(EvalTransform(size)(image) for size in self.sizes)

    @torch.inference_mode()
    def run(self, model: FCAM, batch: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Classify and localize a batch.

        Args:
            model: Runs on its own device in eval mode; its mode is restored.
            batch: The result of `prepare` for each image.

        Returns:
            F-CAMs (B,s,s) in [0,1], where s is the largest size, and class probabilities (B,K); float32 on the CPU.

        Raises:
            FcamZooError: When the model returns NaN, or needs more memory than there is.
        """
        parameter, cfg = next(model.parameters()), model.pretrained_cfg
        device = parameter.device
        side = max(self.sizes)
        maps, probs = [], []
        with eval_mode(model), _enough_memory(f'{len(batch)} images of {side} pixels'):
            for images in zip(*batch):
                x = normalize(torch.stack(images).to(device), cfg['mean'], cfg['std']).to(parameter.dtype)
                for mirrored in (False, True) if self.flip else (False,):
                    output = model(x.flip(-1) if mirrored else x)
                    fcam = output.maps.softmax(1)[:, 1:].float()
                    fcam = fcam.flip(-1) if mirrored else fcam
                    maps.append(F.interpolate(fcam, (side, side), mode='bilinear')[:, 0])
                    probs.append(output.logits.float().softmax(1))
            score_maps, shares = torch.stack(maps).mean(0).cpu(), torch.stack(probs).mean(0).cpu()
        _check_finite(score_maps, shares)
        return score_maps, shares


@torch.inference_mode()
def class_maps(model: FCAM, images: Sequence[Image.Image], method: str = 'cam') -> np.ndarray:
    """Compute the CAMs of the predicted classes of RGB images at the input size of the model: (B,s,s) in [0,1]."""
    cfg, parameter = model.pretrained_cfg, next(model.parameters())
    prepare = EvalTransform(cfg['input_size'][-1])
    x = normalize(torch.stack([prepare(image) for image in images]).to(parameter.device), cfg['mean'], cfg['std'])
    x = x.to(parameter.dtype)
    with eval_mode(model):
        maps = model.cam(x, method=method).float().cpu()
    _check_finite(maps)
    return maps.numpy()


def check_model(model: Any) -> None:
    """Raise TypeError for an object that is not a module with the outputs and settings of an F-CAM."""
    if not isinstance(model, nn.Module) or not hasattr(model, 'pretrained_cfg') or not hasattr(model, 'threshold'):
        raise TypeError(f'{type(model).__name__} is not an F-CAM: create one with create_model, or wrap a classifier')
    if getattr(model, 'in_chans', 3) != 3:
        raise ValueError(f'the model takes images of {model.in_chans} channels: images have 3, call model(x) instead')
    if next(model.parameters()).is_meta:
        raise ValueError('the model is on the meta device, which holds no weights: load it on another device')
    _check_input_cfg(model.pretrained_cfg)


def warn_if_untrained(model: nn.Module) -> None:
    """Warn about a random decoder, whose maps look plausible, at the caller of `localize` or `label_images`."""
    if getattr(model, 'is_untrained', False):
        warnings.warn(
            'the decoder of this model is untrained, so its maps and boxes are random: load weights '
            '(create_model(name, pretrained=True), or the folder of a training), or train it',
            UntrainedModelWarning,
            stacklevel=3,
        )


def _check_input_cfg(cfg: Any) -> None:
    """Raise ValueError unless a pretrained_cfg that the caller changed still describes the input."""
    try:
        side, mean, std = cfg['input_size'][-1], as_values(cfg['mean'], 'mean'), as_values(cfg['std'], 'std')
    except (KeyError, TypeError, IndexError) as e:
        raise ValueError('pretrained_cfg of the model lacks input_size, mean or std: create the model again') from e
    if not (type(side) is int and 1 <= side <= MAX_SIDE and {len(mean), len(std)} <= {1, 3} and min(std) > 0):
        raise ValueError(
            f'pretrained_cfg of the model has input_size {show(cfg["input_size"])}, mean {show(mean)} and std '
            f'{show(std)}: give at most {MAX_SIDE} pixels, and 1 or 3 values'
        )


def as_values(values: Any, name: str) -> list[float]:
    """Return finite numbers."""
    return [as_number(value, name) for value in values]


def check_batch_size(value: Any) -> None:
    """Raise ValueError unless a batch size is a whole number from 1 to `MAX_BATCH`."""
    if as_whole(value, 1, MAX_BATCH) is None:
        raise ValueError(f'batch_size is {show(value)}: give at least one image per forward pass, at most {MAX_BATCH}')


def _check_finite(*outputs: torch.Tensor) -> None:
    """Raise FcamZooError for NaN and infinity, which no annotation format can hold."""
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise FcamZooError(
            'the model returns NaN or infinite values: its weights are damaged, or too large for their precision; load '
            'other weights, or use float32'
        )


@contextmanager
def _enough_memory(needed: str) -> Iterator[None]:
    """Convert the errors of torch about memory to one that says how to need less."""
    try:
        yield
    except RuntimeError as e:
        # On the CPU, torch raises a RuntimeError.
        if isinstance(e, torch.cuda.OutOfMemoryError) or 'allocate memory' in str(e) or 'enough memory' in str(e):
            raise FcamZooError(f'not enough memory for {needed}: use a smaller batch_size or smaller sizes') from e
        raise
