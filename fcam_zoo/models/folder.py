"""Model folders in timm's Hub format, config.json and model.safetensors: believed only after they were checked."""

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

# Arguments of FCAM that a config may hold; paths and downloads are the caller's to choose.
MODEL_ARGS = {
    'backbone': str,
    'num_classes': int,
    'in_chans': int,
    'output_stride': int,
    'dilated': bool,
    'decoder_channels': list,
    'center': bool,
    'frozen': bool,
    'threshold': (int, float),
    'backbone_kwargs': dict,
    'backbone_pretrained': bool,
}
# Those for which null stands for a default.
NULLABLE = {'num_classes', 'output_stride', 'decoder_channels', 'center', 'backbone_kwargs'}
# Arguments of timm's create_model that name files and downloads.
NOT_FROM_A_CONFIG = {'pretrained', 'pretrained_cfg', 'pretrained_cfg_overlay', 'checkpoint_path', 'cache_dir'}
MAX_WIDTH = 2**16
MAX_SIDE = 2**13
MAX_CONFIG = 16 * 2**20
CFG_FIELDS = {field.name for field in dataclasses.fields(PretrainedCfg)}


def check_folder(folder: Path) -> dict[str, Any]:
    """Check that a model folder is whole and describes an F-CAM.

    Returns:
        The config.

    Raises:
        FileNotFoundError: When the folder or a file of it does not exist.
        WeightsError: When the config is damaged or describes no F-CAM.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'model folder {folder} does not exist')
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f'{folder} has no {file}: a model folder holds {CONFIG} and {WEIGHTS}')
    return read_config(folder / CONFIG)


def verify_folder(folder: Path) -> dict[str, Any]:
    """The same, and check the weights' size and SHA-256 where the config names them; no tensor is read.

    Raises:
        FileNotFoundError: When the folder or a file of it does not exist.
        WeightsError: When the config is damaged, or the weights are not those that it names.
    """
    config = check_folder(folder)
    weights = config.get('weights')
    if weights is not None:
        try:
            size, sha256 = int(weights['size']), str(weights['sha256'])
        except (TypeError, ValueError, KeyError) as e:
            raise WeightsError(f'{folder / CONFIG} is damaged: weights must have size and sha256') from e
        verify_download(folder / WEIGHTS, size, sha256)
    return config


def read_config(path: Path) -> dict[str, Any]:
    """Read and check a config.json.

    Raises:
        WeightsError: When it is damaged or describes no F-CAM.
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
        hint = 'a classifier of timm can be loaded with timm.create_model and given a decoder with fcam_zoo.wrap'
        raise WeightsError(f'{path} names an unknown architecture {architecture!r}: it is no F-CAM; {hint}')
    check_model_args(arguments, str(path))
    check_model_args({'num_classes': num_classes}, str(path))
    _check_cfg(cfg, config.get('label_names'), path)
    return config


def _check_cfg(cfg: Any, label_names: Any, path: Path) -> None:
    """What is said of images and classes must be of use before a model is built by it."""
    unknown = sorted(cfg.keys() - CFG_FIELDS) if isinstance(cfg, dict) else ['it is no object']
    if unknown:
        raise WeightsError(f'{path}: pretrained_cfg is damaged, timm does not know {", ".join(unknown)}')
    for key, least in (('mean', -math.inf), ('std', 1e-6), ('input_size', 1)):
        value = cfg.get(key, [1])
        sane = isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value)
        if not sane or not all(least <= v <= MAX_SIDE for v in value):
            raise WeightsError(f'{path}: pretrained_cfg has {key}={str(value)[:60]}: this cannot be')
    for names in (label_names, cfg.get('label_names')):
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise WeightsError(f'{path}: label_names must be a list of names')


def check_model_args(arguments: Any, source: str) -> None:
    """Refuse arguments of a config that are unknown, of a wrong type or absurd, or that reach for files.

    Raises:
        WeightsError: Naming the argument.
    """
    if not isinstance(arguments, dict):
        raise WeightsError(f'{source}: model_args is {type(arguments).__name__}, it must be an object')
    for key, value in arguments.items():
        if key not in MODEL_ARGS:
            raise WeightsError(f'{source}: model_args has {key!r}, which no F-CAM takes from a config')
        if not (value is None and key in NULLABLE) and not _is_sane(value, MODEL_ARGS[key]):
            raise WeightsError(f'{source}: model_args has {key}={str(value)[:60]}: this cannot be')
    reaching = sorted(NOT_FROM_A_CONFIG & (arguments.get('backbone_kwargs') or {}).keys())
    if reaching:
        raise WeightsError(f'{source}: backbone_kwargs has {", ".join(reaching)}, which a config must not choose')


def _is_sane(value: Any, kind: Any) -> bool:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return False
    numbers = value if isinstance(value, list) else [value]
    if kind in (int, list):
        return len(numbers) <= 16 and all(type(n) is int and 0 < n <= MAX_WIDTH for n in numbers)
    # The one number that is not whole, the threshold, is relative to a maximum.
    return not isinstance(value, (int, float)) or 0 <= value <= 1
