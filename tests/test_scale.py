"""Large jobs: the arithmetic of docs/scale.md, that its tables are current, and what benchmarks/scale.py measures."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tools import records, scale

BENCHMARKS = Path(__file__).parents[1] / 'benchmarks'
RUN = scale.Run('predict', 2, 20_000, 210.0, 10.0, 100.0, [900.0, 910.0, 905.0, 908.0], 3000.0, 1)
MEASURED = scale.Measured(
    'x86_64', 'fcam_x', 2, 20_000, 700, 25_000.0, 1000, [RUN, replace(RUN, title='predict --ray', rate=80.0)]
)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location('benchmarks_scale', BENCHMARKS / 'scale.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(text: str) -> dict[str, list[str]]:
    """Rows of a Markdown table by their first cell."""
    lines = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('|')]
    return {line[0]: line[1:] for line in lines}


def test_generated_files_are_current():
    for path, text in scale.generated().items():
        assert path.read_text(encoding='utf-8') == text, f'{path.name}: python -m tools.scale'


def test_arithmetic_of_a_job():
    rows = cells(scale.jobs(MEASURED, scale.Assumed(price=0.04, request_price=0.0004, shard=10_000)))
    # 2 cores at 80 images per second: 0.025 core-seconds per image.
    assert rows['core-hours'] == ['69', '6,944']
    assert rows['time on 64 cores'] == ['1.1 hours', '4.5 days']
    assert rows['cost of the cores per million images'] == ['0.28', '0.28']
    assert rows['cost of the cores'] == ['3', '278']
    assert rows['images to read'] == ['233 GiB', '22.7 TiB']
    assert rows['annotations to store'] == ['28 GiB', '2.7 TiB']
    assert rows['Parquet files'] == ['1,000 of 30.0 MB', '100,000 of 30.0 MB']
    assert rows['requests, and their cost, loose images'] == ['10,000,000, 4.00', '1,000,000,000, 400.00']
    # The index reads 250 GB in blocks of 1 MiB.
    assert rows['requests, and their cost, tar shards'][0] == '10,238,419, 4.10'
    assert rows['requests, and their cost, Parquet files with images'][0] == '200,000, 0.08'
    assert rows['time to index tar shards, by the driver, before the jobs'] == ['17 minutes', '27.6 hours']
    assert rows['jobs of 10,000,000 images'] == ['1', '100']
    assert rows['memory for names, in the driver'] == ['4.2 GiB', '4.2 GiB']
    assert rows['read rate of 1,024 cores'] == ['1,024 MB/s'] * 2


def test_the_reader_can_change_prices_and_sizes():
    rows = cells(scale.jobs(MEASURED, scale.Assumed(price=0.4, image_bytes=1e6)))
    assert rows['cost of the cores per million images'] == ['2.78', '2.78']
    assert rows['tar shards'][0] == '1,000 of 10,000 MB'
    rows = cells(scale.jobs(MEASURED, scale.Assumed(image_bytes=5e6, latency=0.01)))
    assert rows['time to index tar shards, by the driver, before the jobs'][0] == '2.3 hours'  # A request per image.


def test_overhead_of_ray_is_relative_to_plain_predict():
    rows = cells(scale.rates(MEASURED))
    assert rows['`predict --ray`'][:3] == ['2', '80.0', '1.25']
    assert rows['`predict`'][4:] == ['900 / 910 / 905 / 908', '3000', '1']
    assert '`--shard-size 1000`' in scale.conditions(MEASURED)


def test_files_are_generated_from_the_measurements(tmp_path, monkeypatch):
    page = (records.ROOT / 'docs' / 'scale.md').read_text(encoding='utf-8')
    monkeypatch.setattr(records, 'ROOT', tmp_path)
    (tmp_path / 'benchmarks' / 'results').mkdir(parents=True)
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'docs' / 'scale.md').write_text(page, encoding='utf-8')
    assert next(iter(scale.generated().values())).count(scale.NOT_MEASURED) == len(scale.MARKERS)
    (tmp_path / 'benchmarks' / 'results' / 'scale.json').write_text(json.dumps(asdict(MEASURED)))
    monkeypatch.setattr(sys, 'argv', ['scale'])
    scale.main()
    written = (tmp_path / 'docs' / 'scale.md').read_text(encoding='utf-8')
    assert '| core-hours | 69 | 6,944 |' in written
    assert scale.NOT_MEASURED not in written
    assert '| `predict --ray` | 2 | 80.0 | 1.25 |' in (tmp_path / 'benchmarks/results/scale.md').read_text()
    (tmp_path / 'docs' / 'scale.md').write_text('no markers')
    with pytest.raises(ValueError, match=r'docs/scale\.md must have the lines'):
        scale.generated()


def test_peaks_by_quarter(benchmark):
    samples = [(0.0, 1.0), (1.0, 5.0), (2.5, 3.0), (7.5, 4.0), (9.9, 2.0)]
    assert benchmark.peaks(samples, 10.0) == [5, 3, 3, 4]
    assert benchmark.peaks([], 1.0) == [0, 0, 0, 0]


def test_images_are_repeated(benchmark, tmp_path):
    files = [tmp_path / 'a.jpg', tmp_path / 'b.png']
    for file in files:
        file.write_bytes(b'x')
    folder = benchmark.link_images(files, tmp_path / 'links', 5)
    links = sorted(folder.glob('*/*'))
    assert [link.suffix for link in links] == ['.jpg', '.png', '.jpg', '.png', '.jpg']
    assert all(link.resolve() == files[i % 2] for i, link in enumerate(links))


@pytest.mark.skipif(not Path('/proc/self/smaps_rollup').exists(), reason='memory of processes')
def test_memory_of_a_process_and_its_children(benchmark):
    child = "import time; block = b'x' * (64 << 20); print(1, flush=True); time.sleep(60)"
    parent = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {child!r}])'
    process = subprocess.Popen([sys.executable, '-c', parent], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout.readline() == b'1\n'
        assert 64 < benchmark.memory_of_tree(process.pid) < 256
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()
    assert benchmark.memory_of_tree(process.pid) == 0


def test_a_failed_command_ends_the_benchmark(benchmark, tmp_path):
    with pytest.raises(SystemExit, match=r'predict IMAGES --threshold 2 -o OUT failed: fcam-zoo: error: '):
        benchmark.run(['predict', 'IMAGES', '--threshold', '2', '-o', 'OUT'], tmp_path, tmp_path / 'out')
