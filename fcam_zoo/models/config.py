"""`FCAMConfig`: the arguments of an F-CAM, used by `FCAM`, `wrap`, `create_model` and config.json."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from .. import wsol
from .._schema import BelowOne, InvalidValue, Rule, between, build, check, length, show
from ..cams.methods import VARIANTS
from .backbone_arguments import check_backbone_arguments, check_backbone_name

# Arguments of the timm network that the F-CAM sets itself.
SET_BY_FCAM = {'num_classes', 'in_chans', 'output_stride', 'pretrained'}
# Fields that say how a model was loaded. They are not recorded in model_args of config.json, which must not set them.
LOADING = {'backbone_checkpoint', 'cache_dir', 'backbone_pretrained', 'frozen'}

MAX_CLASSES = 2**16
Classes = Annotated[int, between(1, MAX_CLASSES)]
Stride = Annotated[int, between(1, 64)]
Channels = Annotated[Sequence[Annotated[int, between(1, 1024)]], length(1, 16)]
ImageChannels = Annotated[int, between(1, 64)]
DecoderType = Literal['unet', 'fpn']
Name = Annotated[str, Rule(bool, 'give a timm name')]
Variant = Annotated[str, Rule(VARIANTS.__contains__, f'choose one of {", ".join(VARIANTS)}')]


@dataclass
class FCAMConfig:
    """Arguments of an F-CAM.

    Attributes:
        backbone: timm name.
        num_classes: Number of classes K; default: 1000, or that of a wrapped classifier.
        in_chans: Channels of the images.
        output_stride: Stride of the last feature map, reached by removing strides; default: the network's own.
        dilated: Reach output_stride with timm's dilation instead.
        decoder_type: 'unet', the decoder of the paper, or 'fpn', a lighter one.
        decoder_channels: Channels of each decoder block; default: by the size of the backbone, or one for each level of
            the fpn decoder.
        center: Add two convolutions before the first block of the unet decoder; default: only for VGG, as in the paper.
        threshold: Threshold tau of `localize`, relative to the maximum of the F-CAM; training selects it on val.
        cam_variant: Variant of Grad-CAM++ and Smooth Grad-CAM++ of its class maps (see `cams.methods`).
        backbone_kwargs: Further arguments of the timm network. Only `BACKBONE_ARGUMENTS` can be saved and loaded.
        method: Training method of the classifier, whose modules and class map the model has: a name of `wsol.METHODS`,
            or its name and settings (see `wsol.complete_settings`); None for the plain classifier.
        frozen: Start with the classifier frozen, as in the decoder stage.
        backbone_pretrained: Load timm's weights into the backbone (network or cache).
        backbone_checkpoint: Load a local safetensors file into the backbone instead.
        cache_dir: Folder for timm's downloads.

    Raises:
        ValueError: For a value of the wrong type or out of range; the message names the argument.
    """

    backbone: Name = 'resnet50'
    num_classes: Classes | None = None
    in_chans: ImageChannels = 3
    output_stride: Stride | None = None
    dilated: bool = False
    decoder_type: DecoderType = 'unet'
    decoder_channels: Channels | None = None
    center: bool | None = None
    threshold: BelowOne = 0.5
    cam_variant: Variant = 'published'
    backbone_kwargs: dict[str, Any] | None = None
    method: str | dict[str, Any] | None = None
    frozen: bool = True
    backbone_pretrained: bool = False
    backbone_checkpoint: str | os.PathLike | None = None
    cache_dir: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        check(self)
        self.method = wsol.complete_settings(self.method)
        if self.dilated and self.output_stride is None:
            raise ValueError('dilated=True needs output_stride: give 8 or 16')
        if taken := sorted(SET_BY_FCAM & (self.backbone_kwargs or {}).keys()):
            raise ValueError(f'backbone_kwargs holds {", ".join(taken)}: give it as an argument of the F-CAM instead')

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments that build the same network again, for model_args of config.json."""
        recorded = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in LOADING | {'num_classes'}}
        # Left out if they have no effect, so that earlier versions read the record, too.
        defaults: dict[str, Any] = {'backbone_kwargs': {}, 'method': None, 'cam_variant': 'published'}
        return {k: v for k, v in recorded.items() if k not in defaults or (v and v != defaults[k])}


# The fields of model_args.
RECORDED = [f.name for f in fields(FCAMConfig) if f.name not in LOADING]


def check_model_args(arguments: Any, place: str = 'model_args') -> None:
    """Check arguments of an F-CAM that come from a file, such as the model_args of a config.json.

    They can only describe an architecture: no path, no download, and no argument of timm that `BACKBONE_ARGUMENTS`
    does not list.

    Args:
        arguments: The JSON value.
        place: Its name for messages.

    Raises:
        InvalidValue: For an argument that is unknown or has a wrong value.
    """
    if isinstance(arguments, dict):
        for key in arguments.keys() - set(RECORDED):
            raise InvalidValue(f'{place} holds {show(key)}, which a file cannot set: choose from {", ".join(RECORDED)}')
    config = build(FCAMConfig, arguments, place)
    check_backbone_name(config.backbone, f'{place}.backbone')
    check_backbone_arguments(config.backbone_kwargs or {}, f'{place}.backbone_kwargs')
