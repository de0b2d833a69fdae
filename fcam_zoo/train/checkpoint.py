"""Training state as one safetensors file: weights, momentum, and the progress as JSON in its header."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .._io import atomic_path
from ..errors import TrainingError
from ..models import FCAM


@dataclass
class Progress:
    """Where a stage stands: `epoch` epochs are finished, and `step` steps of the next one with these sums of terms."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = -math.inf
    history: list[dict[str, Any]] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)
    stage: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


def save_state(path: Path, model: FCAM, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the state of a stage, whole or not at all.

    Raises:
        TrainingError: When it cannot be written; the state before is kept.
    """
    tensors = weights_of(model)
    tensors = {f'model.{k}': v for k, v in tensors.items()}
    for i, parameter in enumerate(_parameters(optimizer)):
        momentum = optimizer.state[parameter].get('momentum_buffer')
        if momentum is not None:
            tensors[f'momentum.{i}'] = momentum.contiguous()
    save_tensors(path, tensors, {'progress': json.dumps(asdict(progress))})


def load_state(path: Path, model: FCAM, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore what `save_state` wrote.

    Raises:
        TrainingError: When the file is damaged.
    """
    try:
        with safe_open(path, 'pt', device=str(next(model.parameters()).device)) as f:
            progress = Progress(**json.loads(f.metadata()['progress']))
            model.load_state_dict({k[6:]: f.get_tensor(k) for k in f.keys() if k.startswith('model.')})  # noqa: SIM118
            for i, parameter in enumerate(_parameters(optimizer)):
                if f'momentum.{i}' in f.keys():  # noqa: SIM118 (safe_open is no mapping)
                    buffer = torch.empty_like(parameter).copy_(f.get_tensor(f'momentum.{i}'))
                    optimizer.state[parameter]['momentum_buffer'] = buffer
    except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as e:
        raise TrainingError(
            f'{path} is not the state of this training ({e}): delete it or train into another folder'
        ) from e
    return progress


def weights_of(model: FCAM) -> dict[str, torch.Tensor]:
    """State dict in the layout that safetensors takes."""
    return {k: v.contiguous() for k, v in model.state_dict().items()}


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        TrainingError: When it cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as e:
        raise TrainingError(f'{path} cannot be written ({e}): make room, then go on with --resume') from e


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group['params']]
