"""The two stages of training: which parameters are trained, and the loss of a batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn as nn

from .. import cams, sampling, wsol
from .._distributed import mean_count
from .._modes import eval_mode
from ..cams.closed_form import linear_weight
from ..data import denormalize, normalize
from ..data.values import plain
from ..errors import TrainingError
from ..losses import PixelAlignmentLoss, background_activation
from ..models import FCAM
from ..models.pyramid import Encoding
from .collapse import collapse_of
from .distillation import Ensemble, distillation
from .records import EpochMetrics
from .selection import selection_score
from .stage_config import ClassifierConfig, DecoderConfig, StageConfig

SMALLEST_LR = 1e-7
# Name of the accuracy on the augmented training images, in percent.
TRAIN_ACCURACY = 'train_accuracy'


class Stage(nn.Module, ABC):
    """The loss of a batch as a module, so that DistributedDataParallel can wrap it.

    Args:
        model: The F-CAM, on its device.
        config: Settings of the stage.
        teacher: CAM method of the classifier's own maps.

    Attributes:
        name: 'classifier' or 'decoder'.
        logged: Values beside the terms of the loss that `forward` returns for the log.
        val_maps: Kind of maps that validation scores (see `benchmark.evaluate`).
        pairs: Whether batches have pairs of images of one class.
        trains_classifier: Whether the accuracy changes.
    """

    name: str
    val_maps: str
    logged: tuple[str, ...] = ()
    pairs = False
    trains_classifier = True
    config: StageConfig

    def __init__(self, model: FCAM, config: StageConfig, teacher: str) -> None:
        super().__init__()
        self.model, self.config, self.teacher = model, config, teacher

    @abstractmethod
    def forward(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        generators: Sequence[torch.Generator],
        maps: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute the weighted terms of the loss by name, whose sum is the loss, and the values in `logged`.

        Args:
            images: uint8 (B,3,H,W).
            labels: Class of each image (B,).
            generators: Source of the random draws of each image.
            maps: Stored maps of the teacher, uint8 (B,H,W); None for those of the classifier itself.
        """

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters in groups, each with its learning rate."""

    def score(self, metrics: dict[str, float]) -> float:
        """Return the metric that selects the best epoch."""
        return selection_score(metrics, self.config.select)

    def encode(self, images: torch.Tensor) -> Encoding:
        """Normalize images uint8 (B,3,H,W) and run the backbone."""
        return self.model.encode(self.normalized(images))

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images uint8 (B,3,H,W) for the backbone."""
        cfg = self.model.pretrained_cfg
        # Convolutions are about twice as fast on channels-last data.
        return normalize(images, cfg['mean'], cfg['std']).contiguous(memory_format=torch.channels_last)

    def teacher_map(self, encoding: Encoding, labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Compute the teacher's map (B,H,W) in [0,1] of the labels (B,), resized to `size`."""
        return cams.resize(self.model.class_map(encoding, labels, self.teacher), size)

    def start_step(self, epochs: float) -> None:
        """Update the loss before a step, after so many epochs."""

    def end_epoch(self) -> None:
        """Update the loss after an epoch; a resumed run repeats this once per finished epoch."""

    def collapse(self, history: list[EpochMetrics]) -> str | None:
        """Describe why the last epoch should not be selected; None if it may be."""
        return None


class ClassifierStage(Stage):
    """The loss of the training method on image labels, and distillation from an ensemble, if given.

    The decoder is not trained.

    Raises:
        TrainingError: When CutMix does not fit the method, or the backbone lacks one of frozen_layers.
    """

    name = 'classifier'
    logged = (TRAIN_ACCURACY,)
    config: ClassifierConfig

    def __init__(self, model: FCAM, config: ClassifierConfig, teacher: str, ensemble: Ensemble | None = None) -> None:
        super().__init__(model.unfreeze(), config, teacher)
        self.ensemble = ensemble
        self.val_maps = teacher
        self.pairs = model.method.pairs
        self.cutmix = self._cutmix() if config.cutmix else None
        model.decoder.requires_grad_(False)
        if model.method.own_head:
            _freeze_unused(model)
        self.frozen = frozen_layers(model, config)

    def train(self, mode: bool = True) -> ClassifierStage:
        super().train(mode)
        for layer in self.frozen:
            layer.eval()
        return self

    def _cutmix(self) -> wsol.cutmix.CutMix:
        own = self.model.method
        if not own.mixes or isinstance(own, wsol.cutmix.CutMix):
            why = 'needs one label per image' if not own.mixes else 'has its own setting probability'
            raise TrainingError(
                f'classifier.cutmix={self.config.cutmix} mixes images, and {own.title} {why}: set cutmix to 0'
            )
        return wsol.cutmix.CutMix(own.network, wsol.cutmix.CutMixSettings(probability=self.config.cutmix))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the backbone at `lr`, and the head with `head_layers` and the method's modules at `head_lr`.

        Raises:
            TrainingError: When the backbone lacks one of head_layers, or all parameters are frozen.
        """
        fast = [self.model.get_classifier(), *layers_of(self.model, self.config, 'head_layers'), self.model.method]
        ids = {id(p): p for module in fast for p in module.parameters() if p.requires_grad}
        body = [p for p in self.model.backbone.parameters() if p.requires_grad and id(p) not in ids]
        if not body and not ids:
            raise TrainingError('classifier.frozen_layers freezes the whole classifier: leave some layers out')
        return [{'params': body, 'lr': self.config.lr}, {'params': list(ids.values()), 'lr': self.config.head_lr}]

    def forward(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        generators: Sequence[torch.Generator],
        maps: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        method, x = self.model.method, self.normalized(images)
        # The default generator is seeded in each step.
        sources = wsol.Generators(torch.default_generator, generators)
        draws = method.draw(x.shape, sources)
        changed, targets = method.augment(x, wsol.Targets(labels, self.config.label_smoothing), draws)
        if self.cutmix:
            changed, targets = self.cutmix.augment(changed, targets, self.cutmix.draw(x.shape, sources))
        with method.applied(draws):
            logits, terms = method(self.model.encode(changed), targets, draws)
        if self.ensemble and changed is not x:
            cfg = self.model.pretrained_cfg
            images = denormalize(changed, cfg['mean'], cfg['std'])
        found = distilled(terms, logits, images, self.config, self.ensemble)
        # Of mixed images, the label with the larger share.
        main = labels if targets.other is None or targets.share >= 0.5 else targets.other
        return {**found, TRAIN_ACCURACY: top1_accuracy(logits, main)}


class DecoderStage(Stage):
    """Pixel-alignment loss on seeds from the teacher's maps.

    Without stored maps, the teacher is the frozen classifier itself, and one pass of the backbone serves both.
    """

    name = 'decoder'
    val_maps = 'fcam'
    trains_classifier = False
    logged: tuple[str, ...] = ('area',)
    # Whether the stored maps are boxes or masks: a crop inside or outside of the object is constant, and has labels.
    annotated = False
    config: DecoderConfig

    def __init__(self, model: FCAM, config: DecoderConfig, teacher: str) -> None:
        super().__init__(model.freeze(), config, teacher)
        model.decoder.requires_grad_(True)
        weights = (config.seed_weight, config.crf_weight, config.size_weight)
        self.criterion = PixelAlignmentLoss(*weights, kernel=config.crf_kernel)
        if config.activation_weight and not model.linear_head:
            raise TrainingError(
                'decoder.activation_weight needs a head of average pooling and one linear layer, and '
                f'{model.model_args["backbone"]} has another: set it to 0'
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{'params': list(self.model.decoder.parameters()), 'lr': self.config.lr}]

    def forward(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        generators: Sequence[torch.Generator],
        maps: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        return self.alignment(self.encode(images), images, labels, generators, maps)

    def alignment(
        self,
        encoding: Encoding,
        images: torch.Tensor,
        labels: torch.Tensor,
        generators: Sequence[torch.Generator],
        maps: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Compute the terms of `forward` from the encoding of the images."""
        config, size = self.config, image_size(images)
        found = self.teacher_map(encoding, labels, size) if maps is None else maps.float() / 255
        seeds = self.pseudo_labels(found, generators)
        logits = self.model.decoder(encoding.levels, size)
        terms = self.criterion(logits, seeds, images)
        if config.activation_weight:
            weight = cast(torch.Tensor, linear_weight(self.model.backbone.get_classifier()))
            evidence = cams.class_activation_map(encoding.features, weight, labels, 'cam')
            terms['activation'] = config.activation_weight * background_activation(logits, evidence)
        if 'partial_ce' in terms:
            # Average over the labelled pixels of all processes, as one process would.
            count = (seeds >= 0).sum()
            terms['partial_ce'] = terms['partial_ce'] * (count / mean_count(count))
        terms['area'] = logits.detach().float().softmax(1)[:, 1].mean()
        return terms

    @torch.no_grad()
    def teacher_map(self, encoding: Encoding, labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Compute the teacher's map (B,H,W) in [0,1] of the labels (B,), resized to `size` and moved by `shift`."""
        # In float32: regions depend on small differences between gray levels.
        with torch.autocast(encoding.features.device.type, enabled=False):
            low = self.model.class_map(_as_float(encoding, self.model.method.own_map), labels, self.teacher)
        down, right = self.config.shift
        return cams.resize(low, size, (down, right)).clamp(0, 1)

    def pseudo_labels(self, maps: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Label pixels by the teacher's maps (B,H,W) in [0,1]: int64 (B,H,W), IGNORE elsewhere."""
        config = self.config
        if config.dense:
            low, high = config.dense
            labels = torch.full_like(maps, sampling.IGNORE, dtype=torch.int64)
            # A constant class map, such as that of an image that could not be read, says nothing.
            valid = self.annotated | (maps.amax((1, 2), keepdim=True) > maps.amin((1, 2), keepdim=True))
            labels[valid & (maps <= low)] = sampling.BACKGROUND
            labels[valid & (maps >= high)] = sampling.FOREGROUND
            return labels
        foreground, background = self.regions(maps)
        return sampling.seeds(
            foreground, background, config.n_seeds, config.n_seeds, config.dilation, generator=generators
        )

    def regions(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute foreground and background candidates, bool (B,H,W) each, of maps (B,H,W)."""
        foreground, background = sampling.regions(maps, self.config.background_fraction, self.config.erosion)
        # A map without foreground candidates (constant, or of gray levels 0 and 1) gives no seeds.
        return foreground, background & foreground.flatten(1).any(1)[:, None, None]

    def start_step(self, epochs: float) -> None:
        rampup = self.config.crf_rampup
        self.criterion.crf_weight = self.config.crf_weight * (min(1.0, epochs / rampup) if rampup else 1.0)

    def end_epoch(self) -> None:
        self.criterion.step_epoch()

    def collapse(self, history: list[EpochMetrics]) -> str | None:
        return collapse_of(history, self.config.seed_weight)


def distilled(
    terms: dict[str, torch.Tensor],
    logits: torch.Tensor,
    images: torch.Tensor,
    config: ClassifierConfig,
    ensemble: Ensemble | None,
) -> dict[str, torch.Tensor]:
    """Add distillation to the terms of a classification loss, weighted as in `ClassifierConfig`.

    Args:
        terms: Terms of the loss without teachers.
        logits: (B,K).
        images: uint8 (B,3,H,W), for the teachers.
        config: Settings of the classifier stage.
        ensemble: The teachers; without them, the terms stay as they are.
    """
    if ensemble is None:
        return terms
    weight, temperature = config.teacher_weight, config.temperature
    probabilities = ensemble.probabilities(images, temperature)
    return {
        **{name: (1 - weight) * term for name, term in terms.items()},
        'distillation': weight * distillation(logits, probabilities, temperature),
    }


def top1_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the top-1 accuracy in percent of logits (B,K) for labels (B,)."""
    return 100 * (logits.detach().argmax(1) == labels).float().mean()


def image_size(images: torch.Tensor) -> tuple[int, int]:
    """Return height and width of a batch (B,C,H,W)."""
    return images.shape[-2], images.shape[-1]


def lr_factor(config: StageConfig, epoch: int, step: int, steps: int) -> float:
    """Return the factor of the learning rates at a step (from 0) of an epoch (from 1) with `steps` steps."""
    done = (epoch - 1) * steps + step
    warmup = min(1.0, (done + 1) / (config.warmup_epochs * steps)) if config.warmup_epochs else 1.0
    if config.schedule == 'cosine':
        return warmup * 0.5 * (1 + math.cos(math.pi * done / (config.epochs * steps)))
    if config.schedule == 'step':
        return warmup * max(config.gamma ** ((epoch - 1) // config.step_epochs), SMALLEST_LR / config.lr)
    return warmup


def _as_float(encoding: Encoding, with_levels: bool) -> Encoding:
    """Convert features and prefix to float32, and the levels if the map of a method may need them."""
    prefix = None if encoding.prefix is None else encoding.prefix.float()
    levels = [level.float() for level in encoding.levels] if with_levels else encoding.levels
    return encoding._replace(levels=levels, features=encoding.features.float(), prefix=prefix)


def layers_of(model: FCAM, config: ClassifierConfig, setting: str) -> list[nn.Module]:
    """Return the modules of the backbone that a setting of the classifier names.

    Raises:
        TrainingError: When the backbone lacks one.
    """
    modules = {name: module for name, module in model.backbone.named_modules() if name}
    names = getattr(config, setting)
    if missing := [name for name in names if name not in modules]:
        raise TrainingError(f'classifier.{setting}: the backbone has no module {plain(", ".join(missing))}')
    return [modules[name] for name in names]


def frozen_layers(model: FCAM, config: ClassifierConfig) -> list[nn.Module]:
    """Freeze the parameters of classifier.frozen_layers, and return these modules (errors: see `layers_of`)."""
    return [layer.requires_grad_(False) for layer in layers_of(model, config, 'frozen_layers')]


def _freeze_unused(model: FCAM) -> None:
    """Freeze the parameters of the backbone that do not reach the logits, such as those of its own head.

    DistributedDataParallel needs a gradient for every trained parameter.
    """
    parameters, side = list(model.backbone.parameters()), model.pretrained_cfg['input_size'][-1]
    x = torch.zeros(1, model.in_chans, side, side).to(parameters[0])
    with eval_mode(model), torch.enable_grad():
        total = model.classify(model.encode(x)).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients):
        if gradient is None:
            parameter.requires_grad_(False)
