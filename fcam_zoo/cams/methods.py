"""The formulas of the CAM family: an activation and its gradient become a class map.

Notation: A (B,C,h,w) activation of the explained layer, g = d logit_y / dA of the same shape, y the explained class.
"""

from __future__ import annotations

import torch

from ..errors import FcamZooError

METHODS = ('cam', 'gradcam', 'gradcampp', 'smoothgradcampp', 'xgradcam', 'layercam')
# Grad-CAM++ and Smooth Grad-CAM++ are read in three ways, of which the first two agree where the gradient is one in
# every cell. Coefficients have g^2 in the numerator; their denominator is 2 g^2 plus
# - 'published': sum(g^3 A), as WSOL code has it;
# - 'original': g^3 sum(A), Eq. 19 of the Grad-CAM++ paper to the letter.
# 'reference' has the quirks on which the F-CAM paper's figures rest: no division in Grad-CAM++, gradient and activation
# of the last noisy pass in Smooth Grad-CAM++.
VARIANTS = ('published', 'original', 'reference')


class UnknownMethodError(FcamZooError, ValueError):
    """A CAM method or variant that does not exist."""


def check_method(method: str, variant: str = 'published') -> None:
    """Raise UnknownMethodError unless `method` and `variant` exist."""
    if method not in METHODS:
        raise UnknownMethodError(f'unknown CAM method {method!r}: choose one of {", ".join(METHODS)}')
    if variant not in VARIANTS:
        raise UnknownMethodError(f'unknown variant {variant!r}: choose one of {", ".join(VARIANTS)}')


def check_labels(labels: torch.Tensor, count: int) -> None:
    """Raise TypeError or ValueError unless `labels` are one class number for each of `count` images."""
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = labels.dtype if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise TypeError(f'labels are {kind}: give an int64 tensor, one class an image')
    if labels.shape != (count,):
        raise ValueError(f'labels {tuple(labels.shape)} must be one class an image, ({count},)')


def check_classes(labels: torch.Tensor, num_classes: int) -> None:
    """Raise ValueError unless all labels are classes; on other devices than the CPU their own checks must do.

    Reading a value back would make a GPU wait.
    """
    if labels.device.type != 'cpu' or not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < num_classes:
        raise ValueError(f'labels are in [{low}, {high}]: the classifier has {num_classes} classes')


def full_precision(x: torch.Tensor) -> torch.Tensor:
    """Half-precision values in float32: sums over a map and third powers of gradients need it."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def weighted_sum(weight: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """Sum of the channels of (B,C,h,w) by weights (B,C), at the precision of its arguments also under autocast."""
    with torch.autocast(activation.device.type, enabled=False):
        return torch.einsum('bc,bchw->bhw', weight, activation)


def safe_divide(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Quotient that is 0 where the denominator is 0: such a channel carries no evidence and is left out."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def alpha_plus_plus(g2: torch.Tensor, g3: torch.Tensor, activation_sum: torch.Tensor) -> torch.Tensor:
    """Grad-CAM++ coefficients g^2 / (2 g^2 + g^3 sum(A)) (Chattopadhyay et al., WACV 2018, Eq. 19)."""
    return safe_divide(g2, 2 * g2 + g3 * activation_sum)


def _alpha(g2: torch.Tensor, g3: torch.Tensor, activation: torch.Tensor, variant: str) -> torch.Tensor:
    """Coefficients of every cell (B,C,h,w)."""
    if variant == 'original':
        return alpha_plus_plus(g2, g3, activation.sum((2, 3), keepdim=True))
    return safe_divide(g2, 2 * g2 + (g3 * activation).sum((2, 3), keepdim=True))


def gradient_map(activation: torch.Tensor, gradient: torch.Tensor, method: str, variant: str) -> torch.Tensor:
    """Class map of a gradient method.

    Args:
        activation: A (B,C,h,w).
        gradient: g (B,C,h,w).
        method: 'gradcam', 'gradcampp', 'xgradcam' or 'layercam'.
        variant: One of VARIANTS, which matters for 'gradcampp' alone.

    Returns:
        Raw map (B,h,w), non-negative.
    """
    if method == 'gradcam':
        weight = gradient.mean((2, 3), keepdim=True)
    elif method == 'xgradcam':
        weight = safe_divide((gradient * activation).sum((2, 3), keepdim=True), activation.sum((2, 3), keepdim=True))
    elif method == 'layercam':
        weight = gradient.relu()
    elif variant == 'reference':
        weight = (gradient.square() * gradient.relu()).sum((2, 3), keepdim=True)
    else:
        alpha = _alpha(gradient.square(), gradient.pow(3), activation, variant)
        weight = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return (weight * activation).sum(1).relu()


def smooth_gradient_map(activations: torch.Tensor, gradients: torch.Tensor, clean: torch.Tensor, variant: str):
    """Smooth Grad-CAM++ (Omeiza et al., 2019): Grad-CAM++ with derivatives averaged over noisy inputs.

    Args:
        activations: A of the noisy inputs (n,B,C,h,w).
        gradients: g of the noisy inputs (n,B,C,h,w).
        clean: A of the clean input (B,C,h,w).
        variant: One of VARIANTS; 'reference' takes gradient and activation from the last noisy pass, the others the
            mean gradient and the clean activation.

    Returns:
        Raw map (B,h,w), non-negative.
    """
    g2, g3 = gradients.square().mean(0), gradients.pow(3).mean(0)
    alpha = _alpha(g2, g3, clean, variant)
    gradient, activation = (gradients[-1], activations[-1]) if variant == 'reference' else (gradients.mean(0), clean)
    weight = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return (weight * activation).sum(1).relu()
