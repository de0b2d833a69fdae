"""Formulas of the CAM methods: an activation and its gradient give a class map.

Notation: A (B,C,h,w) is the activation of the explained layer and g = d logit_y / dA its gradient, y the explained
class. `sum` and `mean` run over the h*w positions of a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from .._catalog import CAM_METHODS
from .._catalog import VARIANTS as VARIANTS
from .._checks import check_tensor
from .._schema import as_whole, show
from ..errors import FcamZooError

METHODS = CAM_METHODS
# VARIANTS are those of Grad-CAM++ and Smooth Grad-CAM++. Their coefficients are alpha = g^2 / (2 g^2 + d), with
# - 'published': d = sum(g^3 A), as in WSOL code;
# - 'original': d = g^3 sum(A), Eq. 19 of the Grad-CAM++ paper; equal to 'published' where g is constant in space;
# - 'reference': the code behind the numbers of the F-CAM paper. Grad-CAM++ skips the division (alpha = g^2). Smooth
#   Grad-CAM++ has the 'published' d, but g and A of the last noisy pass.


class UnknownMethodError(FcamZooError, ValueError):
    """The CAM method or variant does not exist, or is not defined for this classifier."""


def check_method(method: str, variant: str = 'published') -> None:
    """Raise UnknownMethodError unless `method` and `variant` exist."""
    if not isinstance(method, str) or method not in METHODS:
        raise UnknownMethodError(f'unknown CAM method {show(method)}: choose one of {", ".join(METHODS)}')
    if not isinstance(variant, str) or variant not in VARIANTS:
        raise UnknownMethodError(f'unknown variant {show(variant)}: choose one of {", ".join(VARIANTS)}')


def check_labels(labels: torch.Tensor, count: int) -> None:
    """Raise TypeError or ValueError unless `labels` is an integer tensor of shape (count,)."""
    check_tensor(labels, 'labels', '(B)', 'int')
    if labels.shape != (count,):
        raise ValueError(f'labels have shape {tuple(labels.shape)}: give one class per image, ({count},)')


def as_labels(labels: Any, count: int) -> torch.Tensor:
    """Return the classes of `count` images (B,), given as one class for all, one per image, or a tensor of them.

    Raises:
        TypeError, ValueError: As `check_labels`, and for anything else.
    """
    if isinstance(labels, torch.Tensor) and labels.ndim:
        check_labels(labels, count)
        return labels
    single = as_whole(labels, 0)
    given = list(labels) if single is None and isinstance(labels, Iterable) else [single] * count
    classes = [as_whole(label, 0) for label in given]
    if None in classes:
        raise TypeError(f'labels is {show(labels)}: give a class index, or one per image')
    found = torch.tensor(classes, dtype=torch.int64)
    check_labels(found, count)
    return found


def check_classes(labels: torch.Tensor, num_classes: int) -> None:
    """Raise ValueError unless all labels are in [0, num_classes). Skipped off-CPU to avoid a device synchronization."""
    if labels.device.type != 'cpu' or not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < num_classes:
        raise ValueError(f'labels are in [{low}, {high}]: the classifier has {num_classes} classes')


def full_precision(x: torch.Tensor) -> torch.Tensor:
    """Convert half precision to float32, which sums over a map and third powers of gradients need."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def weighted_sum(weight: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """Sum the channels of (B,C,h,w) with weights (B,C); autocast does not lower the precision."""
    with torch.autocast(activation.device.type, enabled=False):
        return torch.einsum('bc,bchw->bhw', weight, activation)


def safe_divide(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Divide, with 0 where the denominator is 0: such a channel carries no evidence."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def alpha_plus_plus(g2: torch.Tensor, g3: torch.Tensor, activation_sum: torch.Tensor) -> torch.Tensor:
    """Return the Grad-CAM++ coefficients g^2 / (2 g^2 + g^3 sum(A)) (Chattopadhyay et al., WACV 2018, Eq. 19)."""
    return safe_divide(g2, 2 * g2 + g3 * activation_sum)


def _alpha(g2: torch.Tensor, g3: torch.Tensor, activation: torch.Tensor, variant: str) -> torch.Tensor:
    """Return the coefficients of every position (B,C,h,w), before the quirks of 'reference'."""
    if variant == 'original':
        return alpha_plus_plus(g2, g3, activation.sum((2, 3), keepdim=True))
    return safe_divide(g2, 2 * g2 + (g3 * activation).sum((2, 3), keepdim=True))


def _gradcam(activation: torch.Tensor, gradient: torch.Tensor, variant: str) -> torch.Tensor:
    """w = mean(g) (Grad-CAM: Selvaraju et al., ICCV 2017)."""
    return gradient.mean((2, 3), keepdim=True)


def _gradcampp(activation: torch.Tensor, gradient: torch.Tensor, variant: str) -> torch.Tensor:
    """w = sum(alpha relu(g)) (Grad-CAM++: Chattopadhyay et al., WACV 2018)."""
    g2 = gradient.square()
    alpha = g2 if variant == 'reference' else _alpha(g2, gradient.pow(3), activation, variant)
    return (alpha * gradient.relu()).sum((2, 3), keepdim=True)


def _xgradcam(activation: torch.Tensor, gradient: torch.Tensor, variant: str) -> torch.Tensor:
    """w = sum(g A) / sum(A) (XGrad-CAM: Fu et al., BMVC 2020)."""
    return safe_divide((gradient * activation).sum((2, 3), keepdim=True), activation.sum((2, 3), keepdim=True))


def _layercam(activation: torch.Tensor, gradient: torch.Tensor, variant: str) -> torch.Tensor:
    """w = relu(g), one weight per position (LayerCAM: Jiang et al., TIP 2021)."""
    return gradient.relu()


_WEIGHTS: dict[str, Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]] = {
    'gradcam': _gradcam,
    'gradcampp': _gradcampp,
    'xgradcam': _xgradcam,
    'layercam': _layercam,
}


def gradient_map(activation: torch.Tensor, gradient: torch.Tensor, method: str, variant: str) -> torch.Tensor:
    """Compute relu(sum_k w_k A_k) over the channels k, with the weights w of a gradient method.

    Args:
        activation: A (B,C,h,w).
        gradient: g (B,C,h,w).
        method: 'gradcam', 'gradcampp', 'xgradcam' or 'layercam'.
        variant: One of VARIANTS; changes 'gradcampp' only.

    Returns:
        Raw map (B,h,w), non-negative.
    """
    weight = _WEIGHTS[method](activation, gradient, variant)
    return (weight * activation).sum(1).relu()


def smooth_gradient_map(
    activations: torch.Tensor, gradients: torch.Tensor, clean: torch.Tensor, variant: str
) -> torch.Tensor:
    """Compute Smooth Grad-CAM++ (Omeiza et al., 2019): Grad-CAM++ with derivatives averaged over noisy inputs.

    relu(sum_k w_k A_k) with w = sum(alpha relu(g)), where g^2 and g^3 in alpha are means over the noisy passes and the
    A in alpha is that of the clean input. The other g and A are the mean gradient and the clean activation, or with
    variant 'reference' those of the last noisy pass.

    Args:
        activations: A of the noisy inputs (n,B,C,h,w).
        gradients: g of the noisy inputs (n,B,C,h,w).
        clean: A of the clean input (B,C,h,w).
        variant: One of VARIANTS.

    Returns:
        Raw map (B,h,w), non-negative.
    """
    alpha = _alpha(gradients.square().mean(0), gradients.pow(3).mean(0), clean, variant)
    gradient, activation = (gradients[-1], activations[-1]) if variant == 'reference' else (gradients.mean(0), clean)
    weight = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return (weight * activation).sum(1).relu()
