"""CAMs of any classifier and layer: one forward and one backward for the whole batch, parameters untouched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn as nn

from .geometry import align_geometry, check_align
from .methods import UnknownMethodError, check_method, gradient_map, smooth_gradient_map
from .postprocess import normalize as normalize_maps
from .postprocess import resize

SMOOTH_SAMPLES = 4
SMOOTH_STD = 0.3


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
    align: Literal['plain', 'cells', 'kernels'] = 'plain',
) -> torch.Tensor:
    """Class maps of a classifier at one of its layers.

    The classifier runs in eval mode (its mode is restored); gradients are taken with respect to the layer's output
    alone, so parameters may be frozen and the caller may be under `torch.no_grad()` or `torch.inference_mode()`.

    Args:
        classifier: Module that maps images (B,3,H,W) to logits (B,K).
        images: (B,3,H,W), normalised as the classifier expects.
        labels: Class to explain, int64 (B,); default: the predicted class.
        method: One of `cams.METHODS`. 'cam' needs a head of average pooling and one linear layer after `layer`.
        layer: Module or dotted name whose (B,C,h,w) output is explained; default: the last layer with a spatial map.
        size: 'input' resizes to (H,W), None keeps the layer's size, (H,W) resizes to it.
        normalize: Min-max to [0,1] before resizing.
        variant: 'published' or 'reference' (see `cams.methods`).
        generator: Source of the noise of 'smoothgradcampp'.
        n_samples: Noisy passes of 'smoothgradcampp', with standard deviation 0.3 in input units.
        align: Where the resize draws the cells: 'plain' as align_corners=False does, 'cells' where the paddings of the
            layers let them look, 'kernels' where these and the trained kernels do (see `cell_geometry`).

    Returns:
        (B,h,w) or (B,H,W), detached.

    Raises:
        UnknownMethodError: For an unknown method, or 'cam' on a head where it is not defined.
        ValueError: For a layer that does not exist or has no spatial output, labels that are not one an image,
            n_samples < 1, an unknown align, or one other than 'plain' for a layer that `cell_geometry` cannot follow.
    """
    check_method(method, variant)
    check_align(align)
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(f'labels {tuple(labels.shape)} must be one class an image, ({images.shape[0]},)')
    if n_samples < 1:
        raise ValueError(f'n_samples is {n_samples}: at least one noisy pass is needed')
    with _eval_mode(classifier), torch.inference_mode(False), torch.enable_grad():
        # Tensors made in inference mode cannot take part in a backward pass, copies can.
        images, labels = (x.clone() if x is not None and x.is_inference() else x for x in (images, labels))
        module = _resolve_layer(classifier, layer, images)
        activation, gradient, logits, labels = _activation_and_gradient(classifier, module, images, labels)
        if method == 'cam':
            raw = _linear_cam(classifier, activation, logits, labels)
        elif method == 'smoothgradcampp':
            passes = []
            for _ in range(n_samples):
                noise = torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images.device)
                passes.append(_activation_and_gradient(classifier, module, images + SMOOTH_STD * noise, labels)[:2])
            activations, gradients = (torch.stack(x) for x in zip(*passes))
            raw = smooth_gradient_map(activations, gradients, activation, variant)
        else:
            raw = gradient_map(activation, gradient, method, variant)
    maps = normalize_maps(raw) if normalize else raw
    if size is None:
        return maps
    image_size = tuple(images.shape[-2:])
    size = image_size if size == 'input' else size
    geometry = align_geometry(align, classifier, module, images)
    return resize(maps, size, geometry=geometry and geometry.scaled(image_size, size))


def _activation_and_gradient(
    classifier: nn.Module, module: nn.Module, images: torch.Tensor, labels: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    leaf: list[torch.Tensor] = []

    def cut(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            raise ValueError(f'layer {type(_module).__name__} gives no (B,C,h,w) map: choose a convolutional layer')
        leaf.append(output.detach().requires_grad_())
        # The clone lets a following in-place ReLU change its own copy.
        return leaf[-1].clone()

    handle = module.register_forward_hook(cut)
    try:
        logits = classifier(images)
    finally:
        handle.remove()
    if not leaf:
        raise ValueError(f'layer {type(module).__name__} does not run in the forward pass: choose another')
    if logits.ndim != 2:
        raise ValueError(f'the classifier gives {tuple(logits.shape)}: class maps need logits (B,K)')
    labels = logits.argmax(1) if labels is None else labels.to(logits.device)
    # Sample b's logit depends on sample b alone (eval mode), so one backward of the sum serves the batch.
    score = logits.gather(1, labels[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, leaf[-1])
    return leaf[-1].detach(), gradient, logits.detach(), labels


def _linear_cam(
    classifier: nn.Module, activation: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """CAM (Zhou et al., CVPR 2016), from the one linear layer whose input is the pooled activation."""
    pooled = activation.mean((2, 3))
    for linear in classifier.modules():
        if isinstance(linear, nn.Linear) and linear.in_features == activation.shape[1]:
            with torch.no_grad():
                fits = linear.out_features == logits.shape[1] and torch.allclose(
                    linear(pooled), logits, rtol=1e-3, atol=1e-4
                )
            if fits:
                return torch.einsum('bc,bchw->bhw', linear.weight.detach()[labels], activation)
    raise UnknownMethodError(
        "method 'cam' needs average pooling and one linear layer right after the explained layer, and this classifier "
        "has none there: use method='gradcam' or 'layercam'"
    )


def _resolve_layer(classifier: nn.Module, layer: nn.Module | str | None, images: torch.Tensor) -> nn.Module:
    if isinstance(layer, nn.Module):
        return layer
    if isinstance(layer, str):
        try:
            return classifier.get_submodule(layer)
        except AttributeError as e:
            names = [name for name, _ in classifier.named_modules() if name]
            raise ValueError(f'no layer {layer!r} in the classifier; its last layers: {", ".join(names[-8:])}') from e
    spatial: list[nn.Module] = []

    def note(module: nn.Module, _inputs: tuple, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1:
            spatial.append(module)

    handles = [m.register_forward_hook(note) for m in classifier.modules() if not list(m.children())]
    try:
        with torch.no_grad():
            classifier(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not spatial:
        raise ValueError('no layer of the classifier gives a (B,C,h,w) map: name one with layer=')
    return spatial[-1]


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
