"""The output folder of a training: claimed by one run, checked on resume, and filled with the finished models."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import numpy as np
import timm
import torch

from .._io import write_json
from .._version import __version__
from ..benchmark.descriptions import describe
from ..errors import TrainingError
from ..hub import save_pretrained
from ..models import FCAM
from .checkpoint import BEST, STATE, load_weights
from .config import TrainConfig
from .records import StageSummary

# Settings that may change on resume, since they do not affect the result. (Without skip_bad, a run stops before the
# step of the first bad image.)
CHANGEABLE_ON_RESUME = ('workers', 'device', 'checkpoint_minutes', 'keep_epochs', 'skip_bad')


def check_folder(run_dir: Path, config: TrainConfig, resume: bool) -> None:
    """Check that the folder is free or, with `resume`, holds a run with the same settings.

    Raises:
        TrainingError: When it holds another run, or a config.json that is damaged or of another version.
    """
    path = run_dir / 'config.json'
    if not path.exists():
        return
    if not resume:
        raise TrainingError(f'{run_dir} already holds a training: resume it (--resume) or choose another folder')
    try:
        old = TrainConfig.from_file(path)
    except ValueError as e:
        raise TrainingError(
            f'{path} is damaged or of another version of fcam_zoo ({e}): choose another output folder'
        ) from e
    before, now = old.flat(), config.flat()
    changed = [k for k in now if before[k] != now[k] and k not in CHANGEABLE_ON_RESUME]
    if changed:
        values = ', '.join(f'{k} (there {before[k]!r}, now {now[k]!r})' for k in changed)
        raise TrainingError(f'{path} differs in {values}: resume with the settings of its first start')


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
    # A stage has its state (weights and momentum) and its best weights, each twice while it is replaced: 6 times the
    # weights. Two stages and the two finished models: 14 times.
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


def save_models(model: FCAM, run_dir: Path, summary: dict[str, StageSummary]) -> None:
    """Write the best and the last model of the last stage, and summary.json."""
    name, final = list(summary.items())[-1]
    for which, file, metrics in (('last', STATE, final.last.val), ('best', BEST, final.best.val)):
        load_weights(model, run_dir / name / file)
        if name == 'decoder' and 'kept' not in metrics:
            model.threshold = metrics[describe(metrics).best_threshold]
        save_pretrained(model, run_dir / which)
    write_json(run_dir / 'summary.json', {stage: result.to_dict() for stage, result in summary.items()})
