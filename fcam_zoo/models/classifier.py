"""The part of timm's model interface that this package uses, for annotations only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn


class TimmClassifier(nn.Module):
    """A timm network with a classification head; timm's own classes share no base class that declares these."""

    num_classes: int
    num_features: int
    pretrained_cfg: dict[str, Any]
    feature_info: Any
    forward_features: Callable[[torch.Tensor], torch.Tensor]
    forward_head: Callable[..., torch.Tensor]
    forward_intermediates: Callable[..., Any]
    get_classifier: Callable[[], Any]
    reset_classifier: Callable[..., None]
    group_matcher: Callable[[bool], dict[str, Any]]
    set_grad_checkpointing: Callable[[bool], None]
    # Only of WsolVGG16 and WsolInceptionV3.
    fit_checkpoint: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
    # Only of vision transformers.
    norm: nn.Module
    blocks: nn.ModuleList
