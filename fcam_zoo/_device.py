"""Devices that models run on."""

from __future__ import annotations

import torch


def resolve_auto(name: str) -> str:
    """Return the name of a device; 'auto' is CUDA if there is a GPU, otherwise the CPU."""
    if name != 'auto':
        return name
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def chosen_device(name: str) -> torch.device:
    """Return the device of an option `--device`, which may be 'auto'.

    Raises:
        ValueError: As `usable_device`.
    """
    return usable_device(resolve_auto(name))


def usable_device(name: str | torch.device) -> torch.device:
    """Return a device on which tensors can be computed and read back.

    Raises:
        ValueError: For an unknown or missing device, and for one without data, such as 'meta'.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError, ImportError, TypeError) as e:  # torch raises all of them.
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:100]
        raise ValueError(f'device {str(name)[:60]!r} cannot be used ({reason}): choose cpu, or cuda with a GPU') from e
    return device
