"""From images to labels, boxes and masks in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import torch
from PIL import Image

from .data.images import open_image
from .data.transforms import EvalTransform, normalize
from .models import FCAM

ImageLike = str | os.PathLike | Image.Image | np.ndarray


@dataclass(frozen=True)
class Localization:
    """What was found in one image.

    Attributes:
        label: Name of the predicted class.
        score: Its probability.
        box: x0, y0, x1, y1 of the largest object in pixels of the original image; x1 and y1 are one past the last
            pixel. (0, 0, 0, 0) where the map is empty.
        mask: bool (H,W), all pixels above the threshold.
        map: F-CAM, float32 (H,W) in [0,1].
        size: (width, height) of the original image.
        class_index: Index of the predicted class.
    """

    label: str
    score: float
    box: tuple[int, int, int, int]
    mask: np.ndarray
    map: np.ndarray
    size: tuple[int, int]
    class_index: int


def localize(
    model: FCAM,
    images: ImageLike | Iterable[ImageLike],
    threshold: float | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 8,
) -> list[Localization]:
    """Classify and localize images.

    Args:
        model: An F-CAM; runs where it is, in eval mode (its mode is restored).
        images: Paths, PIL images or uint8 arrays (H,W,3) or (H,W), of any size; or a single one.
        threshold: tau in [0,1): a pixel is object where its 8-bit map is above int(tau * max). Default: the model's,
            chosen on its validation data.
        class_names: Names by index; default: the model's.
        batch_size: Images a forward pass.

    Returns:
        One result an image, in order.

    Raises:
        FileNotFoundError, ImageError: For an image that is missing or unreadable.
        ValueError: For a threshold outside [0,1), or class names of another number.
        TypeError: For something that is no image.
    """
    if isinstance(images, (str, os.PathLike, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    return list(localize_stream(model, images, threshold, class_names, batch_size))


def localize_stream(
    model: FCAM,
    images: Iterable[ImageLike],
    threshold: float | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 8,
) -> Iterator[Localization]:
    """`localize` for any number of images in flat memory: results come as they are made."""
    threshold = model.threshold if threshold is None else threshold
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}: at least one image a forward pass')
    if not 0 <= threshold < 1:
        raise ValueError(f'threshold is {threshold}: choose a value in [0,1)')
    names = class_names or model.pretrained_cfg.get('label_names') or [str(i) for i in range(model.num_classes)]
    if len(names) != model.num_classes:
        raise ValueError(f'{len(names)} class names for a model of {model.num_classes} classes: give one a class')
    source = iter(images)
    while batch := [as_image(image) for image in islice(source, batch_size)]:
        for image, score_map, probs in zip(batch, *_forward(model, batch)):
            yield _localization(image.size, score_map, probs, threshold, names)


def as_image(image: ImageLike) -> Image.Image:
    """Path, PIL image or array -> RGB PIL image."""
    if isinstance(image, (str, os.PathLike)):
        return open_image(image)
    if isinstance(image, Image.Image):
        return image.convert('RGB')
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise TypeError(f'array of {image.dtype} {image.shape}: expected uint8 (H,W), (H,W,3) or (H,W,4)')
        return Image.fromarray(image).convert('RGB')
    raise TypeError(f'{type(image).__name__} is no image: give a path, a PIL image or a uint8 array')


@torch.inference_mode()
def _forward(model: FCAM, batch: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """F-CAMs (B,h,w) at the input size of the model, and class probabilities (B,K)."""
    cfg = model.pretrained_cfg
    resize = EvalTransform(cfg['input_size'][-1])
    x = torch.stack([resize(image) for image in batch]).to(next(model.parameters()).device)
    training = model.training
    model.eval()
    try:
        output = model(normalize(x, cfg['mean'], cfg['std']))
    finally:
        model.train(training)
    return output.maps.softmax(1)[:, 1].float().cpu().numpy(), output.logits.softmax(1).float().cpu().numpy()


def _localization(
    size: tuple[int, int], score_map: np.ndarray, probs: np.ndarray, threshold: float, names: Sequence[str]
) -> Localization:
    full = cv2.resize(score_map, size, interpolation=cv2.INTER_LINEAR).clip(0, 1)
    grey = (full * 255).astype(np.uint8)
    mask = grey > int(threshold * float(grey.max()))
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    box = (0, 0, 0, 0)
    if contours:
        x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
        box = (x, y, x + w, y + h)
    best = int(probs.argmax())
    return Localization(names[best], float(probs[best]), box, mask, full, size, best)
