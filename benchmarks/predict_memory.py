"""Measure the peak memory of `label_images`: it does not grow with the number of images.

Draws small images, so that any data kept per image would show, and labels them in all formats with a small untrained
network, in one process per number of images. Prints the peak of the process:

    python benchmarks/predict_memory.py --images 500 3000 -o benchmarks/results/predict_memory.md
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tables import Table, machine

import fcam_zoo
from fcam_zoo._malloc import keep_freed_memory

FORMATS = ('coco', 'voc', 'yolo', 'csv', 'masks', 'overlays')
SIZES = ((96, 72), (72, 96), (80, 80), (120, 60))
UNIT = 1024 if sys.platform == 'darwin' else 1  # ru_maxrss is in bytes on macOS, otherwise in KiB.


def main() -> None:
    args = parse()
    if args.measure:
        print(json.dumps(measure(args.measure, args.workers)))
        return
    table = Table(
        f'{machine(1)}, {args.workers} worker(s), formats: {", ".join(FORMATS)}',
        '',
        '| images | MiB before | peak MiB |',
        '|---|---|---|',
    )
    for images in args.images:
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            draw(Path(folder) / 'in', images)
            command = [sys.executable, __file__, '--workers', str(args.workers), '--measure', folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        table.add(f'| {images:,} | ' + ' | '.join(f'{mib:.0f}' for mib in json.loads(done.stdout)) + ' |')
    table.append_to(args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, nargs='+', default=[500, 3000])
    parser.add_argument('--workers', type=int, default=1)
    parser.add_argument('--scratch', type=Path, help='folder for the images and annotations')
    parser.add_argument('-o', '--output', type=Path, help='Markdown file to which the table is appended')
    parser.add_argument('--measure', type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def draw(folder: Path, images: int) -> None:
    """Draw noise with a bright box, so that regions have ragged outlines and long run lengths."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(images):
        width, height = SIZES[i % len(SIZES)]
        pixels = rng.integers(0, 96, (height, width, 3), np.uint8)
        x, y = rng.integers(0, (width // 2, height // 2))
        pixels[y : y + height // 3, x : x + width // 3] += 128
        Image.fromarray(pixels).save(folder / f'{i:06d}.jpg')


def measure(folder: Path, workers: int) -> tuple[float, float]:
    """Return MiB before the run, and at its peak."""
    keep_freed_memory()  # As the command does.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    before = peak()
    options = fcam_zoo.LabelOptions(FORMATS, multi=True, min_area=0, sizes=(64,), workers=workers)
    fcam_zoo.label_images(model, folder / 'in', folder / 'out', options)
    return before, peak()


def peak() -> float:
    """Return the largest resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / UNIT / 1024


if __name__ == '__main__':
    main()
