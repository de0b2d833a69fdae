"""Where the cells of a feature map look: image coordinates of their centres, told by the paddings of the layers.

A plain resize (align_corners=False) draws cell i of stride s around pixel s * (i + 1/2) - 1/2, as if every layer halved
its input by 2x2 blocks. Few do: with symmetric padding a 3x3 kernel of stride 2 looks half a pixel of its input further
left and above, with TensorFlow's 'same' padding of an even size, which is on the right and below alone, half a pixel
further right and below. One forward of zeros is watched operation by operation, so it does not matter whether padding
belongs to a layer, is applied by a function, or depends on the size.

The middle of a kernel is where it looks only if its weights are even. Trained kernels lean: those of networks trained
with 'same' padding lean to the upper left, by more than half of what that padding moves them the other way. The
centroids of the squared weights account for it (`kernels='trained'`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn as nn

from .._modes import eval_mode
from ._positions import Follower
from .layers import named_layer

ALIGNS = ('plain', 'cells', 'kernels')
KERNELS = ('even', 'trained')


def check_align(align: str) -> None:
    """Raise ValueError for what is not in ALIGNS."""
    if align not in ALIGNS:
        raise ValueError(f'unknown align {align!r}: choose one of {", ".join(ALIGNS)}')


@dataclass(frozen=True)
class CellGeometry:
    """The points that the cells of a map look at; all pairs are (rows, columns).

    Attributes:
        offset: Image coordinate of the centre of cell (0,0), in pixels; the centre of the first pixel is 0.
        stride: Pixels from a cell to the next.
        spread: Pixels by which branches that meet in a cell, such as a shortcut and its convolutions, lie to either
            side of `offset`; 0 where they agree.

    Raises:
        ValueError: For numbers that are not finite, a stride that is not positive, or a negative spread.
    """

    offset: tuple[float, float]
    stride: tuple[float, float]
    spread: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        pairs = (self.offset, self.stride, self.spread)
        if any(len(pair) != 2 or not all(map(math.isfinite, pair)) for pair in pairs):
            raise ValueError(f'{self} must have two finite numbers, rows and columns, in each field')
        if min(self.stride) <= 0 or min(self.spread) < 0:
            raise ValueError(f'{self} must have a positive stride and no negative spread')

    @property
    def shift(self) -> tuple[float, float]:
        """Pixels (down, right) from where a plain resize draws a cell to where it looks.

        It takes the image for a whole number of cells, side = stride * cells; see `mean_shift` for any other.
        """
        rows, columns = (o - (s - 1) / 2 for o, s in zip(self.offset, self.stride))
        return rows, columns

    def mean_shift(self, image_size: tuple[int, int], map_size: tuple[int, int]) -> tuple[float, float]:
        """`shift` for an image (H,W) and a map (h,w) of any sizes: its mean over the cells."""
        cells = zip(self.offset, self.stride, image_size, map_size)
        rows, columns = (o + s * (n - 1) / 2 - (side - 1) / 2 for o, s, side, n in cells)
        return rows, columns

    def scaled(self, image_size: tuple[int, int], size: tuple[int, int]) -> CellGeometry:
        """The same cells in the pixels of another size (H,W) of the image."""
        y, x = (new / old for old, new in zip(image_size, size))
        return CellGeometry(
            ((self.offset[0] + 0.5) * y - 0.5, (self.offset[1] + 0.5) * x - 0.5),
            (self.stride[0] * y, self.stride[1] * x),
            (self.spread[0] * y, self.spread[1] * x),
        )


def cell_geometry(
    module: nn.Module,
    layer: nn.Module | str | None,
    images: torch.Tensor | Sequence[int],
    run: Callable[[torch.Tensor], Any] | None = None,
    kernels: Literal['even', 'trained'] = 'even',
) -> CellGeometry:
    """Where the cells of a layer's output look, from one forward of a single image of zeros.

    Convolutions, pools, paddings, crops, resizes and changes of layout (NHWC, tokens, windows) are followed. Where
    branches with different centres meet, the middle between them counts. The network runs in eval mode (the modes are
    restored) and without gradients.

    Args:
        module: Network of images (B,C,H,W).
        layer: Module or dotted name whose last output is meant; None means what `run` returns.
        images: Images, or their shape (H,W), (C,H,W) or (B,C,H,W): paddings may depend on H and W.
        run: Sends images through the network; default: the network itself.
        kernels: Where in a convolution's kernel its centre is: 'even' takes the middle, so that paddings alone count,
            'trained' the centroid of the squared weights. Pools are even.

    Returns:
        The geometry in pixels of the images.

    Raises:
        ValueError: For unknown kernels; for a layer that does not exist, does not run, gives no map (4 dimensions), or
            one that cannot be followed back to the image: after operations that mix or reorder positions, or that are
            not known to keep them.
    """
    if kernels not in KERNELS:
        raise ValueError(f'unknown kernels {kernels!r}: choose one of {", ".join(KERNELS)}')
    target = named_layer(module, layer) if isinstance(layer, str) else layer
    what = 'the network' if target is None else f'layer {layer if isinstance(layer, str) else type(target).__name__}'
    floats = (p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point())
    like = next(floats, images if isinstance(images, torch.Tensor) else torch.zeros(()))
    outputs: list[Any] = []
    hooks = []
    if target is not None:
        hooks.append(target.register_forward_hook(lambda _module, _inputs, output: outputs.append(output)))
    try:
        # In inference mode the composite operations would not be taken apart.
        with eval_mode(module), torch.inference_mode(False), torch.no_grad():
            zeros = torch.zeros(_one_image(images), dtype=like.dtype, device=like.device)
            with Follower(zeros, kernels == 'trained') as follower:
                result = (run or module)(zeros)
    finally:
        for hook in hooks:
            hook.remove()
    if target is not None and not outputs:
        raise ValueError(f'{what} does not run in the forward pass: choose another')
    output = outputs[-1] if outputs else result
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        raise ValueError(f'{what} gives no map of 4 dimensions: choose a convolutional layer')
    grid = follower.grid(output)
    if grid is None:
        raise ValueError(
            f'the cells of the map {tuple(output.shape)} of {what} cannot be followed back to the image: choose a '
            'layer before tokens are added, mixed or reordered'
        )
    low, high, stride = grid
    middle, spread = ([(b + sign * a) / 2 for a, b in zip(low, high)] for sign in (1, -1))
    # Sums of thirds and the like: a spread of 1e-16 would look as if branches differed.
    return CellGeometry(*((round(y, 6) + 0.0, round(x, 6) + 0.0) for y, x in (middle, stride, spread)))


def align_geometry(
    align: Literal['plain', 'cells', 'kernels'],
    module: nn.Module,
    layer: nn.Module | str | None,
    images: torch.Tensor | Sequence[int],
    run: Callable[[torch.Tensor], Any] | None = None,
) -> CellGeometry | None:
    """What `resize` needs for a way to draw cells; further arguments and errors are those of `cell_geometry`.

    Args:
        align: 'plain' gives None, the resize with align_corners=False; 'cells' the geometry of the paddings; 'kernels'
            that of the paddings and the trained kernels.
    """
    check_align(align)
    if align == 'plain':
        return None
    return cell_geometry(module, layer, images, run, 'even' if align == 'cells' else 'trained')


def _one_image(images: torch.Tensor | Sequence[int]) -> tuple[int, ...]:
    shape = tuple(images.shape if isinstance(images, torch.Tensor) else images)
    if not 2 <= len(shape) <= 4 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f'{shape} is no shape of images: give (H,W), (C,H,W) or (B,C,H,W)')
    return (1, 3, *shape) if len(shape) == 2 else (1, *shape[-3:])
