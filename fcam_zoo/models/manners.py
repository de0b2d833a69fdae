"""What timm's tools ask of a model: its head, its levels, its layer groups, gradient checkpointing."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn as nn

from .pyramid import Pyramid


class TimmManners:
    """Methods of timm's models for a network that has a classifier `backbone` and a `decoder`.

    Names of layers and parameters are those of the whole: the classifier's begin with `backbone.`.
    """

    backbone: nn.Module
    decoder: nn.Module
    pretrained_cfg: dict[str, Any]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B,C,H,W), normalised -> the classifier's last features, in its own layout."""
        return self.backbone.forward_features(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """What `forward_features` gives -> logits (B,K), or with `pre_logits` what the last layer reads."""
        return self.backbone.forward_head(x, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        """The last layer of the classifier; where it has several heads (distilled DeiT), a list of them."""
        head = self.backbone.get_classifier()
        return nn.ModuleList(head) if isinstance(head, tuple) else head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the classifier a fresh head, as timm's models do; names of other classes are forgotten."""
        self.backbone.reset_classifier(num_classes, global_pool)
        self.num_classes = num_classes
        self.pyramid = Pyramid(self.backbone, self.in_chans)
        self.forget_other_names()

    def forget_other_names(self) -> None:
        """Drop names of classes that are not as many as the head's: they would be said of others."""
        if len(self.pretrained_cfg.get('label_names') or ()) != self.num_classes:
            self.pretrained_cfg.pop('label_names', None)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, stride and module of each level of the classifier."""
        info = self.backbone.feature_info
        levels = info.get_dicts() if hasattr(info, 'get_dicts') else info
        return [{**level, 'module': f'backbone.{level["module"]}'} for level in levels]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the classifier's layer groups; the decoder, which none matches, counts as the head does."""
        return {
            group: _below(spec) if isinstance(spec, str) else [(_below(pattern), suffix) for pattern, suffix in spec]
            for group, spec in self.backbone.group_matcher(coarse).items()
            if spec is not None
        }

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that should not decay."""
        own = getattr(self.backbone, 'no_weight_decay', set)
        return {f'backbone.{name}' for name in own()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep fewer activations in training and compute them twice, in the classifier and in the decoder."""
        self.backbone.set_grad_checkpointing(enable)
        self.decoder.grad_checkpointing = enable


def _below(pattern: str) -> str:
    """A pattern of the classifier's names as one of the whole's; patterns match from the start of a name."""
    own = re.sub(r'(^|[|(])\^', r'\1', pattern)
    return rf'^backbone\.(?:{own})'
