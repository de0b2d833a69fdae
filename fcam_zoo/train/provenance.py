"""What a training records in the config.json of its models: data, teacher, metrics, epochs, version and date.

`fcam-zoo info` shows these facts, and `hub.facts_of_run` reads them for `fcam-zoo push`.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from .._version import __version__
from ..hub.facts import RunFacts, teacher_of
from .checkpoint import STATE
from .records import StageSummary
from .setup import Setup
from .teacher import class_map_method
from .validation import selection_of


def facts_of_model(setup: Setup, summary: dict[str, StageSummary], which: str, run_dir: Path) -> dict[str, Any]:
    """Return the facts of a model of a training, for config.json and `fcam-zoo info`.

    Args:
        setup: Data, model and settings.
        summary: The finished stages; the last one made the model.
        which: 'best' or 'last'.
        run_dir: Folder of the training.
    """
    name, stage = list(summary.items())[-1]
    config, trained_by = setup.config, setup.model.model_args.get('method')
    val = (stage.best if which == 'best' else stage.last).val
    kind = 'fcam' if name == 'decoder' else class_map_method(config.teacher, setup.model)
    split = 'train' if setup.val_set is None else 'val'
    facts = RunFacts(
        dataset={'title': setup.train_set.name, 'images': setup.count_of(name)},
        metrics={split: {kind: val}} if val else {},
        epochs={each: {'best': one.best_epoch, 'last': one.last.epoch} for each, one in summary.items()},
        selection=selection_of(setup, name) if which == 'best' else 'the last epoch',
        trained={
            'fcam_zoo': __version__,
            # That of the last epoch, also if the run is resumed later.
            'date': date.fromtimestamp((run_dir / name / STATE).stat().st_mtime).isoformat(),
        },
        teacher=teacher_of(config.to_dict(), trained_by) if name == 'decoder' else None,
    )
    return {key: value for key, value in asdict(facts).items() if value is not None}
