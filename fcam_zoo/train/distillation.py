"""Knowledge distillation: finished classifiers teach the classifier in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .._modes import eval_mode
from ..data import normalize
from ..data.base import ImageDataset
from ..errors import TrainingError
from ..models import FCAM, create_model
from .config import TrainConfig
from .teacher import class_indices


@dataclass
class Ensemble:
    """Classifiers whose class probabilities are averaged.

    Attributes:
        models: The networks.
        classes: For each network, its class index (K,) of each label of the data.
        sizes: For each network, the side in pixels to which images are resized; None keeps their size.
    """

    models: list[FCAM]
    classes: list[torch.Tensor]
    sizes: list[int | None]

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor, temperature: float) -> torch.Tensor:
        """Compute the mean of softmax(logits / temperature), (B,K), of images uint8 (B,3,H,W)."""
        found = []
        for model, classes, size in zip(self.models, self.classes, self.sizes):
            x = normalize(images, model.pretrained_cfg['mean'], model.pretrained_cfg['std'])
            if size:
                x = F.interpolate(x, size=(size, size), mode='bilinear', align_corners=False, antialias=True)
            with eval_mode(model):
                logits = model.classify(model.encode(x.contiguous(memory_format=torch.channels_last))).float()
            found.append(F.softmax(logits[:, classes.to(logits.device)] / temperature, 1))
        return torch.stack(found).mean(0)

    def to(self, device: torch.device) -> None:
        """Move the networks."""
        for model in self.models:
            model.to(device).to(memory_format=torch.channels_last)


def distillation(logits: torch.Tensor, probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute T^2 KL(p || softmax(z / T)), averaged over the images (Hinton et al., 2015).

    Args:
        logits: z of the student (B,K).
        probabilities: p of the teacher (B,K), at the same temperature.
        temperature: T > 0; T^2 keeps the size of the gradient.

    Returns:
        Scalar >= 0.
    """
    return F.kl_div(F.log_softmax(logits / temperature, 1), probabilities, reduction='batchmean') * temperature**2


def taught_by(config: TrainConfig) -> list[str]:
    """Return the teachers of the classifier; none if no stage trains it."""
    joint = config.decoder.epochs and config.decoder.classification_weight
    return config.classifier.teachers if config.classifier.epochs or joint else []


def open_ensemble(config: TrainConfig, train_set: ImageDataset) -> Ensemble | None:
    """Open the teachers of the classifier and check them against the data; None without any.

    Raises:
        TrainingError: When a teacher lacks a class of the data, or the data lack a class of the model.
        FcamZooError, FileNotFoundError: As `create_model`.
    """
    names = taught_by(config)
    if not names:
        return None
    if config.num_classes not in (None, train_set.num_classes):
        raise TrainingError(
            f'classifier.teacher teaches the {train_set.num_classes} classes of the data: leave out '
            f'num_classes={config.num_classes}'
        )
    models = [create_model(name, pretrained=True) for name in names]
    classes = [class_indices(name, model, train_set) for name, model in zip(names, models)]
    return Ensemble(models, classes, list(config.classifier.teacher_sizes) or [None] * len(names))
