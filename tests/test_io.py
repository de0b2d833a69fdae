"""CSV files that spreadsheets do not evaluate, and messages of errors of the system."""

from __future__ import annotations

import csv
import errno
import io
import os
import random
import sys

import pytest
from scenes import draw, label
from synthetic import make_wsol

from fcam_zoo._io import CsvWriter, csv_text, describe_os_error, write_text
from fcam_zoo.benchmark import evaluate
from fcam_zoo.cli import main
from fcam_zoo.data import WSOLDataset, open_dataset

EVALUATED = ('=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠')
"""First characters of a formula in spreadsheets."""


def written(*cells: object) -> list[str]:
    file = io.StringIO(newline='')
    CsvWriter(file).write(cells)
    return next(csv.reader(io.StringIO(file.getvalue(), newline='')))


@pytest.mark.parametrize('first', EVALUATED)
def test_no_cell_is_a_formula(first):
    text = f'{first}cmd|"/c calc"!A1,'
    (cell,) = written(text)
    assert not cell.startswith(EVALUATED)
    assert csv_text(cell) == text


def test_any_text_is_read_back():
    rng = random.Random(0)
    for _ in range(3000):
        text = ''.join(rng.choices('\'"=+-@,;\t a1＝é', k=rng.randint(0, 6)))
        (cell,) = written(text) or ['']
        assert csv_text(cell) == text
        assert not cell.startswith(EVALUATED)


def test_other_cells_are_unchanged():
    cells = [-1, -0.5, 1e-9, 'a=b', "it's", "'quoted'", '', 'a,b', 'a"b']
    assert written(*cells) == [str(cell) for cell in cells]
    assert [csv_text(cell) for cell in ("it's", "'quoted'", "'", '')] == ["it's", "'quoted'", "'", '']


def test_exported_boxes_have_no_formulas_and_are_read_back(tmp_path):
    names = ['=1+1.png', '@x.png', "'=y.png", '-2.png', 'plain.png']
    for name in names:
        draw(tmp_path / 'in' / name, (224, 224), [(8, 8, 200, 224)])
    label(tmp_path / 'in', tmp_path / 'out', ['csv'], class_names=['=dim', '+bright'])
    path = tmp_path / 'out/csv/boxes.csv'
    with path.open(newline='', encoding='utf-8') as f:
        header, *rows = csv.reader(f)
    assert header == ['image', 'x0', 'y0', 'x1', 'y1', 'label', 'score']
    assert sorted(row[0] for row in rows) == sorted(["'=1+1.png", "'@x.png", "''=y.png", "'-2.png", 'plain.png'])
    assert {row[5] for row in rows} == {"'+bright"}
    dataset = open_dataset(tmp_path / 'in', '', annotations=path)
    assert sorted(dataset.ids) == sorted(names)
    assert list(dataset.class_names.values()) == ['+bright']


def test_report_rows_have_no_formulas(tmp_path):
    dataset = WSOLDataset(make_wsol(tmp_path / 'data', {'test': 2}), 'test')
    report = evaluate(None, dataset, 'center', quiet=True)
    report.rows[0] |= {'id': '=HYPERLINK("http://x")', 'label': -1}
    report.to_csv(tmp_path / 'rows.csv')
    with (tmp_path / 'rows.csv').open(newline='', encoding='utf-8') as f:
        first = next(csv.DictReader(f))
    assert first['id'] == '\'=HYPERLINK("http://x")'
    assert first['label'] == '-1'


@pytest.mark.parametrize(
    ('number', 'fix'),
    [
        (errno.ENOSPC, 'free disk space'),
        (errno.EACCES, 'change its permissions'),
        (errno.EROFS, 'choose another folder'),
        (errno.ENAMETOOLONG, 'use a shorter path'),
        (errno.ENOTDIR, 'a part of the path is a file'),
        (errno.EXDEV, 'check the path'),
    ],
)
def test_errors_of_the_system_say_how_to_fix_them(number, fix):
    message = describe_os_error(OSError(number, os.strerror(number), '/a/b'))
    assert message.startswith(f'/a/b: {os.strerror(number)}; {fix}')
    assert describe_os_error(OSError(number, os.strerror(number))).startswith(os.strerror(number))
    assert describe_os_error(FileNotFoundError('x is missing: restore it')) == 'x is missing: restore it'


def test_command_explains_errors_of_the_system(photos, model_dir, tmp_path, capsys, monkeypatch):
    model = f'local-dir:{model_dir}'
    assert main(['predict', str(photos), '--model', model, '-o', str(tmp_path / ('n' * 300)), '--quiet']) == 1
    error = capsys.readouterr().err
    assert 'File name too long; use a shorter path' in error
    assert error.count('\n') == 1

    def exhaust(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr('fcam_zoo.models.create_model', exhaust)
    assert main(['predict', str(photos), '--model', model, '-o', str(tmp_path / 'o')]) == 1
    assert 'not enough memory: use' in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems refuse such names')
def test_output_folder_that_is_not_utf_8(photos, model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), encoding='utf-8'))
    output = os.fsdecode(os.fsencode(tmp_path) + b'/out\xff')
    assert main(['predict', str(photos), '--model', f'local-dir:{model_dir}', '-o', output, '--quiet']) == 0
    sys.stdout.flush()
    assert b'5 of 5 images' in sys.stdout.buffer.getvalue()


def test_devices_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(FileExistsError, match='is a device or a pipe: choose another path'):
        write_text(tmp_path / 'pipe', 'text')
    assert [p.name for p in tmp_path.iterdir()] == ['pipe']
    assert (tmp_path / 'pipe').is_fifo()
