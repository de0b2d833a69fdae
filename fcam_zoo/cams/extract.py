"""CAMs of any classifier and layer: one forward and one backward pass per batch; parameters are not changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from .._checks import as_count, as_flag, check_generator, check_tensor
from .._modes import eval_mode, frozen_parameters
from .._schema import show
from .closed_form import MAX_SAMPLES, linear_weight
from .fusion import check_fusion, fuse
from .layers import find_layer
from .layout import LAYOUTS, Layout, find_layout, image_size, to_maps
from .methods import (
    UnknownMethodError,
    as_labels,
    check_classes,
    check_method,
    full_precision,
    gradient_map,
    smooth_gradient_map,
    weighted_sum,
)
from .postprocess import check_size, resize
from .postprocess import normalize as normalize_maps

SMOOTH_SAMPLES = 4
SMOOTH_STD = 0.3
# Below this side in pixels, channels-last memory is not faster.
FAST_SIDE = 96


def extract(
    classifier: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor | Sequence[int] | int | None = None,
    method: str = 'layercam',
    layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
    size: Literal['input'] | tuple[int, int] | None = 'input',
    normalize: bool = True,
    variant: str = 'published',
    generator: torch.Generator | None = None,
    n_samples: int = SMOOTH_SAMPLES,
    layout: Layout | None = None,
    prefix_tokens: int | None = None,
    fusion: str = 'geometric_mean',
) -> torch.Tensor:
    """Compute the class maps of a classifier at one of its layers, or fuse those of several.

    The classifier runs in eval mode; its mode is restored. Gradients are taken with respect to the output of the layer
    only, so autograd records nothing before the layer, parameters may be frozen, and the caller may be under
    `torch.no_grad()`, `torch.inference_mode()` or autocast. Maps are computed in float32 or float64. `cams.methods` has
    the formulas.

    Args:
        classifier: Module that maps images (B,C,H,W) to logits (B,K), or to an object or tuple that begins with them.
        images: (B,C,H,W), normalized as the classifier expects.
        labels: Class to explain: integers (B,), or one for all images; default: the predicted class.
        method: One of `cams.METHODS`. 'cam' needs average pooling and one linear layer after `layer`.
        layer: Module or dotted name whose output is explained; default: the last layer with a spatial map, found by one
            more forward pass of one image. In timm's VisionTransformer it is the last norm of the tokens, or the first
            norm of the last block if the head uses only the class token. Other token networks need a name. The maps of
            a list of layers are normalized, resized to `size` (None: to the largest map) and fused; each takes a pass.
        size: 'input' resizes to (H,W), None keeps the layer's size, (H,W) resizes to it.
        normalize: Min-max to [0,1] before resizing.
        variant: Variant of the Grad-CAM++ formulas: 'published', 'original' or 'reference' (see `cams.methods`).
        generator: Source of the noise of 'smoothgradcampp'.
        n_samples: Noisy passes of 'smoothgradcampp', with standard deviation 0.3 in input units.
        layout: Layout of the layer's output: 'NCHW', 'NHWC', or 'NLC' for tokens; default: inferred from the number of
            dimensions, with 'NHWC' for networks that declare it (timm's Swin).
        prefix_tokens: Number of class and register tokens before the patches; default: that of a timm network, or 0.
        fusion: How the maps of several layers are combined (see `cams.fuse`).

    Returns:
        (B,h,w) or (B,H,W), detached.

    Raises:
        UnknownMethodError: For an unknown method, or 'cam' on a head for which it is not defined.
        TypeError: If `classifier` is not a module, `layer` is neither a module nor a name, images are not a
            floating-point tensor, or labels are not integers.
        ValueError: If the layer does not exist, has no spatial output or does not reach the logits, labels are not one
            class per image, the layout or fusion is unknown, n_samples < 1, the maps of several layers are not
            normalized, or the classifier cannot run on the images.
    """
    check_method(method, variant)
    check_fusion(fusion)
    if isinstance(layer, Sequence) and not isinstance(layer, str):
        if not layer or not as_flag(normalize, 'normalize'):
            raise ValueError('layer is a list: give at least one, and normalize=True, because maps are fused in [0,1]')
        options = (size, True, variant, generator, n_samples, layout, prefix_tokens)
        found = [extract(classifier, images, labels, method, each, *options) for each in layer]
        height, width = max((tuple(each.shape[-2:]) for each in found), key=math.prod)
        return fuse([resize(each, (height, width)) for each in found], fusion)
    if not isinstance(classifier, nn.Module):
        raise TypeError(f'classifier is {show(classifier)}: give a torch.nn.Module')
    size = _check_inputs(images, size)
    labels = None if labels is None else as_labels(labels, len(images))
    n_samples = as_count(n_samples, 'n_samples', 1, MAX_SAMPLES)
    check_generator(generator)
    normalize = as_flag(normalize, 'normalize')
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f'unknown layout {show(layout)}: choose one of {", ".join(LAYOUTS)}')
    if prefix_tokens is None:
        prefix_tokens = getattr(classifier, 'num_prefix_tokens', 0)
    with (
        _runs_on(images),
        eval_mode(classifier),
        frozen_parameters(classifier),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        # Tensors made in inference mode cannot take part in a backward pass; copies can.
        images = images.clone() if images.is_inference() else images
        labels = labels.clone() if labels is not None and labels.is_inference() else labels
        target = _Target(classifier, find_layer(classifier, layer, images), layout, prefix_tokens)
        noise = _noise(images, n_samples, generator) if method == 'smoothgradcampp' else []
        fast = _fast_layout(images)
        try:
            raw = _explain(target, fast, labels, method, variant, noise)
        except RuntimeError as e:
            # Classifiers that call view() on maps need contiguous memory.
            if fast is images or 'view size' not in str(e):
                raise
            raw = _explain(target, images, labels, method, variant, noise)
    maps = normalize_maps(raw) if normalize else raw
    if size is None:
        return maps
    return resize(maps, size)


def _check_inputs(images: torch.Tensor, size: Any) -> tuple[int, int] | None:
    """Check images and size; return the (H,W) of the maps, None for that of the layer."""
    check_tensor(images, 'images', '(B,C,H,W)', 'float')
    if not images.numel() or images.is_meta:
        raise ValueError(f'images have the shape {tuple(images.shape)} on {images.device}: give at least one image')
    if size is None:
        return None
    if isinstance(size, str):
        if size != 'input':
            raise ValueError(f"size is {show(size)}: choose 'input', None or (height, width)")
        return image_size(images)
    return check_size(size)


@contextmanager
def _runs_on(images: torch.Tensor) -> Iterator[None]:
    """Convert the errors of torch about images of a wrong size, type or device to one that names them."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as e:
        reason = ' '.join(str(e).split())[:200]
        raise ValueError(
            f'the classifier cannot run on images {tuple(images.shape)} of {images.dtype} on {images.device} '
            f'({reason}): give images of its channels, size, type and device'
        ) from e


def _fast_layout(images: torch.Tensor) -> torch.Tensor:
    """Make large images channels-last on the CPU, where convolutions of large maps are then a third faster."""
    if images.device.type != 'cpu' or min(images.shape[-2:]) < FAST_SIDE:
        return images
    return images.contiguous(memory_format=torch.channels_last)


def _explain(
    target: _Target,
    images: torch.Tensor,
    labels: torch.Tensor | None,
    method: str,
    variant: str,
    noise: list[torch.Tensor],
) -> torch.Tensor:
    """Compute the raw map (B,h,w)."""
    if method == 'cam':
        return _linear_cam(target, images, labels)
    if method == 'smoothgradcampp':
        return _smooth_cam(target, images, labels, variant, noise)
    return gradient_map(*target.gradients(images, labels), method, variant)


@dataclass
class _Target:
    """The layer to explain, and how to read its output."""

    classifier: nn.Module
    module: nn.Module
    layout: Layout | None
    prefix_tokens: int

    def activation(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the activation (B,C,h,w) and the logits (B,K), without a graph."""
        with torch.no_grad():
            leaf, layout, logits = self._run(images)
        return self._maps(leaf, layout, images), logits

    def gradients(self, images: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the activation and its gradient (B,C,h,w)."""
        leaf, layout, logits = self._run(images)
        # In eval mode the logits of an image depend only on that image, so one backward pass of the sum serves all.
        score = logits.gather(1, _explained(labels, logits)[:, None]).sum()
        gradient = torch.autograd.grad(score, leaf, allow_unused=True)[0] if score.requires_grad else None
        if gradient is None:
            raise ValueError(
                f'no gradient leads from the logits to layer {type(self.module).__name__}: choose another layer, or a '
                'classifier whose forward pass is not under no_grad (for an F-CAM, its backbone)'
            )
        return self._maps(leaf, layout, images), self._maps(gradient, layout, images)

    def _run(self, images: torch.Tensor) -> tuple[torch.Tensor, Layout, torch.Tensor]:
        """Return the layer's output as a leaf from which the logits are computed, its layout, and the logits (B,K)."""
        leaves: list[tuple[torch.Tensor, Layout]] = []

        def cut(module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            layout = self.layout or find_layout(self.classifier, output)
            dimensions = output.ndim if isinstance(output, torch.Tensor) else 0
            if layout is None or dimensions != len(layout):
                raise ValueError(
                    f'layer {type(module).__name__} does not output a (B,C,h,w) map: choose a convolutional layer'
                )
            leaf = output.detach().requires_grad_()
            leaves.append((leaf, layout))
            # The clone lets a following in-place ReLU change its own copy.
            return leaf.clone()

        handle = self.module.register_forward_hook(cut)
        try:
            logits = _logits(self.classifier(images))
        finally:
            handle.remove()
        if not leaves:
            raise ValueError(f'layer {type(self.module).__name__} does not run in the forward pass: choose another')
        return *leaves[-1], logits

    def _maps(self, x: torch.Tensor, layout: Layout, images: torch.Tensor) -> torch.Tensor:
        """Convert a tensor of the output's shape to (B,C,h,w), detached, in float32 or float64."""
        return full_precision(to_maps(x.detach(), layout, image_size(images), self.prefix_tokens))


def _explained(labels: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
    """Return the classes to explain (B,) on the device of the logits; by default the predicted ones."""
    if labels is None:
        return logits.detach().argmax(1)
    check_classes(labels, logits.shape[1])
    return labels.long().to(logits.device)


def _logits(output: Any) -> torch.Tensor:
    if isinstance(output, dict):
        output = output.get('logits', output)
    logits = getattr(output, 'logits', output[0] if isinstance(output, (tuple, list)) else output)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f'the classifier returns {shape}: class maps need logits (B,K)')
    return logits


def _noise(images: torch.Tensor, n_samples: int, generator: torch.Generator | None) -> list[torch.Tensor]:
    device = generator.device if generator is not None else images.device
    draws = (
        torch.randn(images.shape, generator=generator, dtype=images.dtype, device=device) for _ in range(n_samples)
    )
    return [SMOOTH_STD * draw.to(images.device) for draw in draws]


def _smooth_cam(
    target: _Target, images: torch.Tensor, labels: torch.Tensor | None, variant: str, noise: list[torch.Tensor]
) -> torch.Tensor:
    clean, logits = target.activation(images)
    labels = _explained(labels, logits)
    activations, gradients = zip(*(target.gradients(images + n, labels) for n in noise))
    return smooth_gradient_map(torch.stack(activations), torch.stack(gradients), clean, variant)


def _linear_cam(target: _Target, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Compute sum_k W[y,k] A_k (CAM: Zhou et al., CVPR 2016); W is the weight of the linear layer after pooling."""
    activation, logits = target.activation(images)
    labels, pooled = _explained(labels, logits), activation.mean((2, 3))
    # Find the linear layer by computing its logits; in half precision they are rounded.
    tolerance = max(1e-3, 16 * torch.finfo(logits.dtype).eps)
    for layer in target.classifier.modules():
        weight = linear_weight(layer)
        if weight is None or weight.shape != (logits.shape[1], activation.shape[1]):
            continue
        bias: torch.Tensor | None = getattr(layer, 'bias', None)
        with torch.autocast(pooled.device.type, enabled=False):
            own = F.linear(pooled, full_precision(weight), None if bias is None else full_precision(bias.detach()))
        if torch.allclose(own, full_precision(logits), rtol=tolerance, atol=tolerance * 0.1):
            return weighted_sum(full_precision(weight)[labels], activation)
    raise UnknownMethodError(
        "method 'cam' needs average pooling and one linear layer right after the explained layer, and this classifier "
        "has neither there: use method='gradcam' or 'layercam'"
    )
