"""What users install: the wheel holds the package, its types marker and the released weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel_brings_the_weights(tmp_path):
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
    assert 'fcam_zoo/py.typed' in names
    assert {f'fcam_zoo/weights/{entry["file"]}' for entry in index} <= names
    assert 'License: Apache-2.0' in metadata or 'License-Expression: Apache-2.0' in metadata


def test_every_package_is_listed():
    listed = (ROOT / 'setup.cfg').read_text().split('packages =')[1].split('package_dir')[0].split()
    found = {'.'.join(p.parent.relative_to(ROOT).parts) for p in (ROOT / 'fcam_zoo').rglob('__init__.py')}
    assert found | {'fcam_zoo.weights'} == set(listed)


def test_import_is_quiet():
    done = subprocess.run([sys.executable, '-c', 'import fcam_zoo'], capture_output=True, text=True, check=True)
    assert done.stdout == ''
    assert done.stderr == ''
