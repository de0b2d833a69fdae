"""The notebooks run, and are stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / 'docs' / 'notebooks').glob('*.ipynb'))


def test_list_of_notebooks():
    names = {path.stem for path in NOTEBOOKS}
    assert names == {
        'localize_in_five_lines',
        'fine_tune_on_a_folder',
        'benchmark_your_cam',
        'add_a_backbone',
        'steel_defects',
    }


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path):
    for cell in json.loads(path.read_text())['cells']:
        assert cell.get('outputs', []) == []
        assert cell.get('execution_count') is None


@pytest.mark.timeout(900)
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip('nbclient')
    nbformat = pytest.importorskip('nbformat')
    pytest.importorskip('ipykernel')
    pytest.importorskip('skimage')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}}).execute()
