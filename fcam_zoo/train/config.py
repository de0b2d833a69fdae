"""Every setting of a training, with its default; a recipe is some of these as YAML or JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..cams.methods import VARIANTS, check_method

Schedule = Literal['constant', 'cosine', 'step']
RECIPES = resources.files('fcam_zoo') / 'recipes'


@dataclass
class StageConfig:
    """What both stages have: SGD with Nesterov momentum.

    batch_size counts the images of a step over all processes and, with accumulate > 1, over that many backward passes.
    'step' multiplies the learning rates by gamma every step_epochs epochs, never below 1e-7; 'cosine' falls to 0.
    """

    epochs: int = 7
    batch_size: int = 32
    accumulate: int = 1
    lr: float = 0.01
    schedule: Schedule = 'cosine'
    step_epochs: int = 15
    gamma: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def check(self, name: str) -> None:
        """Raise ValueError for a value out of its range."""
        for key in ('batch_size', 'accumulate', 'step_epochs', 'lr', 'gamma'):
            if getattr(self, key) <= 0:
                raise ValueError(f'{name}.{key} is {getattr(self, key)}: it must be positive')
        for key in ('epochs', 'momentum', 'weight_decay'):
            if getattr(self, key) < 0:
                raise ValueError(f'{name}.{key} is {getattr(self, key)}: it must not be negative')
        if self.momentum >= 1:
            raise ValueError(f'{name}.momentum is {self.momentum}: choose a value in [0,1)')
        if self.batch_size % self.accumulate:
            raise ValueError(f'{name}.batch_size={self.batch_size} cannot be cut into accumulate={self.accumulate}')


@dataclass
class ClassifierConfig(StageConfig):
    """Stage 1: fine-tune the classifier with image labels (F-CAM, Sec. 4.1).

    head_lr is the rate of the new head and of head_layers, modules of the backbone by name. crop_scale, two shares of
    the area, replaces the paper's 256 -> 224 crops by `data.ScaleTransform`.
    """

    head_lr: float = 0.05
    head_layers: list[str] = field(default_factory=list)
    label_smoothing: float = 0.1
    crop_scale: list[float] | None = None
    select: Literal['localization', 'accuracy'] = 'accuracy'

    def check(self, name: str) -> None:
        super().check(name)
        if self.head_lr <= 0:
            raise ValueError(f'{name}.head_lr is {self.head_lr}: it must be positive')
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f'{name}.label_smoothing is {self.label_smoothing}: choose a value in [0,1)')


@dataclass
class DecoderConfig(StageConfig):
    """Stage 2: fine-tune the decoder with the pixel-alignment loss, classifier frozen (F-CAM, Eq. 3).

    The defaults of erosion, crf and size are what docs/experiments.md found best for hundreds of steps on two small
    data sets; the paper's are 11, 1.14e-9 (2e-9 on a lattice that answers 0.57 of our kernel) and 0.1, and its recipes
    have them. cell_shift moves the teacher's map by pixels (down, right).
    """

    epochs: int = 15
    batch_size: int = 8
    variant: str = 'published'
    cell_shift: list[float] = field(default_factory=lambda: [0.0, 0.0])
    crop_scale: list[float] | None = None
    background_fraction: float = 0.5
    erosion: int = 31
    seeds: int = 1
    dilation: int = 3
    alpha: float = 1.0
    crf: float = 1e-8
    crf_kernel: Literal['auto', 'exact', 'fast'] = 'auto'
    size: float = 0.0

    def check(self, name: str) -> None:
        super().check(name)
        if self.variant not in VARIANTS:
            raise ValueError(f'{name}.variant is {self.variant!r}: choose one of {", ".join(VARIANTS)}')
        if len(self.cell_shift) != 2:
            raise ValueError(f'{name}.cell_shift is {self.cell_shift}: give two numbers of pixels, down and right')
        if not 0 <= self.background_fraction <= 1:
            raise ValueError(f'{name}.background_fraction is {self.background_fraction}: choose a value in [0,1]')
        for key in ('erosion', 'dilation'):
            if getattr(self, key) < 1 or getattr(self, key) % 2 == 0:
                raise ValueError(f'{name}.{key} is {getattr(self, key)}: choose an odd number of pixels')
        for key in ('alpha', 'crf', 'size', 'seeds'):
            if getattr(self, key) < 0:
                raise ValueError(f'{name}.{key} is {getattr(self, key)}: it must not be negative')
        if self.alpha == self.crf == self.size == 0:
            raise ValueError(f'{name}: alpha, crf and size are all 0, so that nothing is learnt: give one a weight')


@dataclass
class TrainConfig:
    """A whole training: model, data, and the two stages. epochs = 0 leaves a stage out.

    `init` starts from an F-CAM, released or a `local-dir:`, whose backbone, stride and decoder are kept; otherwise the
    model is built from the backbone settings. `annotations` are those of val (see `data.open_dataset`).
    """

    data: str = ''
    annotations: str | None = None
    init: str | None = None
    backbone: str = 'resnet50'
    backbone_checkpoint: str | None = None
    backbone_pretrained: bool = False
    backbone_kwargs: dict[str, Any] = field(default_factory=dict)
    output_stride: int | None = 16
    dilated: bool = False
    decoder_channels: list[int] | None = None
    num_classes: int | None = None
    teacher: str = 'layercam'
    image_size: int = 224
    seed: int = 0
    skip_bad: bool = False
    keep_epochs: bool = False
    checkpoint_minutes: float = 10.0
    amp: Literal['off', 'bfloat16', 'float16'] = 'off'
    compile: bool = False
    workers: int = 2
    device: str = 'auto'
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        check_method(self.teacher)
        _check_types(self)
        self.classifier.check('classifier')
        self.decoder.check('decoder')
        if self.image_size < 32:
            raise ValueError(f'image_size is {self.image_size}: the smallest is 32')
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(
                f'num_classes is {self.num_classes}: it must be positive, or null for that of the data set'
            )
        if self.workers < 0 or self.checkpoint_minutes <= 0:
            raise ValueError(
                f'workers={self.workers}, checkpoint_minutes={self.checkpoint_minutes}: workers must not be negative, '
                'minutes must be positive'
            )
        if self.init and (self.backbone_checkpoint or self.backbone_pretrained):
            raise ValueError('init brings weights of its own: leave out backbone_checkpoint and backbone_pretrained')

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """From plain values; those left out keep their defaults.

        Raises:
            ValueError: For a key that does not exist or a value of the wrong type or out of its range.
        """
        return _build(cls, _without_align(values))

    @classmethod
    def from_file(cls, recipe: str | os.PathLike) -> TrainConfig:
        """From a recipe: a YAML or JSON file, or the name of one that comes with the package (`recipe_names`).

        Raises:
            FileNotFoundError: When there is no such recipe.
            ValueError: When it is no YAML or JSON, or a setting is wrong.
        """
        path = RECIPES / f'{recipe}.yaml' if str(recipe) in recipe_names() else Path(recipe)
        if not path.is_file():
            names = ', '.join(recipe_names())
            raise FileNotFoundError(f'recipe {recipe} does not exist: give a file or one of {names}')
        try:
            text = path.read_text(encoding='utf-8')
            values = json.loads(text) if text.lstrip().startswith('{') else yaml.safe_load(text)
        except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as e:
            raise ValueError(f'recipe {recipe} is neither YAML nor JSON: {e}') from e
        if not isinstance(values, dict):
            raise ValueError(f'recipe {recipe} holds no settings: write lines like `backbone: resnet50`')
        return cls.from_dict(values)


def recipe_names() -> list[str]:
    """Recipes that come with the package: the paper's grid."""
    return sorted(file.name.removesuffix('.yaml') for file in RECIPES.iterdir() if file.name.endswith('.yaml'))


def set_value(config: dict[str, Any], place: str, value: Any) -> None:
    """Set a dotted place (`decoder.lr`) of the settings as a dictionary.

    Raises:
        ValueError: When there is no such setting.
    """
    *parents, key = place.split('.')
    target: Any = config
    for parent in parents:
        target = target.get(parent) if isinstance(target, dict) else None
    if not isinstance(target, dict) or key not in target:
        raise ValueError(f'no setting {place!r}; settings: {", ".join(config)}, classifier.*, decoder.*')
    target[key] = value


def flat(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """Settings as a dictionary by their dotted places."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found.update(flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value})
    return found


def _without_align(values: dict[str, Any]) -> dict[str, Any]:
    """Drop decoder.align, which earlier versions saved, if it is 'plain' as all that is left."""
    decoder = values.get('decoder') if isinstance(values, dict) else None
    if not isinstance(decoder, dict) or 'align' not in decoder:
        return values
    if decoder['align'] != 'plain':
        raise ValueError(
            f'decoder.align is {decoder["align"]!r}: this setting was removed (see docs/experiments.md): delete it, '
            'and move the teacher map with decoder.cell_shift'
        )
    return {**values, 'decoder': {k: v for k, v in decoder.items() if k != 'align'}}


def _build(cls: type, values: Any) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f'{cls.__name__} takes settings by name, not {values!r}')
    hints = get_type_hints(cls)
    unknown = sorted(map(str, values.keys() - hints.keys()))
    if unknown:
        raise ValueError(f'{cls.__name__} has no setting {", ".join(unknown)}; it has {", ".join(hints)}')
    return cls(**{k: _build(hints[k], v) if dataclasses.is_dataclass(hints[k]) else v for k, v in values.items()})


def _check_types(config: Any, prefix: str = '') -> None:
    """Every value must be of its type; whole numbers pass, and become, numbers. YAML reads 1e-4 as text, for one."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(hint) and isinstance(value, hint):
            _check_types(value, f'{name}.')
        elif hint is float and type(value) is int:
            setattr(config, name, float(value))
        elif not _fits(value, hint):
            wanted = ' or '.join(map(repr, get_args(hint))) if get_origin(hint) is Literal else _type_name(hint)
            raise ValueError(f'{prefix}{name} is {value!r}: give {wanted}')


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in args
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        # NaN and infinity, which JSON and YAML can hold, would pass every comparison or none.
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _type_name(hint: Any) -> str:
    names = {str: 'text', int: 'a whole number', float: 'a number such as 0.001', bool: 'true or false'}
    if get_origin(hint) is dict:
        return 'settings by name'
    if get_origin(hint) in (Union, types.UnionType):
        return ' or '.join(_type_name(arg) for arg in get_args(hint) if arg is not type(None))
    if get_origin(hint) is list:
        return f'a list, each {_type_name(get_args(hint)[0])}'
    return names.get(hint, f'a {hint.__name__}')
