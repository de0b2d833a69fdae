"""TS-CAM, Token Semantic Coupled Attention Map (Gao et al., ICCV 2021), for vision transformers with a class token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn as nn

from .._modes import eval_mode
from ..errors import UnknownModelError
from .base import Encoding, MethodSettings, Network, WSOLMethod, of_labels

# What an attention layer of timm has, so that its softmax can be read.
ATTENTION_PARTS = ('fused_attn', 'attn_drop')


@contextmanager
def recorded_attention(blocks: nn.ModuleList | nn.Sequential) -> Iterator[list[torch.Tensor]]:
    """Record the attention of transformer blocks that run in the context.

    Fused attention never has the softmax as a tensor, so the context switches it off. On exit, also after an error, the
    blocks are as before.

    Yields:
        A list to which each block adds its softmax (B,heads,N,N), before dropout.
    """
    layers: list[Any] = [block.get_submodule('attn') for block in blocks]
    fused, found = [layer.fused_attn for layer in layers], list[torch.Tensor]()

    def record(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(inputs[0])

    handles = [layer.attn_drop.register_forward_pre_hook(record) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for layer, own in zip(layers, fused):
            layer.fused_attn = own


def token_attention(attentions: list[torch.Tensor], prefix: int, size: tuple[int, int]) -> torch.Tensor:
    """Sum the attention of the class token to the patches over all blocks, averaged over the heads.

    The paper averages over the blocks, which is the same after min-max normalization.

    Args:
        attentions: Softmax (B,heads,N,N) of each block; token 0 is the class token.
        prefix: Number of class and register tokens, before the patches.
        size: Rows and columns of patches.

    Returns:
        (B,h,w).
    """
    rows = torch.stack([attention[:, :, 0, prefix:].float().mean(1) for attention in attentions]).sum(0)
    return rows.unflatten(1, size)


class TSCAM(WSOLMethod):
    """Classify the patch tokens of a vision transformer; the class map is their map times the class token's attention.

    A 3x3 convolution (with bias) makes class maps S (B,K,h,w) of the patch tokens after the last norm, in place of the
    network's own head. Logits: average of S. Loss: cross-entropy. The class map of label y is A * S_y, without a ReLU,
    where A is `token_attention`.

    The backbone is one of timm's vision transformers with a class token, such as DeiT. Its parameters, its layers and
    its fused attention stay as they are; the class map takes one more pass of it, without gradient.

    The published training has AdamW with weight decay 0.05, learning rate 5e-5 (CUB), drop path 0.1, and 60 epochs from
    DeiT weights. The convolution starts from torch's default weights.

    Raises:
        UnknownModelError: When the backbone is not a vision transformer with a class token.
    """

    name = 'ts_cam'
    title = 'TS-CAM'
    own_head = own_map = True

    def __init__(self, network: Network, settings: MethodSettings) -> None:
        super().__init__(network, settings)
        self._check_backbone()
        self.classifier = nn.Conv2d(network.num_features, network.num_classes, 3, padding=1)

    def _check_backbone(self) -> None:
        net: Any = self.network.net
        attentions = [getattr(block, 'attn', None) for block in getattr(net, 'blocks', ())]
        fits = (
            self.network.layout == 'NLC'
            and getattr(net, 'cls_token', None) is not None
            and all(hasattr(attention, part) for attention in attentions for part in ATTENTION_PARTS)
        )
        if not fits:
            raise UnknownModelError(
                f'TS-CAM needs a vision transformer with a class token, and {type(net).__name__} is another network: '
                'choose another backbone, such as deit_small_patch16_224'
            )

    def logits(self, encoding: Encoding) -> torch.Tensor:
        return self.semantic_maps(encoding).mean((2, 3))

    def class_map(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        return self.attention(encoding) * of_labels(self.semantic_maps(encoding), labels)

    def semantic_maps(self, encoding: Encoding) -> torch.Tensor:
        """Compute the class maps S (B,K,h,w) of the patch tokens."""
        net: Any = self.network.net
        # The constructor has checked that there is a class token.
        features, prefix = encoding.features, cast(torch.Tensor, encoding.prefix)
        if getattr(net, 'global_pool', '') == 'token':
            # The features of such an encoding are the input of the last block.
            tokens = torch.cat([prefix, features.flatten(2).transpose(1, 2)], 1)
            patches = net.norm(net.blocks[-1](tokens))[:, prefix.shape[1] :]
        else:
            norm: Callable[[torch.Tensor], torch.Tensor] = getattr(net, 'fc_norm', None) or nn.Identity()
            patches = norm(features.flatten(2).transpose(1, 2))
        return self.classifier(patches.transpose(1, 2).reshape(len(features), -1, *features.shape[2:]))

    @torch.no_grad()
    def attention(self, encoding: Encoding) -> torch.Tensor:
        """Compute `token_attention` (B,h,w) in a pass of the network in eval mode."""
        net: Any = self.network.net
        prefix = cast(torch.Tensor, encoding.prefix)
        with eval_mode(net), recorded_attention(net.blocks) as found:
            net.forward_features(encoding.images)
        size = (encoding.features.shape[2], encoding.features.shape[3])
        return token_attention(found, prefix.shape[1], size)
