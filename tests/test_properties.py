"""Every input is accepted, or refused with one clear error: a few damaged inputs of each surface of `tests/fuzz`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.judge import judge
from tests.fuzz.surface import Surface
from tests.fuzz.surfaces import SURFACES

# Inputs per surface, so that all take less than a minute. `python -m tests.fuzz` tries more.
INPUTS = 50


@pytest.fixture(params=SURFACES)
def surface(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surface:
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    return SURFACES[request.param](tmp_path)


def test_valid_inputs_are_accepted_and_damaged_ones_refused_clearly(surface: Surface) -> None:
    for value in surface.valid:
        surface.try_input(value)

    @settings(
        max_examples=INPUTS,
        derandomize=True,
        phases=(Phase.generate,),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(surface.inputs)
    def check(value: Any) -> None:
        verdict = judge(lambda: surface.try_input(value))
        assert verdict.is_good, verdict.message

    check()


def _raw() -> None:
    int('x' * 20)


def _unclear() -> None:
    raise ValueError('bad')


@pytest.mark.parametrize('call', [_raw, _unclear, lambda: {}['a'], lambda: b'\xff'.decode()])
def test_unclear_errors_are_found(call: Callable[[], object]) -> None:
    assert not judge(call).is_good


def test_what_inputs_must_not_reach_is_found(tmp_path: Path) -> None:
    (tmp_path / 'planted.pth').touch()
    assert 'reaches open' in judge(lambda: (tmp_path / 'planted.pth').read_bytes()).message
    assert judge(lambda: None).is_good
