"""timm's side of the zoo: pretrained_cfg of every name, and one entry point for each architecture."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
)

from .. import _index
from .._names import ModelName
from ..errors import UnknownModelError
from .config import check_model_args
from .fcam import FCAM, INPUT_CFG, prefixed
from .source import WeightsSource, timm_source
from .table import ARCHITECTURES, PAPER_DATASETS, names

# Fields of timm's pretrained_cfg_overlay by which callers name their own weights, which timm loads.
OWN_WEIGHTS = {'file', 'url', 'state_dict', 'hf_hub_id'}


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
    """Build an F-CAM and load its weights; the caller's arguments override those of the weights, and these the table's.

    Args:
        architecture: 'fcam' or a key of `ARCHITECTURES`.
        pretrained: Find the weights of pretrained_cfg (timm's configuration, or its tag) and load them.
        source: Weights to load, already found.
        **kwargs: Of `create_model`, timm's `build_model_with_cfg`, and `FCAM`.
    """
    if kwargs.get('features_only'):
        raise UnknownModelError(f'{architecture} has no features_only: use its backbone, or model.encode(x).levels')
    check_model_args(kwargs.get('pretrained_model_args') or {}, f'config.json of {architecture}')
    overlay = dict(pretrained_cfg_overlay or {})
    if pretrained and source is None and OWN_WEIGHTS.isdisjoint(overlay):
        source = timm_source(architecture, pretrained_cfg, cache_dir, local_files_only)
    arguments = {**ARCHITECTURES.get(architecture, {}), **(source.arguments if source else {}), **kwargs}
    if source:
        pretrained_cfg = source.pretrained_cfg
        arguments.update(source.classifier_arguments(arguments, reset_head))
    if architecture == 'fcam' and not isinstance(pretrained_cfg, (dict, PretrainedCfg)):
        overlay = {**_backbone_cfg(arguments.get('backbone', 'resnet50')), **overlay}
    model = build_model_with_cfg(
        # timm does not pass its cache_dir on to the model.
        partial(FCAM, cache_dir=cache_dir),
        architecture,
        pretrained and source is None,
        pretrained_cfg=pretrained_cfg,  # type: ignore[arg-type]  # timm's annotation lacks tags and None.
        pretrained_cfg_overlay=overlay,
        cache_dir=cache_dir,  # type: ignore[arg-type]  # Any path works.
        **arguments,
    )
    if source:
        model.load_weights(source.path, reset_head)
        if not reset_head:
            source.check_classifier(model)
    model.drop_stale_label_names()
    # What timm's own push writes to config.json.
    model._model_args = model.model_args
    return model


def _default_cfgs() -> dict[str, dict[str, Any] | PretrainedCfg]:
    """pretrained_cfg of every name; only released ones name a file."""
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {'fcam': dict(INPUT_CFG)}
    for architecture, arguments in ARCHITECTURES.items():
        base = {**_backbone_cfg(arguments['backbone']), 'license': 'apache-2.0', 'paper_name': 'F-CAM'}
        tagged = {name: {**base, **_name_cfg(name)} for name in names() if name.startswith(f'{architecture}.')}
        cfgs.update(tagged or {f'{architecture}.untrained': base})
    return cfgs


def _name_cfg(name: str) -> dict[str, Any]:
    entry = _index.index().get(name)
    if entry is None:
        return {'num_classes': PAPER_DATASETS[ModelName.parse(name).dataset]}
    classes = {'num_classes': entry.num_classes, 'label_names': tuple(entry.class_names)}
    return {**classes, **_location(entry)}


def _location(entry: _index.ReleaseEntry) -> dict[str, str]:
    """Fields of timm's pretrained_cfg that say where a released file is."""
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
    """F-CAM on MobileNet v1, width 0.75, output stride 16."""
    return create_fcam('fcam_mobilenetv1_075', pretrained, **kwargs)


@register_model
def fcam_mobilenetv1_025(pretrained: bool = False, **kwargs: Any) -> FCAM:
    """F-CAM on MobileNet v1, width 0.25, output stride 16."""
    return create_fcam('fcam_mobilenetv1_025', pretrained, **kwargs)
