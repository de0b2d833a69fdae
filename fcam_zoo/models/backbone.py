"""Timm classifiers by name: their weights, and their output stride."""

from __future__ import annotations

import difflib
import os
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from huggingface_hub.errors import HTTPError

from .._weights import read_weights
from ..errors import UnknownModelError, WeightsError
from .pyramid import UNFIT, run_small
from .stride import remove_strides, trace_strides


def build_backbone(
    name: str,
    num_classes: int,
    in_chans: int = 3,
    output_stride: int | None = None,
    dilated: bool = False,
    pretrained: bool = False,
    checkpoint: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Create a timm classifier, load its weights if asked, and set its output stride.

    Args:
        name: timm name, with or without tag.
        num_classes: Classes of the head; where a checkpoint has another number the head starts anew.
        in_chans: Channels of the image.
        output_stride: Stride of the last feature map; None leaves the network's own.
        dilated: Reach it by timm's dilated form instead of taking strides out.
        pretrained: Load timm's weights of the name, from the network or its cache.
        checkpoint: Local safetensors file in timm's names, instead.
        cache_dir: Folder of timm's downloads.
        **kwargs: Further arguments of the timm network.

    Raises:
        UnknownModelError: For a name that timm does not know or a stride that cannot be had.
        FileNotFoundError: When the checkpoint does not exist.
        WeightsError: When it is no safetensors file or does not fit.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split('.')[0], timm.list_models(), 5)
        hint = f'; similar: {", ".join(close)}' if close else ''
        raise UnknownModelError(f'timm has no backbone {name!r}{hint}. timm.list_models() gives them all')
    try:
        net = _create(
            name,
            {**kwargs, **({'output_stride': output_stride} if dilated and output_stride else {})},
            {'pretrained': pretrained, 'num_classes': num_classes, 'in_chans': in_chans, 'cache_dir': cache_dir},
        )
    except (TypeError, KeyError, AssertionError, NotImplementedError) as e:
        what = f'dilated=True with output_stride={output_stride}' if dilated else 'these arguments'
        raise UnknownModelError(f'backbone {name!r} does not take {what}: {str(e) or type(e).__name__}') from e
    except (RuntimeError, OSError, HTTPError) as e:
        if not pretrained:
            raise UnknownModelError(f'backbone {name!r} cannot be built: {e}') from e
        raise UnknownModelError(
            f'no pretrained weights of backbone {name!r} ({e}): name a timm tag that has some, or give a local file '
            'with backbone_checkpoint'
        ) from e
    if checkpoint is not None:
        load_checkpoint(net, checkpoint)
    if output_stride is not None and not dilated:
        try:
            layers = run_small(net, in_chans, partial(trace_strides, net))
        except UNFIT as e:
            raise UnknownModelError(f'backbone {name!r} cannot be traced: {str(e).splitlines()[0]}') from e
        remove_strides(net, layers, output_stride)
    return net


def _create(name: str, kwargs: dict[str, Any], common: dict[str, Any]) -> nn.Module:
    """timm's create_model; a network of fixed input size is asked to take any, where it can."""
    cfg = timm.models.get_pretrained_cfg(name)
    flexible = ({'dynamic_img_size': True}, {'strict_img_size': False}) if cfg and cfg.fixed_input_size else ()
    for extra in flexible:
        try:
            return timm.create_model(name, **common, **{**extra, **kwargs})
        except TypeError:
            continue
    return timm.create_model(name, **common, **kwargs)


def load_checkpoint(net: nn.Module, path: str | os.PathLike) -> None:
    """Load a local safetensors checkpoint into a timm network; a head of another class count keeps its fresh weights.

    Raises:
        FileNotFoundError: When there is no such file.
        WeightsError: When it is no safetensors file, or its keys or shapes do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'backbone checkpoint {path} does not exist')
    state = read_weights(path)
    if hasattr(net, 'fit_checkpoint'):
        state = net.fit_checkpoint(state)
    heads = net.pretrained_cfg.get('classifier')
    own = net.state_dict()
    for key in (
        f'{h}.{kind}' for h in ([heads] if isinstance(heads, str) else heads or ()) for kind in ('weight', 'bias')
    ):
        if key in state and key in own and state[key].shape != own[key].shape:
            state[key] = own[key]
    # Batch norm's step counters matter only without momentum; many checkpoints leave them out.
    state = {**{k: v for k, v in own.items() if k.endswith('num_batches_tracked')}, **state}
    load_exactly(net, state, path)


def load_exactly(module: nn.Module, state: dict[str, torch.Tensor], source: str | os.PathLike) -> None:
    """Load a state dict after checking all keys and shapes at once.

    Raises:
        WeightsError: Naming the missing, unexpected and misshaped keys.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshaped = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    faults = []
    for what, keys in (('missing', missing), ('unexpected', unexpected)):
        if keys:
            faults.append(f'{len(keys)} {what} ({", ".join(keys[:3])}{", …" if len(keys) > 3 else ""})')
    for key in sorted(misshaped)[:3]:
        faults.append(f'{key} is {tuple(state[key].shape)}, the model has {tuple(own[key].shape)}')
    if faults:
        raise WeightsError(
            f'{source} does not fit this {type(module).__name__}: {"; ".join(faults)}. '
            'Check the architecture and its arguments (num_classes, output_stride, decoder_channels)'
        )
    module.load_state_dict(state)
