"""CSTN, Convolutional Spatial Transformer Network (Meethal et al., ICPR 2020): windows that move to the object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from .._schema import NotNegative, Rule
from ..errors import UnknownModelError
from .base import Channels, Encoding, MethodSettings, Network, Targets, TrainingOutput, WSOLMethod, of_labels

# The class map has one cell for this many pixels of the image.
MAP_STRIDE = 8
# Images of a batch over which the published code sums the penalties.
PUBLISHED_BATCH = 16

Windows = Annotated[
    list[int],
    Rule(lambda value: len(value) == 2 and all(k % 2 and 1 <= k <= 31 for k in value), 'give two odd numbers up to 31'),
]


class Scores(NamedTuple):
    """Output of a convolution whose windows are transformed.

    Attributes:
        values: (B,C,n,m).
        offset: Transform minus the identity, (B,n,m,2,3).
        grid: Sampled points of each window, (B,n,m,k,k,2) as (x,y): -1 is the center of the first cell of the map, 1
            that of the last.
    """

    values: torch.Tensor
    offset: torch.Tensor
    grid: torch.Tensor


class TransformedConv(nn.Module):
    """A convolution without padding whose k x k window at each position is moved by an affine transform.

    At first, all transforms are the identity, and it is an ordinary convolution. (A window of 1 always stays so.)

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        window: k, odd.
    """

    def __init__(self, in_channels: int, channels: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.transform = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, window, padding=window // 2),
            nn.ReLU(),
            nn.Conv2d(in_channels, 6, window, bias=False),
        )
        nn.init.zeros_(self.transform.get_submodule('2').get_parameter('weight'))
        self.conv = nn.Conv2d(in_channels, channels, window, stride=window)

    def forward(self, x: torch.Tensor) -> Scores:
        """Compute the scores of features (B,C,h,w), with n = h - k + 1 and m = w - k + 1.

        Raises:
            ValueError: When the map is smaller than the window.
        """
        k, (h, w) = self.window, (x.shape[2], x.shape[3])
        if min(h, w) < k:
            raise ValueError(
                f'CSTN: a map of {h}x{w} cells is smaller than its window of {k}: use larger images or smaller '
                'method.windows'
            )
        offset = self.transform(x).float().permute(0, 2, 3, 1).unflatten(3, (2, 3))
        grid = self._grid(offset, h, w)
        # All windows side by side, which a convolution with stride k then reads one by one.
        n, m = grid.shape[1:3]
        flat = grid.permute(0, 1, 3, 2, 4, 5).reshape(len(x), n * k, m * k, 2)
        sampled = F.grid_sample(x.float(), flat, mode='bilinear', align_corners=True)
        return Scores(self.conv(sampled), offset, grid)

    def _grid(self, offset: torch.Tensor, h: int, w: int) -> torch.Tensor:
        """Return the sampled points (B,n,m,k,k,2) for transforms (B,n,m,2,3)."""
        _, n, m, _, _ = offset.shape
        k, device = self.window, offset.device
        steps = torch.linspace(-1, 1, k, device=device)
        y, x = torch.meshgrid(steps, steps, indexing='ij')
        theta = offset + torch.eye(2, 3, device=device)
        moved = torch.einsum('bnmcd,dij->bnmijc', theta, torch.stack([x, y, torch.ones_like(x)]))
        rows, columns = torch.meshgrid(torch.arange(n, device=device), torch.arange(m, device=device), indexing='ij')
        centers = torch.stack([columns, rows], 2)[:, :, None, None] + k // 2
        cells = moved * (k // 2) + centers
        return cells * 2 / torch.tensor([max(w - 1, 1), max(h - 1, 1)], device=device) - 1


@dataclass
class CSTNSettings(MethodSettings):
    """windows: sides of the windows in cells, odd, on the last features and on those of the stage before.

    transform_weight, scale_weight: weights of the penalties. channels: width of the layers.
    """

    windows: Windows = field(default_factory=lambda: [7, 13])
    transform_weight: Annotated[float, NotNegative] = 1e-4 * PUBLISHED_BATCH
    scale_weight: Annotated[float, NotNegative] = 5.0 * PUBLISHED_BATCH
    channels: Channels = 512


class CSTN(WSOLMethod):
    """Score the classes in windows at two scales, each moved by a predicted affine transform.

    Features of the last stage (3x3 convolution, batch norm, 1x1 convolution) and, added to them enlarged, of the stage
    before (1x1, then 3x3 convolution) each pass a `TransformedConv`, a ReLU and one common 1x1 convolution to K scores
    per window. The joint probability of class and window is the softmax over all scores; that of a class is its sum
    over the windows, so its logit is the logsumexp of its scores.

    Loss: CE + transform_weight * sum (theta - I)^2 + scale_weight * max(0, p_2 - p_1), averaged over the images, with
    p_s the largest joint probability of the predicted class at a scale (1: last stage). The published code sums the
    penalties over a batch of 16 images, with weights 1e-4 and 5; the defaults here are the same for such a batch.

    The paper predicts a box: the bounding rectangle of the most probable window (`boxes`). The class map is our own:
    the joint probability of label and window, summed over all windows whose rectangle covers the cell.

    The published training has ResNet101, images of 320 pixels, SGD with learning rate 0.001, and 20 epochs of CUB with
    batches of 16. Its optimizer leaves out the convolutions between the stages and the last one, which keep their
    random weights; here they are trained. The published code works for square maps only; here each axis has its own
    length.

    Raises:
        UnknownModelError: When the backbone is not convolutional or has one stage only.
    """

    name = 'cstn'
    title = 'CSTN'
    Settings = CSTNSettings
    settings: CSTNSettings
    own_head = own_map = True

    def __init__(self, network: Network, settings: CSTNSettings) -> None:
        super().__init__(network, settings)
        self.check_maps()
        if len(network.channels) < 2:
            raise UnknownModelError(
                f'CSTN needs two stages, and {type(network.net).__name__} has one: choose another backbone'
            )
        channels, width = network.num_features, settings.channels
        self.deep = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, width, 1),
        )
        self.side, self.smooth = nn.Conv2d(network.channels[-2], width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.scales = nn.ModuleList(TransformedConv(width, width, window) for window in settings.windows)
        self.classifier = nn.Conv2d(width, network.num_classes, 1)

    def forward(self, encoding: Encoding, targets: Targets, draws: Any) -> TrainingOutput:
        found = self.windows(encoding)
        logits = torch.cat([own.values.flatten(2) for own in found], 2).logsumexp(2)
        joint = self.joint(found)
        predicted = logits.argmax(1)
        first, second = (of_labels(own, predicted).amax(1) for own in joint)
        moved = sum(own.offset.square().sum((1, 2, 3, 4)) for own in found)
        return TrainingOutput(
            logits,
            {
                'ce': targets.cross_entropy(logits),
                'transform': self.settings.transform_weight * torch.as_tensor(moved).mean(),
                'scale': self.settings.scale_weight * (second - first).relu().mean(),
            },
        )

    def logits(self, encoding: Encoding) -> torch.Tensor:
        return torch.cat([own.values.flatten(2) for own in self.windows(encoding)], 2).logsumexp(2)

    def class_map(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        found = self.windows(encoding)
        height, width = (max(1, side // MAP_STRIDE) for side in encoding.images.shape[-2:])
        y, x = ((torch.arange(n, device=labels.device) + 0.5) / n for n in (height, width))
        maps = torch.zeros(len(labels), height, width, device=labels.device)
        for own, joint in zip(found, self.joint(found)):
            left, top, right, bottom = rectangles(own.grid).unsqueeze(3).unbind(2)
            columns, rows = ((x >= left) & (x <= right)).float(), ((y >= top) & (y <= bottom)).float()
            maps = maps + torch.einsum('bp,bpy,bpx->byx', of_labels(joint, labels), rows, columns)
        return maps

    def boxes(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        """Return the rectangles (x0,y0,x1,y1) of the most probable windows of labels (B,): (B,4) in [0,1]."""
        found = self.windows(encoding)
        joint = torch.cat([of_labels(own, labels) for own in self.joint(found)], 1)
        all_windows = torch.cat([rectangles(own.grid) for own in found], 1)
        return of_labels(all_windows, joint.argmax(1)).clamp(0, 1)

    def windows(self, encoding: Encoding) -> list[Scores]:
        """Compute the scores (B,K,n,m) of the windows at both scales."""
        deep, before = self.deep(encoding.features), encoding.levels[-2]
        size = (before.shape[2], before.shape[3])
        shallow = self.smooth(F.interpolate(deep, size, mode='bilinear', align_corners=False) + self.side(before))
        found = [scale(own) for scale, own in zip(self.scales, (deep, shallow))]
        return [own._replace(values=self.classifier(own.values.relu()).float()) for own in found]

    @staticmethod
    def joint(found: list[Scores]) -> list[torch.Tensor]:
        """Compute the joint probabilities (B,K,n*m) of each scale; all of an image sum to 1."""
        scores = [own.values.flatten(2) for own in found]
        whole = torch.cat(scores, 2)
        return list(whole.flatten(1).softmax(1).view(whole.shape).split([own.shape[2] for own in scores], 2))


def rectangles(grid: torch.Tensor) -> torch.Tensor:
    """Return the bounding rectangles (x0,y0,x1,y1) of windows (B,n,m,k,k,2): (B,n*m,4), in shares of the image."""
    points = (grid.flatten(3, 4).flatten(1, 2) + 1) / 2
    return torch.cat([points.amin(2), points.amax(2)], 2)
