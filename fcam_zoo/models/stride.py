"""Where a network strides, and how to take strides out without dilating the kernels.

The paper's networks keep their last feature map large by setting late strides to 1 and leaving every kernel as it is
(no dilation). Here the same is done to any network: one traced forward finds the striding layers, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn

from ..errors import UnknownModelError

_STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class StridedLayer:
    """A layer that strides: its name, kernel, stride, and the stride of its input."""

    name: str
    kernel: int
    stride: int
    input_stride: int


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


@torch.no_grad()
def trace_strides(net: nn.Module, run: object, size: int = 128, in_chans: int = 3) -> list[StridedLayer]:
    """Striding layers in the order in which they run.

    Args:
        net: Network whose modules are watched.
        run: Callable that sends an input through it.
        size: Side of the dummy input in pixels.
        in_chans: Its channels.
    """
    found: list[StridedLayer] = []
    names = {module: name for name, module in net.named_modules()}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        stride = _pair(module.stride)[0]
        if stride > 1:
            side = inputs[0].shape[-2]
            kernel = _pair(module.kernel_size)[0]
            found.append(StridedLayer(names[module], kernel, stride, round(size / side)))

    modes = [(m, m.training) for m in net.modules()]
    handles = [m.register_forward_hook(note) for m in net.modules() if isinstance(m, _STRIDED)]
    parameter = next(net.parameters())
    net.eval()
    try:
        run(torch.zeros(1, in_chans, size, size, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for m, mode in modes:
            m.training = mode
    return found


def remove_strides(net: nn.Module, layers: list[StridedLayer], output_stride: int) -> None:
    """Set the stride of every layer beyond `output_stride` to 1, in place; kernels stay as they are.

    Raises:
        UnknownModelError: When the strides of the network cannot stop at `output_stride`.
    """
    for layer in layers:
        if layer.input_stride * layer.stride <= output_stride:
            continue
        if layer.input_stride < output_stride:
            raise UnknownModelError(
                f'output_stride={output_stride} is not to be had: layer {layer.name} goes from stride '
                f'{layer.input_stride} to {layer.input_stride * layer.stride}; choose one of these two'
            )
        module = net.get_submodule(layer.name)
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if layer.kernel % 2 == 0:
                module.padding = 'same'
        elif layer.kernel % 2 == 0:
            # A 2x2 pool only halves; without its stride nothing of it is left.
            parent, _, leaf = layer.name.rpartition('.')
            setattr(net.get_submodule(parent), leaf, nn.Identity())
        else:
            module.stride = 1
