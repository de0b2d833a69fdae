"""Training settings and their defaults. A recipe is a YAML or JSON file with some of them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from .._checks import MAX_WORKERS
from .._schema import InvalidValue, Positive, between, build, check, reading, show
from ..errors import SettingsError
from ..models.backbone_arguments import check_backbone_arguments
from ..models.config import Channels, Classes, DecoderType, Stride
from .recipe import FIX, FORMER, MOVED, RENAMED, read_recipe, recipe_path
from .setting_types import ImageSide, Line
from .stage_config import ClassifierConfig, DecoderConfig
from .teacher_config import INIT, TeacherConfig


@dataclass
class TrainConfig:
    """All settings of a training: model, data and the two stages. A stage with epochs = 0 is skipped.

    `init` starts from an F-CAM (a released name or a model folder) and keeps its backbone, stride and decoder; of
    several, the weights are averaged. Otherwise the backbone settings define a new model. `annotations` are those of
    val (see `data.open_dataset`). Paths may be `pathlib.Path`; they are stored as text.

    Raises:
        ValueError: For a setting with a wrong type or value.
    """

    data: Line = ''
    annotations: Line | None = None
    init: Line | list[Line] | None = None
    backbone: Line = 'resnet50'
    backbone_checkpoint: Line | None = None
    backbone_pretrained: bool = False
    backbone_kwargs: dict[str, Any] = field(default_factory=dict)
    output_stride: Stride | None = 16
    dilated: bool = False
    decoder_type: DecoderType = 'unet'
    decoder_channels: Channels | None = None
    num_classes: Classes | None = None
    image_size: ImageSide = 224
    seed: int = 0
    skip_bad: bool = False
    keep_epochs: bool = False
    checkpoint_minutes: Annotated[float, Positive] = 10.0
    amp: Literal['off', 'bfloat16', 'float16'] = 'off'
    compile: bool = False
    workers: Annotated[int, between(0, MAX_WORKERS)] = 2
    device: Line = 'auto'
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        check(self)
        for part in PARTS:
            check(getattr(self, part), part)
        check_backbone_arguments(self.backbone_kwargs)
        if self.decoder.seed_weight == self.decoder.crf_weight == self.decoder.size_weight == 0:
            raise ValueError('decoder: seed_weight, crf_weight and size_weight are all 0: set one above 0')
        if self.classifier.epochs == self.decoder.epochs == 0:
            raise ValueError('classifier.epochs and decoder.epochs are both 0: set one above 0')
        if self.classifier.method and not self.classifier.epochs:
            raise ValueError(
                'classifier.method changes the classifier stage: set classifier.epochs above 0 or leave it out'
            )
        if not self.decoder.classification_weight and self.decoder.classifier_lr != DecoderConfig.classifier_lr:
            raise ValueError(
                'decoder.classifier_lr is the learning rate of joint training: set decoder.classification_weight above '
                '0, or leave it out'
            )
        if self.decoder.select == 'accuracy' and not self.decoder.classification_weight:
            raise ValueError(
                "decoder.select is 'accuracy', and the decoder does not change the classifier: give 'localization' or "
                "'localization_50', or train both with decoder.classification_weight"
            )
        if self.teacher.supervision and self.decoder.dense is None:
            # Every pixel has a label, except those that masks mark as not scored.
            self.decoder.dense = [0.4, 0.6]
        if INIT in self.teacher.models and not self.init:
            raise ValueError(
                "teacher.model is 'init', and the training starts from no model: give init (--init NAME) or "
                'another teacher'
            )
        if self.init and (self.backbone_checkpoint or self.backbone_pretrained):
            raise ValueError('init loads its own weights: leave out backbone_checkpoint and backbone_pretrained')

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> TrainConfig:
        """Create a config from JSON values; settings left out keep their defaults.

        Raises:
            ValueError: For an unknown setting, or one with a wrong type or value.
        """
        for place, fix in FORMER.items():
            stage, _, name = place.partition('.')
            settings = values.get(stage) if isinstance(values, dict) else None
            if isinstance(settings, dict) and name in settings:
                raise InvalidValue(f'{place} is a setting of an earlier version: {fix}')
        own = [field.name for field in fields(cls)]
        for name in values if isinstance(values, dict) else ():
            if name not in own and (full := _full_names(name)):
                raise InvalidValue(f'unknown setting {name}: choose {" or ".join(full)}')
            if isinstance(name, str) and name not in own:
                raise InvalidValue(f'unknown field {_plain(name)}: choose one of {", ".join(own)}, {OF_PARTS}')
        if isinstance(values, dict):
            # `teacher: cam` is short for its method.
            if isinstance(values.get('teacher'), str):
                values = {**values, 'teacher': {'method': values['teacher']}}
            values = _moved(values)
        return build(cls, values)

    @classmethod
    def from_file(cls, recipe: str | os.PathLike) -> TrainConfig:
        """Read a recipe: a YAML or JSON file, a packaged recipe (`recipe_names`), or that of a released model.

        Raises:
            FileNotFoundError: When the recipe does not exist.
            SettingsError: When the file is neither YAML nor JSON, or a setting is wrong.
        """
        values = read_recipe(recipe)
        with reading(recipe_path(recipe), SettingsError, FIX):
            return cls.from_dict(values)

    def replace(self, changes: dict[str, Any]) -> TrainConfig:
        """Return a config with other values of some settings, which are named by dotted place (`decoder.lr`).

        Raises:
            ValueError: For an unknown setting, or one with a wrong type or value.
        """
        values = self.to_dict()
        for place, value in changes.items():
            *parents, key = MOVED.get(place, place).split('.')
            target: Any = values
            if parents == ['classifier', 'method'] and isinstance(values['classifier']['method'], str):
                values['classifier']['method'] = {'name': values['classifier']['method']}
            for parent in parents:
                target = target.get(parent) if isinstance(target, dict) else None
            if not isinstance(target, dict):
                names = ', '.join(self.to_dict())
                raise InvalidValue(f'unknown setting {show(place)}: choose one of {names}, {OF_PARTS}')
            target[key] = value
        return self.from_dict(values)

    def flat(self) -> dict[str, Any]:
        """Return all settings by dotted place."""
        values = self.to_dict()
        for part in PARTS:
            values.update({f'{part}.{key}': value for key, value in values.pop(part).items()})
        return values


def _full_names(name: Any) -> list[str]:
    """Return the settings of the parts with this name, or a former one, by dotted place."""
    parts = {'teacher': TeacherConfig, **STAGES}
    found = [f'{part}.{name}' for part, kind in parts.items() if name in {own.name for own in fields(kind)}]
    return found + [new for old, new in RENAMED.items() if old.partition('.')[2] == name]


def _plain(name: str) -> str:
    return name if name.isprintable() and len(name) <= 60 else show(name)


def _moved(values: dict[str, Any]) -> dict[str, Any]:
    """Move the settings in MOVED to their new place, unless it has a value."""
    values = dict(values)
    for place, new_place in MOVED.items():
        (part, name), (new_part, new_name) = place.split('.'), new_place.split('.')
        old, new = values.get(part), values.get(new_part, {})
        if isinstance(old, dict) and name in old and isinstance(new, dict):
            values[part] = {key: value for key, value in old.items() if key != name}
            values[new_part] = {new_name: old[name], **new}
    return values


STAGES = {'classifier': ClassifierConfig, 'decoder': DecoderConfig}
PARTS = ('teacher', *STAGES)
OF_PARTS = f'or a setting of {", ".join(PARTS)}, such as decoder.lr'
