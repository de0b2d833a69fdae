"""CAMs of any classifier and layer: one forward and one backward for the whole batch, parameters untouched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from .._modes import eval_mode, frozen_parameters
from .closed_form import linear_weight
from .layers import find_layer
from .layout import LAYOUTS, Layout, find_layout, to_maps
from .methods import (
    UnknownMethodError,
    check_classes,
    check_labels,
    check_method,
    full_precision,
    gradient_map,
    smooth_gradient_map,
    weighted_sum,
)
from .postprocess import normalize as normalize_maps
from .postprocess import resize

SMOOTH_SAMPLES = 4
SMOOTH_STD = 0.3
# Smaller images gain nothing by another memory layout.
FAST_SIDE = 96


def extract(
    classifier: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    method: str = 'layercam',
    layer: nn.Module | str | None = None,
    size: Literal['input'] | tuple[int, int] | None = 'input',
    normalize: bool = True,
    variant: str = 'published',
    generator: torch.Generator | None = None,
    n_samples: int = SMOOTH_SAMPLES,
    layout: Layout | None = None,
    prefix_tokens: int | None = None,
) -> torch.Tensor:
    """Class maps of a classifier at one of its layers.

    The classifier runs in eval mode (its mode is restored); gradients are taken with respect to the layer's output
    alone, so nothing is recorded before that layer, parameters may be frozen, and the caller may be under
    `torch.no_grad()`, `torch.inference_mode()` or autocast. Maps are computed in float32 at least.

    Args:
        classifier: Module that maps images (B,C,H,W) to logits (B,K), or to an object or tuple that begins with them.
        images: (B,C,H,W), normalised as the classifier expects.
        labels: Class to explain, int64 (B,); default: the predicted class.
        method: One of `cams.METHODS`. 'cam' needs a head of average pooling and one linear layer after `layer`.
        layer: Module or dotted name whose output is explained; default: the last that gives a spatial map, found by one
            more pass of one image. In timm's VisionTransformer it is the last norm of the tokens, or the first norm of
            the last block where the head reads the class token alone; in other token networks it must be named.
        size: 'input' resizes to (H,W), None keeps the layer's size, (H,W) resizes to it.
        normalize: Min-max to [0,1] before resizing.
        variant: Reading of the Grad-CAM++ formulas: 'published', 'original' or 'reference' (see `cams.methods`).
        generator: Source of the noise of 'smoothgradcampp'.
        n_samples: Noisy passes of 'smoothgradcampp', with standard deviation 0.3 in input units.
        layout: Of the layer's output: 'NCHW', 'NHWC', or 'NLC' for tokens in rows; default: by its dimensions, with
            'NHWC' for networks that say so (timm's Swin).
        prefix_tokens: Class and register tokens before those of the patches; default: what a timm network says, or 0.

    Returns:
        (B,h,w) or (B,H,W), detached.

    Raises:
        UnknownMethodError: For an unknown method, or 'cam' on a head where it is not defined.
        TypeError: For a layer that is neither a module nor a name, or labels that are no integers.
        ValueError: For a layer that does not exist, has no spatial output or does not reach the logits, labels that are
            not one class an image, an unknown layout, or n_samples < 1.
    """
    check_method(method, variant)
    _check_inputs(images, labels, size)
    if n_samples < 1:
        raise ValueError(f'n_samples is {n_samples}: at least one noisy pass is needed')
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f'unknown layout {layout!r}: choose one of {", ".join(LAYOUTS)}')
    if prefix_tokens is None:
        prefix_tokens = getattr(classifier, 'num_prefix_tokens', 0)
    with eval_mode(classifier), frozen_parameters(classifier), torch.inference_mode(False), torch.enable_grad():
        # Tensors made in inference mode cannot take part in a backward pass, copies can.
        images, labels = (x.clone() if x is not None and x.is_inference() else x for x in (images, labels))
        target = _Target(classifier, find_layer(classifier, layer, images), layout, prefix_tokens)
        noise = _noise(images, n_samples, generator) if method == 'smoothgradcampp' else []
        fast = _fast_layout(images)
        try:
            raw = _explain(target, fast, labels, method, variant, noise)
        except RuntimeError as e:
            # Code that views maps in another shape needs them in their usual layout.
            if fast is images or 'view size' not in str(e):
                raise
            raw = _explain(target, images, labels, method, variant, noise)
    maps = normalize_maps(raw) if normalize else raw
    if size is None:
        return maps
    return resize(maps, tuple(images.shape[-2:]) if size == 'input' else size)


def _check_inputs(images: object, labels: object, size: object) -> None:
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or not len(images):
        shape = f'of shape {tuple(images.shape)}' if isinstance(images, torch.Tensor) else f'a {type(images).__name__}'
        raise ValueError(f'images are {shape}: give a tensor (B,C,H,W) of at least one')
    if labels is not None:
        check_labels(labels, len(images))
    pair = isinstance(size, (tuple, list, torch.Size)) and len(size) == 2 and all(isinstance(n, int) for n in size)
    if not (size in ('input', None) if not pair else min(size) > 0):
        raise ValueError(f"size is {size!r}: choose 'input', None or (height, width)")


def _fast_layout(images: torch.Tensor) -> torch.Tensor:
    """Channels last on the CPU, where convolutions of large maps are a third faster on it."""
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
    """Raw map (B,h,w)."""
    if method == 'cam':
        return _linear_cam(target, images, labels)
    if method == 'smoothgradcampp':
        return _smooth_cam(target, images, labels, variant, noise)
    activation, gradient, _ = target.explain(images, labels)
    return gradient_map(activation, gradient, method, variant)


@dataclass
class _Target:
    """A layer to explain, and how to read its output."""

    classifier: nn.Module
    module: nn.Module
    layout: Layout | None
    prefix_tokens: int

    def run(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Output of the layer, as a leaf from which the logits follow; logits (B,K)."""
        leaf: list[torch.Tensor] = []

        def cut(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            self.layout = self.layout or find_layout(self.classifier, output)
            dimensions = output.ndim if isinstance(output, torch.Tensor) else 0
            if self.layout is None or dimensions != len(self.layout):
                raise ValueError(f'layer {type(_module).__name__} gives no (B,C,h,w) map: choose a convolutional layer')
            leaf.append(output.detach().requires_grad_())
            # The clone lets a following in-place ReLU change its own copy.
            return leaf[-1].clone()

        handle = self.module.register_forward_hook(cut)
        try:
            logits = _logits(self.classifier(images))
        finally:
            handle.remove()
        if not leaf:
            raise ValueError(f'layer {type(self.module).__name__} does not run in the forward pass: choose another')
        return leaf[-1], logits

    def maps(self, x: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """A tensor of the output's shape as (B,C,h,w), detached, in float32 at least."""
        return full_precision(to_maps(x.detach(), self.layout, tuple(images.shape[-2:]), self.prefix_tokens))

    def explain(
        self, images: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Activation and gradient (B,C,h,w), and the explained classes (B,)."""
        leaf, logits = self.run(images)
        labels = _chosen(labels, logits)
        # Sample b's logit depends on sample b alone (eval mode), so one backward of the sum serves the batch.
        score = logits.gather(1, labels[:, None]).sum()
        gradient = torch.autograd.grad(score, leaf, allow_unused=True)[0] if score.requires_grad else None
        if gradient is None:
            raise ValueError(
                f'no gradient leads from the logits to layer {type(self.module).__name__}: choose another layer, or a '
                'classifier whose forward pass is not under no_grad (of an F-CAM, its backbone)'
            )
        return self.maps(leaf, images), self.maps(gradient, images), labels


def _chosen(labels: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
    """Classes to explain (B,) on the device of the logits; the predicted ones by default."""
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
        raise ValueError(f'the classifier gives {shape}: class maps need logits (B,K)')
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
    with torch.no_grad():
        leaf, logits = target.run(images)
    clean, labels = target.maps(leaf, images), _chosen(labels, logits)
    passes = [target.explain(images + n, labels)[:2] for n in noise]
    activations, gradients = (torch.stack(x) for x in zip(*passes))
    return smooth_gradient_map(activations, gradients, clean, variant)


def _linear_cam(target: _Target, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """CAM (Zhou et al., CVPR 2016), from the one linear layer whose input is the pooled activation."""
    with torch.no_grad():
        leaf, logits = target.run(images)
    activation, labels = target.maps(leaf, images), _chosen(labels, logits)
    pooled, logits = activation.mean((2, 3)), logits.detach()
    # Half precision rounds the logits that the head is recognised by.
    tolerance = max(1e-3, 16 * torch.finfo(logits.dtype).eps)
    for layer in target.classifier.modules():
        weight = linear_weight(layer)
        if weight is None or weight.shape != (logits.shape[1], activation.shape[1]):
            continue
        bias = None if layer.bias is None else full_precision(layer.bias.detach())
        with torch.autocast(pooled.device.type, enabled=False):
            own = F.linear(pooled, full_precision(weight), bias)
        if torch.allclose(own, full_precision(logits), rtol=tolerance, atol=tolerance * 0.1):
            return weighted_sum(full_precision(weight)[labels], activation)
    raise UnknownMethodError(
        "method 'cam' needs average pooling and one linear layer right after the explained layer, and this classifier "
        "has none there: use method='gradcam' or 'layercam'"
    )
