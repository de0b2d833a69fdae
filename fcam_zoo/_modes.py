"""Context managers that restore a module's mode and requires_grad."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn as nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Set a module to eval mode; on exit, also after an error, restore the mode of each submodule."""
    modes = [(m, m.training) for m in module.modules()]
    # Setting a mode is slow, and a network that labels images is already in eval mode at the second batch.
    if any(mode for _, mode in modes):
        module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            if m.training != mode:
                m.training = mode


@contextmanager
def frozen_parameters(module: nn.Module) -> Iterator[None]:
    """Set requires_grad to False for all parameters; on exit, restore it."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
