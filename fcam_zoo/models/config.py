"""`FCAMConfig`: the arguments of an F-CAM, used by `FCAM`, `wrap`, `create_model` and config.json."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import WeightsError

MAX_COUNT = 2**16
# Arguments of the timm network that the F-CAM sets itself.
SET_BY_FCAM = {'num_classes', 'in_chans', 'output_stride', 'pretrained'}
# Arguments of timm.create_model that choose files and downloads.
FILE_ARGUMENTS = {'pretrained', 'pretrained_cfg', 'pretrained_cfg_overlay', 'checkpoint_path', 'cache_dir'}
# Fields that a config.json must not set, because only the caller chooses paths.
CALLER_ONLY = {'backbone_checkpoint', 'cache_dir'}
# Fields that are not recorded in model_args of config.json: how a model was loaded, and num_classes (its own key).
NOT_RECORDED = CALLER_ONLY | {'backbone_pretrained', 'frozen', 'num_classes'}


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_COUNT


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _are_channels(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and 0 < len(value) <= 16 and all(map(_is_count, value))


def _check(is_valid: Callable[[Any], bool], expected: str) -> dict[str, Any]:
    """Return the metadata of a field: its check and the expected value. None is valid where it is the default."""
    return {'is_valid': is_valid, 'expected': expected}


_NAME = _check(lambda value: isinstance(value, str), 'a timm name')
_COUNT = _check(_is_count, f'a whole number from 1 to {MAX_COUNT}')
_CHANNELS = _check(_are_channels, 'a list of 1 to 16 channel numbers')
_SHARE = _check(_is_share, 'a number from 0 to 1')
_BOOL = _check(lambda value: isinstance(value, bool), 'true or false')
_DICT = _check(lambda value: isinstance(value, dict), 'a dict')
_PATH = _check(lambda value: isinstance(value, (str, os.PathLike)), 'a path')


@dataclass
class FCAMConfig:
    """Arguments of an F-CAM.

    Attributes:
        backbone: timm name.
        num_classes: Number of classes K; default: 1000, or that of a wrapped classifier.
        in_chans: Channels of the images.
        output_stride: Stride of the last feature map, reached by removing strides; default: the network's own.
        dilated: Reach output_stride with timm's dilation instead.
        decoder_channels: Channels of each decoder block; default: by the size of the backbone.
        center: Add two convolutions before the first decoder block; default: only for VGG, as in the paper.
        threshold: Threshold tau of `localize`, relative to the maximum of the F-CAM; training selects it on val.
        backbone_kwargs: Further arguments of the timm network.
        frozen: Start with the classifier frozen, as in the decoder stage.
        backbone_pretrained: Load timm's weights into the backbone (network or cache).
        backbone_checkpoint: Load a local safetensors file into the backbone instead.
        cache_dir: Folder for timm's downloads.

    Raises:
        ValueError: For a value of the wrong type or out of range; the message names the argument.
    """

    backbone: str = field(default='resnet50', metadata=_NAME)
    num_classes: int | None = field(default=None, metadata=_COUNT)
    in_chans: int = field(default=3, metadata=_COUNT)
    output_stride: int | None = field(default=None, metadata=_COUNT)
    dilated: bool = field(default=False, metadata=_BOOL)
    decoder_channels: Sequence[int] | None = field(default=None, metadata=_CHANNELS)
    center: bool | None = field(default=None, metadata=_BOOL)
    threshold: float = field(default=0.5, metadata=_SHARE)
    backbone_kwargs: dict[str, Any] | None = field(default=None, metadata=_DICT)
    frozen: bool = field(default=True, metadata=_BOOL)
    backbone_pretrained: bool = field(default=False, metadata=_BOOL)
    backbone_checkpoint: str | os.PathLike | None = field(default=None, metadata=_PATH)
    cache_dir: str | os.PathLike | None = field(default=None, metadata=_PATH)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not (value is None and f.default is None) and not f.metadata['is_valid'](value):
                raise ValueError(f'{f.name} is {repr(value)[:60]}: give {f.metadata["expected"]}')
        if self.dilated and self.output_stride is None:
            raise ValueError('dilated=True needs output_stride: give 8 or 16')
        if taken := sorted(SET_BY_FCAM & (self.backbone_kwargs or {}).keys()):
            raise ValueError(f'backbone_kwargs holds {", ".join(taken)}: give it as an argument of the F-CAM instead')

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments that build the same network again, for model_args of config.json."""
        recorded = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in NOT_RECORDED}
        if not self.backbone_kwargs:
            del recorded['backbone_kwargs']
        return recorded


def check_model_args(arguments: Any, source: str) -> None:
    """Validate the model_args of a config.json before use.

    Args:
        arguments: The JSON value.
        source: File name for messages.

    Raises:
        WeightsError: For an argument that is unknown, has a wrong value, or would choose a file.
    """
    if not isinstance(arguments, dict):
        raise WeightsError(f'{source}: model_args is {type(arguments).__name__}, it must be an object')
    allowed = {f.name for f in fields(FCAMConfig)} - CALLER_ONLY
    if unknown := sorted(arguments.keys() - allowed):
        raise WeightsError(f'{source}: a config cannot set the model argument {", ".join(map(repr, unknown))}')
    try:
        FCAMConfig(**arguments)
    except ValueError as e:
        raise WeightsError(f'{source}: model_args: {e}') from e
    if reaching := sorted(FILE_ARGUMENTS & (arguments.get('backbone_kwargs') or {}).keys()):
        raise WeightsError(f'{source}: a config cannot set {", ".join(reaching)} in backbone_kwargs')
