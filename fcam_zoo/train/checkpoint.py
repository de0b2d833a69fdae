"""Training state as one safetensors file: weights, momentum, and the progress as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .._io import atomic_path
from ..errors import TrainingError
from ..models import FCAM


def save_state(path: Path, model: FCAM, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
    """Write the state of a stage after an epoch, whole or not at all."""
    tensors = {f'model.{k}': v.contiguous() for k, v in model.state_dict().items()}
    for i, parameter in enumerate(_parameters(optimizer)):
        momentum = optimizer.state[parameter].get('momentum_buffer')
        if momentum is not None:
            tensors[f'momentum.{i}'] = momentum.contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={'progress': json.dumps(progress)})


def load_state(path: Path, model: FCAM, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore what `save_state` wrote; returns the progress.

    Raises:
        TrainingError: When the file is damaged.
    """
    try:
        with safe_open(path, 'pt', device=str(next(model.parameters()).device)) as f:
            progress = json.loads(f.metadata()['progress'])
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


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group['params']]
