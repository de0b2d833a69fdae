"""Run any timm network as a feature pyramid, and its head on the feature map that class maps explain."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.models import VisionTransformer

from .._modes import eval_mode
from ..cams.closed_form import linear_weight
from ..errors import UnknownModelError

T = TypeVar('T')
# Levels of a network whose maps all have the same size: the blocks at each third of its depth.
TOKEN_LEVELS = 3
# Sides of the probe images in pixels. With valid padding, the strides cannot be measured on the smaller one.
PROBE_SIDES = (64, 320)
# Errors that networks raise for unsupported inputs or calls.
PROBE_ERRORS = (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError)


class TimmClassifier(nn.Module):
    """A timm network with a classification head, for annotations: timm has no base class that declares its methods."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Encoding(NamedTuple):
    """Output of the classifier without its head.

    Attributes:
        levels: Maps for the decoder (B,C_i,h_i,w_i), from high to low resolution.
        features: The map that class maps explain (B,C,h,w); together with `prefix` the input of the head.
        prefix: Class and register tokens (B,P,C) of a vision transformer, else None.
        images: Input of the network (B,C,H,W), resized if the network requires certain sizes.
    """

    levels: list[torch.Tensor]
    features: torch.Tensor
    prefix: torch.Tensor | None
    images: torch.Tensor


class Pyramid:
    """Runs a timm network as a feature pyramid, and the head after its explained features.

    Class maps explain the input map of the head. If the head of a vision transformer only uses the class token, they
    explain the input of the last block, which is the last one that mixes patches into that token.

    Attributes:
        channels: Channels of each level, from high to low resolution.
        first_stride: Stride of the first level in pixels; a fraction with patches of 14 pixels.
        output_stride: Stride of the explained features in pixels.
        linear_head: Whether the head is average pooling and one linear layer, so that class maps have a closed form.

    Raises:
        UnknownModelError: For a network that is not supported; the message says why.
    """

    def __init__(self, net: TimmClassifier, in_chans: int = 3) -> None:
        name = type(net).__name__
        if not hasattr(net, 'forward_intermediates') or not hasattr(net, 'forward_head'):
            raise UnknownModelError(f'{name} has no forward_intermediates and forward_head: it is not a timm network')
        info = net.feature_info
        reductions = [level['reduction'] for level in (info.get_dicts() if hasattr(info, 'get_dicts') else info)]
        # All maps of vision transformers and similar networks have the same stride.
        self.flat = len(reductions) > 1 and len(set(reductions)) == 1
        self.fixed_size, self.multiple = accepted_sizes(net)
        self.prefix_tokens = getattr(net, 'num_prefix_tokens', 0)
        self.reads_class_token = self.flat and getattr(net, 'global_pool', '') == 'token'
        if self.reads_class_token and not isinstance(net, VisionTransformer):
            raise UnknownModelError(
                f"the head of {name} uses only its class token, which is supported only for timm's VisionTransformer: "
                'choose another backbone'
            )
        if self.flat:
            depth = len(reductions) - self.reads_class_token
            self.indices = sorted({max(0, depth * (i + 1) // TOKEN_LEVELS - 1) for i in range(TOKEN_LEVELS)})
        else:
            # The decoder does not use levels at full resolution, such as the first of VGG.
            self.indices = [i for i, reduction in enumerate(reductions) if reduction > 1]
        run_small(net, in_chans, lambda x: self._probe(net, x))

    def _probe(self, net: TimmClassifier, x: torch.Tensor) -> None:
        """Find channels and strides in one pass, and check that `encode` and `head` yield the network's logits."""
        final = net.forward_features(x)
        shape = tuple(final.shape) if isinstance(final, torch.Tensor) else ()
        self.tokens = self.flat and len(shape) == 3
        if len(shape) != 4 and not self.tokens:
            raise ValueError(f'its last features {shape or type(final).__name__} are not a map')
        # Swin and similar networks keep channels last, also for their head.
        self.channels_last = not self.tokens and shape[1] != net.num_features == shape[-1]
        levels, features, prefix, _ = self.encode(net, x)
        if not _close(self.head(net, features, prefix), net(x), 1e-4):
            raise ValueError('its head does not compute its logits from its last features')
        self.channels = [level.shape[1] for level in levels]
        self.first_stride = x.shape[-2] / levels[0].shape[-2]
        # Every level is measured, so that an image that is too small for one of them raises an error.
        maps = [features] if self.flat else [*levels, features]
        *_, self.output_stride = (measured_stride(x, m.shape[-2]) for m in maps)
        self.linear_head = self.has_linear_head(net, features, prefix)
        if self.fixed_size is None and self.multiple == 1:
            try:
                self.encode(net, x[..., 7:, 7:])
            except PROBE_ERRORS:
                # E.g. networks that add maps of several scales need sides that are multiples of the stride.
                self.multiple = max(32, self.output_stride)

    def encode(self, net: TimmClassifier, x: torch.Tensor) -> Encoding:
        """Run the network without its head on images (B,C,H,W), normalized."""
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

    def head(self, net: TimmClassifier, features: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
        """Run the head: explained features (B,C,h,w) and prefix tokens (B,P,C) -> logits (B,K)."""
        if not self.tokens:
            return net.forward_head(features.permute(0, 2, 3, 1) if self.channels_last else features)
        tokens = features.flatten(2).transpose(1, 2)
        if prefix is not None:
            tokens = torch.cat([prefix, tokens], 1)
        if self.reads_class_token:
            tokens = net.norm(net.blocks[-1](tokens))
        return net.forward_head(tokens)

    def fit(self, x: torch.Tensor) -> torch.Tensor:
        """Resize images bilinearly to a size that the network accepts; most accept any size."""
        size = self.fixed_size
        if size is None and self.multiple > 1:
            h, w = (self.multiple * max(1, round(side / self.multiple)) for side in x.shape[-2:])
            size = h, w
        if size is None or tuple(x.shape[-2:]) == size:
            return x
        return F.interpolate(x, size=size, mode='bilinear', align_corners=False)

    def has_linear_head(self, net: TimmClassifier, features: torch.Tensor, prefix: torch.Tensor | None) -> bool:
        """Whether the logits are a linear layer of the mean features.

        This holds if the linear layer is the only layer of the head with parameters or buffers, and if the head equals
        it on random features. Parameter values are not compared, since fresh layers may be the identity.
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
        features = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), device='cpu').to(features)
        try:
            logits, zero = (self.head(net, f, prefix) for f in (features, torch.zeros_like(features)))
        finally:
            for handle in handles:
                handle.remove()
        return ran == {classifier} and _close(logits - zero, features.mean((2, 3)) @ weight.T, 1e-5)


def _close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    """Return whether two tensors are equal up to rounding; without data, on the meta device, whether shapes are."""
    if found.is_meta:
        return found.shape == wanted.shape
    return torch.allclose(found, wanted, rtol=1e-3, atol=tolerance)


def run_small(net: TimmClassifier, in_chans: int, run: Callable[[torch.Tensor], T]) -> T:
    """Call `run` with a small random image (1,C,H,W) that the network accepts, or a larger one if that fails.

    The network is in eval mode, and autograd is off.

    Raises:
        UnknownModelError: With the error of `run` at the largest size.
    """
    size, multiple = accepted_sizes(net)
    sizes = [size] if size else [(multiple * math.ceil(side / multiple),) * 2 for side in PROBE_SIDES]
    parameter, error = next(net.parameters()), Exception()
    for height, width in sizes:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, in_chans, height, width, generator=generator, device='cpu').to(parameter)
        try:
            with eval_mode(net), torch.no_grad():
                return run(x)
        except PROBE_ERRORS as e:
            error = e
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    raise UnknownModelError(f'{type(net).__name__} is not supported as a backbone: {reason}') from error


def measured_stride(x: torch.Tensor, side: int) -> int:
    """Return the stride of a map with `side` rows that was computed from images (B,C,H,W).

    Raises:
        ValueError: When the images are too small to determine it.
    """
    height = x.shape[-2]
    if height % side and height < 128:
        raise ValueError(f'{height} pixels make {side} cells: the images are too small')
    # Patches may have any side; all other strides are powers of 2.
    return height // side if height % side == 0 and height < 128 else 2 ** round(math.log2(height / side))


def accepted_sizes(net: TimmClassifier) -> tuple[tuple[int, int] | None, int]:
    """Return the only size (H,W) that a network accepts, or None, and the number that sides must be a multiple of."""
    patches: Any = getattr(net, 'patch_embed', None)
    if getattr(net, 'dynamic_img_size', False) and patches is not None:
        return None, patches.patch_size[0]
    if getattr(patches, 'img_size', None) is not None and getattr(patches, 'strict_img_size', True):
        return tuple(patches.img_size), 1
    cfg = getattr(net, 'pretrained_cfg', None) or {}
    if cfg.get('fixed_input_size'):
        return tuple(cfg['input_size'][-2:]), 1
    return None, 1


def _pyramid_of(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Make a pyramid of maps of one size: enlarge all but the last, so that each decoder block gains resolution."""
    scales = [2 ** (len(maps) - 1 - i) for i in range(len(maps))]
    return [
        m if s == 1 else F.interpolate(m, scale_factor=s, mode='bilinear', align_corners=False)
        for m, s in zip(maps, scales)
    ]
