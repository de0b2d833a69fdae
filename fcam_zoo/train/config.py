"""Every setting of a training, with its default; a recipe is these as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ..cams.methods import check_method


@dataclass
class ClassifierConfig:
    """Stage 1: fine-tune the classifier with image labels (F-CAM, Sec. 4.1).

    crop_scale, two shares of the area, replaces the paper's 256 -> 224 crops by `data.ScaleTransform`.
    """

    epochs: int = 7
    batch_size: int = 32
    lr: float = 0.01
    head_lr: float = 0.05
    schedule: Literal['constant', 'cosine'] = 'cosine'
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    crop_scale: list[float] | None = None
    select: Literal['localization', 'accuracy'] = 'accuracy'


@dataclass
class DecoderConfig:
    """Stage 2: fine-tune the decoder with the pixel-alignment loss, classifier frozen (F-CAM, Eq. 3).

    crf is the weight of the exact kernel: the paper's 2e-9 belongs to a lattice that answers 0.57 of it. cell_shift are
    the pixels (down, right) by which the teacher's map is moved: cells do not look where a plain resize draws them.
    """

    epochs: int = 15
    batch_size: int = 8
    lr: float = 0.01
    schedule: Literal['constant', 'cosine'] = 'constant'
    momentum: float = 0.9
    weight_decay: float = 1e-4
    background_fraction: float = 0.5
    erosion: int = 11
    seeds: int = 1
    dilation: int = 3
    cell_shift: list[float] = field(default_factory=lambda: [0.0, 0.0])
    alpha: float = 1.0
    crf: float = 1.14e-9
    size: float = 0.1


@dataclass
class TrainConfig:
    """A whole training: model, data, and the two stages. epochs = 0 leaves a stage out."""

    data: str = ''
    backbone: str = 'resnet50'
    backbone_checkpoint: str | None = None
    backbone_pretrained: bool = False
    backbone_kwargs: dict[str, Any] = field(default_factory=dict)
    output_stride: int | None = 16
    decoder_channels: list[int] | None = None
    num_classes: int | None = None
    teacher: str = 'layercam'
    image_size: int = 224
    seed: int = 0
    workers: int = 2
    device: str = 'auto'
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        check_method(self.teacher)
        for stage in (self.classifier, self.decoder):
            if stage.epochs < 0 or stage.batch_size < 1 or stage.lr <= 0:
                raise ValueError(
                    f'{type(stage).__name__}: epochs={stage.epochs}, batch_size={stage.batch_size}, lr={stage.lr}: '
                    'epochs must not be negative, batch_size and lr must be positive'
                )
            if stage.schedule not in ('constant', 'cosine'):
                raise ValueError(f"schedule is {stage.schedule!r}: choose 'constant' or 'cosine'")
        if self.classifier.select not in ('localization', 'accuracy'):
            raise ValueError(f"classifier.select is {self.classifier.select!r}: choose 'localization' or 'accuracy'")
        decoder = self.decoder
        if len(decoder.cell_shift) != 2:
            raise ValueError(f'decoder.cell_shift is {decoder.cell_shift}: give two numbers of pixels, down and right')
        if not 0 <= decoder.background_fraction <= 1:
            raise ValueError(f'decoder.background_fraction is {decoder.background_fraction}: choose a value in [0,1]')
        for name in ('erosion', 'dilation'):
            if getattr(decoder, name) < 1 or getattr(decoder, name) % 2 == 0:
                raise ValueError(f'decoder.{name} is {getattr(decoder, name)}: choose an odd number of pixels')
        if self.image_size < 32:
            raise ValueError(f'image_size is {self.image_size}: the smallest is 32')

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """From plain JSON values.

        Raises:
            ValueError: For a key that does not exist.
        """
        return _build(cls, values)

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> TrainConfig:
        """From a recipe file.

        Raises:
            FileNotFoundError: When it does not exist.
            ValueError: When it is no JSON, or has a key that does not exist.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'recipe {path} does not exist')
        try:
            return cls.from_dict(json.loads(path.read_text(encoding='utf-8')))
        except json.JSONDecodeError as e:
            raise ValueError(f'recipe {path} is not valid JSON: {e}') from e


def _build(cls: type, values: dict[str, Any]) -> Any:
    hints = get_type_hints(cls)
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise ValueError(f'{cls.__name__} has no setting {", ".join(unknown)}; it has {", ".join(hints)}')
    return cls(**{k: _build(hints[k], v) if dataclasses.is_dataclass(hints[k]) else v for k, v in values.items()})
