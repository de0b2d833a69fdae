"""The paper's numbers in results/paper.csv, compared with its text, and the page about it."""

from __future__ import annotations

import csv
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPER = ROOT.parent / 'shared' / 'reference' / 'paper.txt'
METRICS = ('MaxBoxAcc', 'PxAP', 'top-1 loc.', 'top-5 loc.')
BACKBONES = ('VGG16', 'Inception v3', 'ResNet50')


def published() -> list[dict[str, str]]:
    """Rows of results/paper.csv."""
    with (ROOT / 'results' / 'paper.csv').open(newline='') as f:
        next(f)
        return list(csv.DictReader(f))


def own_name(label: str) -> str:
    """The name in results/paper.csv of a row of the paper."""
    label = re.sub(r'\[\d+\]|\(\w+,\d{4}\)', '', label).replace('GradCAM', 'Grad-CAM').replace('Smooth-', 'Smooth ')
    label = re.sub(r'Smooth Grad-CAM(?!\+\+)', 'Smooth Grad-CAM++', label).replace('I <sup>2</sup> C', 'I2C')
    return ' '.join(label.replace('ours', 'F-CAM').replace('Center', 'center').split())


def test_numbers_are_those_of_the_paper():
    if not PAPER.is_file():
        pytest.skip('needs the text of the paper')
    lines = [line for line in PAPER.read_text().splitlines() if '\t' in line]
    second = next(i for i, line in enumerate(lines) if 'top-1 localization' in line)
    found = {(row['method'], row['backbone'], metric): row[metric] for row in published() for metric in METRICS}
    tables = [(lines[2:second], METRICS[:2], 4), (lines[second + 2 :], METRICS[2:], 3)]
    for table, metrics, width in tables:
        for line in table:
            label, *cells = line.split('\t')
            for metric in metrics:
                expected = dict(zip((*BACKBONES, 'mean'), cells[:width]))
                if ':' in cells[0]:  # One cell over all columns: another network and its number
                    network, _, number = cells[0].partition(':')
                    expected = {'ResNet101' if 'Resnet101' in network else 'DeiT-S': number}
                del cells[:width]
                for backbone, number in expected.items():
                    digits = re.sub(r'[^\d.]', '', number)
                    assert found.pop((own_name(label), backbone, metric), '') == digits, (label, backbone, metric)
            assert cells == []
    assert [key for key, number in found.items() if number] == []


def test_each_row_names_a_method_and_a_network():
    rows = published()
    assert {row['backbone'] for row in rows} == {*BACKBONES, 'mean', 'ResNet101', 'DeiT-S'}
    assert len({(row['method'], row['backbone']) for row in rows}) == len(rows)
    for row in rows:
        values = [float(row[metric]) for metric in list(row)[2:] if row[metric]]
        assert values
        assert all(0 < value < 100 for value in values)


def test_the_size_of_class_maps_on_a_small_data_set(boxes_root, masks_root, tmp_path, monkeypatch):
    path = tmp_path / 'cam_size.md'
    script = ROOT / 'benchmarks' / 'cam_size.py'
    monkeypatch.setattr(sys, 'argv', [str(script), str(boxes_root), str(masks_root), '-o', str(path)])
    monkeypatch.syspath_prepend(script.parent)
    runpy.run_path(str(script), run_name='__main__')
    rows = [line.split(' | ') for line in path.read_text().splitlines() if re.match(r'\| \d+x', line)]
    assert [row[0] for row in rows] == [f'| {n}x{n}' for n in (7, 14, 28, 56, 112, 224)] * 2
    # The ground truth itself is found; coarser binary maps are worse.
    assert rows[5][2] == rows[5][5] == '100.0 / 100.0 / 100.0'
    assert [cell.strip(' |') for cell in rows[11][2:]] == ['100.0'] * 4
    assert float(rows[0][6]) < float(rows[5][6])
    assert float(rows[6][4]) < 100
