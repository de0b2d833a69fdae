"""Run a campaign: `python -m tests.fuzz --inputs 10000`. Exit status 1 if an input is slow or raises another error."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

os.environ |= {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1'}

from .campaign import run
from .surfaces import SURFACES


def main() -> int:
    parser = argparse.ArgumentParser('python -m tests.fuzz', description=__doc__)
    parser.add_argument('--inputs', type=int, default=1000, help='inputs per surface (default: 1000)')
    parser.add_argument('--surface', nargs='+', choices=SURFACES, default=list(SURFACES), help='default: all')
    parser.add_argument('--seed', type=int, default=0, help='default: 0')
    args = parser.parse_args()
    columns = ('inputs', 'refused', 'accepted', 'undocumented', 'slow', 'memory')
    print(f'{"surface":16}' + ''.join(f'{column:>13}' for column in columns) + '  seconds', flush=True)
    bad = 0
    for name in args.surface:
        start = time.perf_counter()
        # Its own process, to measure memory.
        with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
            try:
                counts = pool.submit(run, name, args.inputs, args.seed).result()
            except BrokenProcessPool:
                print(f'{name:16} its process was killed, perhaps for lack of memory', flush=True)
                bad += 1
                continue
        numbers = [counts.inputs, *(counts.kinds[kind] for kind in columns[1:5]), f'{counts.growth} MiB']
        seconds = time.perf_counter() - start
        print(f'{name:16}' + ''.join(f'{number:>13}' for number in numbers) + f'{seconds:9.0f}', flush=True)
        for number, example in counts.problems.values():
            print(f'    {number} x {example}', flush=True)
        bad += len(counts.problems)
    return int(bad > 0)


if __name__ == '__main__':
    sys.exit(main())
