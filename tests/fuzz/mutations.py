"""Strategies that damage valid files: JSON trees, text and bytes. Each also builds hostile values from nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

Tree = Any
Path = tuple[Any, ...]
Draw = Callable[[st.SearchStrategy], Any]

INTEGERS = [-1, 0, 1, 2, 7, 255, 4096, 10**6, 2**31, 2**53 + 1, 2**63, -(2**63), 10**30, 10**400]
FLOATS = [0.0, -0.0, 0.5, 1.0, 1.5, -1e-9, 1e-320, 1e30, 1e308, float('inf'), float('-inf'), float('nan')]
TEXTS = [
    '',
    ' ',
    'a',
    '0',
    'nan',
    '1e999',
    '../..',
    '../../planted.pth',
    '/etc/passwd',
    'planted.pth',
    'http://127.0.0.1:9/x.pth',
    'hf-hub:a/b',
    'local-dir:.',
    'fcam',
    'resnet18',
    'vit_giant_patch14_clip_224',
    '=1+1',
    '@SUM(A1)',
    '$x^{',
    '<script>alert(1)</script>',
    '{{7*7}}',
    '%s%n',
    'a,b',
    'a\nb',
    'a\tb',
    'a|b',
    '"',
    '\0',
    '\x1b[31m',
    '\u202eabc',
    '\ud800',
    '\ufeff',
    '\U0001f600',
    'é' * 200,
    'x' * 300,
    'x' * 100_000,
]
# Text that parsers find hard, to insert anywhere.
TOKENS = [
    '[' * 5000,
    '{"a":' * 5000,
    '1' * 5000,
    '1e999',
    'NaN',
    '-Infinity',
    'null',
    'true',
    '"',
    "'",
    '{',
    '}',
    ']',
    ',',
    ':',
    '\\',
    '\\ud800',
    '#',
    '&a ',
    '*a',
    '!!python/object/apply:os.system ["true"]',
    '!!int "a"',
    '!!timestamp "x"',
    '<<: ',
    '- ',
    '\n',
    '\r\n',
    '\t',
    '\0',
    '\ufeff',
    '\x85',
    '=',
    '-',
    '99999999999999999999',
]

integers = st.one_of(st.integers(-3, 300), st.sampled_from(INTEGERS))
floats = st.one_of(st.floats(-2, 2), st.sampled_from(FLOATS), st.floats())
texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))
leaves = st.one_of(st.none(), st.booleans(), integers, floats, texts)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
OF_TYPE: dict[type, st.SearchStrategy] = {
    bool: st.booleans() | st.integers(0, 1),
    int: integers,
    float: floats,
    str: texts,
    list: st.lists(leaves, max_size=4),
    dict: st.dictionaries(texts, leaves, max_size=3),
}


@st.composite
def mutated_tree(draw: Draw, base: Tree) -> Tree:
    """Change a few places of a JSON value."""
    tree = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        place = draw(st.sampled_from(places))
        if not place:
            if draw(st.integers(0, 9)) == 0:
                return draw(trees)
            continue
        _mutate(draw, tree, place, places)
    return tree


def _places(tree: Tree, place: Path = ()) -> Iterator[Path]:
    yield place
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield from _places(value, (*place, key))


def _get(tree: Tree, place: Path) -> Tree:
    for key in place:
        tree = tree[key]
    return tree


def _mutate(draw: Draw, tree: Tree, place: Path, places: Sequence[Path]) -> None:
    parent, key = _get(tree, place[:-1]), place[-1]
    value = parent[key]
    action = draw(st.sampled_from(['similar', 'similar', 'replace', 'delete', 'copy', 'add', 'rename', 'wrap']))
    if action == 'similar':  # of the same type, to pass the first checks
        parent[key] = draw(OF_TYPE.get(type(value), leaves))
    elif action == 'replace':
        parent[key] = draw(trees)
    elif action == 'delete':
        del parent[key]
    elif action == 'copy':
        parent[key] = copy.deepcopy(_get(tree, draw(st.sampled_from(places))))
    elif action == 'wrap':
        parent[key] = [value] if draw(st.booleans()) else {'a': value}
    elif isinstance(parent, list):
        parent.insert(key, copy.deepcopy(value) if action == 'add' else draw(leaves))
    else:
        parent[draw(texts)] = draw(trees) if action == 'add' else parent.pop(key)


@st.composite
def mutated_json(draw: Draw, base: Tree) -> bytes:
    """Damage a JSON file: mostly its values, sometimes its text or bytes."""
    how = draw(st.integers(0, 9))
    if how > 1:
        return json.dumps(draw(mutated_tree(base))).encode()
    text = json.dumps(base, indent=2)
    return draw(mutated_text(text)).encode('utf-8', 'surrogatepass') if how else draw(mutated_bytes(text.encode()))


@st.composite
def mutated_text(draw: Draw, base: str, separator: str = ',') -> str:
    """Change a few lines or fields of a text, or insert tokens anywhere."""
    lines = base.split('\n')
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, max(0, len(lines) - 1)))
        action = draw(st.sampled_from(['field', 'field', 'field', 'insert', 'line', 'delete', 'repeat', 'cut', 'swap']))
        if not lines:
            lines.append(draw(texts))
        elif action == 'field':
            fields = lines[i].split(separator)
            value = draw(st.one_of(texts, integers.map(str_of), floats.map(str), st.sampled_from(TOKENS)))
            fields[draw(st.integers(0, len(fields) - 1))] = value
            lines[i] = separator.join(fields)
        elif action == 'insert':
            at = draw(st.integers(0, len(lines[i])))
            lines[i] = lines[i][:at] + draw(st.sampled_from(TOKENS)) + lines[i][at:]
        elif action == 'line':
            lines.insert(i, draw(texts))
        elif action == 'delete':
            del lines[i]
        elif action == 'repeat':
            lines.insert(i, lines[i])
        elif action == 'cut':
            lines[i] = lines[i][: draw(st.integers(0, len(lines[i])))]
        else:
            j = draw(st.integers(0, len(lines) - 1))
            lines[i], lines[j] = lines[j], lines[i]
    return '\n'.join(lines)


def str_of(number: int) -> str:
    """Return the digits of a number of any size."""
    return str(number) if abs(number) < 10**100 else '9' * 5000


@st.composite
def mutated_file(draw: Draw, base: str, separator: str = ',') -> bytes:
    """Damage a text file: mostly its text, sometimes its bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(mutated_bytes(base.encode()))
    return draw(mutated_text(base, separator)).encode('utf-8', 'surrogatepass')


@dataclass(frozen=True)
class Edits:
    """Changes of a few bytes. `build` applies them, since hypothesis keeps inputs, which must not be large files."""

    base: bytes = field(repr=False)
    edits: tuple[tuple[int, int, bytes], ...]  # start, stop, and what replaces these bytes

    def build(self) -> bytes:
        data = bytearray(self.base)
        for start, stop, new in self.edits:
            data[start:stop] = new
        return bytes(data)


@st.composite
def edits_of(draw: Draw, base: bytes) -> Edits:
    """Choose changes of a few bytes: flip, overwrite, delete, repeat, insert or cut."""
    return Edits(base, tuple(draw(_edit(base)) for _ in range(draw(st.integers(1, 4)))))


@st.composite
def _edit(draw: Draw, base: bytes) -> tuple[int, int, bytes]:
    # Headers are at the beginning.
    last = len(base) if draw(st.booleans()) else min(len(base), 120)
    at = draw(st.integers(0, last))
    size = draw(st.integers(1, 16))
    action = draw(st.sampled_from(['flip', 'flip', 'number', 'fill', 'delete', 'repeat', 'insert', 'cut']))
    if action == 'flip':
        return at, at + 1, bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in base[at : at + 1])
    if action == 'number':
        number = draw(st.sampled_from([0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1]))
        width = draw(st.sampled_from([1, 2, 4, 8]))
        return at, at + width, (number % 256**width).to_bytes(width, draw(st.sampled_from(['little', 'big'])))
    if action == 'fill':
        return at, at + 16 * size, draw(st.sampled_from([b'\0', b'\xff', b'\x7f', b' '])) * (16 * size)
    if action == 'delete':
        return at, at + size, b''
    if action == 'repeat':
        return at, at, base[at : at + size] * draw(st.sampled_from([1, 2, 100]))
    if action == 'insert':
        return at, at, draw(st.binary(max_size=16))
    return at, len(base) * 200, b''


def mutated_bytes(base: bytes) -> st.SearchStrategy:
    """Change a few bytes of a small file."""
    return edits_of(base).map(Edits.build)
