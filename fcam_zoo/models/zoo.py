"""The zoo: `create_model`, and its entry points in timm."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
)

from .. import _index
from .._checks import as_flag
from .._download import CONFIG, fetch_folder
from .._io import is_folder, short_path
from .._schema import reading, show
from ..errors import UnknownModelError, UntrainedModelWarning, WeightsError
from .backbone import check_name
from .config import check_model_args
from .fcam import FCAM
from .model_folder import check_timm_cfg
from .names import ARCHITECTURES, PAPER_DATASETS, best_of_hub_name, full_name, hub_names, names, no_weights, released
from .pretrained_cfg import INPUT_CFG, prefixed
from .source import WeightsSource, folder_source, release_source

# Fields of timm's pretrained_cfg_overlay that name the caller's own weights; timm loads those.
OWN_WEIGHTS = {'file', 'url', 'state_dict', 'hf_hub_id'}
# Sources of a pretrained_cfg that timm read from a config.json.
FOLDER_SOURCES = ('local-dir', 'hf-hub')
# What is written before the name of a folder or a repository.
HUB_PREFIXES = ('hf-hub', 'hf_hub')
FOLDER_PREFIXES = ('local-dir', *HUB_PREFIXES)
# Arguments of a network whose classifier is not loaded.
WITHOUT_WEIGHTS = {'backbone_pretrained': False, 'backbone_checkpoint': None}


def create_model(
    name: str | os.PathLike,
    pretrained: bool = False,
    *,
    num_classes: int | None = None,
    reset_head: bool = False,
    backbone_pretrained: bool = False,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    **kwargs: Any,
) -> FCAM:
    """Create an F-CAM.

    Args:
        name: One of
            - `fcam_<backbone>.<teacher>_<dataset>`, a name of `list_models`;
            - `fcam_<backbone>_<dataset>`, the best released teacher of that data set;
            - `fcam_<backbone>`, or 'fcam' with backbone=<any timm name>, which are untrained; with `pretrained`,
              `fcam_<backbone>` is the released model of this architecture if there is only one;
            - a model folder such as 'runs/birds/best', also written 'local-dir:<folder>', or 'hf-hub:<org>/<name>',
              optionally with '@<branch, tag or commit>'; these always load their weights.
        pretrained: Load the released weights.
        num_classes: Number of classes; default: that of the data set, of the folder, or 1000.
        reset_head: If num_classes differs from that of the weights, keep a fresh head instead of raising an error.
        backbone_pretrained: Load timm's weights into the backbone (network or cache). Ignored if the weights of the
            F-CAM include the backbone; implied if they do not, unless backbone_checkpoint is given.
        cache_dir: Download folder; default: that of the Hub's client (HF_HOME).
        local_files_only: Load the weights of the F-CAM from the cache only; do not download them.
        **kwargs: Further arguments of `FCAMConfig`.

    Returns:
        The model; in eval mode if weights were loaded.

    Raises:
        TypeError: For a name or flag of another type.
        UnknownModelError: For a name that does not exist or has no released weights; the message lists released ones.
        FileNotFoundError: For a local folder or checkpoint that does not exist.
        HubError: When the Hub cannot provide a file.
        WeightsError: When weights are altered, truncated, or do not fit.
    """
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(name, str):
        raise TypeError(f'name is {show(name)}: give a model name, see fcam_zoo.list_models()')
    if 'self' in kwargs:
        raise UnknownModelError('an F-CAM has no argument self: remove it')
    pretrained = as_flag(pretrained, 'pretrained')
    backbone_pretrained = as_flag(backbone_pretrained, 'backbone_pretrained')
    source, architecture, tag = None, name, None
    if pretrained or ':' in name or is_folder_name(name):
        source = find_source(name, cache_dir, local_files_only)
        architecture = source.architecture
    elif (parts := names().get(best_of_hub_name(name))) is not None:
        architecture, tag = parts.architecture, parts.tag
    elif name != 'fcam' and name not in ARCHITECTURES:
        raise no_weights(name)
    arguments = {'num_classes': num_classes, 'backbone_pretrained': backbone_pretrained or None, **kwargs}
    model = create_fcam(
        architecture,
        source=source,
        pretrained_cfg=tag,
        cache_dir=cache_dir,
        reset_head=reset_head,
        # As in timm, None stands for the default.
        **{key: value for key, value in arguments.items() if value is not None},
    )
    if source:
        return model.eval()
    if full_name(name) in _index.index():
        warnings.warn(
            f'{name} has random weights here: give pretrained=True to load the released ones',
            UntrainedModelWarning,
            stacklevel=2,
        )
    return model


def is_folder_name(name: str) -> bool:
    """Return whether a name is the path of a model folder, which need not exist: names of the zoo take precedence."""
    if name in ('', 'fcam') or name in ARCHITECTURES or name in names() or name in hub_names():
        return False
    prefix = name.partition(':')[0]
    return prefix not in FOLDER_PREFIXES and ('/' in name or os.sep in name or is_folder(Path(name)))


def find_source(name: str, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False) -> WeightsSource:
    """Find the weights of a name, and download them if needed.

    Args:
        name: A released name, a folder, `local-dir:<folder>`, or `hf-hub:<org>/<name>`, optionally with `@<revision>`.
        cache_dir: Download folder; default: that of the Hub's client.
        local_files_only: Do not download.

    Raises:
        UnknownModelError: When the name has no released weights.
        FileNotFoundError: When the folder or one of its files does not exist.
        HubError: When a file cannot be downloaded.
        WeightsError: When the weights or their config are damaged.
    """
    kind, _, place = name.partition(':')
    if kind in HUB_PREFIXES and place:
        return folder_source(fetch_folder(place, cache_dir=cache_dir, local_files_only=local_files_only))
    if kind == 'local-dir' and place:
        return folder_source(Path(place))
    if is_folder_name(name):
        if not is_folder(Path(name)):
            hint = f'check the path, or write hf-hub:{show(name)[1:-1]} for a repository of the Hub'
            raise FileNotFoundError(f'model folder {short_path(name)} does not exist: {hint}')
        return folder_source(Path(name))
    return release_source(released(name), cache_dir, local_files_only)


def create_fcam(
    architecture: str,
    pretrained: bool = False,
    source: WeightsSource | None = None,
    *,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    reset_head: bool = False,
    **kwargs: Any,
) -> FCAM:
    """Build an F-CAM and load its weights.

    The caller's arguments override those of the weights, which override those of `ARCHITECTURES`.

    Args:
        architecture: 'fcam' or a key of `ARCHITECTURES`.
        pretrained: Find and load the weights of pretrained_cfg (timm's configuration, or its tag).
        source: Weights to load, if the caller found them already.
        **kwargs: Arguments of `create_model`, of timm's `build_model_with_cfg`, and of `FCAM`.
    """
    if kwargs.get('features_only'):
        raise UnknownModelError(f'{architecture} has no features_only: use its backbone, or model.encode(x).levels')
    # timm reads config.json itself, and adds its model_args to the caller's arguments.
    with reading(f'config.json of {architecture}', WeightsError, 'save the model again'):
        check_model_args(kwargs.get('pretrained_model_args') or {})
        if isinstance(pretrained_cfg, dict) and source is None and pretrained_cfg.get('source') in FOLDER_SOURCES:
            check_timm_cfg(pretrained_cfg)
    if not isinstance(pretrained_cfg_overlay, (dict, type(None))):
        raise TypeError(f'pretrained_cfg_overlay is {show(pretrained_cfg_overlay)}: give fields by name')
    overlay = dict(pretrained_cfg_overlay or {})
    if pretrained and source is None and OWN_WEIGHTS.isdisjoint(overlay):
        source = _timm_source(architecture, pretrained_cfg, cache_dir, local_files_only)
    arguments = {**ARCHITECTURES.get(architecture, {}), **(source.arguments if source else {}), **kwargs}
    if source:
        pretrained_cfg = source.pretrained_cfg
        arguments.update(source.classifier_arguments(arguments, reset_head))
    if architecture == 'fcam' and not isinstance(pretrained_cfg, (dict, PretrainedCfg)):
        overlay = {**_backbone_cfg(check_name(arguments.get('backbone', 'resnet50'))), **overlay}
    build = functools.partial(
        build_model_with_cfg,
        # timm does not pass its cache_dir on to the model.
        functools.partial(FCAM, cache_dir=cache_dir),
        architecture,
        pretrained and source is None,
        pretrained_cfg=pretrained_cfg,  # type: ignore[arg-type]  # timm's annotation lacks tags and None.
        pretrained_cfg_overlay=overlay,
        cache_dir=cache_dir,  # type: ignore[arg-type]  # Any path works.
    )
    if source and not source.released:
        # Without memory first, because a config can describe a much larger network than the file holds.
        with reading(source.path.with_name(CONFIG), WeightsError, 'save the model again'), torch.device('meta'):
            build(**{**arguments, **WITHOUT_WEIGHTS}).check_weights(source.path, reset_head)
    model = build(**arguments)
    if source:
        model.load_weights(source.path, reset_head)
        if not reset_head:
            source.check_classifier(model)
    model.drop_stale_label_names()
    # timm's own push writes them to config.json.
    model._model_args = model.model_args
    return model


def _timm_source(
    architecture: str,
    cfg: str | dict[str, Any] | PretrainedCfg | None,
    cache_dir: str | os.PathLike | None,
    local_files_only: bool,
) -> WeightsSource | None:
    """Resolve timm's arguments: an architecture and a tag, or the pretrained_cfg of a folder or repository.

    Returns:
        None for a pretrained_cfg that the caller made, whose weights timm loads.
    """
    if isinstance(cfg, dict) and cfg.get('source') in FOLDER_SOURCES:
        place = cfg['file'] if cfg['source'] == 'local-dir' else cfg['hf_hub_id']
        return find_source(f'{cfg["source"]}:{place}', cache_dir, local_files_only)
    if isinstance(cfg, (dict, PretrainedCfg)):
        return None
    default = get_pretrained_cfg(architecture)
    tag = cfg or (default.tag if default else None)
    return find_source(f'{architecture}.{tag}' if tag else architecture, cache_dir, local_files_only)


def _default_cfgs() -> dict[str, dict[str, Any] | PretrainedCfg]:
    """Return the pretrained_cfg of every name; only those of released models name a file."""
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {'fcam': dict(INPUT_CFG)}
    for architecture, arguments in ARCHITECTURES.items():
        base = {**_backbone_cfg(arguments['backbone']), 'license': 'apache-2.0', 'paper_name': 'F-CAM'}
        own = [name for name, parts in names().items() if parts.architecture == architecture]
        tagged = {name: {**base, **_name_cfg(name)} for name in own}
        cfgs.update(tagged or {f'{architecture}.untrained': base})
    return cfgs


def _name_cfg(name: str) -> dict[str, Any]:
    entry = _index.index().get(name)
    if entry is None:
        return {'num_classes': PAPER_DATASETS[names()[name].dataset]}
    classes = {'num_classes': entry.num_classes, 'label_names': tuple(entry.class_names)}
    return {**classes, **_location(entry)}


def _location(entry: _index.ReleaseEntry) -> dict[str, str]:
    """Return the fields of timm's pretrained_cfg for the location of a released file."""
    if entry.hf_hub_id:
        return {'hf_hub_id': entry.hf_hub_id, 'hf_hub_filename': entry.file}
    return {'file': str(_index.weights_dir() / entry.file)}


def _backbone_cfg(backbone: str) -> dict[str, Any]:
    cfg = get_pretrained_cfg(backbone)
    return prefixed(cfg.to_dict() if cfg else {})


default_cfgs = generate_default_cfgs(_default_cfgs())


@register_model
def fcam(pretrained: bool = False, **kwargs: Any) -> FCAM:
    """F-CAM on any timm network: `backbone='<timm name>'`."""
    return create_fcam('fcam', pretrained, **kwargs)


@register_model
def fcam_resnet50(pretrained: bool = False, **kwargs: Any) -> FCAM:
    """F-CAM on ResNet-50, output stride 8 (the paper's)."""
    return create_fcam('fcam_resnet50', pretrained, **kwargs)


@register_model
def fcam_vgg16(pretrained: bool = False, **kwargs: Any) -> FCAM:
    """F-CAM on the VGG16 of the WSOL literature, output stride 8 (the paper's)."""
    return create_fcam('fcam_vgg16', pretrained, **kwargs)


@register_model
def fcam_inception_v3(pretrained: bool = False, **kwargs: Any) -> FCAM:
    """F-CAM on the Inception v3 of the WSOL literature, output stride 8 (the paper's)."""
    return create_fcam('fcam_inception_v3', pretrained, **kwargs)


@register_model
def fcam_mobilenetv1_075_s8(pretrained: bool = False, **kwargs: Any) -> FCAM:
    """F-CAM on MobileNet v1, width 0.75, output stride 8."""
    return create_fcam('fcam_mobilenetv1_075_s8', pretrained, **kwargs)


@register_model
def fcam_mobilenetv1_075(pretrained: bool = False, **kwargs: Any) -> FCAM:
    """F-CAM on MobileNet v1, width 0.75, with the FPN decoder."""
    return create_fcam('fcam_mobilenetv1_075', pretrained, **kwargs)


@register_model
def fcam_mobilenetv1_025(pretrained: bool = False, **kwargs: Any) -> FCAM:
    """F-CAM on MobileNet v1, width 0.25, with the FPN decoder."""
    return create_fcam('fcam_mobilenetv1_025', pretrained, **kwargs)
