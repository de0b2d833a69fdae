"""A training from its settings to finished models."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from timm.data import ImageNetInfo, infer_imagenet_subset

from .._distributed import barrier, process_group, rank, world_size
from .._io import write_json
from .._version import __version__
from ..data import EvalTransform, ScaleTransform, TrainTransform, open_dataset
from ..data.base import ImageDataset
from ..errors import DatasetError, TrainingError
from ..hub import save_pretrained
from ..models import FCAM, create_model
from .config import ClassifierConfig, DecoderConfig, TrainConfig, flat
from .loading import plain
from .loop import StageRun, batch_size_for
from .monitor import Monitor
from .stages import ClassifierStage, DecoderStage, Stage
from .validation import validator

logger = logging.getLogger(__name__)
# Settings that may change between an interruption and going on: none has a say in the result. Of skip_bad that holds
# as well, since without it a run stops before the step of the first bad image.
FREE_TO_CHANGE = ('workers', 'device', 'checkpoint_minutes', 'keep_epochs', 'skip_bad')


def train(config: TrainConfig, run_dir: str | os.PathLike, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train a classifier and its decoder (F-CAM, Sec. 4.1).

    `run_dir` gets config.json, versions.json, a folder a stage (metrics.jsonl, samples/, state.safetensors,
    best.safetensors), tensorboard/ where TensorBoard is installed, and the finished models `best` and `last`, which
    `create_model('local-dir:…')` loads. Started by torchrun, all processes train one model.

    Args:
        config: All settings.
        run_dir: Output folder; must be empty unless resuming. With several machines, one that all of them see.
        resume: Go on with an interrupted run of the same config; the result is the same, bit for bit on a CPU.
        quiet: No progress bars.

    Returns:
        For each stage 'best_epoch', and the metrics of the 'best' and the 'last' epoch.

    Raises:
        DatasetError: When the data set is at fault.
        TrainingError: When the folder holds another run or cannot be written, or the loss is not finite.
        KeyboardInterrupt: When interrupted, after the state was saved.
    """
    run_dir = Path(run_dir)
    with process_group(config.device) as device:
        return _train(config, run_dir, resolve_device(device), resume, quiet)


def _train(config: TrainConfig, run_dir: Path, device: torch.device, resume: bool, quiet: bool) -> dict[str, Any]:
    check_claim(run_dir, config, resume)
    barrier()
    train_set, val_set = open_data(config)
    model, keep_head = build_model(config, train_set)
    _check_stages(config, model, keep_head, train_set)
    first = rank() == 0
    if first:
        _claim(run_dir, config, model)
    model.to(device, memory_format=torch.channels_last)
    monitor = Monitor(run_dir, _samples(config, train_set, val_set), quiet, first)
    summary: dict[str, Any] = {}
    for name, make, settings in stages_of(config, model, keep_head):
        train_set.transform = train_transform(config.image_size, settings)
        stage = make()
        if config.compile:
            model.decoder.compile()
        validate = validator(stage, config, train_set, val_set, quiet)
        summary[name] = StageRun(stage, config, train_set, validate, run_dir / name, monitor).run()
        barrier()
        _load_weights(model, run_dir / name, 'best')
    if first:
        _finish(model, run_dir, summary)
    barrier()
    return summary


def stages_of(
    config: TrainConfig, model: FCAM, keep_head: bool
) -> list[tuple[str, Callable[[], Stage], ClassifierConfig | DecoderConfig]]:
    """Name, maker and settings of each stage that has epochs."""
    stages = [
        (ClassifierStage, config.classifier, {'keep_head': keep_head}),
        (DecoderStage, config.decoder, {}),
    ]
    return [
        (kind.name, partial(kind, model, settings, config.teacher, **extra), settings)
        for kind, settings, extra in stages
        if settings.epochs
    ]


def open_data(config: TrainConfig) -> tuple[ImageDataset, ImageDataset | None]:
    """The images of train, and val where there is one.

    Raises:
        DatasetError: When train is missing or faulty, val is faulty, or val has labels that train has not.
    """
    train_set = open_dataset(config.data, 'train', TrainTransform(config.image_size), ground_truth=False)
    try:
        val_set = open_dataset(config.data, 'val', EvalTransform(config.image_size), annotations=config.annotations)
    except DatasetError:
        root = Path(config.data)
        if config.annotations or (root / 'metadata' / 'val').is_dir() or (root / 'val').is_dir():
            raise
        val_set = None
    if val_set is not None and val_set.num_classes > train_set.num_classes:
        raise DatasetError(
            f'val of {config.data} has labels up to {val_set.num_classes - 1}, train up to {train_set.num_classes - 1}'
        )
    return train_set, val_set


def build_model(config: TrainConfig, train_set: ImageDataset) -> tuple[FCAM, bool]:
    """The model before training, on the CPU, and whether its head goes on from where it is.

    Raises:
        DatasetError: When there are more labels than classes.
        TrainingError: When the teacher does not fit the model.
    """
    num_classes = config.num_classes or train_set.num_classes
    if num_classes < train_set.num_classes:
        raise DatasetError(f'num_classes={num_classes}, but {config.data} has labels up to {train_set.num_classes - 1}')
    torch.manual_seed(config.seed)
    names = _class_names(config, train_set, num_classes)
    keep_head = False
    if config.init:
        model = create_model(config.init, pretrained=not config.init.startswith('local-dir:'))
        keep_head = list(model.pretrained_cfg.get('label_names') or ()) == names
        if not keep_head:
            model.reset_classifier(num_classes)
            if not config.classifier.epochs:
                logger.warning(
                    '%s has other classes, and the new head stays random: give the classifier epochs', config.init
                )
    else:
        model = create_model(
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
        if not config.backbone_pretrained and not config.backbone_checkpoint:
            logger.warning(
                'the backbone starts from random weights: give --backbone-pretrained or --backbone-checkpoint'
            )
    if config.teacher == 'cam' and not model.pyramid.linear_head:
        raise TrainingError(
            f'teacher cam needs a head of average pooling and one linear layer, and {model.model_args["backbone"]} has '
            'another: choose gradcam, layercam or another teacher'
        )
    # What is trained at one size is used at it.
    model.pretrained_cfg['input_size'] = (3, config.image_size, config.image_size)
    model.pretrained_cfg['label_names'] = names
    return model, keep_head


def _class_names(config: TrainConfig, train_set: ImageDataset, num_classes: int) -> list[str]:
    """Names by label: of the data set, or ImageNet's where the head stays as timm's weights have it."""
    downloaded = config.backbone_pretrained or config.backbone_checkpoint is not None
    subset = infer_imagenet_subset({'num_classes': num_classes})
    if downloaded and not config.classifier.epochs and subset:
        info = ImageNetInfo(subset)
        return [info.index_to_description(i) for i in range(num_classes)]
    return [train_set.class_names.get(i, str(i)) for i in range(num_classes)]


def train_transform(size: int, settings: ClassifierConfig | DecoderConfig) -> TrainTransform:
    """The augmentation of a stage."""
    return TrainTransform(size) if settings.crop_scale is None else ScaleTransform(size, settings.crop_scale)


def _samples(config: TrainConfig, train_set: ImageDataset, val_set: ImageDataset | None) -> ImageDataset:
    return val_set if val_set is not None else plain(train_set, config.image_size)


def resolve_device(name: str) -> torch.device:
    """The device of that name, once it is known to work.

    Raises:
        TrainingError: When it cannot be used.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as e:
        raise TrainingError(f'device {name!r} cannot be used ({str(e).splitlines()[0]}): choose auto or cpu') from e


def check_claim(run_dir: Path, config: TrainConfig, resume: bool) -> None:
    """The output folder must be free, or hold the run that is resumed.

    Raises:
        TrainingError: When it holds another run, or a config.json that is damaged or of another version.
    """
    if not config.classifier.epochs and not config.decoder.epochs:
        raise TrainingError('both stages have 0 epochs, so that there is nothing to train')
    path = run_dir / 'config.json'
    if not path.exists():
        return
    if not resume:
        raise TrainingError(f'{run_dir} holds a training already: resume it (--resume) or choose another folder')
    try:
        # What an earlier version did not know yet has its default.
        old = TrainConfig.from_file(path)
    except ValueError as e:
        raise TrainingError(
            f'{path} is damaged or of another version of fcam_zoo ({e}): choose another output folder'
        ) from e
    before, now = flat(old.to_dict()), flat(config.to_dict())
    changed = [k for k in before | now if before.get(k) != now.get(k) and k not in FREE_TO_CHANGE]
    if changed:
        values = ', '.join(f'{k} (there {before.get(k)!r}, now {now.get(k)!r})' for k in changed)
        raise TrainingError(f'{path} differs in {values}: resume with the settings the run began with')


def _check_stages(config: TrainConfig, model: FCAM, keep_head: bool, train_set: ImageDataset) -> None:
    """Refuse settings of a stage that do not fit model or data before the folder is claimed or another stage trained.

    Raises:
        TrainingError: For layers that the model lacks, or batches that cannot be made of the images.
        ValueError: For a wrong crop_scale.
    """
    for _, make, settings in stages_of(config, model, keep_head):
        make().parameter_groups()
        batch_size_for(len(train_set), settings.batch_size, settings.accumulate * world_size())
        train_transform(config.image_size, settings)


def _claim(run_dir: Path, config: TrainConfig, model: FCAM) -> None:
    """Make the folder ours, once data and model are known to be good and before the first epoch."""
    versions = {
        'fcam_zoo': __version__,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'timm': timm.__version__,
        'numpy': np.__version__,
        'cuda': torch.version.cuda if torch.cuda.is_available() else None,
    }
    # A stage keeps its state (weights and momentum, twice while it is replaced) and its best weights; then two models.
    needed = 14 * sum(t.numel() * t.element_size() for t in model.state_dict().values())
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(run_dir).free
        if free < needed:
            raise TrainingError(
                f'{run_dir} has {free / 2**20:.0f} MiB free and this training needs up to {needed / 2**20:.0f} MiB: '
                'make room or choose another output folder'
            )
        write_json(run_dir / 'versions.json', versions)
        write_json(run_dir / 'config.json', config.to_dict())
    except OSError as e:
        raise TrainingError(f'{run_dir} cannot be written ({e}): choose another output folder') from e


def _load_weights(model: FCAM, folder: Path, which: str) -> None:
    """The best weights of a stage, or those of its last epoch from the state file."""
    if which == 'best':
        model.load_state_dict(load_file(folder / 'best.safetensors'))
    else:
        state = load_file(folder / 'state.safetensors')
        model.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith('model.')})


def _finish(model: FCAM, run_dir: Path, summary: dict[str, Any]) -> None:
    """Write the best and the last model of the last stage, and the summary."""
    final = next(reversed(summary))
    for which in ('last', 'best'):
        _load_weights(model, run_dir / final, which)
        metrics = summary[final][which].get('val', {})
        threshold = metrics.get('best_threshold_50', metrics.get('best_threshold'))
        if final == 'decoder' and threshold is not None:
            model.threshold = model.model_args['threshold'] = threshold
        save_pretrained(model, run_dir / which)
    write_json(run_dir / 'summary.json', summary)
