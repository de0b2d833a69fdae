"""An F-CAM from a trained timm classifier."""

from __future__ import annotations

from typing import Any

import torch.nn as nn

from ..errors import UnknownModelError
from .fcam import FCAM

# They do not change the classifier.
WRAP_ARGUMENTS = {'decoder_type', 'decoder_channels', 'center', 'frozen', 'threshold', 'cam_variant', 'in_chans'}


def wrap(classifier: nn.Module, **kwargs: Any) -> FCAM:
    """Put a fresh decoder on a trained timm classifier, whose weights and head stay unchanged.

    Args:
        classifier: A timm model with a classification head.
        **kwargs: Fields of `FCAMConfig`: decoder_type, decoder_channels, center, frozen, threshold, cam_variant,
            in_chans.

    Raises:
        UnknownModelError: When it is not a timm classifier.
        ValueError: For an argument that would change the classifier.
    """
    if not isinstance(classifier, nn.Module) or not getattr(classifier, 'num_classes', 0):
        raise UnknownModelError('wrap() takes a timm classifier with num_classes > 0, e.g. timm.create_model(...)')
    if unsupported := sorted(kwargs.keys() - WRAP_ARGUMENTS):
        raise ValueError(f'wrap() keeps the classifier: use create_model for {", ".join(unsupported)}')
    if not isinstance(getattr(classifier, 'pretrained_cfg', None), dict) or not classifier.pretrained_cfg:
        raise UnknownModelError(f'{type(classifier).__name__} has no pretrained_cfg: wrap() takes timm models')
    first = next((m for m in classifier.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None:
        kwargs.setdefault('in_chans', first.in_channels)
    return FCAM(classifier, **kwargs)
