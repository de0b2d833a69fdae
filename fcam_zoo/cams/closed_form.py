"""Class maps of a classifier with global average pooling and one linear layer: no backward pass."""

from __future__ import annotations

import torch
import torch.nn as nn

from .._checks import as_count, check_devices, check_tensor
from .methods import (
    UnknownMethodError,
    alpha_plus_plus,
    check_classes,
    check_labels,
    check_method,
    full_precision,
    weighted_sum,
)

# Largest number of noisy passes.
MAX_SAMPLES = 10_000


def linear_weight(layer: nn.Module) -> torch.Tensor | None:
    """Return the weight (K,C) of a linear layer or 1x1 convolution, detached; None for any other layer."""
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
        return layer.weight.detach().flatten(1)
    return None


def has_closed_form(method: str, variant: str = 'published') -> bool:
    """Whether `class_activation_map` computes this method and variant from the features of the clean image."""
    return (method, variant) != ('smoothgradcampp', 'reference')


def class_activation_map(
    features: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    method: str = 'cam',
    n_samples: int = 4,
    variant: str = 'published',
) -> torch.Tensor:
    """Compute the raw class map of a GAP+linear head in closed form (F-CAM, WACV 2022, Sec. 4.1 lists the methods).

    With such a head the gradient of logit y is g = W[y] / n at each of the n = h*w positions of the last feature map A,
    for any input. The map is relu(sum_k w_k A_k) over the channels k, for 'cam' without relu, with

    - 'cam': w = W[y] (Zhou et al., CVPR 2016);
    - 'gradcam', 'xgradcam': w = g;
    - 'layercam': w = relu(g);
    - 'gradcampp', 'smoothgradcampp': w = n g^2 relu(g) / (2 g^2 + g^3 sum(A));
    - 'gradcampp' with variant 'reference': w = n g^2 relu(g).

    Args:
        features: Last feature map (B,C,h,w).
        weight: Weight of the linear layer (K,C).
        labels: Class to explain, int64 (B,), in [0, K).
        method: One of `cams.METHODS`.
        n_samples: Noisy passes of 'smoothgradcampp'. The result does not depend on it, because every pass has the same
            gradient.
        variant: 'published' and 'original', which agree here, or 'reference'.

    Returns:
        Raw map (B,h,w), float32 at least; non-negative for every method but 'cam'.

    Raises:
        UnknownMethodError: For an unknown method or variant, or 'smoothgradcampp' with variant 'reference', which needs
            the activation of a noisy image.
        TypeError: If features and weight are not floating-point tensors, or labels not integers.
        ValueError: If the shapes do not fit, a label is not a class, or n_samples < 1.
    """
    check_method(method, variant)
    if not has_closed_form(method, variant):
        raise UnknownMethodError(
            f'{method!r} with variant {variant!r} has no closed form, because it needs the activation of a noisy '
            'image: use cams.extract or FCAM.cam'
        )
    check_tensor(features, 'features', '(B,C,h,w)', 'float')
    check_tensor(weight, 'weight', '(K,C)', 'float')
    if features.shape[1] != weight.shape[1] or 0 in features.shape[1:]:
        raise ValueError(
            f'features {tuple(features.shape)} and weight {tuple(weight.shape)} do not fit: need (B,C,h,w) and (K,C)'
        )
    check_labels(labels, len(features))
    as_count(n_samples, 'n_samples', 1, MAX_SAMPLES)
    check_devices(features=features, weight=weight)
    check_classes(labels, len(weight))
    features = full_precision(features)
    w = weight[labels.long().to(weight.device)].to(features.dtype)
    if method == 'cam':
        return weighted_sum(w, features)
    return weighted_sum(_gradient_weight(features, w, method, variant), features).relu()


def _gradient_weight(features: torch.Tensor, w: torch.Tensor, method: str, variant: str) -> torch.Tensor:
    """Return the channel weights (B,C) of a gradient method; `w` is W[y]."""
    n = features.shape[2] * features.shape[3]
    g = w / n
    if method in ('gradcam', 'xgradcam'):
        return g
    if method == 'layercam':
        return g.relu()
    if variant == 'reference':
        return n * g.square() * g.relu()
    return n * alpha_plus_plus(g.square(), g.pow(3), features.sum((2, 3))) * g.relu()
