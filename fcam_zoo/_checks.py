"""Checks of the tensors, numbers, flags and generators that callers pass to functions."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

from ._schema import as_whole, show

Kind = Literal['float', 'int', 'bool', 'real']
# Most processes or threads that load images or score maps.
MAX_WORKERS = 512
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_DTYPES = {'float': _FLOATS, 'int': _INTS, 'bool': (torch.bool,), 'real': (*_FLOATS, *_INTS)}
_KINDS = {'float': 'a floating-point', 'int': 'an integer', 'bool': 'a bool', 'real': 'a real'}


def check_tensor(value: Any, name: str, shape: str, kind: Kind) -> None:
    """Check the type and the number of dimensions of a tensor, without reading its values.

    Args:
        value: What the caller passed.
        name: Name of the argument, for messages.
        shape: Names of the dimensions, such as '(B,H,W)'; '' allows any number.
        kind: Kind of numbers; 'real' are floating-point numbers and integers.

    Raises:
        TypeError: When it is not a dense tensor of this kind.
        ValueError: When it has another number of dimensions.
    """
    wanted = f'give {_KINDS[kind]} tensor {shape}'.rstrip()
    if not isinstance(value, torch.Tensor):
        raise TypeError(f'{name}: got {type(value).__name__}; {wanted}')
    if value.layout != torch.strided or value.is_nested or value.is_quantized or value.dtype not in _DTYPES[kind]:
        layout = 'nested' if value.is_nested else str(value.layout).removeprefix('torch.')
        raise TypeError(f'{name}: got a tensor of {value.dtype} ({layout}); {wanted}')
    if shape and value.ndim != shape.count(',') + 1:
        raise ValueError(f'{name}: got the shape {tuple(value.shape)}; {wanted}')


def check_devices(**tensors: torch.Tensor) -> None:
    """Raise ValueError unless all tensors are on one device."""
    devices = {name: tensor.device for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        found = ', '.join(f'{name} on {device}' for name, device in devices.items())
        raise ValueError(f'tensors are on different devices ({found}): move them to one')


def as_count(value: Any, name: str, low: int, high: int) -> int:
    """Return a whole number.

    Raises:
        ValueError: When it is not a whole number from `low` to `high`.
    """
    number = as_whole(value, low, high)
    if number is None:
        raise ValueError(f'{name} is {show(value)}: give a whole number from {low} to {high}')
    return number


def as_positive(value: Any, name: str) -> float:
    """Return a finite number above 0.

    Raises:
        ValueError: When it is not one.
    """
    number = as_number(value, name)
    if number <= 0:
        raise ValueError(f'{name} is {show(value)}: give a number above 0')
    return number


def as_number(value: Any, name: str) -> float:
    """Return a finite number.

    Raises:
        ValueError: When it is not one.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor without data.
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f'{name} is {show(value)}: give a finite number')
    return number


def check_generator(value: Any, name: str = 'generator') -> None:
    """Raise TypeError unless a source of randomness is a torch.Generator or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f'{name} is {show(value)}: give a torch.Generator')


def as_flag(value: Any, name: str) -> bool:
    """Return a flag as a bool; None is False.

    Raises:
        TypeError: For text, lists and other objects: the truth of 'no', for example, is True.
    """
    # NumPy's bools are no integers; importing NumPy for them would make it a dependency of loading a model.
    if value is not None and not isinstance(value, int) and type(value).__name__ not in ('bool', 'bool_'):
        raise TypeError(f'{name} is {show(value)}: give True or False')
    return bool(value)
