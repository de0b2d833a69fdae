"""Model folders in timm's Hub format, config.json and model.safetensors: validated before use."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg

from .._download import CONFIG, WEIGHTS, verify_download
from ..errors import WeightsError
from .config import check_model_args

MAX_SIDE = 2**13
MAX_CONFIG = 16 * 2**20
CFG_FIELDS = {field.name for field in dataclasses.fields(PretrainedCfg)}


def verify_folder(folder: Path) -> dict[str, Any]:
    """Check a model folder: its config.json, and size and SHA-256 of the weights if the config has them.

    Returns:
        The config.

    Raises:
        FileNotFoundError: When the folder or one of its files does not exist.
        WeightsError: When the config is damaged or does not describe an F-CAM, or the weights are not those it names.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'model folder {folder} does not exist')
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f'{folder} has no {file}: a model folder holds {CONFIG} and {WEIGHTS}')
    config = read_config(folder / CONFIG)
    if (weights := config.get('weights')) is not None:
        try:
            size, sha256 = int(weights['size']), str(weights['sha256'])
        except (TypeError, ValueError, KeyError) as e:
            raise WeightsError(f'{folder / CONFIG} is damaged: weights must have size and sha256') from e
        verify_download(folder / WEIGHTS, size, sha256)
    return config


def read_config(path: Path) -> dict[str, Any]:
    """Read and validate a config.json.

    Raises:
        WeightsError: When it is damaged or does not describe an F-CAM.
    """
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError(f'it has {path.stat().st_size:,} bytes')
        config = json.loads(path.read_text(encoding='utf-8'))
        architecture, num_classes = config['architecture'], config['num_classes']
        cfg, arguments = config['pretrained_cfg'], config.get('model_args', {})
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise WeightsError(f'{path} is damaged ({e!r}): save or train the model again') from e
    if not isinstance(architecture, str) or architecture.split('_')[0] != 'fcam' or not timm.is_model(architecture):
        hint = 'load a classifier with timm.create_model and add a decoder with fcam_zoo.wrap'
        raise WeightsError(f'{path}: unknown F-CAM architecture {architecture!r}; {hint}')
    check_model_args(arguments, str(path))
    check_model_args({'num_classes': num_classes}, str(path))
    _check_cfg(cfg, config.get('label_names'), path)
    return config


def _check_cfg(cfg: Any, label_names: Any, path: Path) -> None:
    """Validate input statistics and class names."""
    unknown = sorted(cfg.keys() - CFG_FIELDS) if isinstance(cfg, dict) else ['it is not an object']
    if unknown:
        raise WeightsError(f'{path}: pretrained_cfg is damaged, timm does not know {", ".join(unknown)}')
    for key, least in (('mean', -math.inf), ('std', 1e-6), ('input_size', 1)):
        value = cfg.get(key, [1])
        numbers = isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value)
        if not numbers or not all(least <= v <= MAX_SIDE for v in value):
            raise WeightsError(f'{path}: pretrained_cfg has an invalid {key}={str(value)[:60]}')
    for names in (label_names, cfg.get('label_names')):
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise WeightsError(f'{path}: label_names must be a list of names')
