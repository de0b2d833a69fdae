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

from .._schema import LOW_LEVEL, show
from .._weights import read_weights
from ..errors import UnknownModelError, WeightsError
from .backbone_arguments import is_fcam
from .config import FCAMConfig
from .pyramid import TimmClassifier, run_small
from .stride import remove_strides, trace_strides

# Errors that timm's networks raise for wrong arguments.
BUILD_ERRORS = (*LOW_LEVEL, AssertionError, NotImplementedError)


def check_name(name: Any) -> str:
    """Return the timm name of a backbone; raise TypeError for another type."""
    if not isinstance(name, str):
        raise TypeError(f"backbone is {show(name)}: give a timm name such as 'resnet50'")
    return name


def build_backbone(config: FCAMConfig) -> TimmClassifier:
    """Create a timm classifier, load its weights if requested, and set its output stride.

    Raises:
        UnknownModelError: For a name that timm does not have, or for arguments that the network does not support.
        FileNotFoundError: When the checkpoint does not exist.
        WeightsError: When the checkpoint is damaged or does not fit.
    """
    name, pretrained = config.backbone, config.backbone_pretrained
    if is_fcam(name):
        raise UnknownModelError(f'backbone {show(name)} is an F-CAM: give the name of a timm classifier')
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split('.')[0][:100], timm.list_models(), 5)
        hint = f' Did you mean {" or ".join(close)}?' if close else ''
        raise UnknownModelError(f'timm has no backbone {show(name)}.{hint} timm.list_models() lists all')
    try:
        net = _create(config)
    except BUILD_ERRORS as e:
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
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises OSError for a name that is too long)
        raise FileNotFoundError(f'backbone checkpoint {show(str(path), 300)} does not exist: check the path')
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


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the state dict of a module."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def check_shapes(
    found: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]], name: str, source: str | os.PathLike
) -> None:
    """Compare the keys and shapes of a file with those of a network.

    Args:
        found: Shapes in the file.
        own: Shapes in the network.
        name: Name of the network for messages.
        source: The file.

    Raises:
        WeightsError: When they differ; the message lists missing, unexpected and misshaped keys.
    """
    problems = []
    for what, keys in (('missing', own.keys() - found.keys()), ('unexpected', found.keys() - own.keys())):
        if keys:
            listed = ', '.join(show(key)[1:-1] for key in sorted(keys)[:3])
            problems.append(f'{len(keys)} {what} ({listed}{", …" if len(keys) > 3 else ""})')
    for key in sorted(k for k in own.keys() & found.keys() if own[k] != found[k])[:3]:
        problems.append(f'{key} is {found[key]}, the model has {own[key]}')
    if problems:
        raise WeightsError(
            f'{source} does not fit this {name}: {"; ".join(problems)}. '
            'Check the architecture and its arguments (num_classes, output_stride, decoder_channels)'
        )


def load_exactly(module: nn.Module, state: dict[str, torch.Tensor], source: str | os.PathLike) -> None:
    """Load a state dict after checking all keys, shapes and values at once.

    Raises:
        WeightsError: When they do not fit; the module is unchanged then.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    check_shapes(shapes, shapes_of(module), type(module).__name__, source)
    load_finite(module, state, source)


def load_finite(module: nn.Module, state: dict[str, torch.Tensor], source: str | os.PathLike) -> None:
    """Load tensors, whose keys and shapes are those of the module, after checking their values.

    Raises:
        WeightsError: When a value is NaN or infinite, or a type differs; the module is unchanged then.
    """
    own = module.state_dict()
    for key, value in state.items():
        dtype = own[key].dtype
        if value.is_complex() or value.is_floating_point() != dtype.is_floating_point:
            raise WeightsError(f'{source}: {key} has the type {value.dtype}, the model has {dtype}: save it again')
        # Converted first, because a float64 can exceed the largest float32.
        if not value.to(dtype).isfinite().all():
            raise WeightsError(f'{source}: {key} holds NaN or infinite values: train or download the weights again')
    module.load_state_dict(state, strict=False)
