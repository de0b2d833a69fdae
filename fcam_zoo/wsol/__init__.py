"""Other training methods of weakly supervised object localization (WSOL), on any backbone: see `base`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .._schema import InvalidValue, build, show
from . import acol, adl, cstn, cutmix, danet, has, i2c, meil, nl_ccam, spg, spol, ts_cam
from .base import Generators as Generators
from .base import Network as Network
from .base import Targets as Targets
from .base import TrainingOutput as TrainingOutput
from .base import WSOLMethod as WSOLMethod

METHODS: dict[str, type[WSOLMethod]] = {
    method.name: method
    for method in (
        has.HaS,
        cutmix.CutMix,
        adl.ADL,
        acol.ACoL,
        spg.SPG,
        nl_ccam.NLCCAM,
        ts_cam.TSCAM,
        meil.MEIL,
        i2c.I2C,
        danet.DANet,
        spol.SPOL,
        cstn.CSTN,
    )
}


def complete_settings(value: str | dict[str, Any] | None, place: str = 'method') -> dict[str, Any] | None:
    """Check the settings of a method, and add the defaults of those left out.

    Args:
        value: Name of a method; or its name and settings, such as {'name': 'has', 'rate': 0.3}; or None.
        place: Name of the value for messages.

    Returns:
        The name and all settings, or None.

    Raises:
        InvalidValue: For an unknown method or setting, or a wrong value.
    """
    if value is None:
        return None
    values = dict(value) if isinstance(value, dict) else {'name': value}
    name = values.pop('name', None)
    if not isinstance(name, str) or name not in METHODS:
        raise InvalidValue(f'{place} is {show(value)}: name one of {", ".join(METHODS)}')
    return {'name': name, **asdict(build(METHODS[name].Settings, values, place))}


def create_method(value: str | dict[str, Any] | None, network: Network) -> WSOLMethod:
    """Create a method from its name and settings (see `complete_settings`); the plain one for None.

    Raises:
        InvalidValue: As `complete_settings`.
        UnknownModelError: When the backbone does not fit.
    """
    values = complete_settings(value)
    if values is None:
        return WSOLMethod(network, WSOLMethod.Settings())
    kind = METHODS[values.pop('name')]
    return kind(network, build(kind.Settings, values))
