"""Who may import whom (CONTRIBUTING, "Where things live" and "Style")."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in (ROOT / 'fcam_zoo').rglob('*.py')
}
LIGHT = {'fcam_zoo.errors', 'fcam_zoo._catalog', 'fcam_zoo._modes', 'fcam_zoo._checks', 'fcam_zoo._schema'}


def imports(module: str) -> set[str]:
    """Modules of the package, and private names, that a module imports when it runs, also inside functions."""
    path = FILES[module]
    package = module if path.stem == '__init__' else module.rpartition('.')[0]
    tree, found = ast.parse(path.read_text()), set()
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in typing_only:
            base = '.'.join(
                [*package.split('.')[: len(package.split('.')) - node.level + 1], *filter(None, [node.module])]
            )
            for alias in node.names:
                name = f'{base}.{alias.name}'
                is_name = name not in FILES and not alias.name.startswith('_')
                found.add(base if is_name else name)
    return found


GRAPH = {module: imports(module) for module in FILES}


def uses(folder: str) -> set[str]:
    """Modules outside a folder or module that it imports."""
    inside = {m: found for m, found in GRAPH.items() if f'{m}.'.startswith(f'fcam_zoo.{folder}.')}
    assert inside
    return {target for found in inside.values() for target in found} - inside.keys()


def test_private_modules_and_names_stay_in_their_folder():
    wrong = []
    for module, targets in GRAPH.items():
        for target in targets:
            folder, private, _ = target.partition('._')
            if private and not target.endswith('__') and not f'{module}.'.startswith(f'{folder}.'):
                wrong.append(f'{module} imports {target}')
    assert wrong == []


def test_no_import_cycle():
    TopologicalSorter({m: targets & FILES.keys() - {m} for m, targets in GRAPH.items()}).prepare()


@pytest.mark.parametrize('folder', ['losses', 'sampling', 'cams'])
def test_functions_of_tensors_import_only_checks_errors_and_modes(folder):
    assert uses(folder) <= LIGHT


def test_methods_import_only_these_and_cams():
    assert uses('wsol') <= LIGHT | {'fcam_zoo.cams', 'fcam_zoo.cams.closed_form', 'fcam_zoo._distributed'}


@pytest.mark.parametrize(
    ('folder', 'above'),
    [
        ('data', 'models train benchmark hub labelling cli'),
        ('benchmark', 'models train hub labelling data cli'),
        ('models', 'train hub benchmark labelling cli'),
        ('hub', 'train labelling cli'),
        ('train', 'labelling cli'),
        ('labelling', 'train hub benchmark cli'),
    ],
)
def test_imports_go_one_way(folder, above):
    upwards = tuple(f'fcam_zoo.{name}.' for name in above.split())
    assert [target for target in uses(folder) if f'{target}.'.startswith(upwards)] == []
