"""A finished classifier stage that several runs of a sweep share."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import STATE, Progress, read_progress, replace_progress, writing
from .monitor import SAMPLES_FOLDER, write_metrics


@dataclass(frozen=True)
class FinishedClassifier:
    """A finished classifier stage.

    Attributes:
        folder: Its folder.
        same_maps: Whether the run that copies it has the same teacher settings, and so the same class maps.
    """

    folder: Path
    same_maps: bool

    def copy_to(self, target: Path) -> None:
        """Copy the folder atomically, unless the target exists.

        If the class maps of the new run are others, their metrics and pictures are left out, and `StageRun` measures
        the best and the last epoch again. If they selected the epoch, nothing is copied.

        Raises:
            TrainingError: When the folder cannot be read or written.
        """
        progress = None if self.same_maps else read_progress(self.folder / STATE)
        if target.exists() or (progress and not _selected_by_accuracy(progress)):
            return
        part = target.with_name(f'.{target.name}')
        with writing(target):
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(self.folder, part)
            if progress:
                shutil.rmtree(part / SAMPLES_FOLDER, ignore_errors=True)
                for epoch in progress.history:
                    epoch.val = {'cls': epoch.val['cls']}
                replace_progress(part / STATE, progress)
                write_metrics(part, progress.history)
            part.replace(target)


def _selected_by_accuracy(progress: Progress) -> bool:
    """Return whether val has an accuracy; without one, localization selects (see `selection.selection_score`)."""
    return all('cls' in epoch.val for epoch in progress.history)
