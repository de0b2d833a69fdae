"""A training from its settings to the finished models: the run folder and its stages."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import timm
import torch

from .._distributed import barrier, rank
from .._io import is_folder, write_json
from .._schema import BelowOne, convert, reading, show
from .._version import __version__
from ..benchmark.descriptions import describe
from ..data.formats import train_split
from ..errors import SettingsError, TrainingError
from ..hub import save_pretrained
from ..hub.facts import NETWORK_SETTINGS
from ..models import FCAM
from .checkpoint import AGAIN, BEST, STATE, load_weights, writing
from .collapse import ADVICE, undertrained
from .config import STAGES, TrainConfig
from .loop import StageRun
from .provenance import facts_of_model
from .recipe import FIX, read_recipe
from .records import StageSummary
from .selection import localization_score
from .setup import Setup, prepare, training_device
from .shared import FinishedClassifier
from .stage_config import DecoderConfig
from .teacher_maps import stored_maps
from .validation import center_score, selection_text

logger = logging.getLogger(__name__)
# Settings that may change on resume, since they do not affect the result. (Without skip_bad, a run stops before the
# step of the first bad image.)
CHANGEABLE_ON_RESUME = ('workers', 'device', 'checkpoint_minutes', 'keep_epochs', 'skip_bad')


def train(
    config: TrainConfig,
    run_dir: str | os.PathLike,
    resume: bool = False,
    quiet: bool = False,
    auto_epochs: Collection[str] = (),
) -> dict[str, StageSummary]:
    """Train a classifier and its decoder (F-CAM, Sec. 4.1).

    `run_dir` gets config.json, versions.json, summary.json, a folder per stage (metrics.jsonl, samples/,
    state.safetensors, best.safetensors), tensorboard/ if TensorBoard is installed, and the finished models `best` and
    `last`, which `create_model('<run_dir>/best')` loads. Started by torchrun, all processes train one model.

    Args:
        config: All settings.
        run_dir: Output folder; must be empty unless resuming. With several machines, on a shared file system.
        resume: Continue an interrupted run of the same config. The result is the same, on a CPU bit for bit.
        quiet: No progress bars.
        auto_epochs: Stages ('classifier', 'decoder') whose epochs are raised if they give fewer than 150 optimizer
            steps. config.json has the epochs that were used.

    Returns:
        For each stage, its best and its last epoch.

    Raises:
        ValueError: When the run folder is among the class folders of the data.
        DatasetError: When the data set is missing or invalid.
        TrainingError: When the folder holds another run or cannot be written, or the loss is not finite.
        DistributedError: When another process ended early.
        KeyboardInterrupt: When interrupted, after the state was saved.
    """
    return train_after(None, config, Path(run_dir), resume, quiet, auto_epochs)


def train_after(
    classifier: FinishedClassifier | None,
    config: TrainConfig,
    run_dir: Path,
    resume: bool,
    quiet: bool,
    auto_epochs: Collection[str] = (),
) -> dict[str, StageSummary]:
    """Train like `train`, but copy the finished classifier stage, if one is given."""
    with training_device(config.device) as device:
        started = check_folder(run_dir, config, resume, auto_epochs)
        # The first process claims the folder only after all have checked it.
        barrier()
        setup = prepare(started or config, device, () if started else auto_epochs)
        config = setup.config
        if rank() == 0:
            logger.info('%s (docs/training.md)', selection_text(setup))
            for warning in setup.warnings:
                logger.warning(warning)
            claim_folder(run_dir, config, setup.model)
            if classifier is not None:
                classifier.copy_to(run_dir / 'classifier')
        barrier()
        summary: dict[str, StageSummary] = {}
        for stage in setup.stages():
            if config.compile:
                setup.model.decoder.compile()
            maps = None
            if stage.name == 'decoder' and setup.teacher:
                maps = stored_maps(setup.teacher, config, setup.images_of('decoder'), run_dir, device, quiet)
            summary[stage.name] = StageRun(stage, setup, run_dir, quiet, maps).run()
            if stage.name == 'decoder':
                _compare_to_center(setup, summary['decoder'])
            barrier()
            load_weights(setup.model, run_dir / stage.name / BEST)
        if rank() == 0:
            save_models(setup, run_dir, summary)
            # The warning of the start is far above by now.
            for warning in undertrained(config, setup.count_of, setup.model.method.pairs):
                logger.warning(warning)
        barrier()
        return summary


def _compare_to_center(setup: Setup, summary: StageSummary) -> None:
    """Warn when the best maps are no better than the center baseline."""
    center, select = center_score(setup), setup.config.decoder.select
    if center is not None and rank() == 0 and (best := localization_score(summary.best.val, select)) <= center:
        logger.warning(
            'decoder: on val the maps (%.1f) are not better than a blob in the middle of the image (%.1f): try another '
            'teacher, or %s',
            best,
            center,
            ADVICE,
        )


def check_folder(
    run_dir: Path, config: TrainConfig, resume: bool, auto_epochs: Collection[str] = ()
) -> TrainConfig | None:
    """Check that the folder is free or, with `resume`, holds a run with the same settings.

    Returns:
        The settings of the run that is resumed, with those of `CHANGEABLE_ON_RESUME` from `config`; None for a new run.

    Raises:
        ValueError: When it is among the class folders of the data, where it would be read as one of the classes.
        DatasetError: When some folders of the data look like classes and others do not.
        TrainingError: When it holds another run, or a config.json that is damaged or of another version.
    """
    path = run_dir / 'config.json'
    with writing(run_dir):
        started = path.exists()
        without_config = not started and any((run_dir / stage / STATE).exists() for stage in STAGES)
    _check_outside_of_classes(run_dir, config.data)
    if without_config:
        raise TrainingError(f'{run_dir} holds a training without its config.json: choose another output folder')
    if not started:
        return None
    if not resume:
        raise TrainingError(f'{run_dir} already holds a training: resume it (--resume) or choose another folder')
    try:
        old = _settings_of_run(path)
    except (ValueError, FileNotFoundError) as e:
        raise TrainingError(
            f'{path} is damaged or of another version of fcam_zoo ({e}): choose another output folder'
        ) from e
    before, now = old.flat(), config.flat()
    # The first start chose these itself.
    chosen = {f'{stage}.epochs' for stage in auto_epochs} | set(NETWORK_SETTINGS if config.init else ())
    changed = [k for k in now if before[k] != now[k] and k not in chosen.union(CHANGEABLE_ON_RESUME)]
    if changed:
        values = ', '.join(f'{k} (was {before[k]!r}, now {now[k]!r})' for k in changed)
        raise TrainingError(f'{path} differs in {values}: resume with the settings of the first start')
    return old.replace({k: now[k] for k in CHANGEABLE_ON_RESUME})


def _check_outside_of_classes(run_dir: Path, data: str) -> None:
    """Check that a run folder is not among the class folders (errors: see `check_folder`)."""
    classes = Path(data, train_split(data))
    with writing(run_dir):  # Also for a path that no folder can have.
        place = run_dir.resolve()
    if is_folder(classes) and place.is_relative_to(classes.resolve()):
        raise ValueError(f'{run_dir} is in {classes}, where each folder is a class: give a folder outside of it')


def _settings_of_run(path: Path) -> TrainConfig:
    """Read the config.json of a run, without a setting that earlier versions allowed and did not use.

    Raises:
        FileNotFoundError, SettingsError: As `TrainConfig.from_file`.
    """
    values = read_recipe(path)
    decoder = values.get('decoder') if isinstance(values, dict) else None
    if isinstance(decoder, dict) and 'classifier_lr' in decoder and not decoder.get('classification_weight'):
        rate = decoder.pop('classifier_lr')
        if rate != DecoderConfig.classifier_lr and rank() == 0:
            logger.warning(
                '%s: decoder.classifier_lr=%s is left out: it has no effect without decoder.classification_weight',
                path,
                show(rate),
            )
    with reading(path, SettingsError, FIX):
        return TrainConfig.from_dict(values)


def claim_folder(run_dir: Path, config: TrainConfig, model: FCAM) -> None:
    """Create the folder with config.json and versions.json, if the disk has room for the training.

    Raises:
        TrainingError: When there is no room, or the folder cannot be written.
    """
    versions = {
        'fcam_zoo': __version__,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'timm': timm.__version__,
        'numpy': np.__version__,
        'cuda': torch.version.cuda if torch.cuda.is_available() else None,
    }
    # A stage has its state (weights, their average, up to two buffers of the optimizer) and its best weights, each
    # twice while it is replaced: 10 times the weights. Two stages and the two finished models: 22 times.
    needed = 22 * sum(t.numel() * t.element_size() for t in model.state_dict().values())
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(run_dir).free
        if free < needed:
            raise TrainingError(
                f'{run_dir} has {free / 2**20:.0f} MiB free and this training needs up to {needed / 2**20:.0f} MiB: '
                'make room or choose another output folder'
            )
        write_json(run_dir / 'versions.json', versions)
        write_json(run_dir / 'config.json', config.to_dict())


def save_models(setup: Setup, run_dir: Path, summary: dict[str, StageSummary]) -> None:
    """Write the best and the last model of the last stage, and summary.json."""
    model = setup.model
    name, final = list(summary.items())[-1]
    for which, file, metrics in (('last', STATE, final.last.val), ('best', BEST, final.best.val)):
        load_weights(model, run_dir / name / file)
        if name == 'decoder' and 'kept' not in metrics:
            # The metrics may be those of a resumed state.
            with reading(run_dir / name / STATE, TrainingError, AGAIN):
                model.threshold = convert(BelowOne, metrics[describe(metrics).best_threshold], 'threshold')
        with writing(run_dir / which):
            save_pretrained(model, run_dir / which, **facts_of_model(setup, summary, which, run_dir))
    with writing(run_dir):
        write_json(run_dir / 'summary.json', {stage: result.to_dict() for stage, result in summary.items()})
