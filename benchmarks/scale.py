"""Measure `predict` on many images, alone and on Ray: images per second, overhead of Ray, memory over the run (Linux).

Repeats real images by symbolic links until there are `--images` of them, and labels them with `predict` and 2 workers,
then with `predict --ray` and each number of workers, one after another on this machine. Each is also run on a few
images, whose time is subtracted: rates are without the start. At the rates of results/scale.md,
20,000 images take about 15 minutes:

    python benchmarks/scale.py photos/

Writes benchmarks/results/scale.json, and from it benchmarks/results/scale.md and the tables of docs/scale.md
(`python -m tools.scale`). Without the extra `ray`, give `--ray-workers 0`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from tables import machine

from fcam_zoo.data import list_images

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'scale.json'
QUARTERS = 4
# Images in a folder of links.
_FOLDER = 1000


def main() -> None:
    args = parse()
    files = list_images(args.photos)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        scratch = Path(folder)
        print(f'{args.images} images, {len(files)} different ones', flush=True)
        few, many = (link_images(files, scratch / str(n), n) for n in (args.few, args.images))
        runs = [measure('predict', 2, predict(args, 2), few, many, scratch)]
        for workers in filter(None, args.ray_workers):
            command = [*predict(args, None), '--ray', '--ray-workers', str(workers)]
            command += ['--shard-size', str(args.shard_size)]
            runs.append(measure('predict --ray', workers, command, few, many, scratch))
    sizes = [path.stat().st_size for path in files]
    results = {
        'machine': machine(args.cores),
        'model': args.model,
        'cores': args.cores,
        'images': args.images,
        'different': len(files),
        'image_bytes': sum(sizes) / len(sizes),
        'shard_size': args.shard_size,
        'runs': runs,
    }
    args.output.write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')
    if args.output == RESULTS:
        subprocess.run([sys.executable, '-m', 'tools.scale'], cwd=ROOT, check=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('photos', type=Path, help='folder of images')
    parser.add_argument('--images', type=int, default=20_000, help='images of a run (default: 20000)')
    parser.add_argument('--few', type=int, default=200, help='images of the run that measures the start (default: 200)')
    parser.add_argument('--model', default='fcam_mobilenetv1_025.layercam_cub50')
    parser.add_argument('--ray-workers', type=int, nargs='+', default=[1, 2], help='default: 1 2; 0 is without Ray')
    parser.add_argument('--shard-size', type=int, default=1000, help='rows of a Parquet file (default: 1000)')
    parser.add_argument('--cores', type=int, default=os.cpu_count(), help='cores of the machine (default: all)')
    parser.add_argument('--scratch', type=Path, help='folder for links and annotations')
    parser.add_argument('-o', '--output', type=Path, default=RESULTS, help='JSON file (default: that of the docs)')
    args = parser.parse_args()
    if args.images < 2 * args.few:
        parser.error(f'--images is {args.images}: give at least twice --few ({args.few})')
    return args


def predict(args: argparse.Namespace, workers: int | None) -> list[str]:
    """Return the command of a run on one machine (`workers` threads that read), or the part that Ray's has, too."""
    command = ['predict', 'IMAGES', '--model', args.model, '--device', 'cpu', '--quiet', '-o', 'OUT']
    return command if workers is None else [*command, '--export', 'coco', '--workers', str(workers)]


def link_images(files: list[Path], folder: Path, number: int) -> Path:
    """Fill a folder with links to files, which are repeated."""
    for i, file in enumerate(islice(cycle(files), number)):
        link = folder / f'{i // _FOLDER:05d}' / f'{i:09d}{file.suffix}'
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    return folder


def measure(title: str, workers: int, command: list[str], few: Path, many: Path, scratch: Path) -> dict[str, Any]:
    """Run a command on few and on many images.

    Returns:
        title, workers, images, seconds (all, with the start), start (seconds of the run on few images, without the time
        for these images), rate (images per second after the start), memory (largest MiB of all processes together in
        each quarter of the time), bytes_per_image of the annotations, and files: their number.
    """
    number = {folder: sum(1 for _ in folder.glob('*/*')) for folder in (few, many)}
    outputs = Path(tempfile.mkdtemp(dir=scratch))
    short, _, _ = run(command, few, outputs / 'few')
    seconds, samples, sizes = run(command, many, outputs / 'many')
    if seconds <= short:
        raise SystemExit(f'{title}: {number[few]} images took longer than {number[many]}: give more --images, or wait')
    rate = (number[many] - number[few]) / (seconds - short)
    found = {
        'title': title,
        'workers': workers,
        'images': number[many],
        'seconds': seconds,
        'start': max(0.0, short - number[few] / rate),
        'rate': rate,
        'memory': peaks(samples, seconds),
        'bytes_per_image': sum(sizes) / number[many],
        'files': len(sizes),
    }
    print(f'{title}, {workers} worker(s): {rate:.1f} images/s, MiB {found["memory"]}', flush=True)
    return found


def run(command: list[str], images: Path, output: Path) -> tuple[float, list[tuple[float, float]], list[int]]:
    """Run a command to its end.

    Returns:
        Seconds; samples of (seconds, MiB of all its processes); sizes of its annotation files in bytes.

    Raises:
        SystemExit: When it fails.
    """
    places = {'IMAGES': str(images), 'OUT': str(output)}
    arguments = [sys.executable, '-m', 'fcam_zoo', *(places.get(word, word) for word in command)]
    samples = []
    with tempfile.TemporaryFile('w+') as log:
        began = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            samples.append((time.perf_counter() - began, memory_of_tree(process.pid)))
            time.sleep(0.5)
        seconds = time.perf_counter() - began
        log.seek(0)
        lines = log.read().splitlines()
    if process.returncode:
        raise SystemExit(f'{" ".join(command)} failed: {lines[-1] if lines else process.returncode}')
    kinds = ('annotations.json', '*.parquet')
    return seconds, samples, [path.stat().st_size for kind in kinds for path in output.rglob(kind)]


def memory_of_tree(pid: int) -> float:
    """Return the memory of a process and its descendants in MiB; shared pages count once (proportional set size)."""
    parents = {}
    for entry in os.scandir('/proc'):
        if entry.name.isdigit() and (text := _read(entry.name, 'stat')):
            parents[int(entry.name)] = int(text.rpartition(')')[2].split()[1])
    family, added = {pid}, {pid}
    while added:
        added = {child for child, parent in parents.items() if parent in added} - family
        family |= added
    kib = 0
    for member in family:
        lines = _read(str(member), 'smaps_rollup').splitlines()
        kib += sum(int(line.split()[1]) for line in lines if line.startswith('Pss:'))
    return kib / 1024


def _read(pid: str, name: str) -> str:
    """Read a file of a process; empty when it has ended."""
    try:
        return Path('/proc', pid, name).read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''


def peaks(samples: list[tuple[float, float]], seconds: float) -> list[float]:
    """Return the largest memory in each quarter of a run; a quarter without a sample has the last one before it."""
    found: list[float] = []
    for quarter in range(QUARTERS):
        low, high = (seconds * edge / QUARTERS for edge in (quarter, quarter + 1))
        inside = [mib for at, mib in samples if low <= at < high]
        found.append(round(max(inside)) if inside else (found[-1] if found else 0.0))
    return found


if __name__ == '__main__':
    main()
