"""What differs between the two stages: the parameters that learn, and the loss of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from .. import cams, sampling
from ..data import normalize
from ..losses import PixelAlignmentLoss
from ..models import FCAM
from .config import ClassifierConfig, DecoderConfig


class ClassifierStage:
    """Cross-entropy on image labels; the decoder is not touched."""

    name = 'classifier'

    def __init__(self, model: FCAM, config: ClassifierConfig, teacher: str) -> None:
        self.model, self.config = model.unfreeze(), config
        self.val_maps = teacher
        # The head is always learnt anew, from zero, so that no noise of it reaches the pretrained body at first.
        for parameter in model.get_classifier().parameters():
            nn.init.zeros_(parameter)
        model.decoder.requires_grad_(False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The new head learns faster than the body (F-CAM's code: ten times)."""
        head = list(self.model.get_classifier().parameters())
        ids = {id(p) for p in head}
        body = [p for p in self.model.backbone.parameters() if id(p) not in ids]
        return [{'params': body, 'lr': self.config.lr}, {'params': head, 'lr': self.config.head_lr}]

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        cfg = self.model.pretrained_cfg
        encoding = self.model.encode(_layout(normalize(images, cfg['mean'], cfg['std']), images))
        logits = self.model.classify(encoding)
        return {'ce': F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)}

    def score(self, metrics: dict[str, float]) -> float:
        """The figure by which the best epoch is chosen."""
        return metrics['cls'] if self.config.select == 'accuracy' else localization_score(metrics)

    def end_epoch(self) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


class DecoderStage:
    """Pixel alignment with seeds from the frozen classifier's class map: one pass of the backbone serves both."""

    name = 'decoder'
    val_maps = 'fcam'

    def __init__(self, model: FCAM, config: DecoderConfig, teacher: str) -> None:
        self.model, self.config, self.teacher = model.freeze(), config, teacher
        model.decoder.requires_grad_(True)
        self.criterion = PixelAlignmentLoss(config.alpha, config.crf, config.size)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{'params': list(self.model.decoder.parameters()), 'lr': self.config.lr}]

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        model, config, size = self.model, self.config, tuple(images.shape[-2:])
        cfg = model.pretrained_cfg
        encoding = model.encode(_layout(normalize(images, cfg['mean'], cfg['std']), images))
        with torch.no_grad():
            low = model.class_map(encoding, labels, self.teacher)
            maps = cams.resize(low, size, tuple(config.cell_shift)).clamp(0, 1)
            regions = sampling.regions(maps, config.background_fraction, config.erosion)
            seeds = sampling.seeds(*regions, config.seeds, config.seeds, config.dilation)
        return self.criterion(model.decoder(encoding.levels, size), seeds, images)

    def score(self, metrics: dict[str, float]) -> float:
        """The figure by which the best epoch is chosen."""
        return localization_score(metrics)

    def end_epoch(self) -> None:
        self.criterion.step_epoch()

    def state(self) -> dict[str, Any]:
        return {'t': self.criterion.t}

    def load_state(self, state: dict[str, Any]) -> None:
        self.criterion.t = state['t']


Stage = ClassifierStage | DecoderStage


def localization_score(metrics: dict[str, float]) -> float:
    """MaxBoxAcc averaged over the IoU levels, or PxAP."""
    return metrics['mean'] if 'mean' in metrics else metrics['pxap']


def _layout(x: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    # CPU convolutions are about twice as fast on channels-last data.
    return x.contiguous(memory_format=torch.channels_last) if not images.is_cuda else x
