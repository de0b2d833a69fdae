"""A training from its settings to the finished models."""

from __future__ import annotations

import os
from pathlib import Path

from .._distributed import barrier, rank
from .checkpoint import BEST, load_weights
from .config import TrainConfig
from .loop import StageRun
from .records import StageSummary
from .run_folder import check_folder, claim_folder, save_models
from .setup import prepare, training_device


def train(
    config: TrainConfig, run_dir: str | os.PathLike, resume: bool = False, quiet: bool = False
) -> dict[str, StageSummary]:
    """Train a classifier and its decoder (F-CAM, Sec. 4.1).

    `run_dir` gets config.json, versions.json, summary.json, a folder per stage (metrics.jsonl, samples/,
    state.safetensors, best.safetensors), tensorboard/ if TensorBoard is installed, and the finished models `best` and
    `last`, which `create_model('local-dir:…')` loads. Started by torchrun, all processes train one model.

    Args:
        config: All settings.
        run_dir: Output folder; must be empty unless resuming. With several machines, on a shared file system.
        resume: Continue an interrupted run of the same config. The result is the same, on a CPU bit for bit.
        quiet: No progress bars.

    Returns:
        For each stage, its best and its last epoch.

    Raises:
        DatasetError: When the data set is missing or faulty.
        TrainingError: When the folder holds another run or cannot be written, or the loss is not finite.
        DistributedError: When another process ended early.
        KeyboardInterrupt: When interrupted, after the state was saved.
    """
    run_dir = Path(run_dir)
    with training_device(config.device) as device:
        check_folder(run_dir, config, resume)
        # The first process claims the folder only after all have checked it.
        barrier()
        setup = prepare(config, device)
        if rank() == 0:
            claim_folder(run_dir, config, setup.model)
        summary: dict[str, StageSummary] = {}
        for stage in setup.stages():
            if config.compile:
                setup.model.decoder.compile()
            summary[stage.name] = StageRun(stage, setup, run_dir, quiet).run()
            barrier()
            load_weights(setup.model, run_dir / stage.name / BEST)
        if rank() == 0:
            save_models(setup.model, run_dir, summary)
        barrier()
        return summary
