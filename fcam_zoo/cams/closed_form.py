"""Class maps of a classifier that ends in global average pooling and one linear layer: no backward pass."""

from __future__ import annotations

import torch
import torch.nn as nn

from .methods import alpha_plus_plus, check_classes, check_labels, check_method, full_precision, weighted_sum


def linear_weight(layer: nn.Module) -> torch.Tensor | None:
    """Weight (K,C) of a linear layer or 1x1 convolution, detached; None for any other layer."""
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
        return layer.weight.detach().flatten(1)
    return None


def class_activation_map(
    features: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    method: str = 'cam',
    n_samples: int = 4,
    variant: str = 'published',
) -> torch.Tensor:
    """Raw class map of a GAP+linear head, in closed form.

    With such a head the gradient of logit y at each of the n = h*w cells of the last feature map is W[y] / n, whatever
    the input; each method of the family then is one weighting of the channels (F-CAM, WACV 2022, Sec. 4.1 lists them).

    Args:
        features: Last feature map (B,C,h,w).
        weight: Weight of the linear layer (K,C).
        labels: Class to explain, int64 (B,), in [0, K).
        method: One of `cams.METHODS`.
        n_samples: Noisy passes of 'smoothgradcampp'; the constant gradient makes every pass equal, so the
            result does not depend on it.
        variant: 'published' and 'original', which agree here, or 'reference' (Grad-CAM++ without its division).

    Returns:
        Raw map (B,h,w), float32 at least; non-negative for every method but 'cam'.

    Raises:
        UnknownMethodError: For an unknown method or variant.
        ValueError: When the shapes do not fit, or n_samples < 1.
    """
    check_method(method, variant)
    if features.ndim != 4 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise ValueError(
            f'features {tuple(features.shape)} and weight {tuple(weight.shape)} do not fit: need (B,C,h,w) and (K,C)'
        )
    check_labels(labels, len(features))
    if n_samples < 1:
        raise ValueError(f'n_samples is {n_samples}: at least one noisy pass is needed')
    check_classes(labels, len(weight))
    features = full_precision(features)
    w = weight[labels.long().to(weight.device)].to(features.dtype)
    if method != 'cam':
        n = features.shape[2] * features.shape[3]
        g = w / n
        if method in ('gradcam', 'xgradcam'):
            w = g
        elif method == 'layercam':
            w = g.relu()
        elif variant == 'reference' and method == 'gradcampp':
            w = n * g.square() * g.relu()
        else:
            w = n * alpha_plus_plus(g.square(), g.pow(3), features.sum((2, 3))) * g.relu()
    cam = weighted_sum(w, features)
    return cam if method == 'cam' else cam.relu()
