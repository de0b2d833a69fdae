"""`fcam-zoo benchmark` on folders of maps: names, files, and errors before scoring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_wsol

from fcam_zoo._distributed import picklable
from fcam_zoo.benchmark import report_folder
from fcam_zoo.cli import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_wsol(tmp_path / 'shapes', {'test': 6})


def save_maps(data: Path, folder: Path) -> Path:
    rng = np.random.default_rng(len(folder.name))
    for image_id in ids(data):
        (folder / image_id).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f'{image_id}.npy', rng.random((16, 16)))
    return folder


def ids(data: Path) -> list[str]:
    return (data / 'metadata' / 'test' / 'image_ids.txt').read_text().split()


def score(data: Path, *arguments: object) -> int:
    return main(['benchmark', str(data), '--quiet', *map(str, arguments)])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['-o', '{t}/file'], 'file: cannot be written to (File exists); name another folder'),
        (['-o', '{t}/file/report'], 'cannot be written to (Not a directory)'),
        (['--baseline', 'nothing'], "--baseline 'nothing' is not a report: choose one of mine, center"),
        (['--variant', 'reference'], '--variant chooses the class maps of models: add --models'),
        (['--batch-size', '0'], '--batch-size is 0: give 1 or more'),
        (['--batch-size', '-2'], '--batch-size is -2'),
        (['--workers', '-1'], '--workers is -1: give 0 or more'),
        (['--limit', '0'], '--limit is 0: give 1 or more'),
    ],
)
def test_invalid_arguments_raise_before_scoring(data, tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr('fcam_zoo.benchmark.evaluate_many', None)
    (tmp_path / 'file').touch()
    maps = save_maps(data, tmp_path / 'mine')
    assert score(data, '--scoremaps', maps, *(a.format(t=tmp_path) for a in arguments)) == 1
    assert message in capsys.readouterr().err


def test_invalid_devices_are_one_line(data, tmp_path, capsys):
    assert score(data, '--scoremaps', save_maps(data, tmp_path / 'mine'), '--device', 'warp') == 1
    assert "device 'warp' cannot be used" in capsys.readouterr().err


def test_reports_do_not_share_files(data, tmp_path):
    names = ('a b', 'a_b', 'A_B', 'a_b_sizes', 'comparison', 'center', 'größe, 1')
    folders = [save_maps(data, tmp_path / 'maps' / name) for name in names]
    report = tmp_path / 'report'
    assert score(data, '--scoremaps', *folders, '-o', report) == 0
    written = [path for path in report.glob('*.json') if path.name != 'comparison.json']
    maps = [json.loads(path.read_text())['maps'] for path in written]
    assert sorted(maps) == sorted(['center', 'center (maps)', *(n for n in names if n != 'center')])
    assert json.loads((report / 'comparison.json').read_text())['meta']['baseline'] == str(folders[0])
    assert len({path.name.lower() for path in report.iterdir()}) == 4 * len(maps) + 2


def test_earlier_reports_are_replaced_whole_or_not_at_all(data, tmp_path, capsys, monkeypatch):
    report = tmp_path / 'report'
    assert score(data, '--scoremaps', save_maps(data, tmp_path / 'first'), '-o', report) == 0
    assert '\ncolumns: IoU30, IoU50, IoU70, mean: MaxBoxAcc; ' in capsys.readouterr().out
    earlier = {path.name for path in report.iterdir()}
    (report / 'notes.txt').touch()
    second = save_maps(data, tmp_path / 'second')
    with monkeypatch.context() as patch:
        patch.setattr('fcam_zoo.benchmark.evaluate_many', None)
        assert score(data, '--scoremaps', second, '-o', report) == 1
    assert f'{report} already holds reports: replace them with --overwrite' in capsys.readouterr().err
    assert {path.name for path in report.iterdir()} == {*earlier, 'notes.txt'}
    assert score(data, '--scoremaps', second, '-o', report, '--overwrite') == 0
    names = {path.name for path in report.iterdir()}
    assert names == {name.replace('first', 'second') for name in earlier} | {'notes.txt'}
    # Also of a comparison that is damaged.
    (report / 'comparison.json').write_text('{')
    assert score(data, '--scoremaps', second, '-o', report, '--overwrite') == 0
    assert {path.name for path in report.iterdir()} == names


@pytest.mark.parametrize('name', ['center', 'comparison'])
def test_folders_with_reserved_names_are_scored(name, data, tmp_path, capsys):
    report = tmp_path / 'report'
    assert score(data, '--scoremaps', save_maps(data, tmp_path / name), '-o', report) == 0
    assert len(capsys.readouterr().out.splitlines()[2:4]) == 2
    assert 'rows' in json.loads((report / 'comparison.json').read_text())
    assert len(list(report.glob('*_classes.csv'))) == 2


def test_all_files_are_written_or_none(data, tmp_path, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr(report_folder, 'write_html', fail)
    assert score(data, '--scoremaps', save_maps(data, tmp_path / 'mine'), '-o', tmp_path / 'report') == 1
    assert 'disk full' in capsys.readouterr().err
    assert list((tmp_path / 'report').iterdir()) == []


def run_in_processes(data: Path, *arguments: object) -> list[subprocess.CompletedProcess[str]]:
    """Start two processes as torchrun does, except that neither ends the other."""
    port = str(20000 + os.getpid() % 20000)
    environment = os.environ | {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    command = [sys.executable, '-m', 'fcam_zoo', 'benchmark', str(data), '--quiet', *map(str, arguments)]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    started = [subprocess.Popen(command, env=environment | {'RANK': str(rank)}, **pipes) for rank in range(2)]
    ended = [(process, *process.communicate(timeout=120)) for process in started]
    return [subprocess.CompletedProcess(command, p.returncode, out, err) for p, out, err in ended]


def test_processes_of_torchrun_fail_together(data, tmp_path):
    maps = save_maps(data, tmp_path / 'mine')
    last = ids(data)[-1]
    (tmp_path / 'file').touch()
    for done in run_in_processes(data, '--scoremaps', maps, '-o', tmp_path / 'file'):
        assert done.returncode == 1
        assert 'fcam-zoo: error: --output' in done.stderr
    np.save(maps / f'{last}.npy', np.full((16, 16), np.nan))
    for done in run_in_processes(data, '--scoremaps', maps, '-o', tmp_path / 'report'):
        assert done.returncode == 1
        assert f'fcam-zoo: error: mine map of {last} holds NaN' in done.stderr
        assert 'Traceback' not in done.stderr
    assert list((tmp_path / 'report').iterdir()) == []
    np.save(maps / f'{last}.npy', np.zeros((16, 16)))
    first, second = run_in_processes(data, '--scoremaps', maps, '-o', tmp_path / 'report')
    assert (first.returncode, second.returncode, second.stdout, second.stderr) == (0, 0, '', '')
    assert (tmp_path / 'report' / 'report.html').is_file()


def test_errors_that_cannot_be_sent_keep_their_message():
    class Local(ValueError):
        pass

    assert str(picklable(Local('what'))) == 'Local: what'
    assert str(picklable(ValueError('what'))) == 'what'


def test_missing_images_are_named_before_scoring(data, tmp_path, capsys, monkeypatch):
    maps, last = save_maps(data, tmp_path / 'mine'), ids(data)[-1]
    (data / 'images' / last).unlink()
    assert score(data, '--scoremaps', maps) == 0
    monkeypatch.setattr('fcam_zoo.benchmark.evaluate_many', None)
    assert score(data, '--scoremaps', maps, '-o', tmp_path / 'report') == 1
    assert f'1 of 6 images are missing, the first {data / "images" / last}' in capsys.readouterr().err
    assert list((tmp_path / 'report').iterdir()) == []
