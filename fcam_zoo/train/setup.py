"""Build data, model and stages from a TrainConfig, and check them before training starts."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from timm.data import ImageNetInfo, infer_imagenet_subset

from .._device import usable_device
from .._distributed import process_group
from .._io import is_folder
from ..benchmark.classes import labels_for
from ..data import EvalTransform, ScaleTransform, TrainTransform, open_dataset
from ..data.base import ImageDataset
from ..data.formats import has_split, train_split
from ..data.images import images_within
from ..data.splits import check_not_of_test
from ..data.values import plain
from ..errors import DatasetError, TrainingError
from ..hub.facts import network_settings
from ..models import FCAM, create_model
from ..models.backbone import shapes_of
from ..models.zoo import is_folder_name
from .collapse import FEW_STEPS, enough_epochs, warnings_of
from .config import TrainConfig
from .distillation import Ensemble, open_ensemble, taught_by
from .joint import JointStage
from .loading import check_images_per_pass, step_sizes
from .setting_types import names_of
from .stages import ClassifierStage, DecoderStage, Stage
from .supervision import AnnotationTeacher
from .teacher import Teacher, class_map_method, open_teacher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """Data, model and teachers of a training.

    config has the settings that are really used: with init, those of its network; and the epochs that were chosen.
    val_set is None when the data set has no val split, teacher when it is the classifier of the model itself. ensemble
    teaches the classifier, if it has teachers. warnings say what will probably make the training fail.
    """

    config: TrainConfig
    train_set: ImageDataset
    val_set: ImageDataset | None
    model: FCAM
    teacher: Teacher | None = None
    ensemble: Ensemble | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def eval_set(self) -> ImageDataset:
        """Return images without augmentation: those of val, or of train when there is no val split."""
        if self.val_set is not None:
            return self.val_set
        dataset = copy.copy(self.train_set)
        dataset.transform = EvalTransform(self.config.image_size)
        return dataset

    def images_of(self, stage: str) -> ImageDataset:
        """Return the training images of a stage: with supervision, the decoder has only those with annotations."""
        if stage == 'decoder' and isinstance(self.teacher, AnnotationTeacher):
            return self.teacher.images
        return self.train_set

    def count_of(self, stage: str) -> int:
        """Return the number of training images of a stage."""
        return len(self.images_of(stage))

    def stages(self) -> Iterator[Stage]:
        """Create each stage that has epochs, and set the augmentation of its images.

        A stage freezes and unfreezes parts of the model, so finish it before the next one is created.
        """
        kinds: dict[str, Callable[..., Stage]] = {
            'classifier': partial(ClassifierStage, ensemble=self.ensemble),
            'decoder': DecoderStage,
        }
        if self.config.decoder.classification_weight:
            kinds['decoder'] = partial(JointStage, classifier=self.config.classifier, ensemble=self.ensemble)
        for name, kind in kinds.items():
            settings, size = getattr(self.config, name), self.config.image_size
            if settings.epochs:
                scale = settings.crop_scale
                transform = TrainTransform(size) if scale is None else ScaleTransform(size, scale)
                self.images_of(name).transform = transform
                stage = kind(self.model, settings, class_map_method(self.config.teacher, self.model))
                if isinstance(stage, DecoderStage):
                    stage.annotated = isinstance(self.teacher, AnnotationTeacher)
                yield stage


def has_ground_truth(dataset: ImageDataset | None) -> bool:
    """Return whether there is a data set with boxes or masks."""
    return dataset is not None and (dataset.boxes is not None or dataset.masks is not None)


def prepare(config: TrainConfig, device: torch.device, auto_epochs: Collection[str] = ()) -> Setup:
    """Open the data, build the model on the device, and check the settings of the stages against both.

    Args:
        config: All settings.
        device: The device.
        auto_epochs: As for `train`.

    Raises:
        FileNotFoundError: When models of other trainings are missing.
        DatasetError: When the data set is missing or invalid, or does not fit the settings.
        TrainingError: When the teacher or head_layers do not fit the model, or batch_size the data.
    """
    check_models_exist(config)
    train_set, val_set = open_data(config)
    model = build_model(config, train_set)
    teacher = open_teacher(config, train_set, model) if config.decoder.epochs else None
    ensemble = open_ensemble(config, train_set)
    setup = Setup(config, train_set, val_set, model, teacher, ensemble)
    config = used_settings(setup, auto_epochs)
    setup = dataclasses.replace(setup, config=config)
    for stage in setup.stages():
        stage.parameter_groups()
        sizes = step_sizes(stage.name, stage.config, setup.count_of(stage.name), stage.pairs)
        if stage.name == 'classifier':
            check_images_per_pass(stage.config, sizes[-1], model.method)
    setup.warnings.extend(warnings_of(config, setup.count_of, model.method.pairs))
    if val_set is not None and (reason := labels_for(model, val_set, 'auto').reason):
        setup.warnings.append(
            f'{reason}: the best epoch is selected without classes; name them alike (docs/datasets.md)'
        )
    if config.decoder.epochs and config.decoder.classification_weight and not has_ground_truth(val_set):
        setup.warnings.append(
            'decoder.classification_weight changes the classifier that selects the epoch without boxes or masks on '
            'val: use the last epoch (RUN/last)'
        )
    setup.model.to(device).to(memory_format=torch.channels_last)
    if ensemble:
        ensemble.to(device)
    return setup


def check_models_exist(config: TrainConfig) -> None:
    """Check that the model folders exist that a training starts from or learns from.

    Raises:
        FileNotFoundError: When some do not; the message names all of them.
    """
    teachers = config.teacher.names if config.decoder.epochs else []
    found = {'init': names_of(config.init), 'teacher.model': teachers, 'classifier.teacher': taught_by(config)}
    missing = {
        place: [name for name in dict.fromkeys(names) if is_folder_name(name) and not is_folder(Path(name))]
        for place, names in found.items()
    }
    texts = [f'{place} {", ".join(map(plain, names))}' for place, names in missing.items() if names]
    if texts:
        raise FileNotFoundError(
            f'these model folders do not exist: {"; ".join(texts)}. They are other trainings, which must be finished '
            'first (docs/reproduce.md has the commands of those before a released model): run them, correct the paths, '
            'or write hf-hub:org/name for a repository of the Hub'
        )


def used_settings(setup: Setup, auto_epochs: Collection[str]) -> TrainConfig:
    """Return the settings with the network of init instead of unused defaults, and with enough epochs."""
    config, changes = setup.config, dict[str, Any]()
    if config.init:
        changes = {'backbone_kwargs': {}} | network_settings(setup.model.model_args)
    epochs = enough_epochs(config, auto_epochs, setup.count_of, setup.model.method.pairs)
    for place, count in epochs.items():
        option = place.replace('.', '-')
        logger.info('%s=%d, for at least %d steps (--%s sets another number)', place, count, FEW_STEPS, option)
    return config.replace(changes | epochs)


@contextmanager
def training_device(name: str) -> Iterator[torch.device]:
    """Join the other processes, if torchrun started any, and yield the device of this one.

    Raises:
        TrainingError: When the device cannot be used.
        DistributedError: As `process_group`.
    """
    with process_group(name) as own:
        try:
            device = usable_device(own)
        except ValueError as e:
            raise TrainingError(str(e)) from e
        yield device


def open_data(config: TrainConfig) -> tuple[ImageDataset, ImageDataset | None]:
    """Open the train split, and the val split if there is one.

    Raises:
        DatasetError: When train is missing or invalid, val is invalid, its boxes may be those of test, or val has
            labels that train lacks.
    """
    split = train_split(config.data)
    if config.annotations and not split:
        raise DatasetError(
            f'annotations are those of val, and {config.data} has only class folders: sort the images into '
            'train/<class>/ and val/<class>/'
        )
    train_set = open_dataset(config.data, split, TrainTransform(config.image_size), ground_truth=False)
    if not config.annotations and not has_split(config.data, 'val'):
        return train_set, None
    val_set = open_dataset(config.data, 'val', EvalTransform(config.image_size), annotations=config.annotations)
    if config.annotations:
        _check_annotated(val_set, config.annotations)
    if has_ground_truth(val_set):
        # Otherwise a missing image would be found after a whole epoch.
        val_set.check_files()
    if val_set.num_classes > train_set.num_classes:
        raise DatasetError(
            f'val of {config.data} has labels up to {val_set.num_classes - 1}, train up to {train_set.num_classes - 1}'
        )
    return train_set, val_set


def _check_annotated(val_set: ImageDataset, annotations: str) -> None:
    """Check that annotations cannot be those of test, and warn if they describe only some images of val."""
    check_not_of_test(val_set.root, val_set.ids, annotations)
    folder = val_set.root / 'val'
    count = len(images_within(folder)) if val_set.images_root == folder else 0
    if count > len(val_set):
        logger.warning('%s: %d of %d images of val have boxes or masks', annotations, len(val_set), count)


def build_model(config: TrainConfig, train_set: ImageDataset) -> FCAM:
    """Build the model before training, on the CPU.

    By default, a head that is trained from the start is zero, so that it does not disturb a pretrained backbone.

    Raises:
        DatasetError: When the data set has more classes than num_classes.
        TrainingError: When the models of init cannot be averaged.
        ValueError, UnknownModelError: When classifier.method does not fit the classes or the backbone.
    """
    num_classes = config.num_classes or train_set.num_classes
    if num_classes < train_set.num_classes:
        raise DatasetError(f'num_classes={num_classes}, but {config.data} has labels up to {train_set.num_classes - 1}')
    torch.manual_seed(config.seed)
    names = _class_names(config, train_set, num_classes)
    if config.init:
        starts = names_of(config.init)
        logger.info('starting from %s (--init or --backbone chooses another network)', ', '.join(starts))
        model = averaged(starts)
        new_head = list(model.pretrained_cfg.get('label_names') or ()) != names
        start_method(model, config.classifier.method, num_classes if new_head else None)
    else:
        model, new_head = _new_model(config, num_classes), True
    if new_head and config.classifier.epochs:
        for parameter in model.get_classifier().parameters():
            xavier = config.classifier.head_init == 'xavier' and parameter.ndim > 1
            (nn.init.xavier_uniform_ if xavier else nn.init.zeros_)(parameter)
    elif new_head and config.init:
        logger.warning('init has other classes, so the head is random: set classifier.epochs above 0')
    model.cam_variant = config.teacher.variant
    # Users of the trained model get its training size by default.
    model.pretrained_cfg['input_size'] = (3, config.image_size, config.image_size)
    model.pretrained_cfg['label_names'] = names
    return model


def start_method(model: FCAM, method: str | dict[str, Any] | None, num_classes: int | None = None) -> None:
    """Give the classifier of a trained model the method and the classes of its next training.

    The weights of the method are kept if it stays the same, also with other settings, as long as their shapes fit. A
    method with its own head starts with fresh weights for new classes.

    Args:
        model: The model.
        method: A training method and its settings; None for that of the model.
        num_classes: Number of new classes; None for those of the model.

    Raises:
        ValueError: When the settings do not fit the classes.
        UnknownModelError: When the backbone does not fit the method.
    """
    old = model.method
    if num_classes is not None:
        model.reset_classifier(num_classes, method=method)
    elif method not in (None, model.config.method):
        model.set_method(method)
    new = model.method
    same = new.name == old.name and not (num_classes is not None and new.own_head)
    if new is not old and same and shapes_of(new) == shapes_of(old):
        new.load_state_dict(old.state_dict())
        logger.info('classifier.method: %s with other settings; it keeps its weights', new.title)
    elif new is not old:
        logger.info('classifier.method: %s, with new weights', new.title)
    elif new.name:
        logger.info('classifier.method: %s, as in init', new.title)


def averaged(names: list[str]) -> FCAM:
    """Load F-CAMs and average their weights.

    Networks that were fine-tuned from the same weights with other seeds or settings can be averaged, and the average is
    often more accurate than each of them (model soups: Wortsman et al., ICML 2022).

    Raises:
        TrainingError: When they differ in their classes or layers.
        FcamZooError, FileNotFoundError: As `create_model`.
    """
    first, *others = (create_model(name, pretrained=True) for name in names)
    state = first.state_dict()
    for name, model in zip(names[1:], others):
        other = model.state_dict()
        same = {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in other.items()}
        if not same or model.pretrained_cfg.get('label_names') != first.pretrained_cfg.get('label_names'):
            raise TrainingError(f'init: {name} has other layers or classes than {names[0]}, so they cannot be averaged')
        for key, value in state.items():
            if value.is_floating_point():
                value += other[key]
    for value in state.values():
        if others and value.is_floating_point():
            value /= len(names)
    first.load_state_dict(state)
    return first


def _new_model(config: TrainConfig, num_classes: int) -> FCAM:
    return create_model(
        'fcam',
        backbone=config.backbone,
        num_classes=num_classes,
        output_stride=config.output_stride,
        dilated=config.dilated,
        decoder_type=config.decoder_type,
        decoder_channels=config.decoder_channels,
        backbone_checkpoint=config.backbone_checkpoint,
        backbone_pretrained=config.backbone_pretrained,
        backbone_kwargs=config.backbone_kwargs or None,
        method=config.classifier.method,
    )


def _class_names(config: TrainConfig, train_set: ImageDataset, num_classes: int) -> list[str]:
    """Return class names by label: ImageNet's if the pretrained head is used unchanged, otherwise the data set's."""
    pretrained = config.backbone_pretrained or config.backbone_checkpoint is not None
    subset = infer_imagenet_subset({'num_classes': num_classes})
    if pretrained and not config.classifier.epochs and subset:
        info = ImageNetInfo(subset)
        return [info.index_to_description(i) for i in range(num_classes)]
    return [train_set.class_names.get(i, str(i)) for i in range(num_classes)]
