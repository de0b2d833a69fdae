"""The config.json of a model folder (timm's Hub format): its schema, and the check of the weights beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
from timm.models import PretrainedCfg

from .._download import CONFIG, WEIGHTS, verify_download
from .._io import is_file, is_folder, short_path
from .._schema import InvalidValue, Rule, between, build, length, read_json, reading, show
from ..errors import WeightsError
from .backbone_arguments import MAX_SIDE, is_fcam
from .config import Classes, ImageChannels, check_model_args

# Fields of timm's pretrained_cfg that locate weights.
LOCATIONS = ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'source')
CFG_FIELDS = {f.name for f in dataclasses.fields(PretrainedCfg)}

_Sha256 = Annotated[
    str, Rule(lambda value: len(value) == 64 and set(value) <= set('0123456789abcdef'), 'give 64 hex digits')
]
_Layer = Annotated[str, Rule(lambda value: len(value) <= 200 and value.isprintable(), 'give the name of a layer')]
_Text = Annotated[str, Rule(lambda value: len(value) <= 1000 and value.isprintable(), 'give one line of text')]
_Side = Annotated[int, between(16, MAX_SIDE)]
_PerChannel = length(1, 64)


@dataclass
class WeightsFacts:
    """Size in bytes and SHA-256 of the weight file, to detect damage."""

    size: Annotated[int, between(1, 2**40)]
    sha256: _Sha256
    file: _Text = WEIGHTS


@dataclass
class InputConfig:
    """The pretrained_cfg of an F-CAM: its input, and the names of its first and last layer.

    Attributes:
        input_size: Channels, height and width of the images in training.
        fixed_input_size: Always false: an F-CAM takes images of any size.
        mean: Mean per channel, or one for all.
        std: Standard deviation per channel, or one for all.
        label_names: Class names by index.
    """

    input_size: tuple[ImageChannels, _Side, _Side] = (3, 224, 224)
    fixed_input_size: Literal[False] = False
    interpolation: Literal['bilinear', 'bicubic', 'nearest', 'lanczos', 'random'] = 'bilinear'
    crop_pct: Annotated[float, between(0, 1)] = 1.0
    crop_mode: Literal['squash', 'center', 'border'] = 'squash'
    mean: Annotated[tuple[Annotated[float, between(-1000, 1000)], ...], _PerChannel] = (0.485, 0.456, 0.406)
    std: Annotated[tuple[Annotated[float, between(1e-6, 1000)], ...], _PerChannel] = (0.229, 0.224, 0.225)
    num_classes: Classes | None = None
    pool_size: tuple[int, ...] | None = None
    first_conv: _Layer | tuple[_Layer, ...] | None = None
    classifier: _Layer | tuple[_Layer, ...] | None = None
    license: _Text | None = None
    custom_load: Literal[False] = False
    label_names: tuple[_Text, ...] | None = None


@dataclass
class FolderConfig:
    """The fields of a config.json that loading uses; others are facts for readers.

    Attributes:
        architecture: timm architecture, `fcam` or `fcam_<backbone>`.
        num_classes: Number of classes.
        pretrained_cfg: timm's configuration of the weights.
        model_args: Arguments of `FCAM`; without them, those of the architecture.
        weights: Size and SHA-256 of the weight file, if recorded.
        label_names: Class names by index.
        holds: 'decoder' if the file only contains the decoder.
    """

    architecture: str
    num_classes: Classes
    pretrained_cfg: InputConfig
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: WeightsFacts | None = None
    label_names: tuple[_Text, ...] | None = None
    holds: Literal['', 'decoder'] = ''

    def __post_init__(self) -> None:
        if not is_fcam(self.architecture) or not timm.is_model(self.architecture):
            hint = 'load a classifier with timm.create_model and add a decoder with fcam_zoo.wrap'
            raise InvalidValue(f'unknown F-CAM architecture {show(self.architecture)}; {hint}')
        check_model_args(self.model_args)
        channels = self.model_args.get('in_chans', 3)
        for key in ('mean', 'std'):
            if len(getattr(self.pretrained_cfg, key)) not in (1, channels):
                raise InvalidValue(f'pretrained_cfg.{key} must have one value for each of the {channels} channels')


def verify_folder(folder: Path) -> FolderConfig:
    """Check the config.json of a model folder, and the weights if the config records their size and SHA-256.

    Returns:
        The config.

    Raises:
        FileNotFoundError: When the folder or one of its files does not exist.
        WeightsError: When the config is damaged or does not describe an F-CAM, or when the weights differ from it.
    """
    if not is_folder(folder):
        raise FileNotFoundError(f'model folder {short_path(folder)} does not exist: check the path')
    for file in (CONFIG, WEIGHTS):
        if not is_file(folder / file):
            best = ' (did you mean its folder best?)' if (folder / 'best' / WEIGHTS).is_file() else ''
            raise FileNotFoundError(f'{folder} has no {file}: a model folder holds {CONFIG} and {WEIGHTS}{best}')
    config = read_config(folder / CONFIG)
    if config.weights is not None:
        verify_download(folder / WEIGHTS, config.weights.size, config.weights.sha256)
    return config


def read_config(path: Path) -> FolderConfig:
    """Read and validate a config.json.

    Raises:
        WeightsError: When it is damaged or does not describe an F-CAM.
    """
    with reading(path, WeightsError, 'save or train the model again'):
        values = read_json(path)
        if not isinstance(values, dict):
            raise InvalidValue(f'the content is {show(values)}: give fields by name')
        known = {f.name for f in dataclasses.fields(FolderConfig)}
        own = {key: value for key, value in values.items() if key in known}
        if isinstance(own.get('pretrained_cfg'), dict):
            own['pretrained_cfg'] = _input_fields(own['pretrained_cfg'])
        return build(FolderConfig, own)


def check_timm_cfg(cfg: Mapping[str, Any]) -> None:
    """Check the pretrained_cfg that timm read from a config.json, to which it adds the location of the folder.

    Raises:
        InvalidValue: As `read_config`.
    """
    own = {key: value for key, value in cfg.items() if key not in LOCATIONS and value is not None}
    build(InputConfig, _input_fields(own), 'pretrained_cfg')


def _input_fields(cfg: dict[str, Any]) -> dict[str, Any]:
    """Leave out the fields of timm's pretrained_cfg that only describe the weights.

    Raises:
        InvalidValue: For a field that locates weights, or that timm does not have.
    """
    for key, value in cfg.items():
        if key not in CFG_FIELDS or (key in LOCATIONS and value is not None):
            raise InvalidValue(f'pretrained_cfg holds {show(key)}, which a file cannot set: remove it')
    known = {f.name for f in dataclasses.fields(InputConfig)}
    return {key: value for key, value in cfg.items() if key in known}
