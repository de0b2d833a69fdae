"""Training settings and their defaults. A recipe is a YAML or JSON file with some of them."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from .. import _index
from ..cams.methods import METHODS, VARIANTS

Schedule = Literal['constant', 'cosine', 'step']
RECIPES = resources.files('fcam_zoo') / 'recipes'


@dataclass
class StageConfig:
    """Settings of both stages; the optimizer is SGD with Nesterov momentum.

    batch_size is the number of images per optimizer step, which `accumulate` backward passes and all processes share.
    schedule 'step' multiplies the learning rates by gamma every step_epochs epochs, down to 1e-7; 'cosine' decays to 0.
    crop_scale, the smallest and the largest share of the image area in a crop, uses `data.ScaleTransform`; without it,
    crops have 7/8 of the side, as in the paper.
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
    crop_scale: list[float] | None = None


@dataclass
class ClassifierConfig(StageConfig):
    """Stage 1: fine-tune the classifier with image labels (F-CAM, Sec. 4.1).

    head_lr is the learning rate of the new head and of head_layers (names of backbone modules). select is the metric on
    val that selects the best epoch.
    """

    head_lr: float = 0.05
    head_layers: list[str] = field(default_factory=list)
    label_smoothing: float = 0.1
    select: Literal['localization', 'accuracy'] = 'accuracy'


@dataclass
class DecoderConfig(StageConfig):
    """Stage 2: train the decoder with the pixel-alignment loss on the frozen classifier (F-CAM, Eq. 3).

    The loss is seed_weight * partial cross-entropy + crf_weight * CRF + size_weight * log-barrier of the size, on
    n_seeds foreground and n_seeds background seeds per image. shift moves the teacher's map by pixels (down, right).

    The defaults of erosion, crf_weight and size_weight were the best in docs/experiments.md, for hundreds of steps on
    two small data sets. The paper's values, which its recipes use, are 11, 1.14e-9 and 0.1. (1.14e-9 is the paper's
    2e-9 on a lattice that yields about 0.57 times the exact kernel.)
    """

    epochs: int = 15
    batch_size: int = 8
    variant: str = 'published'
    shift: list[float] = field(default_factory=lambda: [0.0, 0.0])
    background_fraction: float = 0.5
    erosion: int = 31
    n_seeds: int = 1
    dilation: int = 3
    seed_weight: float = 1.0
    crf_weight: float = 1e-8
    crf_kernel: Literal['auto', 'exact', 'fast'] = 'auto'
    size_weight: float = 0.0


@dataclass
class TrainConfig:
    """All settings of a training: model, data and the two stages. A stage with epochs = 0 is skipped.

    `init` starts from an F-CAM (a released name or `local-dir:FOLDER`) and keeps its backbone, stride and decoder;
    otherwise the backbone settings define a new model. `annotations` are those of val (see `data.open_dataset`).

    Raises:
        ValueError: For a setting with a wrong type or value.
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
        _check(self)
        if self.decoder.seed_weight == self.decoder.crf_weight == self.decoder.size_weight == 0:
            raise ValueError('decoder: seed_weight, crf_weight and size_weight are all 0: set one above 0')
        if self.classifier.epochs == self.decoder.epochs == 0:
            raise ValueError('classifier.epochs and decoder.epochs are both 0: set one above 0')
        if self.init and (self.backbone_checkpoint or self.backbone_pretrained):
            raise ValueError('init loads its own weights: leave out backbone_checkpoint and backbone_pretrained')

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Create a config from JSON values; settings left out keep their defaults.

        Raises:
            ValueError: For an unknown setting, or one with a wrong type or value.
        """
        stages = {name: _create(stage, values[name], f'{name}.') for name, stage in STAGES.items() if name in values}
        return _create(cls, {**values, **stages})

    @classmethod
    def from_file(cls, recipe: str | os.PathLike) -> TrainConfig:
        """Read a recipe: a YAML or JSON file, a packaged recipe (`recipe_names`), or the settings of a released model.

        Raises:
            FileNotFoundError: When the recipe does not exist.
            ValueError: When the file is neither YAML nor JSON, or a setting is wrong.
        """
        if entry := _index.index().get(str(recipe)):
            # The classifier started from timm's weights, which the index does not record as a setting.
            return cls.from_dict({**entry.recipe, 'backbone': entry.backbone, 'backbone_pretrained': True})
        path = RECIPES / f'{recipe}.yaml' if str(recipe) in recipe_names() else Path(recipe)
        if not path.is_file():
            names = ', '.join(recipe_names())
            raise FileNotFoundError(f'recipe {recipe} does not exist: give a file, a released model, or one of {names}')
        try:
            text = path.read_text(encoding='utf-8')
            values = json.loads(text) if text.lstrip().startswith('{') else yaml.safe_load(text)
        except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as e:
            raise ValueError(f'recipe {recipe} is neither YAML nor JSON: {e}') from e
        if not isinstance(values, dict):
            raise ValueError(f'recipe {recipe} contains no settings: write lines like `backbone: resnet50`')
        return cls.from_dict(values)

    def replace(self, changes: dict[str, Any]) -> TrainConfig:
        """Return a config with other values of some settings, which are named by dotted place (`decoder.lr`).

        Raises:
            ValueError: For an unknown setting, or one with a wrong type or value.
        """
        values = self.to_dict()
        for place, value in changes.items():
            parent, dot, key = place.rpartition('.')
            target = values.get(parent) if dot else values
            if not isinstance(target, dict):
                raise _unknown(place, TrainConfig)
            target[key] = value
        return self.from_dict(values)

    def flat(self) -> dict[str, Any]:
        """Return all settings by dotted place."""
        values = self.to_dict()
        for stage in STAGES:
            values.update({f'{stage}.{key}': value for key, value in values.pop(stage).items()})
        return values


def recipe_names() -> list[str]:
    """List the packaged recipes: the grid of the F-CAM paper."""
    return sorted(file.name.removesuffix('.yaml') for file in RECIPES.iterdir() if file.name.endswith('.yaml'))


STAGES = {'classifier': ClassifierConfig, 'decoder': DecoderConfig}
# Settings of earlier versions, and what to do with them.
FORMER = {
    'decoder.alpha': 'rename it to decoder.seed_weight',
    'decoder.crf': 'rename it to decoder.crf_weight',
    'decoder.size': 'rename it to decoder.size_weight',
    'decoder.seeds': 'rename it to decoder.n_seeds',
    'decoder.cell_shift': 'rename it to decoder.shift',
    'decoder.align': 'delete it (see docs/experiments.md) and use decoder.shift',
}


def _create(cls: type, values: Any, prefix: str = '') -> Any:
    if not isinstance(values, dict):
        raise ValueError(f'{prefix.rstrip(".")} is {values!r}: give settings by name')
    for key in values:
        if key not in get_type_hints(cls):
            raise _unknown(f'{prefix}{key}', cls)
    return cls(**values)


def _unknown(place: str, cls: type) -> ValueError:
    if place in FORMER:
        return ValueError(f'{place} is a setting of an earlier version: {FORMER[place]}')
    return ValueError(f'unknown setting {place}: choose one of {", ".join(get_type_hints(cls))}')


Rule = tuple[Callable[[Any], bool], str]
POSITIVE: Rule = (lambda value: value > 0, 'give a positive number')
NOT_NEGATIVE: Rule = (lambda value: value >= 0, 'give 0 or a positive number')
BELOW_1: Rule = (lambda value: 0 <= value < 1, 'give a value in [0,1)')
ODD: Rule = (lambda value: value >= 1 and value % 2 == 1, 'give an odd number of pixels')
# What values other than None must satisfy beyond their types, and how to fix them.
RULES: dict[str, Rule] = {
    **dict.fromkeys(('batch_size', 'accumulate', 'step_epochs', 'lr', 'head_lr', 'gamma'), POSITIVE),
    **dict.fromkeys(('epochs', 'weight_decay', 'workers'), NOT_NEGATIVE),
    **dict.fromkeys(('seed_weight', 'crf_weight', 'size_weight', 'n_seeds'), NOT_NEGATIVE),
    **dict.fromkeys(('momentum', 'label_smoothing'), BELOW_1),
    **dict.fromkeys(('erosion', 'dilation'), ODD),
    'background_fraction': (lambda value: 0 <= value <= 1, 'give a value in [0,1]'),
    'checkpoint_minutes': POSITIVE,
    'crop_scale': (
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
        'give the smallest and the largest share of the area, such as [0.4, 1]',
    ),
    'image_size': (lambda value: value >= 32, 'give at least 32 pixels'),
    'num_classes': (lambda value: value > 0, 'give a positive number, or null to count the classes'),
    'shift': (lambda value: len(value) == 2, 'give two numbers of pixels, down and right'),
    'teacher': (lambda value: value in METHODS, f'choose one of {", ".join(METHODS)}'),
    'variant': (lambda value: value in VARIANTS, f'choose one of {", ".join(VARIANTS)}'),
}
TYPE_NAMES = {str: 'text', int: 'a whole number', bool: 'true or false', dict: 'settings by name'}


def _check(config: Any, prefix: str = '') -> None:
    """Raise ValueError for a wrong type or value; integers become floats where a float is expected."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        has_type, expected = _type_rule(hint)
        if not has_type(value):
            raise ValueError(f'{prefix}{name} is {value!r:.99}: give {expected}')
        if hint in STAGES.values():
            _check(value, f'{name}.')
        if hint is float:
            setattr(config, name, float(value))
        if name in RULES and value is not None:
            holds, fix = RULES[name]
            if not holds(value):
                raise ValueError(f'{prefix}{name} is {value!r}: {fix}')


def _type_rule(hint: Any) -> Rule:
    """Return the test of a type, and what to give instead of a value of another type."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is Literal:
        return lambda value: value in args, ' or '.join(map(repr, args))
    if origin is float:
        # False for NaN, infinity and huge integers, which YAML and JSON can hold.
        return lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max, 'a number such as 0.001'
    if origin is types.UnionType:
        is_item, expected = _type_rule(args[0])
        return lambda value: value is None or is_item(value), expected
    if origin is list:
        is_item, expected = _type_rule(args[0])
        return lambda value: type(value) is list and all(map(is_item, value)), f'a list, each {expected}'
    return lambda value: type(value) is origin, TYPE_NAMES.get(origin, f'a {origin.__name__}')
