"""What users install and what CI runs: the wheel, the list of packages, the workflow."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / '.github' / 'workflows' / 'ci.yml').read_text())


def steps(job: str) -> list[str]:
    return [step['run'] for step in WORKFLOW['jobs'][job]['steps'] if 'run' in step]


def test_wheel_contains_modules_and_weights(tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('fcam_zoo', 'weights'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-q']
    subprocess.run([*pip, '-w', str(tmp_path), '.'], cwd=source, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        index = json.loads(archive.read('fcam_zoo/weights/index.json'))
        metadata = archive.read(next(n for n in names if n.endswith('METADATA'))).decode()
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / 'fcam_zoo').rglob('*.py')}
    assert modules <= names
    assert {'fcam_zoo/py.typed', 'fcam_zoo/benchmark/report.html.jinja'} <= names
    assert {f'fcam_zoo/weights/{entry["file"]}' for entry in index} <= names
    assert {f'fcam_zoo/recipes/released/{entry["name"]}.yaml' for entry in index} <= names
    assert 'License: Apache-2.0' in metadata or 'License-Expression: Apache-2.0' in metadata


def test_every_package_is_listed():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    found = {'.'.join(p.parent.relative_to(ROOT).parts) for p in (ROOT / 'fcam_zoo').rglob('__init__.py')}
    assert found | {'fcam_zoo.weights'} == set(config['options']['packages'].split())


def test_import_is_quiet():
    done = subprocess.run([sys.executable, '-c', 'import fcam_zoo'], capture_output=True, text=True, check=True)
    assert done.stdout == ''
    assert done.stderr == ''


def test_ci_runs_the_test_command_of_the_readme():
    # .ci/run reads the command from the README; the workflow only calls it, on the oldest and newest supported Python.
    assert len(re.findall(r'^python3 -m venv .*pytest', (ROOT / 'README.md').read_text(), re.MULTILINE)) == 1
    script = (ROOT / '.ci' / 'run').read_text()
    assert 'README.md' in script
    for check in ('ruff check', 'ruff format --check', 'mypy'):
        assert f"'{check}'" in script
    assert steps('test') == ['.ci/run']
    assert WORKFLOW['jobs']['test']['strategy']['matrix']['python-version'] == ['3.10', '3.13']
    assert 'mkdocs build --strict' in steps('docs')


def test_workflow_has_only_read_access_and_pinned_actions():
    assert WORKFLOW['permissions'] == {'contents': 'read'}
    actions = [step['uses'] for job in WORKFLOW['jobs'].values() for step in job['steps'] if 'uses' in step]
    assert actions
    assert all(re.fullmatch(r'actions/[a-z-]+@v\d+', action) for action in actions)


@pytest.mark.parametrize('path', sorted((ROOT / '.github' / 'ISSUE_TEMPLATE').glob('[!c]*.yml')), ids=lambda p: p.stem)
def test_issue_template_is_a_form(path):
    form = yaml.safe_load(path.read_text())
    assert form['name']
    assert form['description']
    ids = [field['id'] for field in form['body']]
    assert len(set(ids)) == len(ids) > 0
    assert all(field['attributes']['label'] for field in form['body'])


def test_paths_of_contributing_exist():
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    paths = re.findall(r'`((?:fcam_zoo|tests|tools|docs|weights|results)/[^`<>*]*)`', text)
    assert len(paths) > 15
    missing = [path for path in paths if path != 'fcam_zoo/wsol/' and not (ROOT / path).exists()]
    assert missing == []
