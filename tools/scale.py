"""Write benchmarks/results/scale.md and the tables of docs/scale.md: python -m tools.scale [--price 0.04]

The measurements are those of benchmarks/results/scale.json, which benchmarks/scale.py writes. Everything else is
computed from them, and from prices and sizes that can be changed here, for your own numbers. A test fails if a file is
out of date.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

from fcam_zoo._io import write_text
from fcam_zoo._schema import build
from fcam_zoo.data.sources.store_reader import BLOCK

from . import records
from .card import between_markers, table

NOT_MEASURED = 'Not measured yet: run `python benchmarks/scale.py PHOTOS`.\n'
HEAD = """# Many images

Made by `benchmarks/scale.py`: rates without the start; memory is that of all processes together (proportional set
size), its peak in each quarter of the run.
"""
MARKERS = {
    name: (f'<!-- {name}: begin -->', f'<!-- {name}: end -->') for name in ('measured', 'assumed', 'rates', 'jobs')
}
JOBS = {'10 million': 10**7, '1 billion': 10**9}
CORES = (64, 1024)
HOURS = 24
GIB, TIB = 2**30, 2**40
JOB_IMAGES = 10**7
"""Images of a job: the driver holds the names of all."""
INDEX_SPEEDUP = 12
"""Of 16 threads that index tar shards of a store, over one, as measured with 32 shards and 50 ms per request."""
NAME_BYTES = 450
"""Memory of the name of an image in the driver, as measured with a list of a million URLs."""
ROW_GROUP = 100
"""Images of a row group of a Parquet file; the index reads its names, and a worker its images, in a request each."""


@dataclass(frozen=True)
class Run:
    """A measured command.

    Attributes:
        title: The command.
        workers: Processes that read images, or workers of Ray.
        images: Images of the run.
        seconds: Time of the whole run.
        start: Time before the first image.
        rate: Images per second after the start.
        memory: Largest memory of all processes together in each quarter of the time, in MiB.
        bytes_per_image: Size of the annotations per image.
        files: Number of files of annotations.
    """

    title: str
    workers: int
    images: int
    seconds: float
    start: float
    rate: float
    memory: list[float]
    bytes_per_image: float
    files: int


@dataclass(frozen=True)
class Measured:
    """The contents of scale.json; `image_bytes` is the mean size of the image files, `different` their number."""

    machine: str
    model: str
    cores: int
    images: int
    different: int
    image_bytes: float
    shard_size: int
    runs: list[Run]

    @property
    def last(self) -> Run:
        """The run that the tables are computed from: the last one, with the most workers."""
        return self.runs[-1]

    @property
    def core_seconds(self) -> float:
        """Time of one core per image, after the start."""
        return self.cores / self.last.rate


@dataclass(frozen=True)
class Assumed:
    """What the reader can change.

    Attributes:
        price: Price of a core for an hour.
        request_price: Price of 1000 requests to read from a store.
        image_bytes: Mean size of an image file in bytes; None: that of the measured images.
        shard: Images of a tar shard, and rows of a Parquet file.
        latency: Seconds of a request of 1 MiB.
    """

    price: float = 0.04
    request_price: float = 0.0004
    image_bytes: float | None = None
    shard: int = 10_000
    latency: float = 0.05


def main() -> None:
    default = Assumed()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--price', type=float, default=default.price, help='price of a core for an hour')
    parser.add_argument('--request-price', type=float, default=default.request_price, help='price of 1000 requests')
    parser.add_argument('--image-bytes', type=float, help='mean size of your image files (default: the measured ones)')
    parser.add_argument('--shard', type=int, default=default.shard, help='images of a shard')
    parser.add_argument('--latency', type=float, default=default.latency, help='seconds of a request of 1 MiB')
    parser.add_argument('--print', action='store_true', help='print the tables instead of writing the files')
    args = parser.parse_args()
    assumed = Assumed(args.price, args.request_price, args.image_bytes, args.shard, args.latency)
    if args.print:
        print('\n'.join(parts(read(), assumed).values()))
        return
    for path, text in generated(assumed).items():
        write_text(path, text)


def folder() -> Path:
    """Return the folder of the measurements."""
    return records.ROOT / 'benchmarks' / 'results'


def read() -> Measured | None:
    """Read the measurements; None if there are none."""
    path = folder() / 'scale.json'
    return build(Measured, json.loads(path.read_text(encoding='utf-8'))) if path.is_file() else None


def generated(assumed: Assumed | None = None) -> dict[Path, str]:
    """Return the generated files and their text."""
    measured, page = read(), records.ROOT / 'docs' / 'scale.md'
    found = parts(measured, assumed or Assumed())
    text = page.read_text(encoding='utf-8')
    for name, content in found.items():
        text = between_markers(text, content, MARKERS[name], 'docs/scale.md')
    files = {page: text}
    if measured:
        files[folder() / 'scale.md'] = '\n'.join([HEAD, found['measured'], found['rates']])
    return files


def parts(measured: Measured | None, assumed: Assumed) -> dict[str, str]:
    """Return the generated parts of docs/scale.md."""
    if measured is None:
        return dict.fromkeys(MARKERS, NOT_MEASURED)
    makers = {
        'measured': conditions(measured),
        'assumed': assumptions(measured, assumed),
        'rates': rates(measured),
        'jobs': jobs(measured, assumed),
    }
    return {name: f'{text}\n' for name, text in makers.items()}


def conditions(measured: Measured) -> str:
    """Say what was measured."""
    return (
        f'{measured.model}; {measured.images:,} images, made by repeating {measured.different:,} files of '
        f'{measured.image_bytes / 1000:.0f} kB on average; {measured.cores} cores; {measured.machine}; '
        f'`--shard-size {measured.shard_size}`.'
    )


def rates(measured: Measured) -> str:
    """Return the table of the measured runs."""
    plain = measured.runs[0].rate
    head = [
        'command',
        'workers',
        'images/s',
        'time per image, relative',
        'start, s',
        'peak MiB by quarter',
        'B/image',
        'files',
    ]
    rows = [
        [
            f'`{run.title}`',
            str(run.workers),
            f'{run.rate:.1f}',
            f'{plain / run.rate:.2f}',
            f'{run.start:.0f}',
            ' / '.join(f'{mib:.0f}' for mib in run.memory),
            f'{run.bytes_per_image:.0f}',
            str(run.files),
        ]
        for run in measured.runs
    ]
    return table(head, rows)


def assumptions(measured: Measured, assumed: Assumed) -> str:
    """List the prices and sizes that the computed table assumes."""
    size = assumed.image_bytes or measured.image_bytes
    return (
        f'Assumed: {assumed.price:g} per core and hour; {assumed.request_price:g} per 1000 requests; '
        f'{size / 1000:.0f} kB per image file; {assumed.shard:,} images per shard; '
        f'{ROW_GROUP} images per row group of a Parquet file with images; {assumed.latency:g} s per request of 1 MiB.'
    )


def jobs(measured: Measured, assumed: Assumed) -> str:
    """Return the table of what large jobs take, computed from the last run."""
    columns = [_job(measured, assumed, images) for images in JOBS.values()]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return table(['computed', *(f'{name} images' for name in JOBS)], rows)


def _job(measured: Measured, assumed: Assumed, images: int) -> dict[str, str]:
    core_hours = images * measured.core_seconds / 3600
    image_bytes = assumed.image_bytes or measured.image_bytes
    shards = -(-images // assumed.shard)
    row = measured.last.bytes_per_image
    # The index reads all small images on its way to the next header, and a block for each large one.
    index = min(images, math.ceil(images * image_bytes / BLOCK))
    found = {'core-hours': f'{core_hours:,.0f}'}
    found |= {f'time on {cores:,} cores': _duration(core_hours / cores) for cores in CORES}
    found |= {
        f'cores to finish in {HOURS} hours': f'{core_hours / HOURS:,.0f}',
        'cost of the cores': f'{core_hours * assumed.price:,.0f}',
        'cost of the cores per million images': f'{1e6 * measured.core_seconds / 3600 * assumed.price:.2f}',
        'images to read': _size(images * image_bytes),
        f'read rate of {CORES[-1]:,} cores': f'{CORES[-1] / measured.core_seconds * image_bytes / 1e6:,.0f} MB/s',
        'annotations to store': _size(images * row),
        'Parquet files': f'{shards:,} of {assumed.shard * row / 1e6:.1f} MB',
        'tar shards': f'{shards:,} of {assumed.shard * image_bytes / 1e6:,.0f} MB',
        'requests, and their cost, loose images': _requests(images, assumed),
        'requests, and their cost, tar shards': _requests(images + index, assumed),
        'requests, and their cost, Parquet files with images': _requests(2 * -(-images // ROW_GROUP), assumed),
        'time to index tar shards, by the driver, before the jobs': _duration(
            index * assumed.latency / INDEX_SPEEDUP / 3600
        ),
        f'jobs of {JOB_IMAGES:,} images': f'{-(-images // JOB_IMAGES):,}',
        'memory for names, in the driver': _size(min(images, JOB_IMAGES) * NAME_BYTES),
    }
    return found


def _requests(number: int, assumed: Assumed) -> str:
    return f'{number:,}, {number / 1000 * assumed.request_price:,.2f}'


def _duration(hours: float) -> str:
    if hours < 1:
        return f'{hours * 60:.0f} minutes'
    return f'{hours / 24:.1f} days' if hours >= 48 else f'{hours:.1f} hours'


def _size(number: float) -> str:
    return f'{number / TIB:,.1f} TiB' if number >= TIB else f'{number / GIB:,.{0 if number >= 10 * GIB else 1}f} GiB'


if __name__ == '__main__':
    main()
