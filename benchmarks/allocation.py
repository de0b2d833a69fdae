"""Measure commands from files to files, with and without the memory that they keep (`fcam_zoo._malloc`), on Linux.

Runs `predict`, `benchmark` and `train` with 2 workers on images of a data set in the WSOL layout, each in a process of
its own, in turn with and without. Prints a Markdown table, with the medians of the ratios of each turn:

    python benchmarks/allocation.py cub50/ -o benchmarks/results/allocation.md

User and system time are those of all processes of a command, its start included. The start is their part before the
first batch has been read. The time outside the network is the share of the rest that is not spent in the forward and
backward passes, those of teachers included, in one thread. All are processor times, which depend less on other load of
the machine. 700 images take about 15 minutes for each turn.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables import Table, machine

from fcam_zoo.cli import main as fcam_zoo
from fcam_zoo.data import list_images

# A variable of glibc without effect: the commands leave malloc alone when the user has chosen settings.
DEFAULTS = {'MALLOC_PERTURB_': '0'}
# By command, what runs the network in the main process: module, class if any, and function.
NETWORK = {
    'predict': [('fcam_zoo.inference', 'InferenceOptions', 'run')],
    'benchmark': [('fcam_zoo.benchmark.sources', None, '_run_model')],
    'train': [
        ('fcam_zoo.train.loop', 'StageRun', 'step'),
        ('fcam_zoo.train.loop', None, 'validate'),
        ('fcam_zoo.train.teacher', 'NetworkTeacher', 'maps'),
    ],
}


@dataclass(frozen=True)
class Cost:
    """What a command took, all its processes together.

    Attributes:
        seconds: Wall-clock time.
        user: Processor time in programs, in seconds.
        system: Processor time in the system, in seconds.
        start: Processor time before the first batch was read, in seconds.
        outside: Share of the processor time outside the network, after the first batch was read.
        peak: Largest resident memory of one process, in MiB.
    """

    seconds: float
    user: float
    system: float
    start: float
    outside: float
    peak: float


def main() -> None:
    if sys.argv[1:2] == ['--measure']:
        measure(sys.argv[2:])
        return
    args = parse()
    # Processes whose parent has ended become children of this one, which counts their time.
    ctypes.CDLL(None).prctl(36, 1)
    names = 'median of the ratios' if args.turns > 1 else 'ratio'
    table = Table(
        f'{args.model}, {args.images} images, {args.workers} workers, {args.turns} turn(s); {machine(1)}; `with` the '
        f'memory that commands keep, `without` it, and {names} with / without',
        '',
        '| command | | seconds | user s | system s | start s | outside the network | peak MiB |',
        '|---|---|---|---|---|---|---|---|',
    )
    with tempfile.TemporaryDirectory() as scratch:
        for title, command in commands(args, Path(scratch)).items():
            add_rows(table, title, compare(command, args.turns))
    table.append_to(args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, help='data set in the WSOL layout, with boxes on test')
    parser.add_argument('--model', default='fcam_mobilenetv1_075.layercam_cub50')
    parser.add_argument('--images', type=int, default=700, help='images of each command (default: 700)')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--turns', type=int, default=2, help='times that each command runs with and without')
    parser.add_argument('--only', nargs='+', help='first words of the rows to measure (default: all)')
    parser.add_argument('-o', '--output', type=Path, help='Markdown file to which the table is appended')
    return parser.parse_args()


def commands(args: argparse.Namespace, scratch: Path) -> dict[str, list[str]]:
    """Return the arguments of each command by its title; OUT stands for a new folder."""
    photos = scratch / 'photos'
    found = list_images(args.data / 'images')
    for number in range(args.images):
        # Ten classes, with as many images each.
        path = found[number * len(found) // args.images]
        link = photos / f'{number * 10 // args.images:02d}' / f'{number:04d}{path.suffix}'
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    common = ['--workers', str(args.workers), '--quiet', '--device', 'cpu', '-o', 'OUT']
    predict = ['predict', str(photos), '--model', args.model, *common]
    limit = ['--limit', str(args.images)]
    all_commands = {
        'predict, coco': [*predict, '--export', 'coco'],
        'predict, overlays': predict,
        'benchmark, 3 maps': [
            *('benchmark', str(args.data), '--model', args.model, '--maps', 'cam', 'layercam', 'fcam'),
            *limit,
            *common,
        ],
        'train, 1 + 1 epochs': ['train', str(photos), '--init', args.model, '--epochs', '1', *common],
    }
    return {k: v for k, v in all_commands.items() if not args.only or k.split(',')[0] in args.only}


def compare(command: list[str], turns: int) -> dict[str, list[Cost]]:
    """Run a command with and without; every second turn in the other order, against a drift of the machine."""
    costs: dict[str, list[Cost]] = {'without': [], 'with': []}
    for turn in range(turns):
        for kind in ('without', 'with') if turn % 2 == 0 else ('with', 'without'):
            costs[kind].append(run(command, DEFAULTS if kind == 'without' else {}))
    return costs


def run(command: list[str], variables: dict[str, str]) -> Cost:
    """Run a command in processes of its own, one thread each.

    Raises:
        SystemExit: When it fails.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_') and k != 'GLIBC_TUNABLES'}
    with tempfile.TemporaryDirectory() as output, tempfile.TemporaryFile('w+') as log:
        arguments = [f'{output}/out' if argument == 'OUT' else argument for argument in command]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, __file__, '--measure', *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**own, 'OMP_NUM_THREADS': '1', **variables},
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        _wait_for_the_rest()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        log.seek(0)
        lines = log.read().splitlines()
    if status:
        raise SystemExit(f'{" ".join(command)} failed: {lines[-1] if lines else status}')
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    inside = json.loads(lines[-1])
    outside = 1 - inside['network'] / (user + system - inside['start'])
    return Cost(seconds, user, system, inside['start'], outside, usage.ru_maxrss / 1024)


def _wait_for_the_rest() -> None:
    """Wait for processes that outlive the command, such as the server that forks its workers."""
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass


def add_rows(table: Table, title: str, costs: dict[str, list[Cost]]) -> None:
    """Add the medians of a command, and of the ratios of its turns."""

    def median(kind: str, name: str) -> float:
        return statistics.median(getattr(cost, name) for cost in costs[kind])

    for kind in ('without', 'with'):
        names = ('seconds', 'user', 'system', 'start', 'outside', 'peak')
        s, user, system, start, outside, peak = (median(kind, name) for name in names)
        times = f'{s:.1f} | {user:.1f} | {system:.1f} | {start:.1f}'
        table.add(f'| {title} | {kind} | {times} | {outside:.0%} | {peak:.0f} |')
    pairs = list(zip(costs['with'], costs['without']))
    s, user, system, peak = (
        statistics.median(getattr(a, name) / max(0.01, getattr(b, name)) for a, b in pairs)
        for name in ('seconds', 'user', 'system', 'peak')
    )
    table.add(f'| {title} | ratio | {s:.2f} | {user:.2f} | {system:.2f} | | | {peak:.2f} |')


def measure(arguments: list[str]) -> None:
    """Run a command in this process, and print the processor time of its start and of its network as JSON."""
    inside = {'start': 0.0, 'network': 0.0}
    for module, owner, name in NETWORK[arguments[0]]:
        place: Any = importlib.import_module(module)
        place = getattr(place, owner) if owner else place
        setattr(place, name, _timed(getattr(place, name), inside))
    if status := fcam_zoo(arguments):
        sys.exit(status)
    print(json.dumps(inside))


def _timed(function: Callable[..., Any], inside: dict[str, float]) -> Callable[..., Any]:
    """Wrap a function: add the processor time of its calls to `inside`, in the only thread that runs the network."""

    def timed(*arguments: Any, **options: Any) -> Any:
        inside['start'] = inside['start'] or time.process_time()
        began, nested = time.thread_time(), inside['network']
        try:
            return function(*arguments, **options)
        finally:
            inside['network'] = nested + time.thread_time() - began  # With that of wrapped functions that it called.

    return timed


if __name__ == '__main__':
    main()
