"""What differs between the two stages: the parameters that learn, and the loss of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from .. import cams, sampling
from .._distributed import all_reduce, world_size
from ..data import normalize
from ..errors import TrainingError
from ..losses import PixelAlignmentLoss
from ..models import FCAM
from ..models.pyramid import Encoding
from .config import ClassifierConfig, DecoderConfig, StageConfig

SMALLEST_LR = 1e-7


class Stage(nn.Module):
    """The loss of a batch as a module, which DDP can wrap.

    Args:
        model: The F-CAM, on its device.
        config: Settings of the stage.
        teacher: CAM method.
        seed: From which all random draws of the stage derive.
    """

    name: str
    val_maps: str

    def __init__(self, model: FCAM, config: StageConfig, teacher: str) -> None:
        super().__init__()
        self.model, self.config, self.teacher = model, config, teacher

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, torch.Tensor]:
        """Weighted terms by name, whose sum is the loss.

        Args:
            images: uint8 (B,3,H,W).
            labels: Class of each image (B,).
            generators: One an image, for what is drawn of it.
        """
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters that learn, each group with its learning rate."""
        raise NotImplementedError

    def score(self, metrics: dict[str, float]) -> float:
        """The figure by which the best epoch is chosen."""
        return localization_score(metrics)

    def encode(self, images: torch.Tensor) -> Encoding:
        cfg = self.model.pretrained_cfg
        # Convolutions are about twice as fast on channels-last data.
        x = normalize(images, cfg['mean'], cfg['std']).contiguous(memory_format=torch.channels_last)
        return self.model.encode(x)

    def end_epoch(self) -> None:
        """After the last step of an epoch."""

    def progress(self) -> dict[str, Any]:
        """What a resumed run must know beside the weights, as JSON values."""
        return {}

    def load_progress(self, progress: dict[str, Any]) -> None:
        """Restore `progress`."""


class ClassifierStage(Stage):
    """Cross-entropy on image labels; the decoder is not touched.

    The head is learnt anew, from zero, so that no noise of it reaches the pretrained body at first; with `keep_head` it
    goes on from where it is.
    """

    name = 'classifier'

    def __init__(self, model: FCAM, config: ClassifierConfig, teacher: str, keep_head: bool = False) -> None:
        super().__init__(model.unfreeze(), config, teacher)
        self.val_maps = teacher
        if not keep_head:
            for parameter in model.get_classifier().parameters():
                nn.init.zeros_(parameter)
        model.decoder.requires_grad_(False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The body, and what learns faster: the head and `head_layers`.

        Raises:
            TrainingError: For a layer that the backbone does not have.
        """
        modules = dict(self.model.backbone.named_modules())
        missing = [name for name in self.config.head_layers if name not in modules]
        if missing:
            raise TrainingError(f'classifier.head_layers: the backbone has no module {", ".join(missing)}')
        fast = [self.model.get_classifier(), *(modules[name] for name in self.config.head_layers)]
        ids = {id(p): p for module in fast for p in module.parameters()}
        body = [p for p in self.model.backbone.parameters() if id(p) not in ids]
        return [{'params': body, 'lr': self.config.lr}, {'params': list(ids.values()), 'lr': self.config.head_lr}]

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, torch.Tensor]:
        logits = self.model.classify(self.encode(images)).float()
        return {'ce': F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)}

    def score(self, metrics: dict[str, float]) -> float:
        alone = metrics.keys() == {'cls'}
        return metrics['cls'] if alone or self.config.select == 'accuracy' else super().score(metrics)


class DecoderStage(Stage):
    """Pixel alignment with seeds from the frozen classifier's class map: one pass of the backbone serves both."""

    name = 'decoder'
    val_maps = 'fcam'

    def __init__(self, model: FCAM, config: DecoderConfig, teacher: str) -> None:
        super().__init__(model.freeze(), config, teacher)
        model.decoder.requires_grad_(True)
        self.criterion = PixelAlignmentLoss(config.alpha, config.crf, config.size, kernel=config.crf_kernel)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{'params': list(self.model.decoder.parameters()), 'lr': self.config.lr}]

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, torch.Tensor]:
        encoding, size = self.encode(images), tuple(images.shape[-2:])
        config = self.config
        foreground, background = self.regions(encoding, labels, size)
        seeds = sampling.seeds(
            foreground, background, config.seeds, config.seeds, config.dilation, generator=generators
        )
        terms = self.criterion(self.model.decoder(encoding.levels, size), seeds, images)
        if 'partial_ce' in terms:
            # Averaged over the labelled pixels of all processes, as one process would.
            count = (seeds >= 0).sum()
            share = count * world_size() / all_reduce(count).clamp(min=1)
            terms['partial_ce'] = terms['partial_ce'] * share
        return terms

    @torch.no_grad()
    def regions(
        self, encoding: Encoding, labels: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Foreground and background candidates bool (B,H,W) of a batch."""
        config = self.config
        # They hang on small differences between grey levels, which half precision would blur.
        with torch.autocast(encoding.features.device.type, enabled=False):
            low = self.model.class_map(_in_float(encoding), labels, self.teacher, config.variant)
        maps = cams.resize(low, size, tuple(config.cell_shift)).clamp(0, 1)
        foreground, background = sampling.regions(maps, config.background_fraction, config.erosion)
        # A map without an object candidate (constant, or of grey levels 0 and 1) teaches nothing.
        return foreground, background & foreground.flatten(1).any(1)[:, None, None]

    def end_epoch(self) -> None:
        self.criterion.step_epoch()

    def progress(self) -> dict[str, Any]:
        return self.criterion.get_extra_state()

    def load_progress(self, progress: dict[str, Any]) -> None:
        self.criterion.set_extra_state(progress)


def localization_score(metrics: dict[str, float]) -> float:
    """MaxBoxAcc averaged over the IoU levels, or PxAP, or what stands for them where val has no boxes or masks."""
    return next(metrics[name] for name in ('mean', 'pxap', 'kept') if name in metrics)


def lr_factor(config: StageConfig, epoch: int, step: int, steps: int) -> float:
    """What the learning rates are multiplied by at a step (from 0) of an epoch (from 1) of `steps` steps."""
    if config.schedule == 'cosine':
        return 0.5 * (1 + math.cos(math.pi * ((epoch - 1) * steps + step) / (config.epochs * steps)))
    if config.schedule == 'step':
        return max(config.gamma ** ((epoch - 1) // config.step_epochs), SMALLEST_LR / config.lr)
    return 1.0


def _in_float(encoding: Encoding) -> Encoding:
    prefix = None if encoding.prefix is None else encoding.prefix.float()
    return encoding._replace(features=encoding.features.float(), prefix=prefix)
