"""Find the strided layers of a network, and remove strides without dilation.

The paper's networks keep their last feature map large by setting late strides to 1 and leaving every kernel unchanged
(F-CAM, Sec. 4.1). This module does the same for any network: one forward pass with hooks lists the strided layers in
order, and each layer beyond the requested output stride gets a lower stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BlurPool2d, get_padding, to_2tuple
from timm.models.inception_v3 import InceptionB, InceptionD
from timm.models.swin_transformer import PatchMerging
from timm.models.swin_transformer_v2 import PatchMerging as PatchMergingV2

from ..errors import UnknownModelError
from .pyramid import TimmClassifier, measured_stride

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
# Blocks that halve the map in their code instead of by a strided layer.
_INCEPTION = (InceptionB, InceptionD)
_MERGING = (PatchMerging, PatchMergingV2)


@dataclass(frozen=True)
class StridedLayer:
    """A strided layer: its name, its stride, and the stride of its input relative to the image."""

    name: str
    stride: int
    input_stride: int


class UnstridedInception(nn.Module):
    """Inception v3's reduction block without its stride: the pool of the last branch has stride 1."""

    def __init__(self, block: InceptionB | InceptionD) -> None:
        super().__init__()
        self.branches: Any = type(block)._forward
        for name, child in block.named_children():
            self.add_module(name, child)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *branches, _ = self.branches(self, x)
        return torch.cat([*branches, F.max_pool2d(x, 3, stride=1, padding=1)], 1)


class UnstridedMerging(nn.Module):
    """Swin's patch merging without its stride: (B,h,w,C) -> (B,h,w,C').

    Each patch is merged with those to the right, below, and below right.
    """

    def __init__(self, merging: PatchMerging | PatchMergingV2) -> None:
        super().__init__()
        self.norm, self.reduction = merging.norm, merging.reduction
        # Version 1 normalizes before the reduction, version 2 after it.
        self.norm_first = isinstance(merging, PatchMerging)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, w = x.shape[1:3]
        padded = F.pad(x, (0, 0, 0, 1, 0, 1))
        x = torch.cat([padded[:, i : i + h, j : j + w] for j in (0, 1) for i in (0, 1)], -1)
        return self.reduction(self.norm(x)) if self.norm_first else self.norm(self.reduction(x))


def trace_strides(net: TimmClassifier, x: torch.Tensor) -> list[StridedLayer]:
    """List the strided layers of a network, in the order in which they run on images (B,C,H,W)."""
    found: list[StridedLayer] = []
    names = {module: name for name, module in net.named_modules()}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        blocks = isinstance(module, (*_INCEPTION, *_MERGING))
        stride = 2 if blocks else to_2tuple(module.stride)[0]
        if stride > 1:
            side = inputs[0].shape[1] if isinstance(module, _MERGING) else inputs[0].shape[-2]
            found.append(StridedLayer(names[module], stride, measured_stride(x, side)))

    watched = (nn.Conv2d, *_POOLS, BlurPool2d, *_INCEPTION, *_MERGING)
    handles = [m.register_forward_hook(note) for m in net.modules() if isinstance(m, watched)]
    try:
        net.forward_features(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def remove_strides(net: nn.Module, layers: list[StridedLayer], output_stride: int) -> None:
    """Lower the stride of every layer beyond `output_stride`, in place; kernels stay unchanged.

    Raises:
        UnknownModelError: When the strides of the network cannot stop at `output_stride`.
    """
    strides = sorted({s for layer in layers for s in (layer.input_stride, layer.input_stride * layer.stride)})
    if strides and output_stride > strides[-1]:
        raise UnknownModelError(
            f'output_stride={output_stride} is not supported: the last map of {type(net).__name__} has stride '
            f'{strides[-1]}; give at most {strides[-1]}'
        )
    for layer in layers:
        if layer.input_stride * layer.stride <= output_stride:
            continue
        wanted, rest = divmod(output_stride, layer.input_stride)
        if (rest and layer.input_stride < output_stride) or not _restride(net, layer, max(1, wanted)):
            raise UnknownModelError(
                f'output_stride={output_stride} is not supported by {type(net).__name__}: its layer {layer.name} goes '
                f'from stride {layer.input_stride} to {layer.input_stride * layer.stride}, and its kernel allows no '
                f'stride between; its maps have strides {", ".join(map(str, strides))}'
            )


def _restride(net: nn.Module, layer: StridedLayer, stride: int) -> bool:
    """Give a layer a lower stride; False if that is not possible."""
    module = net.get_submodule(layer.name)
    if isinstance(module, nn.Conv2d):
        return _restride_convolution(net, module, stride)
    if stride > 1:
        return False
    if isinstance(module, BlurPool2d):
        module.stride = 1
    elif isinstance(module, _INCEPTION):
        _replace(net, layer.name, UnstridedInception(module))
    elif isinstance(module, _MERGING):
        _replace(net, layer.name, UnstridedMerging(module))
    elif isinstance(module, _POOLS) and to_2tuple(module.kernel_size)[0] % 2 == 0:
        # An even kernel cannot keep the size at stride 1, and a 2x2 pool does nothing but halve the map.
        _replace(net, layer.name, nn.Identity())
    elif isinstance(module, _POOLS):
        module.stride = (1, 1)
        _pad_to_keep_size(module)
    return True


def _restride_convolution(net: nn.Module, conv: nn.Conv2d, stride: int) -> bool:
    kernel = conv.kernel_size[0]
    excess = kernel - stride
    if conv.padding == (0, 0) and stride > 1 and excess % 2:
        return False
    conv.stride = (stride, stride)
    if stride == 1:
        _pad_to_keep_size(conv)
    elif conv.padding == (0, 0):
        conv.padding = (excess // 2, excess // 2)
    patches: Any = getattr(net, 'patch_embed', None)
    if hasattr(patches, 'dynamic_feat_size') and conv is getattr(patches, 'proj', None):
        # The patches now overlap, but timm computes the number of cells from the patch size.
        patches.patch_size = (stride, stride)
    return True


def _pad_to_keep_size(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> None:
    """Pad a layer of stride 1 without padding, so that it keeps the size of its input."""
    kernel, padding = to_2tuple(module.kernel_size)[0], to_2tuple(module.padding)[0]
    # timm's 'same' layers pad their input themselves.
    if kernel == 1 or padding != 0 or 'Same' in type(module).__name__:
        return
    if kernel % 2 == 0:
        module.padding = 'same'
    else:
        module.padding = to_2tuple(get_padding(kernel, dilation=to_2tuple(getattr(module, 'dilation', 1))[0]))


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition('.')
    setattr(net.get_submodule(parent), leaf, module)
