"""What a TrainConfig describes: data, model and stages, checked before training starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset

from .._distributed import process_group
from ..data import EvalTransform, ScaleTransform, TrainTransform, open_dataset
from ..data.base import ImageDataset
from ..errors import DatasetError, TrainingError
from ..models import FCAM, create_model
from .config import StageConfig, TrainConfig
from .loading import StepLayout
from .stages import ClassifierStage, DecoderStage, Stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageSpec:
    """A stage to run: its settings, and a function that creates it."""

    settings: StageConfig
    create: Callable[[], Stage]

    def transform(self, size: int) -> TrainTransform:
        """Return the augmentation that makes images of size x size."""
        scale = self.settings.crop_scale
        return TrainTransform(size) if scale is None else ScaleTransform(size, scale)


@dataclass(frozen=True)
class Setup:
    """Data, model and stages of a training. val_set is None when the data set has no val split."""

    config: TrainConfig
    train_set: ImageDataset
    val_set: ImageDataset | None
    model: FCAM
    stages: list[StageSpec]


def prepare(config: TrainConfig, device: torch.device) -> Setup:
    """Open the data, build the model on the device, and check the settings of the stages against both.

    Raises:
        DatasetError: When the data set is missing or faulty, or does not fit the settings.
        TrainingError: When the teacher or head_layers do not fit the model, or batch_size the data.
        ValueError: For a wrong crop_scale.
    """
    train_set, val_set = open_data(config)
    model, keep_head = build_model(config, train_set)
    stages = _stages(config, model, keep_head)
    for spec in stages:
        spec.create().parameter_groups()
        spec.transform(config.image_size)
        StepLayout.create(spec.settings, len(train_set))
    model.to(device).to(memory_format=torch.channels_last)
    return Setup(config, train_set, val_set, model, stages)


@contextmanager
def training_device(name: str) -> Iterator[torch.device]:
    """Join the other processes, if torchrun started any, and yield the device of this one.

    Raises:
        TrainingError: When the device cannot be used.
        DistributedError: As `process_group`.
    """
    with process_group(name) as own:
        try:
            device = torch.empty(0, device=own).device
        except (RuntimeError, AssertionError) as e:
            raise TrainingError(f'device {own!r} cannot be used ({str(e).splitlines()[0]}): choose auto or cpu') from e
        yield device


def open_data(config: TrainConfig) -> tuple[ImageDataset, ImageDataset | None]:
    """Open the train split, and the val split if there is one.

    Raises:
        DatasetError: When train is missing or faulty, val is faulty, or val has labels that train lacks.
    """
    train_set = open_dataset(config.data, 'train', TrainTransform(config.image_size), ground_truth=False)
    try:
        val_set = open_dataset(config.data, 'val', EvalTransform(config.image_size), annotations=config.annotations)
    except DatasetError:
        root = Path(config.data)
        if config.annotations or (root / 'metadata' / 'val').is_dir() or (root / 'val').is_dir():
            raise
        return train_set, None
    if val_set.num_classes > train_set.num_classes:
        raise DatasetError(
            f'val of {config.data} has labels up to {val_set.num_classes - 1}, train up to {train_set.num_classes - 1}'
        )
    return train_set, val_set


def build_model(config: TrainConfig, train_set: ImageDataset) -> tuple[FCAM, bool]:
    """Build the model before training, on the CPU. The bool is whether training continues with its head.

    Raises:
        DatasetError: When the data set has more classes than num_classes.
        TrainingError: When the teacher does not fit the model.
    """
    num_classes = config.num_classes or train_set.num_classes
    if num_classes < train_set.num_classes:
        raise DatasetError(f'num_classes={num_classes}, but {config.data} has labels up to {train_set.num_classes - 1}')
    torch.manual_seed(config.seed)
    names = _class_names(config, train_set, num_classes)
    if config.init:
        model, keep_head = _initial_model(config, names)
    else:
        model, keep_head = _new_model(config, num_classes), False
    if config.teacher == 'cam' and not model.pyramid.linear_head:
        raise TrainingError(
            f'teacher cam needs a head of average pooling and one linear layer; {model.model_args["backbone"]} has '
            'another head: choose gradcam, layercam or another teacher'
        )
    # Users of the trained model get its training size by default.
    model.pretrained_cfg['input_size'] = (3, config.image_size, config.image_size)
    model.pretrained_cfg['label_names'] = names
    return model, keep_head


def _initial_model(config: TrainConfig, names: list[str]) -> tuple[FCAM, bool]:
    """Load the model that `init` names; its head is kept if the class names are the same."""
    init = str(config.init)
    model = create_model(init, pretrained=not init.startswith('local-dir:'))
    keep_head = list(model.pretrained_cfg.get('label_names') or ()) == names
    if not keep_head:
        model.reset_classifier(len(names))
        if not config.classifier.epochs:
            logger.warning('%s has other classes, so the head is random: set classifier.epochs above 0', init)
    return model, keep_head


def _new_model(config: TrainConfig, num_classes: int) -> FCAM:
    if not config.backbone_pretrained and not config.backbone_checkpoint:
        logger.warning('the backbone starts from random weights: give --backbone-pretrained or --backbone-checkpoint')
    return create_model(
        'fcam',
        backbone=config.backbone,
        num_classes=num_classes,
        output_stride=config.output_stride,
        dilated=config.dilated,
        decoder_channels=config.decoder_channels,
        backbone_checkpoint=config.backbone_checkpoint,
        backbone_pretrained=config.backbone_pretrained,
        backbone_kwargs=config.backbone_kwargs or None,
    )


def _class_names(config: TrainConfig, train_set: ImageDataset, num_classes: int) -> list[str]:
    """Return class names by label: ImageNet's if the pretrained head is used unchanged, otherwise the data set's."""
    pretrained = config.backbone_pretrained or config.backbone_checkpoint is not None
    subset = infer_imagenet_subset({'num_classes': num_classes})
    if pretrained and not config.classifier.epochs and subset:
        info = ImageNetInfo(subset)
        return [info.index_to_description(i) for i in range(num_classes)]
    return [train_set.class_names.get(i, str(i)) for i in range(num_classes)]


def _stages(config: TrainConfig, model: FCAM, keep_head: bool) -> list[StageSpec]:
    """Describe the stages that have epochs."""
    stages: list[tuple[StageConfig, Callable[[], Stage]]] = [
        (config.classifier, partial(ClassifierStage, model, config.classifier, config.teacher, keep_head)),
        (config.decoder, partial(DecoderStage, model, config.decoder, config.teacher)),
    ]
    return [StageSpec(settings, create) for settings, create in stages if settings.epochs]
