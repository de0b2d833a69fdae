"""U-Net decoder for full-resolution maps (F-CAM, WACV 2022, Fig. 2; U-Net: Ronneberger et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# The oldest supported torch lacks is_exporting; there, compiled graphs resize as exported ones do.
_is_exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)


def fit(x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Resize (B,C,h,w) to (B,C,H,W) if the size differs: bilinear, corners aligned."""
    # An exported graph cannot branch on the size; if the sizes are equal, this resize is the identity.
    if _is_exporting() or x.shape[-2:] != size:
        x = F.interpolate(x, size=size, mode='bilinear', align_corners=True)
    return x


def initialize(decoder: nn.Module, head: nn.Conv2d) -> None:
    """Initialize convolutions Kaiming-uniform (fan-in, ReLU) and the head Xavier-uniform, as in the published code."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d) and module is not head:
            nn.init.kaiming_uniform_(module.weight, nonlinearity='relu')
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.get_parameter('bias'))


class ConvNormAct(nn.Sequential):
    """3x3 convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class DecoderBlock(nn.Module):
    """Double the resolution, concatenate the skip connection, convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels + skip_channels, out_channels)
        self.conv2 = ConvNormAct(out_channels, out_channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        x = F.interpolate(x, scale_factor=2, mode='nearest')
        if skip is not None:
            x = torch.cat([fit(x, skip.shape[-2:]), skip], 1)
        return self.conv2(self.conv1(x))


class UnetDecoder(nn.Module):
    """U-Net decoder: feature pyramid -> 2 logits per pixel.

    It has one block per skip connection, then blocks without skip connections up to the resolution of the image.

    Args:
        encoder_channels: Channels of each level, from high to low resolution. The last level is the input, the others
            are skip connections.
        decoder_channels: Channels of each block, from low to high resolution.
        center: Add two convolutions on the deepest level before the first block (VGG in the paper).
        num_maps: Number of output maps (background, foreground).

    Raises:
        ValueError: When there are fewer blocks than skip connections.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int],
        center: bool = False,
        num_maps: int = 2,
    ) -> None:
        super().__init__()
        deepest, *skips = list(encoder_channels)[::-1]
        if len(decoder_channels) < len(skips):
            raise ValueError(
                f'decoder_channels has {len(decoder_channels)} blocks, fewer than the {len(skips)} skip connections'
            )
        skips += [0] * (len(decoder_channels) - len(skips))
        self.center = (
            nn.Sequential(ConvNormAct(deepest, deepest), ConvNormAct(deepest, deepest)) if center else nn.Identity()
        )
        inputs = [deepest, *decoder_channels[:-1]]
        self.blocks = nn.ModuleList(DecoderBlock(*channels) for channels in zip(inputs, skips, decoder_channels))
        self.head = nn.Conv2d(decoder_channels[-1], num_maps, 3, padding=1)
        self.grad_checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize all layers as in the published code."""
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
        x = self.center(deepest)
        for i, block in enumerate(self.blocks):
            skip = skips[i] if i < len(skips) else None
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, skip, use_reentrant=False)
            else:
                x = block(x, skip)
        return fit(self.head(x), size)
