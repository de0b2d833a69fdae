"""Layer outputs of any layout as channels-first maps."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn as nn

Layout = Literal['NCHW', 'NHWC', 'NLC']
LAYOUTS = get_args(Layout)


def image_size(images: torch.Tensor) -> tuple[int, int]:
    """Return (H,W) of images (...,H,W)."""
    return images.shape[-2], images.shape[-1]


def find_layout(classifier: nn.Module, output: object) -> Layout | None:
    """Infer the layout of a layer's output; None if it is not a map.

    Three dimensions are tokens (B,L,C). Four are channels first, unless the classifier declares `output_fmt = 'NHWC'`
    as timm's Swin does.
    """
    if not isinstance(output, torch.Tensor):
        return None
    if output.ndim == 3:
        return 'NLC'
    if output.ndim == 4:
        return 'NHWC' if str(getattr(classifier, 'output_fmt', '')).endswith('NHWC') else 'NCHW'
    return None


def to_maps(x: torch.Tensor, layout: Layout, size: tuple[int, int], prefix_tokens: int) -> torch.Tensor:
    """Convert the output of a layer to (B,C,h,w).

    Args:
        x: (B,C,h,w), (B,h,w,C), or tokens (B,P+h*w,C): P class and register tokens, then the patches row by row.
        layout: Layout of `x`.
        size: (H,W) of the image. The grid of tokens has the same aspect ratio.
        prefix_tokens: P.

    Raises:
        ValueError: If no grid of the tokens has the aspect ratio of the image.
    """
    if layout == 'NCHW':
        return x
    if layout == 'NHWC':
        return x.permute(0, 3, 1, 2)
    tokens = x[:, prefix_tokens:]
    h, w = token_grid(tokens.shape[1], size)
    return tokens.transpose(1, 2).reshape(len(x), -1, h, w)


def token_grid(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return (h,w) with h*w = count whose aspect ratio is nearest to that of the image.

    Args:
        count: Number of patch tokens.
        size: (H,W) of the image.

    Raises:
        ValueError: If the ratios differ by more than rounding the sides to whole patches allows.
    """
    aspect = size[0] / size[1]
    pairs = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
    if pairs:
        h, w = min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / aspect)))
        if h < (w + 1) * aspect + 1 and w < (h + 1) / aspect + 1:
            return h, w
    raise ValueError(
        f'{count} tokens do not form a grid with the aspect ratio of a {size[0]}x{size[1]} image: choose another '
        'layer, or set prefix_tokens to the number of class and register tokens'
    )
