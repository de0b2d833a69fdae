"""The zoo table: every architecture and name, from which timm's names, torch.hub's names and lists follow."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
)

from .. import _index
from .._download import WEIGHTS, fetch_folder
from .._names import ModelName
from .._weights import digest, read_shapes
from ..cams import METHODS as TEACHERS
from ..errors import UnknownModelError, WeightsError
from .fcam import FCAM, INPUT_CFG, prefixed
from .folder import check_model_args, verify_folder

# Architecture -> arguments of FCAM. output_stride 8 without dilation is the paper's, and that of `_s8`.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    'fcam_resnet50': {'backbone': 'resnet50', 'output_stride': 8},
    'fcam_vgg16': {'backbone': 'vgg16_wsol', 'output_stride': 8},
    'fcam_inception_v3': {'backbone': 'inception_v3_wsol', 'output_stride': 8},
    'fcam_mobilenetv1_075_s8': {'backbone': 'mobilenetv1_075', 'output_stride': 8},
    'fcam_mobilenetv1_075': {'backbone': 'mobilenetv1_075', 'output_stride': 16},
    'fcam_mobilenetv1_025': {'backbone': 'mobilenetv1_025', 'output_stride': 16},
}
# The paper's data sets (F-CAM, Tables 1 and 2), by number of classes. Released names come on top, from the index.
PAPER_ARCHITECTURES = ('fcam_resnet50', 'fcam_vgg16', 'fcam_inception_v3')
PAPER_DATASETS = {'cub': 200, 'openimages': 100}
# Fields of timm's pretrained_cfg_overlay by which a caller names weights of his own, which timm loads.
SOURCES = {'file', 'url', 'state_dict', 'hf_hub_id'}


def _tags(architecture: str) -> dict[str, dict[str, Any]]:
    """pretrained_cfg of each tag of an architecture; only released ones name a file."""
    base = {**_backbone_cfg(ARCHITECTURES[architecture]['backbone']), 'license': 'apache-2.0', 'paper_name': 'F-CAM'}
    tags: dict[str, dict[str, Any]] = {}
    for name, entry in _index.index().items():
        parts = ModelName.parse(name)
        if parts.architecture == architecture:
            tags[parts.tag] = {
                **base,
                **_place(entry),
                'num_classes': entry.num_classes,
                'label_names': tuple(entry.class_names),
            }
    if architecture in PAPER_ARCHITECTURES:
        for dataset, num_classes in PAPER_DATASETS.items():
            for teacher in TEACHERS:
                tags.setdefault(f'{teacher}_{dataset}', {**base, 'num_classes': num_classes})
    return tags or {'untrained': base}


def _place(entry: _index.ReleaseEntry) -> dict[str, Any]:
    """Fields of timm's pretrained_cfg that say where a released file lies."""
    if entry.hf_hub_id:
        return {'hf_hub_id': entry.hf_hub_id, 'hf_hub_filename': entry.file}
    return {'file': str(_index.weights_dir() / entry.file), 'custom_load': True}


def _backbone_cfg(backbone: str) -> dict[str, Any]:
    cfg = get_pretrained_cfg(backbone)
    return prefixed(cfg.to_dict() if cfg else {})


class _Weights(NamedTuple):
    """A verified weight file, and what its release or folder says of it."""

    path: Path
    num_classes: int
    backbone: str | None
    model_args: dict[str, Any]
    classifier_sha256: str | None = None


def _create_fcam(
    variant: str,
    pretrained: bool,
    defaults: dict[str, Any],
    reset_head: bool = False,
    local_files_only: bool = False,
    **kwargs: Any,
) -> FCAM:
    """Build by timm's means; arguments of the caller win over those of the released model, these over the defaults."""
    if kwargs.get('features_only'):
        raise UnknownModelError(f'{variant} has no features_only: take the backbone, or model.encode(x).levels')
    check_model_args(kwargs.get('pretrained_model_args') or {}, f'config.json of {variant}')
    cfg, cache_dir = kwargs.get('pretrained_cfg'), kwargs.get('cache_dir')
    weights = None
    if pretrained and SOURCES.isdisjoint(kwargs.get('pretrained_cfg_overlay') or {}):
        weights = _find_weights(variant, cfg, cache_dir, local_files_only)
    released = {'num_classes': weights.num_classes, **weights.model_args} if weights else {}
    kwargs = {**defaults, **released, **kwargs}
    if weights:
        kwargs.update(_classifier_arguments(weights, kwargs, reset_head))
    if variant == 'fcam' and not isinstance(cfg, (dict, PretrainedCfg)):
        # Any backbone: the input statistics and layer names are its own.
        overlay = kwargs.pop('pretrained_cfg_overlay', None) or {}
        kwargs['pretrained_cfg_overlay'] = {**_backbone_cfg(kwargs['backbone']), **overlay}
    # timm keeps cache_dir to itself, and the classifier's own weights belong there too.
    model = build_model_with_cfg(partial(FCAM, cache_dir=cache_dir), variant, pretrained and weights is None, **kwargs)
    if weights:
        model.load_weights(weights.path, reset_head)
        _check_classifier(model, weights, reset_head)
    model.forget_other_names()
    return model


def _find_weights(
    variant: str, cfg: Any, cache_dir: str | os.PathLike | None, local_files_only: bool
) -> _Weights | None:
    """Weights of a folder, a Hub repository or a released name; None for a cfg of the caller's, which timm loads."""
    source = cfg.get('source') if isinstance(cfg, dict) else None
    if source in ('local-dir', 'hf-hub'):
        if source == 'local-dir':
            folder = Path(cfg['file'])
        else:
            folder = fetch_folder(cfg['hf_hub_id'], cache_dir=cache_dir, local_files_only=local_files_only)
        config = verify_folder(folder)
        return _Weights(folder / WEIGHTS, config['num_classes'], config.get('model_args', {}).get('backbone'), {})
    entry = _released_entry(variant, cfg)
    if entry is not None:
        path = _index.fetch_weights(entry.name, cache_dir, local_files_only)
        return _Weights(path, entry.num_classes, entry.backbone, entry.model_args, entry.classifier_sha256)
    if isinstance(cfg, (dict, PretrainedCfg)):
        return None
    released = ', '.join(_index.index()) or 'none'
    raise UnknownModelError(
        f'{variant}{f".{cfg}" if cfg else ""} has no released weights. Released: {released}. '
        'Train it with fcam-zoo train, or create it with pretrained=False'
    )


def _classifier_arguments(weights: _Weights, kwargs: dict[str, Any], reset_head: bool) -> dict[str, Any]:
    """Where the classifier's weights come from: the file, or timm where the file has the decoder alone.

    Raises:
        WeightsError: When the model was asked for another number of classes, but not for a fresh head.
    """
    asked = kwargs.get('num_classes')
    if asked not in (None, weights.num_classes) and not reset_head:
        raise WeightsError(
            f'{weights.path} has {weights.num_classes} classes, the model was asked for num_classes={asked}: leave '
            'num_classes out, or give reset_head=True to start with a fresh head'
        )
    if any(key.startswith('backbone.') for key in read_shapes(weights.path)):
        return {'backbone_pretrained': False, 'backbone_checkpoint': None}
    backbone = weights.backbone or kwargs['backbone']
    if kwargs.get('backbone_checkpoint') is not None:
        _check_head(Path(kwargs['backbone_checkpoint']), backbone, weights)
        return {'backbone_pretrained': False}
    return {'backbone': backbone, 'backbone_pretrained': True}


def _check_head(checkpoint: Path, backbone: str, weights: _Weights) -> None:
    """A classifier of another number of classes cannot be the one that a decoder alone belongs to."""
    cfg = get_pretrained_cfg(backbone.split('.')[0])
    shape = read_shapes(checkpoint).get(f'{cfg.classifier}.weight') if checkpoint.is_file() and cfg else None
    if shape and shape[0] != weights.num_classes:
        raise WeightsError(
            f'backbone_checkpoint {checkpoint} has {shape[0]} classes, and {weights.path} is the decoder of a '
            f'classifier of {weights.num_classes}: give the weights of {backbone}'
        )


def _check_classifier(model: FCAM, weights: _Weights, reset_head: bool) -> None:
    """A decoder alone draws what it learnt on the features of one classifier, and garbage on another's."""
    if (
        weights.classifier_sha256
        and not reset_head
        and digest(model.backbone.state_dict()) != weights.classifier_sha256
    ):
        raise WeightsError(
            f'{weights.path.name} is the decoder of {weights.backbone}, and the classifier that was loaded has other '
            f'weights: give those of {weights.backbone} as backbone_checkpoint'
        )


def _released_entry(variant: str, cfg: Any) -> _index.ReleaseEntry | None:
    tag = cfg if isinstance(cfg, str) else getattr(cfg, 'tag', None)
    if cfg is None:
        default = get_pretrained_cfg(variant)
        tag = default.tag if default else None
    return _index.index().get(f'{variant}.{tag}')


def _entry_point(name: str, arguments: dict[str, Any]) -> Callable[..., FCAM]:
    def create(pretrained: bool = False, **kwargs: Any) -> FCAM:
        return _create_fcam(name, pretrained, arguments, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__module__ = __name__
    create.__doc__ = f'F-CAM on {arguments["backbone"]}.'
    return create


default_cfgs = generate_default_cfgs(
    {f'{arch}.{tag}': cfg for arch in ARCHITECTURES for tag, cfg in _tags(arch).items()} | {'fcam': dict(INPUT_CFG)}
)
for _name, _arguments in {**ARCHITECTURES, 'fcam': {'backbone': 'resnet50'}}.items():
    globals()[_name] = register_model(_entry_point(_name, _arguments))


def names() -> list[str]:
    """Every name of the zoo, `fcam_<backbone>.<teacher>_<dataset>`, in the order of the table of architectures."""
    return [f'{arch}.{tag}' for arch in ARCHITECTURES for tag in sorted(_tags(arch)) if tag != 'untrained']


def hub_names() -> dict[str, list[str]]:
    """torch.hub's names without dots, `fcam_<backbone>_<dataset>` -> zoo names, the best released one first."""
    groups: dict[str, list[str]] = {}
    for name in names():
        groups.setdefault(ModelName.parse(name).hub_name, []).append(name)
    for group in groups.values():
        group.sort(key=_val_score, reverse=True)
    return groups


def _val_score(name: str) -> float:
    """Localization of a released model on val, by which the best teacher is chosen; -1 for an unreleased one."""
    if name not in _index.index():
        return -1.0
    metrics = _index.index()[name].metrics['val']['fcam']
    return metrics.get('mean', metrics.get('pxap', 0.0))
