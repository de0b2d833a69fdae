"""Signs that a training fails: too few steps, maps of one label, maps no better than a constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from .config import STAGES, TrainConfig
from .loading import step_sizes
from .records import EpochMetrics

# Mean foreground probability outside of which the maps have only one label. In the runs of docs/experiments.md,
# trainings that worked had 0.2 to 0.5.
SMALLEST_AREA, LARGEST_AREA = 0.01, 0.85
# Cross-entropy of a map of 0.5 everywhere: above it, the maps contradict the teacher.
CHANCE = math.log(2)
# Rise of the cross-entropy that is not chance.
RISE = 1.05
# Optimizer steps below which a stage learns little: a rule of thumb.
FEW_STEPS = 150


def collapse_of(history: list[EpochMetrics], seed_weight: float) -> str | None:
    """Describe how the maps of the decoder collapsed in the last epoch; None if they did not.

    A strong CRF loss has its minimum at maps of a single label. Their mean then approaches 0 or 1, and the partial
    cross-entropy rises above that of a constant map.

    Args:
        history: Means over each epoch so far, at least one; `area` is the mean foreground probability.
        seed_weight: Weight of the partial cross-entropy.
    """
    # Epoch 0, before the first step, has no loss.
    *earlier, metrics = [epoch for epoch in history if epoch.terms] or history
    area = metrics.terms.get('area', 0.5)
    if not SMALLEST_AREA <= area <= LARGEST_AREA:
        label = 'foreground' if area > 0.5 else 'background'
        return f'the maps are almost all {label} (mean {area:.2f})'
    cross_entropy, *before = (m.terms.get('partial_ce', 0.0) / (seed_weight or 1.0) for m in (metrics, *earlier))
    if before and cross_entropy > max(CHANCE, RISE * min(before)):
        return f'the maps contradict the teacher (partial cross-entropy {cross_entropy:.2f}, a constant map has 0.69)'
    return None


ADVICE = 'lower decoder.crf_weight, or raise decoder.crf_rampup or decoder.n_seeds (docs/training.md)'


def warnings_of(config: TrainConfig, count_of: Callable[[str], int], pairs: bool) -> list[str]:
    """List what will probably make a training fail, before it starts (arguments: see `undertrained`)."""
    found = []
    if not (config.init or config.backbone_pretrained or config.backbone_checkpoint):
        found.append(
            'the backbone starts from random weights, which needs a large data set: give --backbone-pretrained or '
            '--backbone-checkpoint'
        )
    return found + undertrained(config, count_of, pairs)


def undertrained(config: TrainConfig, count_of: Callable[[str], int], pairs: bool) -> list[str]:
    """Return a line for each stage that has too few optimizer steps, which says how many epochs it needs.

    Args:
        config: All settings.
        count_of: Gives the number of images of a stage.
        pairs: Whether the classifier is trained with pairs of images of one class.
    """
    found = []
    for name in STAGES:
        given = getattr(config, name).epochs
        if given and given < (epochs := least_epochs(config, name, count_of, pairs)):
            steps = given * steps_per_epoch(config, name, count_of, pairs)
            found.append(
                f'{steps} steps are too few to train the {name}: set {name}.epochs to {epochs} or more '
                f'(--{name}-epochs {epochs})'
            )
    return found


def enough_epochs(
    config: TrainConfig, stages: Collection[str], count_of: Callable[[str], int], pairs: bool
) -> dict[str, int]:
    """Return the epochs of those stages that would have too few optimizer steps, by dotted place.

    A stage needs at most `FEW_STEPS` epochs, since each has at least one step. Stages that are skipped stay skipped.

    Args:
        config: All settings.
        stages: Stages whose epochs may be raised.
        count_of: As in `undertrained`.
        pairs: As in `undertrained`.
    """
    least = {name: least_epochs(config, name, count_of, pairs) for name in stages if getattr(config, name).epochs}
    return {f'{name}.epochs': epochs for name, epochs in least.items() if epochs > getattr(config, name).epochs}


def least_epochs(config: TrainConfig, name: str, count_of: Callable[[str], int], pairs: bool) -> int:
    """Return the epochs that a stage needs for `FEW_STEPS` optimizer steps (arguments: see `undertrained`)."""
    return math.ceil(FEW_STEPS / steps_per_epoch(config, name, count_of, pairs))


def steps_per_epoch(config: TrainConfig, name: str, count_of: Callable[[str], int], pairs: bool) -> int:
    """Return the optimizer steps of an epoch of a stage (arguments: see `undertrained`)."""
    return len(step_sizes(name, getattr(config, name), count_of(name), pairs and name == 'classifier'))
