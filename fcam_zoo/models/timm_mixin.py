"""Model interface for timm's tools: head, levels, layer groups, gradient checkpointing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn

if TYPE_CHECKING:
    from ..wsol import WSOLMethod
    from .decoder import UnetDecoder
    from .fpn_decoder import FpnDecoder
    from .pyramid import TimmClassifier


class TimmModelMixin:
    """timm's model methods for a network with a classifier `backbone` and a `decoder`.

    Layer and parameter names refer to the whole network: those of the classifier begin with `backbone.`.
    """

    backbone: TimmClassifier
    decoder: UnetDecoder | FpnDecoder
    method: WSOLMethod

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the last features of the classifier, in its own layout, from normalized images (B,C,H,W)."""
        return self.backbone.forward_features(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Compute logits (B,K), or with `pre_logits` the input of the last layer, from `forward_features`.

        Raises:
            ValueError: When the logits are those of a training method (see `wsol`), which needs an encoding.
        """
        if self.method.own_head:
            raise ValueError(f'the classifier has the head of {self.method.title}: use model.classify(model.encode(x))')
        return self.backbone.forward_head(x, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        """Return the last layer of the classifier; a list for several heads (distilled DeiT)."""
        head = self.backbone.get_classifier()
        return nn.ModuleList(head) if isinstance(head, tuple) else head

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Return channels, stride and module of each level of the classifier."""
        info = self.backbone.feature_info
        levels = info.get_dicts() if hasattr(info, 'get_dicts') else info
        return [{**level, 'module': f'backbone.{level["module"]}'} for level in levels]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of the classifier's layer groups; timm groups the decoder with the head."""
        return {
            group: _below(spec) if isinstance(spec, str) else [(_below(pattern), suffix) for pattern, suffix in spec]
            for group, spec in self.backbone.group_matcher(coarse).items()
            if spec is not None
        }

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        own = getattr(self.backbone, 'no_weight_decay', set)
        return {f'backbone.{name}' for name in own()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of storing them, in the classifier and the decoder."""
        self.backbone.set_grad_checkpointing(enable)
        self.decoder.grad_checkpointing = enable


def _below(pattern: str) -> str:
    """Prefix a pattern of the classifier's names with `backbone.`; patterns match from the start of a name."""
    own = re.sub(r'(^|[|(])\^', r'\1', pattern)
    return rf'^backbone\.(?:{own})'
