"""Names of models, `fcam_<backbone>.<teacher>_<dataset>`: the only place that splits them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import UnknownModelError

FORM = 'fcam_<backbone>.<teacher>_<dataset>'
_PATTERN = re.compile(
    r'(?P<architecture>fcam_[a-z0-9_]+)\.(?P<teacher>[a-z0-9]+)_(?P<dataset>[a-z0-9]+)(?:_(?P<variant>[a-z0-9_]+))?'
)


@dataclass(frozen=True)
class ModelName:
    """The parts of a model's name.

    Attributes:
        architecture: timm architecture, `fcam_<backbone>`.
        teacher: CAM method that taught the decoder.
        dataset: Short name of the training data.
        variant: What follows another underscore, such as `seed1`; it distinguishes training runs of one name.
    """

    architecture: str
    teacher: str
    dataset: str
    variant: str = ''

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Split a full name.

        Raises:
            UnknownModelError: When the text does not have the form of a name.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise UnknownModelError(f'{text!r} is not a model name: use {FORM}, e.g. fcam_resnet50.layercam_cub')
        return cls(**match.groupdict(default=''))

    @property
    def tag(self) -> str:
        """timm tag, `<teacher>_<dataset>`, followed by the variant if there is one."""
        return '_'.join(part for part in (self.teacher, self.dataset, self.variant) if part)

    @property
    def hub_name(self) -> str:
        """torch.hub name, `fcam_<backbone>_<dataset>`, which all teachers share."""
        return f'{self.architecture}_{self.dataset}'

    def __str__(self) -> str:
        return f'{self.architecture}.{self.tag}'
