"""Training settings and their defaults. A recipe is a YAML or JSON file with some of them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from .. import wsol
from .._checks import MAX_WORKERS
from .._schema import (
    BelowOne,
    InvalidValue,
    Positive,
    Share,
    between,
    build,
    check,
    reading,
    show,
)
from ..errors import SettingsError
from ..models.backbone_arguments import check_backbone_arguments
from ..models.config import Channels, Classes, DecoderType, Stride
from .recipe import FIX, FORMER, read_recipe, recipe_path
from .setting_types import (
    Band,
    CropScale,
    Epochs,
    Fusion,
    Images,
    ImageSide,
    Line,
    Method,
    Odd,
    Rate,
    Schedule,
    Shift,
    Variant,
    Weight,
)


def names_of(value: str | list[str] | None) -> list[str]:
    """Return the names of a setting that takes one, several or none."""
    return [value] if isinstance(value, str) else list(value or ())


@dataclass
class StageConfig:
    """Settings of both stages.

    optimizer 'sgd' has Nesterov momentum; 'adamw' (Loshchilov and Hutter, ICLR 2019) ignores `momentum` and needs
    learning rates about 30 times smaller.

    batch_size is the number of images per optimizer step, which `accumulate` backward passes and all processes share.
    The learning rates grow linearly over the first warmup_epochs. With average > 0, the exponential moving average of
    the weights with this decay is validated and saved instead of them (see `averaging.WeightAverage`).

    schedule 'step' multiplies the learning rates by gamma every step_epochs epochs, down to 1e-7; 'cosine' decays to 0.
    crop_scale, the smallest and the largest share of the image area in a crop, uses `data.ScaleTransform`; without it,
    crops have 7/8 of the side, as in the paper.
    """

    epochs: Epochs = 7
    batch_size: Images = 32
    accumulate: Images = 1
    optimizer: Literal['sgd', 'adamw'] = 'sgd'
    lr: Rate = 0.01
    schedule: Schedule = 'cosine'
    warmup_epochs: Weight = 0.0
    average: BelowOne = 0.0
    step_epochs: Annotated[int, Positive] = 15
    gamma: Annotated[Share, Positive] = 0.1
    momentum: BelowOne = 0.9
    weight_decay: Weight = 1e-4
    crop_scale: CropScale | None = None


@dataclass
class ClassifierConfig(StageConfig):
    """Stage 1: fine-tune the classifier with image labels (F-CAM, Sec. 4.1).

    head_lr is the learning rate of the new head, of head_layers (names of backbone modules) and of the modules of the
    method. method is another training method: a name of `wsol.METHODS`, or its name and settings, such as
    {'name': 'has', 'rate': 0.3}; None is that of init, or plain cross-entropy. With the method of init, its weights are
    kept if they fit. cutmix is the share of the steps whose images are also
    mixed by CutMix (`wsol.cutmix`). select is the metric on val that selects the best epoch.

    With a teacher (one or several finished F-CAMs: released names, model folders or `hf-hub:`), the loss is (1 - w) *
    cross-entropy + w * distillation, w = teacher_weight, from the mean class probabilities of the teachers at the
    temperature (see `distillation.distillation`). They see the augmented images, resized to their side in
    teacher_sizes, if it is given. Distillation is not used in the paper.
    """

    head_lr: Rate = 0.05
    head_layers: list[Line] = field(default_factory=list)
    label_smoothing: BelowOne = 0.1
    method: str | dict[str, Any] | None = None
    cutmix: Share = 0.0
    teacher: Line | list[Line] | None = None
    teacher_sizes: list[ImageSide] = field(default_factory=list)
    teacher_weight: Share = 0.9
    temperature: Annotated[float, between(0.1, 100)] = 2.0
    select: Literal['localization', 'accuracy'] = 'accuracy'

    def __post_init__(self) -> None:
        check(self, 'classifier')
        self.method = wsol.complete_settings(self.method, 'classifier.method')
        if self.teacher_sizes and len(self.teacher_sizes) != len(self.teachers):
            raise InvalidValue(
                f'classifier.teacher_sizes has {len(self.teacher_sizes)} sides for {len(self.teachers)} teachers: '
                'give one for each'
            )

    @property
    def teachers(self) -> list[str]:
        """Return the names of the teachers."""
        return names_of(self.teacher)


@dataclass
class TeacherConfig:
    """The teacher: where the maps come from that guide the decoder.

    By default it is the classifier of the model itself, as in the paper; its maps are computed in each step. With
    `model`, `layers`, `flip`, `sizes`, `maps` or `supervision`, the maps of whole training images are computed once,
    stored in 8 bits, and cropped and flipped with the images.

    Attributes:
        method: A CAM method, or 'fcam' for the maps of a finished F-CAM, which is given as `model` (self-training).
            With several models, one method for all of them or a list with one for each. None is 'cam' if the maps are
            those of the classifier in training, of its last features, and its training method has its own map; else
            'layercam'.
        model: Another F-CAM, whose classifier (or decoder, for 'fcam') makes the maps: a released name, a model folder
            or `hf-hub:`. Its classes must include those of the data.
        consensus: How the maps of several models are fused (see `cams.fuse`).
        layers: Layers of the classifier (dotted names) whose maps are fused; default: the last feature map.
        fusion: How the maps of several layers are fused (see `cams.fuse`).
        flip: Average the maps of each image and of its mirror image.
        sizes: Average the maps of each image at these sides in pixels; default: image_size.
        maps: Folder of score maps from any other tool, `<image id>.npy`, (H,W) in [0,1]; replaces all of the above.
        supervision: Number of training images per class whose boxes or masks are the maps. The decoder is trained only
            on these images (see `supervision`); 0: none (weak supervision).
        cache: Folder of the stored maps, which several trainings can share; default: `teacher` in the run folder.
    """

    method: Method | list[Method] | None = None
    model: Line | list[Line] | None = None
    consensus: Fusion = 'mean'
    layers: list[Line] = field(default_factory=list)
    fusion: Fusion = 'geometric_mean'
    flip: bool = False
    sizes: list[ImageSide] = field(default_factory=list)
    maps: Line | None = None
    supervision: Annotated[int, between(0, 2**20)] = 0
    cache: Line | None = None

    def __post_init__(self) -> None:
        check(self, 'teacher')
        if self.method is None and (self.models or self.layers or self.maps or self.supervision):
            self.method = 'layercam'
        if isinstance(self.method, list) and len(self.method) != len(self.models):
            raise InvalidValue(
                f'teacher.method has {len(self.method)} methods for {len(self.models)} models: give one for each model'
            )
        if self.consensus != 'mean' and len(self.models) < 2:
            raise InvalidValue(
                f'teacher.consensus={self.consensus} fuses the maps of several models: give two or more as '
                'teacher.model, or leave it out'
            )
        if 'fcam' in self.methods and not (self.models or self.maps):
            raise InvalidValue("teacher.method is 'fcam': give a finished F-CAM as teacher.model")
        if self.layers and set(self.methods) == {'fcam'}:
            raise InvalidValue("teacher.layers are layers of a classifier: leave them out with teacher.method='fcam'")
        if self.supervision and (self.maps or self.models or self.layers or self.flip or self.sizes):
            raise InvalidValue(
                'teacher.supervision uses boxes or masks as maps: leave out teacher.model, layers, flip, sizes, maps'
            )
        if self.maps and (self.models or self.layers or self.flip or self.sizes):
            raise InvalidValue('teacher.maps holds the maps: leave out teacher.model, layers, flip and sizes')
        if self.cache and not self.is_stored:
            raise InvalidValue(
                'teacher.cache stores the maps of another teacher: give teacher.model, layers, flip, sizes, maps '
                'or supervision'
            )

    @property
    def models(self) -> list[str]:
        """Return the names of the other models; empty for the classifier of the model itself."""
        return names_of(self.model)

    @property
    def methods(self) -> list[str]:
        """Return the method of each model, or of the classifier of the model itself; '' for the default."""
        return self.method if isinstance(self.method, list) else [self.method or ''] * max(1, len(self.models))

    @property
    def is_stored(self) -> bool:
        """Return whether the maps are computed once and stored."""
        return bool(self.models or self.layers or self.flip or self.sizes or self.maps or self.supervision)


@dataclass
class DecoderConfig(StageConfig):
    """Stage 2: train the decoder with the pixel-alignment loss on the frozen classifier (F-CAM, Eq. 3).

    The loss is seed_weight * partial cross-entropy + crf_weight * CRF + size_weight * log-barrier of the size, on
    n_seeds foreground and n_seeds background seeds per image. shift moves the teacher's map by pixels (down, right).
    With dense=[low, high], all pixels of the teacher's map up to low are background and all from high on foreground,
    instead of seeds; those between are ignored. The weight of the CRF grows linearly over the first crf_rampup epochs.
    activation_weight is that of `losses.background_activation`.

    With classification_weight > 0, the classifier is not frozen: it is trained together with the decoder, at
    classifier_lr, and the loss includes this weight times the cross-entropy and distillation of the classifier stage
    (the classification term of Eq. 3; see `joint.JointStage`).

    The defaults of erosion, crf_weight and size_weight were the best in docs/experiments.md, for hundreds of steps on
    two small data sets. The paper's values, which its recipes use, are 11, 1.14e-9 and 0.1. (1.14e-9 is the paper's
    2e-9 on a lattice that yields about 0.57 times the exact kernel.)
    """

    epochs: Epochs = 15
    batch_size: Images = 8
    variant: Variant = 'published'
    shift: Shift = field(default_factory=lambda: [0.0, 0.0])
    background_fraction: Share = 0.5
    erosion: Odd = 31
    n_seeds: Annotated[int, between(0, 10_000)] = 1
    dense: Band | None = None
    dilation: Odd = 3
    seed_weight: Weight = 1.0
    crf_weight: Weight = 1e-8
    crf_kernel: Literal['auto', 'exact', 'fast'] = 'auto'
    crf_rampup: Weight = 0.0
    size_weight: Weight = 0.0
    activation_weight: Weight = 0.0
    classification_weight: Weight = 0.0
    classifier_lr: Rate = 1e-3


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
        if self.teacher.supervision and self.decoder.dense is None:
            # Every pixel has a label, except those that masks mark as not scored.
            self.decoder.dense = [0.4, 0.6]
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
        for name in values if isinstance(values, dict) else ():
            if name not in {own.name for own in fields(cls)} and (full := _full_names(name)):
                raise InvalidValue(f'unknown setting {name}: choose {" or ".join(full)}')
        # `teacher: cam` is short for its method.
        if isinstance(values, dict) and isinstance(values.get('teacher'), str):
            values = {**values, 'teacher': {'method': values['teacher']}}
        return build(cls, values)

    @classmethod
    def from_file(cls, recipe: str | os.PathLike) -> TrainConfig:
        """Read a recipe: a YAML or JSON file, a packaged recipe (`recipe_names`), or the settings of a released model.

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
            *parents, key = place.split('.')
            target: Any = values
            if parents == ['classifier', 'method'] and isinstance(values['classifier']['method'], str):
                values['classifier']['method'] = {'name': values['classifier']['method']}
            for parent in parents:
                target = target.get(parent) if isinstance(target, dict) else None
            if not isinstance(target, dict):
                raise InvalidValue(
                    f'unknown setting {show(place)}: choose one of {", ".join(self.to_dict())}, those of '
                    f'{", ".join(PARTS)} as in decoder.lr'
                )
            target[key] = value
        return self.from_dict(values)

    def flat(self) -> dict[str, Any]:
        """Return all settings by dotted place."""
        values = self.to_dict()
        for part in PARTS:
            values.update({f'{part}.{key}': value for key, value in values.pop(part).items()})
        return values


def _full_names(name: Any) -> list[str]:
    """Return the settings of the parts with this name by dotted place."""
    parts = {'teacher': TeacherConfig, **STAGES}
    return [f'{part}.{name}' for part, kind in parts.items() if name in {own.name for own in fields(kind)}]


STAGES = {'classifier': ClassifierConfig, 'decoder': DecoderConfig}
PARTS = ('teacher', *STAGES)
