"""torch.hub: list, help and load from a checkout and a cached owner/repo; importing is fast and needs no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fcam_zoo
from fcam_zoo.hub.torch_hub import entry_points
from fcam_zoo.models.names import hub_names

ROOT = Path(__file__).parents[1]
RELEASED = fcam_zoo.list_models(pretrained=True)
# Any connection or name resolution raises.
NO_NETWORK = """
import socket
def refuse(*args, **kwargs): raise AssertionError('network')
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""


def python(code: str, folder: Path, **environment: str) -> str:
    """Standard output of a fresh process in a folder outside the checkout."""
    done = subprocess.run(
        [sys.executable, '-c', NO_NETWORK + code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def torch_home(tmp_path) -> Path:
    """torch.hub's cache with this checkout as owner/repo at main."""
    clone = tmp_path / 'torch' / 'hub' / 'owner_repo_main'
    clone.mkdir(parents=True)
    for name in ('hubconf.py', 'fcam_zoo', 'weights'):
        (clone / name).symlink_to(ROOT / name)
    return tmp_path / 'torch'


@pytest.mark.skipif(not RELEASED, reason='nothing released')
def test_cached_repository_lists_helps_and_loads_offline(torch_home, tmp_path):
    group = next(g for g, members in hub_names().items() if RELEASED[0] in members)
    code = f"""
import torch
print(sorted(torch.hub.list('owner/repo:main', trust_repo=True)))
print(torch.hub.help('owner/repo:main', {group!r}, trust_repo=True))
model = torch.hub.load('owner/repo:main', {group!r}, trust_repo=True, pretrained=True)
print(tuple(model(torch.rand(1, 3, 64, 64)).maps.shape))
import fcam_zoo; print(fcam_zoo.__file__)
"""
    out = python(code, tmp_path, TORCH_HOME=str(torch_home), HF_HUB_OFFLINE='1').splitlines()
    assert out[0] == str(sorted(hub_names()))
    assert 'Data set:' in '\n'.join(out)
    assert out[-2] == '(1, 2, 64, 64)'
    assert out[-1].startswith(str(torch_home)) or Path(out[-1]).resolve().is_relative_to(ROOT)


def test_docstrings_describe_the_best_model():
    points = entry_points()
    for group, members in hub_names().items():
        doc = points[group].__doc__
        entry = fcam_zoo.hub.index().get(members[0])
        if entry is None:
            assert 'no weights released' in doc
        else:
            for fact in (entry.dataset.title, entry.teacher, entry.license, entry.dataset.license):
                assert fact in doc
            assert f'{entry.metrics["test"]["fcam"]["cls"]:.1f}' in doc


@pytest.mark.skipif(not RELEASED, reason='nothing released')
def test_dependencies_are_the_imports_of_a_load(tmp_path):
    """Loading a model imports no command, no training and no OpenCV; hubconf lists the packages that it imports."""
    group = next(g for g, members in hub_names().items() if RELEASED[0] in members)
    code = f"""
import ast, pathlib, sys, torch
sys.path.insert(0, {str(ROOT)!r})
import hubconf
torch.hub.load({str(ROOT)!r}, {group!r}, source='local')
own = [m for name, m in sys.modules.items() if name.split('.')[0] == 'fcam_zoo']
needed = set()
for module in own:
    for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            needed |= {{alias.name.split('.')[0] for alias in node.names}}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            needed.add(node.module.split('.')[0])
print(sorted(needed - set(sys.stdlib_module_names)) == sorted(hubconf.dependencies), sorted(needed))
parts = {{part for module in own for part in module.__name__.split('.')[1:2]}}
print(parts & {{'cli', 'train', 'benchmark', 'labelling'}})
print('cv2' in sys.modules)
"""
    same, parts, opencv = python(code, tmp_path).splitlines()
    assert same.startswith('True'), same
    assert (parts, opencv) == ('set()', 'False')


def test_import_needs_no_network_no_weights_and_little_time(tmp_path):
    code = f"""
import builtins, io, sys, time
sys.path.insert(0, {str(ROOT)!r})
opened = []
def audit(event, args):
    if event == 'open' and isinstance(args[0], str): opened.append(args[0])
began = time.perf_counter()
import timm
sys.addaudithook(audit)
between = time.perf_counter()
import fcam_zoo
print(between - began, time.perf_counter() - between)
print([name for name in opened if name.endswith('.safetensors')])
print(sorted({{'matplotlib', 'onnx', 'onnxruntime', 'tensorboard', 'skimage'}} & sys.modules.keys()))
"""
    seconds, weights, extras = python(code, tmp_path).splitlines()
    assert weights == extras == '[]'
    timm_s, own_s = map(float, seconds.split())
    # Measured: 0.06 s, after 2.2 s for timm and torch. The second number shows how busy the machine is.
    assert own_s < max(0.3, 0.15 * timm_s)


def test_every_entry_point_describes_its_metrics():
    for name, load in entry_points().items():
        text, (model, *_) = str(load.__doc__), hub_names()[name]
        if model not in RELEASED:
            assert 'no weights released' in text
            continue
        entry = fcam_zoo._index.index()[model]
        for place in ('test', *entry.elsewhere):
            assert f'On {place}: fcam: ' in text
        assert f'cls {entry.metrics["test"]["fcam"]["cls"]:.1f}' in text
