"""Data sets in memory and a small model for the tests of the benchmark."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

SIDE, K = 24, 3
Output = namedtuple('Output', 'logits maps')


class Squares:
    """Images with a bright square in the color of its class; the original images are 2 x 3 times as large."""

    name, split = 'squares', 'test'

    def __init__(self, n: int = 7, masks: bool = False) -> None:
        rng = np.random.default_rng(1)
        self.ids = [f'{i}.png' for i in range(n)]
        self.labels = np.arange(n, dtype=np.int64) % K
        self.sizes = np.tile([2 * SIDE, 3 * SIDE], (n, 1))
        self.images = rng.integers(0, 40, (n, 3, SIDE, SIDE)).astype(np.uint8)
        self.truth = np.zeros((n, SIDE, SIDE), np.uint8)
        boxes = []
        for i, (x, y) in enumerate(rng.integers(1, 12, (n, 2)).tolist()):
            self.images[i, self.labels[i], y : y + 9, x : x + 8] = 250
            self.truth[i, y : y + 9, x : x + 8] = 1
            boxes.append(np.array([[2 * x, 3 * y, 2 * (x + 8), 3 * (y + 9)]]))
        self.boxes = None if masks else boxes
        self.masks = self.ids if masks else None
        self.reads = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        self.reads += 1
        return torch.from_numpy(self.images[index]), int(self.labels[index]), index

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        assert size == (SIDE, SIDE)
        return self.truth[index]


class Model(nn.Module):
    """Its classes are the colors, its map is the brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.9)
        self.pretrained_cfg = {'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.25, 0.3)}
        self.passes: list[str] = []

    def bright(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        mean, std = (torch.tensor(self.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ('mean', 'std'))
        return self.drop(self.gain * (x * std + mean))

    def forward(self, x: torch.Tensor) -> Output:
        self.passes.append('forward')
        colors = self.bright(x)
        bright = 8 * (colors.amax(1) - 0.5)
        return Output(colors.mean((2, 3)), torch.stack([-bright, bright], 1))

    def cam(self, x: torch.Tensor, labels: torch.Tensor, method: str) -> torch.Tensor:
        self.passes.append(method)
        return self.bright(x)[torch.arange(len(x)), labels].clamp(0, 1)


def fcam_maps(dataset: Squares) -> np.ndarray:
    bright = dataset.images.max(1) / 255 - 0.5
    return 1 / (1 + np.exp(-16 * bright))


def save_maps(folder: Path, maps: np.ndarray) -> Path:
    for i, score_map in enumerate(maps):
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f'{i}.png.npy', score_map)
    return folder


class Rectangles:
    """Images with one rectangle each, brighter in red.

    Args:
        rectangles: (N,4) x0, y0, x1, y1 in pixels of the maps, ends inclusive.
        side: Of the maps.
        labels: (N).
        masks: Ground truth is masks rather than boxes.
    """

    name, split = 'shapes', 'val'
    class_names: Mapping[int, str] = {0: 'a', 1: 'b|c'}

    def __init__(self, rectangles: np.ndarray, side: int, labels: np.ndarray, masks: bool = False) -> None:
        n = len(rectangles)
        self.side, self.rectangles, self.labels = side, rectangles, labels
        self.ids = [f'{i}.png' for i in range(n)]
        self.sizes = np.full((n, 2), side)
        self.truth = np.zeros((n, side, side), np.uint8)
        for mask, (x0, y0, x1, y1) in zip(self.truth, rectangles):
            mask[y0 : y1 + 1, x0 : x1 + 1] = 1
        self.boxes = None if masks else [r[None] for r in rectangles]
        self.masks = self.ids if masks else None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        image = np.full((3, self.side, self.side), 100, np.uint8)
        image[0] += 100 * self.truth[index]
        return torch.from_numpy(image), int(self.labels[index]), index

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        return self.truth[index]
