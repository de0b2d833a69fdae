"""A light decoder in the style of feature pyramid networks (FPN: Lin et al., CVPR 2017).

Channels are reduced by 1x1 convolutions at low resolution, before bilinear upsampling; skip connections are added
instead of concatenated; and each level has one separable 3x3 convolution (Howard et al., MobileNets, 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .decoder import initialize


class SeparableConv(nn.Sequential):
    """3x3 convolution of each channel, 1x1 convolution over channels, batch norm, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )


class FpnBlock(nn.Module):
    """Reduce the channels, enlarge to the size of the skip connection, add it, convolve."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.lateral = nn.Conv2d(skip_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.conv = SeparableConv(out_channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(self.reduce(x), size=skip.shape[-2:], mode='bilinear', align_corners=False)
        return self.conv(F.relu(self.norm(x + self.lateral(skip))))


class FpnDecoder(nn.Module):
    """FPN decoder: feature pyramid -> 2 logits per pixel.

    The logits are computed at the resolution of the first level (stride 2 in most networks), then enlarged bilinearly.

    Args:
        encoder_channels: Channels of each level, from high to low resolution.
        decoder_channels: Channels at each level, from low to high resolution, as many as levels.
        num_maps: Number of output maps (background, foreground).

    Raises:
        ValueError: When the numbers of channels and levels differ.
    """

    def __init__(self, encoder_channels: Sequence[int], decoder_channels: Sequence[int], num_maps: int = 2) -> None:
        super().__init__()
        deepest, *skips = list(encoder_channels)[::-1]
        if len(decoder_channels) != len(encoder_channels):
            raise ValueError(
                f'decoder_channels has {len(decoder_channels)} numbers: the fpn decoder needs one for each of the '
                f'{len(encoder_channels)} levels'
            )
        first = decoder_channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(deepest, first, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            SeparableConv(first),
        )
        channels = zip(decoder_channels, skips, decoder_channels[1:])
        self.blocks = nn.ModuleList(FpnBlock(*numbers) for numbers in channels)
        self.head = nn.Conv2d(decoder_channels[-1], num_maps, 3, padding=1)
        self.grad_checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize all layers like those of the U-Net decoder."""
        initialize(self, self.head)

    def forward(self, features: Sequence[torch.Tensor], size: tuple[int, ...]) -> torch.Tensor:
        """Decode.

        Args:
            features: (B,C_i,h_i,w_i) from high to low resolution.
            size: (H,W) of the image.

        Returns:
            Logits (B,num_maps,H,W).
        """
        deepest, *skips = list(features)[::-1]
        x = self.stem(deepest)
        for block, skip in zip(self.blocks, skips):
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, skip, use_reentrant=False)
            else:
                x = block(x, skip)
        return F.interpolate(self.head(x), size=size, mode='bilinear', align_corners=False)
