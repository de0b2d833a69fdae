"""Training state in one safetensors file: weights, momentum, and the progress as JSON in its header."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .._io import atomic_path
from ..errors import TrainingError
from ..models import FCAM
from .records import EpochMetrics

# Files of a stage folder.
STATE, BEST = 'state.safetensors', 'best.safetensors'


@dataclass
class Progress:
    """Progress of a stage: the finished part, and what a resumed run needs besides the weights.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the next epoch.
        sums: Sum of each term of the loss over these steps.
        seconds: Time of these steps.
        best_epoch: Best epoch so far.
        best_score: Its score on val.
        history: Metrics of the finished epochs.
        bad: Indices of unreadable images.
        scaler: State of the gradient scaler.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = -math.inf
    history: list[EpochMetrics] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the progress as JSON."""
        return json.dumps(asdict(self) | {'history': [metrics.to_row() for metrics in self.history]})

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Read what `to_json` returned."""
        values = json.loads(text)
        values.pop('stage', None)  # Written by earlier versions.
        values['history'] = [EpochMetrics.from_row(row) for row in values['history']]
        return cls(**values)


def save_state(path: Path, model: FCAM, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the state of a stage atomically.

    Raises:
        TrainingError: When it cannot be written; the previous state is kept.
    """
    tensors = {f'model.{k}': v for k, v in weights_of(model).items()}
    for i, parameter in enumerate(_parameters(optimizer)):
        momentum = optimizer.state[parameter].get('momentum_buffer')
        if momentum is not None:
            tensors[f'momentum.{i}'] = momentum.contiguous()
    save_tensors(path, tensors, {'progress': progress.to_json()})


def load_state(path: Path, model: FCAM, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore what `save_state` wrote.

    Raises:
        TrainingError: When the file is damaged or belongs to another model.
    """
    try:
        with safe_open(path, 'pt', device=str(next(model.parameters()).device)) as f:
            keys = list(f.keys())
            progress = Progress.from_json(f.metadata()['progress'])
            model.load_state_dict({k.removeprefix('model.'): f.get_tensor(k) for k in keys if k.startswith('model.')})
            for i, parameter in enumerate(_parameters(optimizer)):
                if f'momentum.{i}' in keys:
                    buffer = torch.empty_like(parameter).copy_(f.get_tensor(f'momentum.{i}'))
                    optimizer.state[parameter]['momentum_buffer'] = buffer
    except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as e:
        raise TrainingError(
            f'{path} is not a state of this training ({e}): delete it or choose another output folder'
        ) from e
    return progress


def load_weights(model: FCAM, path: Path) -> None:
    """Load the weights of a state or of a file that contains only weights."""
    model.load_state_dict(
        {k.removeprefix('model.'): v for k, v in load_file(path).items() if not k.startswith('momentum.')}
    )


def weights_of(model: FCAM) -> dict[str, torch.Tensor]:
    """Return the state dict in the contiguous layout that safetensors needs."""
    return {k: v.contiguous() for k, v in model.state_dict().items()}


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Raises:
        TrainingError: When it cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as e:
        raise TrainingError(f'{path} cannot be written ({e}): free disk space, then use --resume') from e


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group['params']]
