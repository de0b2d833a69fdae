"""Settings of the two stages of a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from .. import wsol
from .._schema import BelowOne, InvalidValue, Positive, Share, between, check
from .setting_types import (
    Band,
    CropScale,
    Epochs,
    Images,
    ImageSide,
    Line,
    Odd,
    Rate,
    Schedule,
    Select,
    Shift,
    Weight,
    names_of,
)


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

    An epoch leaves out the images that do not fill a step, or with drop_last = False takes a smaller last step of them.

    select is the metric on val of the best epoch: 'localization' is the mean of MaxBoxAcc at IoU 30, 50 and 70,
    'localization_50' is MaxBoxAcc (IoU 50), and on masks both are PxAP; 'accuracy' is that of a classifier in training.
    With select_start, the state before the first step is epoch 0, which can be the best one, too.
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
    drop_last: bool = True
    select: Select = 'localization'
    select_start: bool = False


@dataclass
class ClassifierConfig(StageConfig):
    """Stage 1: fine-tune the classifier with image labels (F-CAM, Sec. 4.1).

    head_lr is the learning rate of the new head, of head_layers (names of backbone modules) and of the modules of the
    method. frozen_layers (names likewise) stay as they are, with the statistics of their batch norms. method is another
    training method: a name of `wsol.METHODS`, or its name and settings, such as {'name': 'has', 'rate': 0.3}; None is
    that of init, or plain cross-entropy. With the method of init, its weights are kept if they fit. cutmix is the share
    of the steps whose images are also mixed by CutMix (`wsol.cutmix`). A new head starts at zero, or with head_init
    'xavier' with weights of `torch.nn.init.xavier_uniform_` and zero biases.

    With a teacher (one or several finished F-CAMs: released names, model folders or `hf-hub:`), the loss is (1 - w) *
    cross-entropy + w * distillation, w = teacher_weight, from the mean class probabilities of the teachers at the
    temperature (see `distillation.distillation`). They see the augmented images, resized to their side in
    teacher_sizes, if it is given. Distillation is not used in the paper.
    """

    head_lr: Rate = 0.05
    head_layers: list[Line] = field(default_factory=list)
    frozen_layers: list[Line] = field(default_factory=list)
    head_init: Literal['zero', 'xavier'] = 'zero'
    label_smoothing: BelowOne = 0.1
    method: str | dict[str, Any] | None = None
    cutmix: Share = 0.0
    teacher: Line | list[Line] | None = None
    teacher_sizes: list[ImageSide] = field(default_factory=list)
    teacher_weight: Share = 0.9
    temperature: Annotated[float, between(0.1, 100)] = 2.0
    select: Select = 'accuracy'

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
