"""The interface of a surface, and what several need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import fcam_zoo

from .judge import PLANTED


class Surface(ABC):
    """Something that reads what other people wrote.

    Args:
        folder: An empty folder for files.

    Attributes:
        inputs: Strategy of inputs.
        valid: Inputs that must be accepted.
    """

    inputs: st.SearchStrategy
    valid: Sequence[Any]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / PLANTED).write_bytes(b'PK\x03\x04')

    @abstractmethod
    def try_input(self, value: Any) -> None:
        """Do with an input what a user would do; raise the error of the package."""


@cache
def small_model(num_classes: int = 2) -> fcam_zoo.FCAM:
    """Return a tiny untrained model."""
    options = {'output_stride': 8, 'decoder_channels': [8] * 4}
    return fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=num_classes, **options).eval()
