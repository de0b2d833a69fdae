"""Joint training: the stage that trains classifier and decoder together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..errors import TrainingError
from ..models import FCAM
from .distillation import Ensemble
from .stage_config import ClassifierConfig, DecoderConfig
from .stages import TRAIN_ACCURACY, DecoderStage, distilled, frozen_layers, top1_accuracy


class JointStage(DecoderStage):
    """Classifier and decoder together: Eq. 3 of F-CAM with its classification term.

    The classification term is the cross-entropy of the logits, with distillation if there are teachers. The statistics
    of the classifier's batch norms stay as they are, since the batches of this stage are small.

    Raises:
        TrainingError: When the classifier has another training method, whose loss this stage does not have.
    """

    trains_classifier = True
    logged = (*DecoderStage.logged, TRAIN_ACCURACY)

    def __init__(
        self,
        model: FCAM,
        config: DecoderConfig,
        teacher: str,
        classifier: ClassifierConfig,
        ensemble: Ensemble | None = None,
    ) -> None:
        if model.config.method:
            raise TrainingError(
                f'decoder.classification_weight trains the classifier by cross-entropy, and this one was trained by '
                f'{model.method.title}: set it to 0'
            )
        super().__init__(model, config, teacher)
        model.unfreeze()
        self.classifier, self.ensemble = classifier, ensemble
        self.frozen = frozen_layers(model, classifier)

    def train(self, mode: bool = True) -> JointStage:
        super().train(mode)
        for module in self.model.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        for layer in self.frozen:
            layer.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        trained = [p for p in self.model.backbone.parameters() if p.requires_grad]
        return [*super().parameter_groups(), {'params': trained, 'lr': self.config.classifier_lr}]

    def forward(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        generators: Sequence[torch.Generator],
        maps: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        encoding = self.encode(images)
        logits = self.model.classify(encoding).float()
        terms = {'ce': F.cross_entropy(logits, labels, label_smoothing=self.classifier.label_smoothing)}
        terms = distilled(terms, logits, images, self.classifier, self.ensemble)
        weighted = {name: self.config.classification_weight * term for name, term in terms.items()}
        terms = self.alignment(encoding, images, labels, generators, maps) | weighted
        return terms | {TRAIN_ACCURACY: top1_accuracy(logits, labels)}
