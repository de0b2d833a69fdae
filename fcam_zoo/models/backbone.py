"""Create timm classifiers: weights, checkpoints and output stride."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn as nn
from huggingface_hub.errors import HTTPError

from .._weights import read_weights
from ..errors import UnknownModelError, WeightsError
from .config import FCAMConfig
from .pyramid import TimmClassifier, run_small
from .stride import remove_strides, trace_strides


def build_backbone(config: FCAMConfig) -> TimmClassifier:
    """Create a timm classifier, load its weights if requested, and set its output stride.

    Raises:
        UnknownModelError: For a name that timm does not have, or for arguments that the network does not support.
        FileNotFoundError: When the checkpoint does not exist.
        WeightsError: When the checkpoint is damaged or does not fit.
    """
    name, pretrained = config.backbone, config.backbone_pretrained
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split('.')[0], timm.list_models(), 5)
        hint = f'; similar: {", ".join(close)}' if close else ''
        raise UnknownModelError(f'timm has no backbone {name!r}{hint}. timm.list_models() lists all')
    try:
        net = _create(config)
    except (TypeError, KeyError, AssertionError, NotImplementedError) as e:
        what = f'dilated=True with output_stride={config.output_stride}' if config.dilated else 'these arguments'
        raise UnknownModelError(
            f'backbone {name!r} does not support {what}: {str(e) or type(e).__name__}; change or remove them'
        ) from e
    except (RuntimeError, OSError, HTTPError) as e:
        if not pretrained:
            raise UnknownModelError(f'backbone {name!r} cannot be built: {e}') from e
        raise UnknownModelError(
            f'cannot get the pretrained weights of backbone {name!r} ({e}): check the connection and that timm has '
            'weights for this name, or give a local file with backbone_checkpoint'
        ) from e
    if config.backbone_checkpoint is not None:
        load_checkpoint(net, config.backbone_checkpoint)
    if config.output_stride is not None and not config.dilated:
        layers = run_small(net, config.in_chans, partial(trace_strides, net))
        remove_strides(net, layers, config.output_stride)
    return net


def _create(config: FCAMConfig) -> TimmClassifier:
    """Call timm's create_model; networks of fixed input size are made to accept any size, if they support it."""
    common: dict[str, Any] = {
        'pretrained': config.backbone_pretrained,
        'num_classes': 1000 if config.num_classes is None else config.num_classes,
        'in_chans': config.in_chans,
        'cache_dir': config.cache_dir,
    }
    stride = {'output_stride': config.output_stride} if config.dilated else {}
    kwargs = {**stride, **(config.backbone_kwargs or {})}
    cfg = timm.models.get_pretrained_cfg(config.backbone)
    flexible = ({'dynamic_img_size': True}, {'strict_img_size': False}) if cfg and cfg.fixed_input_size else ()
    for extra in flexible:
        try:
            return cast('TimmClassifier', timm.create_model(config.backbone, **common, **{**extra, **kwargs}))
        except TypeError:
            continue
    return cast('TimmClassifier', timm.create_model(config.backbone, **common, **kwargs))


def load_checkpoint(net: TimmClassifier, path: str | os.PathLike) -> None:
    """Load a local safetensors checkpoint into a timm network; a head with another number of classes is not loaded.

    Raises:
        FileNotFoundError: When the file does not exist.
        WeightsError: When it is not a safetensors file, or its keys or shapes do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'backbone checkpoint {path} does not exist: check the path')
    state, own = read_weights(path), net.state_dict()
    if hasattr(net, 'fit_checkpoint'):
        state = net.fit_checkpoint(state)
    for key in head_parameters(net.pretrained_cfg):
        if key in state and key in own and state[key].shape != own[key].shape:
            state[key] = own[key]
    # Many checkpoints lack the step counters of batch norm, which matter only without momentum.
    state = {**{k: v for k, v in own.items() if k.endswith('num_batches_tracked')}, **state}
    load_exactly(net, state, path)


def head_parameters(cfg: Mapping[str, Any]) -> list[str]:
    """Return the parameter names of the layers that a pretrained_cfg names as the classifier."""
    layers = cfg.get('classifier') or ()
    return [
        f'{layer}.{kind}' for layer in ([layers] if isinstance(layers, str) else layers) for kind in ('weight', 'bias')
    ]


def check_num_classes(path: Path, found: int, wanted: int | None, reset_head: bool) -> None:
    """Check that the requested number of classes equals that of the weights, unless the head is reset.

    Raises:
        WeightsError: When they differ.
    """
    if wanted not in (None, found) and not reset_head:
        raise WeightsError(
            f'{path} has {found} classes, but num_classes={wanted} was requested: leave num_classes out, or give '
            'reset_head=True to start with a fresh head'
        )


def load_exactly(module: nn.Module, state: dict[str, torch.Tensor], source: str | os.PathLike) -> None:
    """Load a state dict after checking all keys and shapes at once.

    Raises:
        WeightsError: When they differ; the message lists missing, unexpected and misshaped keys.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshaped = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    problems = []
    for what, keys in (('missing', missing), ('unexpected', unexpected)):
        if keys:
            problems.append(f'{len(keys)} {what} ({", ".join(keys[:3])}{", …" if len(keys) > 3 else ""})')
    for key in sorted(misshaped)[:3]:
        problems.append(f'{key} is {tuple(state[key].shape)}, the model has {tuple(own[key].shape)}')
    if problems:
        raise WeightsError(
            f'{source} does not fit this {type(module).__name__}: {"; ".join(problems)}. '
            'Check the architecture and its arguments (num_classes, output_stride, decoder_channels)'
        )
    module.load_state_dict(state)
