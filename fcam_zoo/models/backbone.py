"""Any timm network as the frozen part of an F-CAM: a feature pyramid, and a classification head on its last map."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import UnknownModelError, WeightsError
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
        close = timm.list_models(f'*{name.split("_")[0].split(".")[0]}*')[:5]
        hint = f'; similar: {", ".join(close)}' if close else ''
        raise UnknownModelError(f'timm has no backbone {name!r}{hint}. timm.list_models() gives them all')
    if dilated and output_stride is not None:
        kwargs['output_stride'] = output_stride
    try:
        net = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, cache_dir=cache_dir, **kwargs
        )
    except TypeError as e:
        raise UnknownModelError(f'backbone {name!r} does not take these arguments: {e}') from e
    except RuntimeError as e:
        if not pretrained:
            raise
        raise UnknownModelError(
            f'no pretrained weights of backbone {name!r} ({e}): name a timm tag that has some, or give a local file '
            'with backbone_checkpoint'
        ) from e
    if checkpoint is not None:
        load_checkpoint(net, checkpoint)
    if output_stride is not None and not dilated:
        remove_strides(net, trace_strides(net, net.forward_features, in_chans=in_chans), output_stride)
    return net


def load_checkpoint(net: nn.Module, path: str | os.PathLike) -> None:
    """Load a local safetensors checkpoint into a timm network; a head of another class count keeps its fresh weights.

    Raises:
        FileNotFoundError: When there is no such file.
        WeightsError: When it is no safetensors file, or its keys or shapes do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'backbone checkpoint {path} does not exist')
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as e:
        raise WeightsError(f'{path} is not a readable safetensors file ({e}): download it again') from e
    head = net.pretrained_cfg.get('classifier')
    own = net.state_dict()
    for key in (f'{head}.weight', f'{head}.bias'):
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


class Pyramid:
    """How to run a timm network as a feature pyramid: which levels, their channels, and its head.

    Attributes:
        channels: Of each level, from high to low resolution.
        first_stride: Stride of the first level.
        linear_head: The head is average pooling and one linear layer, so class maps have a closed form.
    """

    def __init__(self, net: nn.Module, in_chans: int = 3) -> None:
        name = type(net).__name__
        if not hasattr(net, 'forward_intermediates') or not hasattr(net, 'forward_head'):
            raise UnknownModelError(f'{name} has no forward_intermediates and forward_head: it is not a timm network')
        # Level 0 of networks such as VGG is at full resolution; the decoder never uses it.
        info = net.feature_info
        levels = list(info.get_dicts() if hasattr(info, 'get_dicts') else info)
        self.indices = [i for i, level in enumerate(levels) if level['reduction'] > 1]
        self.channels = [levels[i]['num_chs'] for i in self.indices]
        self.first_stride = levels[self.indices[0]]['reduction']
        self.linear_head = self._has_linear_head(net, in_chans)

    @staticmethod
    @torch.no_grad()
    def _has_linear_head(net: nn.Module, in_chans: int) -> bool:
        if not isinstance(net.get_classifier(), nn.Linear):
            return False
        modes = [(m, m.training) for m in net.modules()]
        net.eval()
        try:
            parameter = next(net.parameters())
            features = net.forward_features(torch.zeros(1, in_chans, 64, 64).to(parameter))
            if features.ndim != 4:
                return False
            features = torch.rand(features.shape, generator=torch.Generator().manual_seed(0)).to(parameter)
            pooled = net.forward_head(features, pre_logits=True)
            mean = features.mean((2, 3))
            return pooled.shape == mean.shape and torch.allclose(pooled, mean, atol=1e-5)
        finally:
            for m, mode in modes:
                m.training = mode
