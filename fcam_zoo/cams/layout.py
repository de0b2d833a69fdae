"""Layer outputs of any layout as channels-first maps."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn as nn

Layout = Literal['NCHW', 'NHWC', 'NLC']
LAYOUTS = get_args(Layout)


def find_layout(classifier: nn.Module, output: object) -> Layout | None:
    """Layout of a layer's output, None when it holds no map.

    (B,L,C) are tokens; of four dimensions the second are channels, but for networks that declare
    `output_fmt = 'NHWC'`, as timm's Swin does.
    """
    if not isinstance(output, torch.Tensor):
        return None
    if output.ndim == 3:
        return 'NLC'
    if output.ndim == 4:
        return 'NHWC' if str(getattr(classifier, 'output_fmt', '')).endswith('NHWC') else 'NCHW'
    return None


def to_maps(x: torch.Tensor, layout: Layout, image_size: tuple[int, int], prefix_tokens: int) -> torch.Tensor:
    """Output of a layer -> (B,C,h,w).

    Args:
        x: (B,C,h,w), (B,h,w,C), or tokens (B,P+h*w,C), row by row after P class and register tokens.
        layout: Which of the three.
        image_size: (H,W), whose proportions the grid of tokens has.
        prefix_tokens: P.

    Raises:
        ValueError: When the tokens make up no such grid.
    """
    if layout == 'NCHW':
        return x
    if layout == 'NHWC':
        return x.permute(0, 3, 1, 2)
    tokens = x[:, prefix_tokens:]
    h, w = token_grid(tokens.shape[1], image_size)
    return tokens.transpose(1, 2).reshape(len(x), -1, h, w)


def token_grid(count: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """(h,w) with h*w = count whose proportions are nearest to those of the image.

    Raises:
        ValueError: When they are off by more than the rounding of sides to patches allows.
    """
    aspect = image_size[0] / image_size[1]
    pairs = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
    if pairs:
        h, w = min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / aspect)))
        if h < (w + 1) * aspect + 1 and w < (h + 1) / aspect + 1:
            return h, w
    raise ValueError(
        f'{count} tokens are no grid of the proportions of a {image_size[0]}x{image_size[1]} image: choose another '
        'layer, or set prefix_tokens to the number of class and register tokens before them'
    )
