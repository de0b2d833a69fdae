"""Models as folders in timm's Hub format: config.json and model.safetensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .._io import atomic_path, write_json
from ..models import FCAM

# Fields of pretrained_cfg that config.json carries, as timm writes them.
CFG_FIELDS = (
    'custom_load',
    'input_size',
    'fixed_input_size',
    'interpolation',
    'crop_pct',
    'crop_mode',
    'mean',
    'std',
    'num_classes',
    'pool_size',
    'first_conv',
    'classifier',
    'license',
)


def state_to_save(model: FCAM, half: bool = False) -> dict[str, torch.Tensor]:
    """State dict on the CPU, contiguous; with `half`, parameters in float16 (batch-norm statistics stay float32)."""
    parameters = {name for name, _ in model.named_parameters()}
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        state[name] = tensor.half() if half and name in parameters else tensor
    return state


def save_pretrained(model: FCAM, directory: str | os.PathLike, *, half: bool = False, **extra: Any) -> Path:
    """Write a model folder that `create_model('local-dir:<folder>')` and timm load.

    Args:
        model: The model.
        directory: Output folder.
        half: Store parameters in float16.
        **extra: Further top-level fields of config.json (data set, teacher, metrics, recipe).

    Returns:
        The folder.
    """
    directory = Path(directory)
    cfg = model.pretrained_cfg
    config: dict[str, Any] = {
        'architecture': cfg.get('architecture') or 'fcam',
        'num_classes': model.num_classes,
        'num_features': model.num_features,
        'model_args': model.model_args,
        'library_name': 'fcam_zoo',
        **extra,
        'pretrained_cfg': {k: cfg[k] for k in CFG_FIELDS if cfg.get(k) is not None} | {'custom_load': False},
    }
    if cfg.get('label_names'):
        config['label_names'] = list(cfg['label_names'])
    with atomic_path(directory / 'model.safetensors') as temporary:
        save_file(state_to_save(model, half), temporary, metadata={'format': 'pt'})
    write_json(directory / 'config.json', config)
    return directory
