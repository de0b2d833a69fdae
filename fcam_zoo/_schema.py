"""The validation layer: read JSON that other people wrote, and build records with checked types and ranges.

Every value that comes from a file passes through it: config.json, index, training state, journals, reports, and recipes
(whose YAML `_yaml` reads).
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import os
import reprlib
import stat
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from safetensors import SafetensorError

from ._io import short_path
from .errors import FcamZooError

T = TypeVar('T')
# Largest JSON file in bytes, largest whole number.
MAX_JSON = 16 * 2**20
MAX_INT = 2**53
# Errors that damaged contents raise in parsers and in code that trusts a file.
LOW_LEVEL = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, EOFError, MemoryError)


class DamagedText(ValueError):
    """Text that is not valid JSON or YAML, or exceeds the limits."""


class InvalidValue(ValueError):
    """A value with a wrong type or out of range; the message names its place and says what to give."""


class Rule(NamedTuple):
    """What a value must satisfy beyond its type, and how to fix one that does not: `Annotated[int, Rule(...)]`."""

    is_valid: Callable[[Any], bool]
    fix: str


Positive = Rule(lambda value: value > 0, 'give a positive number')
NotNegative = Rule(lambda value: value >= 0, 'give 0 or a positive number')
Share = Annotated[float, Rule(lambda value: 0 <= value <= 1, 'give a number from 0 to 1')]
BelowOne = Annotated[float, Rule(lambda value: 0 <= value < 1, 'give a number in [0,1)')]


def between(low: int, high: int) -> Rule:
    """Return the rule of a number from `low` to `high`."""
    return Rule(lambda value: low <= value <= high, f'give a number from {low} to {high}')


def length(low: int, high: int) -> Rule:
    """Return the rule of a list, text or dict of `low` to `high` items."""
    return Rule(lambda value: low <= len(value) <= high, f'give {low} to {high} items')


@contextmanager
def reading(path: str | os.PathLike, error: type[FcamZooError], fix: str) -> Iterator[None]:
    """Convert the low-level errors of reading a file in the block to `error`, with its path and how to fix it.

    The errors of this package pass unchanged, and a missing file stays a FileNotFoundError.

    Args:
        path: The file, for messages.
        error: Class of the error.
        fix: How to fix a damaged file.
    """
    name = short_path(path)
    try:
        yield
    except FcamZooError:
        raise
    except FileNotFoundError as e:
        if not e.errno:  # One of this package, which says what is missing.
            raise
        raise FileNotFoundError(f'{name} does not exist: check the path') from e
    except InvalidValue as e:
        raise error(f'{name}: {e}') from e
    except OSError as e:
        raise error(f'{name} cannot be read ({e.strerror or e}): check that it is a file with read permission') from e
    except (*LOW_LEVEL, SafetensorError) as e:
        raise error(f'{name} is damaged ({describe_error(e)}): {fix}') from e


def read_json(path: Path, max_bytes: int = MAX_JSON) -> Any:
    """Read a JSON file.

    Raises:
        OSError: When the file cannot be read.
        DamagedText: When `read_bytes` or `parse_json` raises it.
    """
    return parse_json(read_bytes(path, max_bytes))


def read_bytes(path: Path, max_bytes: int = MAX_JSON) -> bytes:
    """Read a small file.

    Raises:
        OSError: When the file cannot be read.
        DamagedText: When it is larger than `max_bytes`, or is not a file: reading a pipe or a device might never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DamagedText('it is not a file')
    if status.st_size > max_bytes:
        raise DamagedText(f'it has {status.st_size:,} bytes, more than the limit of {max_bytes:,}')
    with path.open('rb') as file:
        content = file.read(max_bytes + 1)  # Files of /proc have the size 0.
    if len(content) > max_bytes:
        raise DamagedText(f'it has more than {max_bytes:,} bytes')
    return content


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; bytes are UTF-8.

    Raises:
        DamagedText: For invalid JSON, NaN and Infinity, numbers of thousands of digits, or deep nesting.
    """
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as e:
        raise DamagedText(f'not valid JSON: {describe_error(e)}') from e


def build(cls: type[T], values: Any, place: str = '') -> T:
    """Build a dataclass from a dict, after checking every field against its type hint and rules.

    Args:
        cls: A dataclass. Its type hints may be bool, int, float, str, list, tuple, dict, Literal, `X | None`, other
            dataclasses, Any, and Annotated with rules. A path becomes text.
        values: The values by field; fields with a default may be missing.
        place: Name of the record for messages, such as `model_args`.

    Raises:
        InvalidValue: For an unknown or missing field, a wrong type, or a value out of range.
    """
    if not isinstance(values, dict):
        raise InvalidValue(f'{place or "the content"} is {show(values)}: give fields by name')
    hints, fields = _hints_of(cls), {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise InvalidValue(f'unknown field {_inside(place, key)}: choose one of {", ".join(fields)}')
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InvalidValue(f'the field {_inside(place, name)} is missing: add it')
    converted = {key: convert(hints[key], value, _inside(place, key)) for key, value in values.items()}
    try:
        return cls(**converted)
    except InvalidValue:
        raise
    except ValueError as e:
        raise InvalidValue(f'{place}: {e}' if place else str(e)) from e


def check(record: Any, place: str = '') -> None:
    """Check the fields of a dataclass instance in place, as `build` does; whole numbers become floats where needed.

    Raises:
        InvalidValue: As `build`.
    """
    for name, hint in _hints_of(type(record)).items():
        setattr(record, name, convert(hint, getattr(record, name), _inside(place, name)))


def _hints_of(cls: type) -> dict[str, Any]:
    """Return the type hints of the fields of a dataclass, with their rules."""
    if cls not in _HINTS:
        hints = get_type_hints(cls, include_extras=True)
        _HINTS[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _HINTS[cls]


# The hints of each dataclass, because they are slow to evaluate.
_HINTS: dict[type, dict[str, Any]] = {}


def convert(hint: Any, value: Any, place: str) -> Any:
    """Return a value as the type of a hint.

    Raises:
        InvalidValue: When it does not have this type.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if origin is Annotated:
        value = convert(args[0], value, place)
        for rule in args[1:]:
            if value is not None and not rule.is_valid(value):
                raise InvalidValue(f'{place} is {show(value)}: {rule.fix}')
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = [kind for kind in args if kind is not type(None)]
        own = next((kind for kind in kinds if _has_kind(kind, value)), kinds[0] if len(kinds) == 1 else None)
        if own is None:
            raise InvalidValue(f'{place} is {show(value)}: give {" or ".join(map(_expected, kinds))}')
        return convert(own, value, place)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, place)  # type: ignore[arg-type]
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: convert(args[1], item, _inside(place, key)) for key, item in value.items()}
    if origin in (list, tuple, Sequence) and isinstance(value, (list, tuple)):
        return _convert_items(origin, args, value, place)
    # A dict that comes here has keys that are not text.
    if origin is dict or not _has_kind(hint, value):
        raise InvalidValue(f'{place} is {show(value)}: give {_expected(hint)}')
    return float(value) if hint is float else value


def as_whole(value: Any, low: int, high: int = MAX_INT) -> int | None:
    """Return a whole number of any integer type as an int; None for another value, or one out of range."""
    try:
        number = operator.index(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # Tensors raise the others.
        return None
    return number if low <= number <= high and not isinstance(value, bool) else None


def _convert_items(origin: type, args: tuple[Any, ...], value: Sequence[Any], place: str) -> Any:
    """Convert a list, or a tuple with `...` or with one hint per item."""
    if origin is tuple and args[-1] is not ...:
        if len(value) != len(args):
            raise InvalidValue(f'{place} is {show(value)}: give {len(args)} values')
        return tuple(convert(hint, item, f'{place}[{i}]') for i, (hint, item) in enumerate(zip(args, value)))
    # Fast for long lists of run lengths.
    plain = args[0] is int and set(map(type, value)) <= {int} and (not value or max(map(abs, value)) <= MAX_INT)
    items = value if plain else [convert(args[0], item, f'{place}[{i}]') for i, item in enumerate(value)]
    return tuple(items) if origin is tuple else list(items)


def _has_kind(hint: Any, value: Any) -> bool:
    """Return whether a value has the type of a hint, except for the items of a container."""
    origin = get_origin(hint) or hint
    if origin is Annotated:
        return _has_kind(get_args(hint)[0], value)
    if origin is Literal:
        return any(value is choice or (type(value) is type(choice) and value == choice) for choice in get_args(hint))
    if origin is int:
        return type(value) is int and abs(value) <= MAX_INT
    if origin is float:
        return _has_kind(int, value) or (isinstance(value, float) and math.isfinite(value))
    if origin is str:
        return isinstance(value, str) and _is_unicode(value)
    if origin in (list, tuple, Sequence):
        return isinstance(value, (list, tuple))
    return isinstance(value, dict) if dataclasses.is_dataclass(origin) else isinstance(value, origin)


def _is_unicode(text: str) -> bool:
    """Return whether text can be written as UTF-8; JSON can hold unpaired surrogates, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_NAMES: dict[Any, str] = {
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number such as 0.001',
    str: 'text',
    dict: 'fields by name',
    list: 'a list',
    tuple: 'a list',
    Sequence: 'a list',
}


def _expected(hint: Any) -> str:
    """Describe the values of a type hint."""
    origin = get_origin(hint) or hint
    if origin is Literal:
        return ' or '.join(map(repr, get_args(hint)))
    if origin in (list, Sequence):
        return f'a list, each {_expected(get_args(hint)[0])}'
    if origin is Annotated:
        return _expected(get_args(hint)[0])
    return _NAMES.get(origin, f'a {getattr(origin, "__name__", origin)}')


def show(value: Any, limit: int = 60) -> str:
    """Return a short repr of any value: it never fails, whatever its size, nesting or number of digits."""
    try:
        text = _short.repr(value)
    except Exception:  # E.g. integers of more than 4300 digits.
        text = f'a very large {type(value).__name__}'
    return text if len(text) <= limit else f'{text[: limit - 1]}…'


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def _inside(place: str, key: object) -> str:
    name = key if isinstance(key, str) and key.isprintable() and len(key) <= 60 else show(key)
    return f'{place}.{name}' if place else str(name)


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is not a JSON number')


def describe_error(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, or its kind if it has none."""
    if isinstance(error, RecursionError):
        return 'it is nested too deeply'
    if isinstance(error, UnicodeError):
        return 'it is not UTF-8 text'
    if 'set_int_max_str_digits' in str(error):
        return 'a number has thousands of digits'
    lines = ' '.join(str(error).split())[:200]
    return f'{type(error).__name__} {lines}' if isinstance(error, LookupError) else lines or type(error).__name__
