"""Find and verify the weights of a release or of a model folder (timm's Hub format)."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg

from .._download import CONFIG, WEIGHTS, commit_of, repo_of, verify_download
from .._index import ModelName, ReleaseEntry, fetch_weights
from .._weights import digest, read_shapes
from ..errors import WeightsError
from .backbone import check_num_classes, head_parameters
from .config import check_model_args

if TYPE_CHECKING:
    from .fcam import FCAM

# Largest accepted numbers in pretrained_cfg (pixels), and largest config.json in bytes.
MAX_SIDE = 2**13
MAX_CONFIG = 16 * 2**20
CFG_FIELDS = {field.name for field in dataclasses.fields(PretrainedCfg)}


@dataclass(frozen=True)
class WeightsSource:
    """A verified weight file and the model that it belongs to.

    Attributes:
        path: Safetensors file of the whole model or of its decoder only.
        architecture: timm architecture, `fcam` or `fcam_<backbone>`.
        pretrained_cfg: timm's configuration of the weights, or its tag.
        num_classes: Number of classes of the weights.
        arguments: Arguments of `FCAM`.
        backbone: timm name of the classifier and its weights, which a decoder-only file needs.
        classifier_sha256: Digest of that classifier, if recorded.
    """

    path: Path
    architecture: str
    pretrained_cfg: str | dict[str, Any]
    num_classes: int
    arguments: dict[str, Any]
    backbone: str | None
    classifier_sha256: str = ''

    def classifier_arguments(self, arguments: dict[str, Any], reset_head: bool) -> dict[str, Any]:
        """Return the arguments that load the classifier of a decoder-only file; a whole file needs no other weights.

        Raises:
            WeightsError: When the requested num_classes or the local checkpoint does not fit.
        """
        check_num_classes(self.path, self.num_classes, arguments.get('num_classes'), reset_head)
        if any(key.startswith('backbone.') for key in read_shapes(self.path)):
            return {'backbone_pretrained': False, 'backbone_checkpoint': None}
        backbone = self.backbone or arguments['backbone']
        if arguments.get('backbone_checkpoint') is None:
            return {'backbone': backbone, 'backbone_pretrained': True}
        checkpoint, cfg = Path(arguments['backbone_checkpoint']), get_pretrained_cfg(backbone.split('.')[0])
        shapes = read_shapes(checkpoint) if checkpoint.is_file() and cfg else {}
        for key in head_parameters(cfg.to_dict() if cfg else {}):
            if key in shapes and shapes[key][0] != self.num_classes:
                raise WeightsError(
                    f'backbone_checkpoint {checkpoint} has {shapes[key][0]} classes, but {self.path} is the decoder of '
                    f'a classifier with {self.num_classes} classes: give the weights of {backbone}'
                )
        return {'backbone_pretrained': False}

    def check_classifier(self, model: FCAM) -> None:
        """Check that the classifier is the one with which the decoder was trained; other features give wrong maps.

        Raises:
            WeightsError: When the classifier differs from the recorded one.
        """
        if self.classifier_sha256 and digest(model.backbone.state_dict()) != self.classifier_sha256:
            raise WeightsError(
                f'{self.path.name} is the decoder of {self.backbone}, but other classifier weights were loaded: '
                f'give those of {self.backbone} as backbone_checkpoint'
            )


def release_source(
    entry: ReleaseEntry, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False
) -> WeightsSource:
    """Find the weights of a released model, and download them if needed.

    Raises:
        HubError: When the file cannot be downloaded.
        WeightsError: When the file is missing, truncated or altered.
    """
    name = ModelName.parse(entry.name)
    return WeightsSource(
        fetch_weights(entry, cache_dir, local_files_only),
        name.architecture,
        name.tag,
        entry.num_classes,
        {'num_classes': entry.num_classes, **entry.model_args},
        entry.backbone,
        entry.classifier_sha256,
    )


def folder_source(folder: Path) -> WeightsSource:
    """Verify a model folder. For a folder in the Hub's cache, the source records repository and commit."""
    config = verify_folder(folder)
    cfg = {**config['pretrained_cfg'], 'num_classes': config['num_classes']}
    if 'label_names' in config:
        cfg['label_names'] = config['label_names']
    commit = commit_of(folder)
    place = {'source': 'local-dir', 'file': str(folder)}
    if commit:
        place = {'source': 'hf-hub', 'hf_hub_id': f'{repo_of(folder)}@{commit}'}
    arguments = config.get('model_args', {})
    return WeightsSource(
        folder / WEIGHTS,
        config['architecture'],
        {**cfg, **place},
        config['num_classes'],
        {**arguments, 'num_classes': config['num_classes']},
        arguments.get('backbone'),
    )


def verify_folder(folder: Path) -> dict[str, Any]:
    """Check the config.json of a model folder, and the weights if the config records their size and SHA-256.

    Returns:
        The config.

    Raises:
        FileNotFoundError: When the folder or one of its files does not exist.
        WeightsError: When the config is damaged or does not describe an F-CAM, or when the weights differ from it.
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
    if not isinstance(cfg, dict):
        raise WeightsError(f'{path}: pretrained_cfg must be an object')
    if unknown := sorted(cfg.keys() - CFG_FIELDS):
        raise WeightsError(f'{path}: pretrained_cfg has fields that timm does not have: {", ".join(unknown)}')
    for key, least in (('mean', -math.inf), ('std', 1e-6), ('input_size', 1)):
        value = cfg.get(key, [1])
        numbers = isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value)
        if not numbers or not all(least <= v <= MAX_SIDE for v in value):
            raise WeightsError(f'{path}: pretrained_cfg has an invalid {key}={str(value)[:60]}')
    for names in (label_names, cfg.get('label_names')):
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise WeightsError(f'{path}: label_names must be a list of names')
