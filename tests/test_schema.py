"""The validation layer: JSON and YAML within limits, and records with checked types."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from fcam_zoo._schema import (
    DamagedText,
    InvalidValue,
    Positive,
    Share,
    between,
    build,
    check,
    parse_json,
    read_json,
    reading,
    show,
)
from fcam_zoo._yaml import parse_yaml
from fcam_zoo.errors import WeightsError


@dataclass
class Stage:
    lr: Annotated[float, Positive] = 0.1
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass
class Settings:
    epochs: Annotated[int, between(1, 9)]
    stage: Stage = field(default_factory=Stage)
    stages: list[Stage] = field(default_factory=list)
    kind: Literal['box', 'mask'] = 'box'
    share: Share | None = None
    ids: list[int] = field(default_factory=list)
    sizes: Sequence[int] = ()
    note: str | int = ''
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.note == 'bad':
            raise ValueError('note is bad: give another one')


def test_a_record_is_built_with_its_nested_records():
    values = {'epochs': 2, 'stage': {'lr': 1, 'shift': [1, 2.5]}, 'stages': [{}, {'lr': 2}], 'share': 1, 'ids': [3, 4]}
    assert build(Settings, values) == Settings(2, Stage(1.0, (1.0, 2.5)), [Stage(), Stage(2.0)], share=1.0, ids=[3, 4])


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ([], r'the content is \[\]: give fields by name'),
        ({}, 'the field epochs is missing'),
        ({'epochs': True}, 'epochs is True: give a whole number'),
        ({'epochs': 1.0}, 'epochs is 1.0: give a whole number'),
        ({'epochs': 10}, 'epochs is 10: give a number from 1 to 9'),
        ({'epochs': 2**60}, 'epochs is 1152921504606846976'),
        ({'epochs': 1, 'epoch': 1}, 'unknown field epoch: choose one of epochs'),
        ({'epochs': 1, 3: 1}, 'unknown field 3'),
        ({'epochs': 1, 'stage': {'lr': 0}}, 'stage.lr is 0.0: give a positive number'),
        ({'epochs': 1, 'stage': {'lr': float('inf')}}, 'stage.lr is inf: give a number such as 0.001'),
        ({'epochs': 1, 'stage': {'lr': 10**400}}, 'stage.lr is 1'),
        ({'epochs': 1, 'stage': {'shift': [1]}}, r'stage.shift is \[1\]: give 2 values'),
        ({'epochs': 1, 'stage': 5}, 'stage is 5: give fields by name'),
        ({'epochs': 1, 'stages': [{}, {'x': 1}]}, r'unknown field stages\[1\].x: choose one of lr, shift'),
        ({'epochs': 1, 'kind': 'circle'}, "kind is 'circle': give 'box' or 'mask'"),
        ({'epochs': 1, 'kind': ['box']}, r"kind is \['box'\]: give 'box' or 'mask'"),
        ({'epochs': 1, 'share': 1.5}, 'share is 1.5: give a number from 0 to 1'),
        ({'epochs': 1, 'ids': [1, 'a']}, r"ids\[1\] is 'a': give a whole number"),
        ({'epochs': 1, 'ids': '12'}, "ids is '12': give a list, each a whole number"),
        ({'epochs': 1, 'note': '\ud800'}, r"note is '\\ud800': give text or a whole number"),
        ({'epochs': 1, 'note': 'bad'}, 'note is bad: give another one'),
        ({'epochs': 1, 'more': {1: 2}}, r'more is \{1: 2\}: give fields by name'),
    ],
)
def test_a_wrong_value_is_named_with_its_place(values, message):
    with pytest.raises(InvalidValue, match=message):
        build(Settings, values)


def test_an_existing_record_is_checked_in_place():
    settings = Settings(2, Stage(1))
    check(settings)
    assert settings.stage == Stage(1.0, (0.0, 0.0))
    settings.share = -1
    with pytest.raises(InvalidValue, match=r'given\.share is -1\.0'):
        check(settings, 'given')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'not valid JSON'),
        (b'\xff', 'not UTF-8'),
        ('[' * 100_000, 'nested too deeply'),
        ('NaN', 'NaN is not a JSON number'),
        ('[-Infinity]', '-Infinity is not a JSON number'),
        ('1' * 5000, 'thousands of digits'),
    ],
)
def test_json_beyond_the_limits_is_refused(text, message):
    with pytest.raises(DamagedText, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a: [', 'not valid YAML'),
        ('[' * 5000, 'nested too deeply'),
        ('seed: !!timestamp "x"', 'tags'),
        ('seed: !!python/object/apply:os.system ["true"]', 'tags'),
        ('a: &x [1]\nb: [*x, *x]', 'anchors'),
        ('a: ' + '1' * 5000, 'thousands of digits'),
        ('{[1]: 2}', 'unhashable key'),
        ('a: \x00', 'special characters'),
        ('#' * 100_000, 'more than the limit of 65,536'),
    ],
)
def test_yaml_beyond_the_types_of_json_is_refused(text, message):
    with pytest.raises(DamagedText, match=message):
        parse_yaml(text)


def test_yaml_dates_stay_text():
    assert parse_yaml('a: 2001-01-01\nb: 0.5\nc: [1, true]') == {'a': '2001-01-01', 'b': 0.5, 'c': [1, True]}


def test_any_value_has_a_short_text():
    for value in (16**5000, [[[[[[[[1] * 99] * 99]]]]]], 'x' * 10**6, {'a': 16**5000}, {1: {2: {3: {}}}}):
        assert 0 < len(show(value)) <= 60


def test_a_large_file_is_refused_before_reading(tmp_path):
    path = tmp_path / 'large.json'
    path.write_text(json.dumps(['x' * 99]))
    with pytest.raises(DamagedText, match='103 bytes, more than the limit of 50'):
        read_json(path, 50)


@pytest.mark.timeout(20)
def test_pipes_and_devices_are_not_read(tmp_path):
    """Reading a pipe waits forever, and reading a device never ends."""
    os.mkfifo(tmp_path / 'pipe.json')
    (tmp_path / 'zero.json').symlink_to('/dev/zero')
    for name in ('pipe.json', 'zero.json'):
        with pytest.raises(DamagedText, match='it is not a file'):
            read_json(tmp_path / name)


@pytest.mark.parametrize(
    ('raised', 'message'),
    [
        (KeyError('size'), r"x.json is damaged \(KeyError 'size'\): save it again"),
        (RecursionError(), r'x.json is damaged \(it is nested too deeply\): save it again'),
        (AttributeError('no items'), r'x.json is damaged \(no items\): save it again'),
        (PermissionError(13, 'Permission denied'), 'x.json cannot be read .Permission denied.: check'),
        (InvalidValue('size is 3: give 4'), '^x.json: size is 3: give 4$'),
        (WeightsError('a clear message'), '^a clear message$'),
    ],
)
def test_low_level_errors_become_one_clear_error(raised, message):
    with pytest.raises(WeightsError, match=message), reading('x.json', WeightsError, 'save it again'):
        raise raised


def test_a_missing_file_stays_a_missing_file():
    with pytest.raises(FileNotFoundError), reading('x.json', WeightsError, 'save it again'):
        raise FileNotFoundError('x.json')
