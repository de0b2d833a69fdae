"""Measure the time of an evaluation with workers, and its memory, which must not grow with the images.

    python benchmarks/evaluate.py --images 5794 --workers 0 1 2
    python benchmarks/evaluate.py --images 5000 50000 --memory -o results/evaluate.md

Maps are 224x224, drawn on demand from those of `box_metric.py`. Memory is the peak of the resident set of a fresh
process, minus that before the evaluation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from box_metric import SIDE, make_maps

import fcam_zoo
from fcam_zoo.benchmark import evaluate

MIB = 2**20


class Drawn:
    """Maps that are made on demand, like those of a model or of files."""

    def __init__(self, images: int) -> None:
        self.pool = np.concatenate(list(make_maps().values()))
        self.order = np.random.default_rng(0).integers(0, len(self.pool), images)

    def __call__(self, images: torch.Tensor, _labels: torch.Tensor) -> np.ndarray:
        return self.pool[self.order[images[:, 0, 0, 0].long().numpy()]]


class Boxes:
    """A data set of boxes whose images only hold their number."""

    name, split, masks = 'drawn', 'test', None

    def __init__(self, images: int) -> None:
        low = np.random.default_rng(1).integers(20, 90, (images, 2))
        self.boxes = [np.concatenate([xy, xy + 80])[None] for xy in low]
        self.sizes, self.labels = np.full((images, 2), SIDE), np.zeros(images, np.int64)
        self.ids = [str(i) for i in range(images)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        return torch.full((3, 1, 1), float(index)), 0, index


def seconds(images: int, workers: int) -> float:
    source, dataset = Drawn(images), Boxes(images)
    start = time.perf_counter()
    evaluate(source, dataset, workers=workers, rows=False, quiet=True)
    return time.perf_counter() - start


def growth(images: int, rows: bool) -> float:
    """Measure the growth of the peak memory during an evaluation, in MiB."""
    source, dataset = Drawn(images), Boxes(images)
    evaluate(source, Boxes(64), rows=False, quiet=True)
    before = int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    evaluate(source, dataset, rows=rows, quiet=True)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / MIB


def isolated(function: Callable[..., float], *arguments: Any) -> float:
    """Call a function in a new process."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, nargs='+', default=[5794])
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--memory', action='store_true', help='measure memory instead of time')
    parser.add_argument('-o', '--output', type=Path, help='file to which the table is appended')
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    lines = [
        (
            f'fcam_zoo {fcam_zoo.__version__}, numpy {np.__version__}, opencv {cv2.__version__}; {platform.machine()}, '
            f'{os.cpu_count()} cores\n'
        )
    ]
    if args.memory:
        lines += ['| images | rows | additional MiB |', '|---|---|---|']
        for rows in (False, True):
            lines += [f'| {n:,} | {"yes" if rows else "no"} | {isolated(growth, n, rows):.0f} |' for n in args.images]
    else:
        lines += ['| images | workers | relative time | images/s |', '|---|---|---|---|']
        for n in args.images:
            times = {w: seconds(n, w) for w in args.workers}
            first = next(iter(times.values()))
            lines += [f'| {n:,} | {w} | {t / first:.2f} | {n / t:.0f} |' for w, t in times.items()]
    print('\n'.join(lines))
    if args.output:
        with args.output.open('a', encoding='utf-8') as f:
            f.write('\n'.join(lines) + '\n\n')


if __name__ == '__main__':
    main()
