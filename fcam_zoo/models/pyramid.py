"""Any timm network seen as a feature pyramid with a head on the map that its class maps explain."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.models import VisionTransformer

from .._modes import eval_mode
from ..cams.closed_form import linear_weight
from ..errors import UnknownModelError
from .stride import measured_stride

# Levels that are made of a network whose maps all have one size: its blocks at thirds of the depth.
TOKEN_LEVELS = 3
# Sides of the images that networks are tried with: the larger one where valid padding blurs the strides of the smaller.
PROBE_SIDES = (64, 320)
# What networks raise from within when an input or a use does not suit them.
UNFIT = (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError)


class Encoding(NamedTuple):
    """One pass of the classifier's body.

    Attributes:
        levels: Maps for the decoder (B,C_i,h_i,w_i), from high to low resolution.
        features: The map that class maps explain (B,C,h,w); all that the head needs, but for `prefix`.
        prefix: Class and register tokens (B,P,C) that go with it in a vision transformer, else None.
        images: What the network saw (B,C,H,W), after a resize where it takes fixed sizes only.
    """

    levels: list[torch.Tensor]
    features: torch.Tensor
    prefix: torch.Tensor | None
    images: torch.Tensor


class Pyramid:
    """How to run a timm network: which levels, at which sizes, and what comes after its explained features.

    Class maps explain the last map that the head reads. A vision transformer whose head reads the class token alone is
    explained before its last block, the last place where patches reach that token.

    Attributes:
        channels: Of each level, from high to low resolution.
        first_stride: Pixels a cell of the first level, a fraction for patches of 14 pixels.
        output_stride: Stride of the explained features.
        linear_head: The head is average pooling and one linear layer, so class maps have a closed form.

    Raises:
        UnknownModelError: For a network that cannot be run so; the message says why.
    """

    def __init__(self, net: nn.Module, in_chans: int = 3) -> None:
        name = type(net).__name__
        if not hasattr(net, 'forward_intermediates') or not hasattr(net, 'forward_head'):
            raise UnknownModelError(f'{name} has no forward_intermediates and forward_head: it is not a timm network')
        info = net.feature_info
        reductions = [level['reduction'] for level in (info.get_dicts() if hasattr(info, 'get_dicts') else info)]
        # Vision transformers and the like have one stride throughout.
        self.flat = len(reductions) > 1 and len(set(reductions)) == 1
        self.fixed_size, self.multiple = accepted_sizes(net)
        self.prefix_tokens = getattr(net, 'num_prefix_tokens', 0)
        self.reads_class_token = self.flat and getattr(net, 'global_pool', '') == 'token'
        if self.reads_class_token and not isinstance(net, VisionTransformer):
            raise UnknownModelError(
                f'the head of {name} reads its class token alone, and where patches reach that token is known of '
                "timm's VisionTransformer only: choose another backbone"
            )
        if self.flat:
            depth = len(reductions) - self.reads_class_token
            self.indices = sorted({max(0, depth * (i + 1) // TOKEN_LEVELS - 1) for i in range(TOKEN_LEVELS)})
        else:
            # Levels at full resolution, such as VGG's first, are never used by the decoder.
            self.indices = [i for i, reduction in enumerate(reductions) if reduction > 1]
        with eval_mode(net), torch.no_grad():
            try:
                run_small(net, in_chans, lambda x: self._probe(net, x))
            except UNFIT as e:
                raise UnknownModelError(f'{name} cannot serve as a backbone: {str(e).splitlines()[0]}') from e

    def _probe(self, net: nn.Module, x: torch.Tensor) -> None:
        """One small pass finds channels and strides, and proves that the parts make up the whole."""
        self.tokens = self.channels_last = False
        final = net.forward_features(x)
        if not isinstance(final, torch.Tensor) or final.ndim != (3 if self.flat and final.ndim == 3 else 4):
            kind = tuple(final.shape) if isinstance(final, torch.Tensor) else type(final).__name__
            raise ValueError(f'its last features {kind} are no map')
        self.tokens = final.ndim == 3
        # Swin and its kin keep channels last; their head wants them so.
        self.channels_last = not self.tokens and final.shape[1] != net.num_features == final.shape[-1]
        levels, features, prefix, _ = self.encode(net, x)
        if not torch.allclose(self.head(net, features, prefix), net(x), rtol=1e-3, atol=1e-4):
            raise ValueError('its last features do not lead to its logits')
        self.channels = [level.shape[1] for level in levels]
        self.first_stride = x.shape[-2] / levels[0].shape[-2]
        self.output_stride = [measured_stride(x, m.shape[-2]) for m in (*([] if self.flat else levels), features)][-1]
        self.linear_head = self.has_linear_head(net, features, prefix)
        if self.fixed_size is None and self.multiple == 1:
            try:
                self.encode(net, x[..., 7:, 7:])
            except UNFIT:
                # Networks that add maps of several scales to one another, say, take whole cells only.
                self.multiple = max(32, self.output_stride)

    def encode(self, net: nn.Module, x: torch.Tensor) -> Encoding:
        """(B,C,H,W), normalised -> one pass of the network up to its explained features."""
        x = self.fit(x)
        if not self.tokens:
            features, levels = net.forward_intermediates(x, indices=self.indices)
            features = features.permute(0, 3, 1, 2) if self.channels_last else features
            return Encoding(_pyramid_of(levels) if self.flat else levels, features, None, x)
        has_prefix = self.prefix_tokens > 0
        options = {'indices': self.indices, **({'return_prefix_tokens': True} if has_prefix else {})}
        if self.reads_class_token:
            maps = net.forward_intermediates(x, stop_early=True, intermediates_only=True, **options)
            levels = [m[0] for m in maps] if has_prefix else maps
            return Encoding(_pyramid_of(levels), levels[-1], maps[-1][1] if has_prefix else None, x)
        final, maps = net.forward_intermediates(x, **options)
        levels = [m[0] for m in maps] if has_prefix else maps
        prefix, tokens = final[:, : self.prefix_tokens], final[:, self.prefix_tokens :]
        features = tokens.transpose(1, 2).reshape(len(x), tokens.shape[2], *levels[-1].shape[-2:])
        return Encoding(_pyramid_of(levels), features, prefix if has_prefix else None, x)

    def head(self, net: nn.Module, features: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
        """Explained features (B,C,h,w) and prefix tokens -> logits (B,K)."""
        if not self.tokens:
            return net.forward_head(features.permute(0, 2, 3, 1) if self.channels_last else features)
        tokens = features.flatten(2).transpose(1, 2)
        if prefix is not None:
            tokens = torch.cat([prefix, tokens], 1)
        if self.reads_class_token:
            tokens = net.norm(net.blocks[-1](tokens))
        return net.forward_head(tokens)

    def fit(self, x: torch.Tensor) -> torch.Tensor:
        """Resize images to a size that the network takes, bilinearly; most take any and see them as they are."""
        size = self.fixed_size
        if size is None and self.multiple > 1:
            size = tuple(self.multiple * max(1, round(side / self.multiple)) for side in x.shape[-2:])
        if size is None or tuple(x.shape[-2:]) == tuple(size):
            return x
        return F.interpolate(x, size=size, mode='bilinear', align_corners=False)

    def has_linear_head(self, net: nn.Module, features: torch.Tensor, prefix: torch.Tensor | None) -> bool:
        """Whether logits are one linear layer of the features' mean.

        It is the only layer of the head with weights or statistics, whatever their values now, and random features of
        this shape give what it gives.
        """
        classifier = net.get_classifier()
        weight = None if isinstance(classifier, tuple) else linear_weight(classifier)
        if weight is None or self.reads_class_token or features.shape[1] != weight.shape[1]:
            return False
        ran: set[nn.Module] = set()
        own = [
            m
            for m in net.modules()
            if next(m.parameters(recurse=False), next(m.buffers(recurse=False), None)) is not None
        ]
        handles = [m.register_forward_hook(lambda module, _inputs, _output: ran.add(module)) for m in own]
        features = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).to(features)
        try:
            logits, zero = (self.head(net, f, prefix) for f in (features, torch.zeros_like(features)))
        finally:
            for handle in handles:
                handle.remove()
        return ran == {classifier} and torch.allclose(
            logits - zero, features.mean((2, 3)) @ weight.T, rtol=1e-3, atol=1e-5
        )


def run_small(net: nn.Module, in_chans: int, run: Callable[[torch.Tensor], Any]) -> Any:
    """Call `run` with a small random image (1,C,H,W) that the network takes, a larger one where it is too small.

    Raises:
        Exception: What `run` raises at the largest.
    """
    size, multiple = accepted_sizes(net)
    sizes = [size] if size else [(multiple * math.ceil(side / multiple),) * 2 for side in PROBE_SIDES]
    parameter = next(net.parameters())
    for h, w in sizes:
        x = torch.rand(1, in_chans, h, w, generator=torch.Generator().manual_seed(0)).to(parameter)
        try:
            return run(x)
        except UNFIT:
            if (h, w) == sizes[-1]:
                raise
    return None


def accepted_sizes(net: nn.Module) -> tuple[tuple[int, int] | None, int]:
    """The one size (H,W) that a network takes, or None and the number that sides must be multiples of."""
    patches = getattr(net, 'patch_embed', None)
    if getattr(net, 'dynamic_img_size', False) and patches is not None:
        return None, patches.patch_size[0]
    if getattr(patches, 'img_size', None) is not None and getattr(patches, 'strict_img_size', True):
        return tuple(patches.img_size), 1
    cfg = getattr(net, 'pretrained_cfg', None) or {}
    if cfg.get('fixed_input_size'):
        return tuple(cfg['input_size'][-2:]), 1
    return None, 1


def _pyramid_of(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Maps of one size as a pyramid: each but the last enlarged, so that the decoder gains resolution at each block."""
    scales = [2 ** (len(maps) - 1 - i) for i in range(len(maps))]
    return [
        m if s == 1 else F.interpolate(m, scale_factor=s, mode='bilinear', align_corners=False)
        for m, s in zip(maps, scales)
    ]
