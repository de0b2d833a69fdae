"""HaS, Hide-and-Seek (Singh and Lee, ICCV 2017): hide random cells of the training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from .._schema import Share, between
from .base import Generators, MethodSettings, Targets, WSOLMethod


def hide(images: torch.Tensor, cell: int, rate: float, draws: torch.Tensor) -> torch.Tensor:
    """Set each cell of the images to 0 where its draw is at most `rate`.

    Cells are squares; those of the last row and column are cut off at the border of the image.

    Args:
        images: (B,C,H,W). If they are normalized, 0 is the mean color, so that the mean of the activations hardly
            changes.
        cell: Side of a cell in pixels; 0 hides nothing.
        rate: Share of hidden cells.
        draws: Uniform numbers in [0,1), (B,ceil(H/cell),ceil(W/cell)).

    Returns:
        (B,C,H,W).

    Raises:
        ValueError: When there is not one draw for each cell.
    """
    if cell == 0:
        return images
    wanted = (len(images), *cells(images.shape, cell))
    if tuple(draws.shape) != wanted:
        raise ValueError(f'draws have the shape {tuple(draws.shape)}: {tuple(images.shape)} images need {wanted}')
    kept = (draws > rate).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return images * kept[:, None, : images.shape[2], : images.shape[3]].to(images)


def cells(shape: torch.Size, cell: int) -> tuple[int, int]:
    """Return the number of rows and columns of cells of images (B,C,H,W)."""
    return -(-shape[2] // cell), -(-shape[3] // cell)


@dataclass
class HaSSettings(MethodSettings):
    """cell: side of a cell in pixels, 0 to hide nothing; rate: probability that a cell is hidden.

    The original hides half of the cells and draws their side from 0, 16, 32, 44 and 56 pixels for each image.
    """

    cell: Annotated[int, between(0, 4096)] = 44
    rate: Share = 0.5


class HaS(WSOLMethod):
    """Cross-entropy on images with hidden cells. Each image has its own draws in each step; the class map is CAM."""

    name = 'has'
    title = 'HaS'
    Settings = HaSSettings
    settings: HaSSettings

    def draw(self, shape: torch.Size, generators: Generators) -> torch.Tensor:
        """Draw a uniform number for each cell, (B,rows,columns)."""
        size = cells(shape, self.settings.cell or max(shape))
        return torch.stack([torch.rand(size, generator=generator) for generator in generators.images])

    def augment(self, images: torch.Tensor, targets: Targets, draws: torch.Tensor) -> tuple[torch.Tensor, Targets]:
        return hide(images, self.settings.cell, self.settings.rate, draws), targets
