"""Training settings and their defaults. A recipe is a YAML or JSON file with some of them."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..cams.methods import METHODS, VARIANTS

Schedule = Literal['constant', 'cosine', 'step']
RECIPES = resources.files('fcam_zoo') / 'recipes'


@dataclass
class StageConfig:
    """Settings of both stages; the optimizer is SGD with Nesterov momentum.

    batch_size counts the images of one optimizer step, over all processes and accumulate backward passes.
    schedule 'step' multiplies the learning rates by gamma every step_epochs epochs, down to 1e-7; 'cosine' decays to 0.
    crop_scale, the smallest and largest share of the image area, replaces the paper's 224-of-256 crops with
    `data.ScaleTransform`.
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
        for name, stage in (('classifier', self.classifier), ('decoder', self.decoder)):
            if stage.batch_size % stage.accumulate:
                raise ValueError(
                    f'{name}.batch_size={stage.batch_size} is not a multiple of accumulate={stage.accumulate}'
                )
        if self.decoder.seed_weight == self.decoder.crf_weight == self.decoder.size_weight == 0:
            raise ValueError('decoder: seed_weight, crf_weight and size_weight are all 0: set one above 0')
        if self.classifier.epochs == self.decoder.epochs == 0:
            raise ValueError('classifier.epochs and decoder.epochs are both 0: set one above 0')
        if self.init and (self.backbone_checkpoint or self.backbone_pretrained):
            raise ValueError('init loads its own weights: leave out backbone_checkpoint and backbone_pretrained')

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Create a config from JSON values; settings left out keep their defaults.

        Raises:
            ValueError: For an unknown setting, or one with a wrong type or value.
        """
        return _create(cls, values)

    @classmethod
    def from_file(cls, recipe: str | os.PathLike) -> TrainConfig:
        """Read a recipe: a YAML or JSON file, or the name of a packaged recipe (`recipe_names`).

        Raises:
            FileNotFoundError: When the recipe does not exist.
            ValueError: When the file is neither YAML nor JSON, or a setting is wrong.
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
            raise ValueError(f'recipe {recipe} contains no settings: write lines like `backbone: resnet50`')
        return cls.from_dict(values)


def recipe_names() -> list[str]:
    """List the packaged recipes: the grid of the F-CAM paper."""
    return sorted(file.name.removesuffix('.yaml') for file in RECIPES.iterdir() if file.name.endswith('.yaml'))


def set_value(settings: dict[str, Any], place: str, value: Any) -> None:
    """Set one setting by its dotted place (`decoder.lr`) in settings as a nested dict.

    Raises:
        ValueError: When there is no such setting.
    """
    *parents, key = place.split('.')
    target: Any = settings
    for parent in parents:
        target = target.get(parent) if isinstance(target, dict) else None
    if not isinstance(target, dict) or key not in target:
        raise _unknown(place, [*settings, 'classifier.*', 'decoder.*'])
    target[key] = value


def flatten(settings: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return nested settings as one dict by dotted place."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value})
    return flat


# Settings of earlier versions, and what to do with them.
FORMER = {
    'decoder.alpha': 'rename it to decoder.seed_weight',
    'decoder.crf': 'rename it to decoder.crf_weight',
    'decoder.size': 'rename it to decoder.size_weight',
    'decoder.seeds': 'rename it to decoder.n_seeds',
    'decoder.cell_shift': 'rename it to decoder.shift',
    'decoder.align': 'delete it (see docs/experiments.md) and use decoder.shift',
}


def _unknown(place: str, known: list[str]) -> ValueError:
    if place in FORMER:
        return ValueError(f'{place} is a setting of an earlier version: {FORMER[place]}')
    return ValueError(f'unknown setting {place}: choose one of {", ".join(known)}')


def _create(cls: type, values: Any, prefix: str = '') -> Any:
    if not isinstance(values, dict):
        raise ValueError(f'{prefix.rstrip(".") or "config"} is {values!r}: give settings by name')
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise _unknown(f'{prefix}{key}', list(hints))
    return cls(
        **{
            key: _create(hints[key], value, f'{prefix}{key}.') if dataclasses.is_dataclass(hints[key]) else value
            for key, value in values.items()
        }
    )


Rule = tuple[Callable[[Any], bool], str]
POSITIVE: Rule = (lambda value: value > 0, 'give a positive number')
NOT_NEGATIVE: Rule = (lambda value: value >= 0, 'give 0 or a positive number')
BELOW_1: Rule = (lambda value: 0 <= value < 1, 'give a value in [0,1)')
ODD: Rule = (lambda value: value >= 1 and value % 2 == 1, 'give an odd number of pixels')
# What values must satisfy beyond their types, and how to fix them.
RULES: dict[str, Rule] = {
    **dict.fromkeys(('batch_size', 'accumulate', 'step_epochs', 'lr', 'head_lr', 'gamma'), POSITIVE),
    **dict.fromkeys(('epochs', 'weight_decay', 'workers'), NOT_NEGATIVE),
    **dict.fromkeys(('seed_weight', 'crf_weight', 'size_weight', 'n_seeds'), NOT_NEGATIVE),
    **dict.fromkeys(('momentum', 'label_smoothing'), BELOW_1),
    **dict.fromkeys(('erosion', 'dilation'), ODD),
    'background_fraction': (lambda value: 0 <= value <= 1, 'give a value in [0,1]'),
    'checkpoint_minutes': POSITIVE,
    'image_size': (lambda value: value >= 32, 'give at least 32 pixels'),
    'num_classes': (lambda value: value is None or value > 0, 'give a positive number, or null to count the classes'),
    'shift': (lambda value: len(value) == 2, 'give two numbers of pixels, down and right'),
    'teacher': (lambda value: value in METHODS, f'choose one of {", ".join(METHODS)}'),
    'variant': (lambda value: value in VARIANTS, f'choose one of {", ".join(VARIANTS)}'),
}


def _check(config: Any, prefix: str = '') -> None:
    """Raise ValueError for a wrong type or value; integers become floats where a float is expected."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(hint) and type(value) is hint:
            _check(value, f'{name}.')
            continue
        if not _fits(value, hint):
            raise ValueError(f'{prefix}{name} is {value!r:.99}: give {_type_name(hint)}')
        if hint is float:
            setattr(config, name, float(value))
        holds, fix = RULES.get(name, (lambda value: True, ''))
        if not holds(value):
            raise ValueError(f'{prefix}{name} is {value!r}: {fix}')


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
        # False for NaN, infinity and huge integers, which YAML and JSON can hold.
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is hint


def _type_name(hint: Any) -> str:
    names = {str: 'text', int: 'a whole number', float: 'a number such as 0.001', bool: 'true or false'}
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ' or '.join(map(repr, args))
    if origin in (Union, types.UnionType):
        return ' or '.join(_type_name(arg) for arg in args if arg is not type(None))
    if origin is list:
        return f'a list, each {_type_name(args[0])}'
    return 'settings by name' if origin is dict else names.get(hint, f'a {hint.__name__}')
