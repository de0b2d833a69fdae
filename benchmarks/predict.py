"""Images a second of `label_images`, end to end from files, and the share of time in which the network does not run.

The folder is labelled once for each number of workers, in every format; before, the network alone runs over as many
images from tensors in memory, with the same threads. What the run takes longer is time outside the network: reading,
waiting for readers, drawing at full resolution, writing. A Markdown table is printed:

    python benchmarks/predict.py photos/ --model fcam_mobilenetv1_075_cub50 -o benchmarks/results/predict.md

With `--device cuda`, decoding is the limit up to the number of workers from which more of them no longer help.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from tables import Table, machine

import fcam_zoo
from fcam_zoo import FCAM
from fcam_zoo.data import list_images, open_image
from fcam_zoo.inference import Passes

FORMATS = ('coco', 'voc', 'yolo', 'csv', 'masks')


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    model = fcam_zoo.create_model(args.model, pretrained=True).to(args.device)
    images = list_images(args.images)[: args.limit]
    alone = network_seconds(model, images, args.batch_size)
    table = Table(
        f'{args.model}, {len(images)} images, batches of {args.batch_size}; {machine(args.threads, args.device)}',
        '',
        f'The network alone: {len(images) / alone:.1f} images/s.',
        '',
        '| workers | images/s | outside the network |',
        '|---|---|---|',
    )
    for workers in args.workers:
        seconds = run_seconds(model, images, args.batch_size, workers)
        table.add(f'| {workers} | {len(images) / seconds:.1f} | {max(0.0, 1 - alone / seconds):.0%} |')
    table.append_to(args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', type=Path, help='folder of images')
    parser.add_argument('--model', required=True)
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--limit', type=int, default=512, help='images taken (default: 512)')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('-o', '--output', type=Path, help='Markdown file to which the table is appended')
    return parser.parse_args()


def network_seconds(model: FCAM, images: list[Path], batch_size: int) -> float:
    """Seconds of the forward passes over all images, which are in memory; one batch warms up."""
    passes = Passes.of(model)
    views = [passes.prepare(open_image(path)) for path in images[:batch_size]]
    passes.run(model, views)
    began = time.perf_counter()
    for start in range(0, len(images), batch_size):
        passes.run(model, views[: min(batch_size, len(images) - start)])
    return time.perf_counter() - began


def run_seconds(model: FCAM, images: list[Path], batch_size: int, workers: int) -> float:
    """Seconds from the files to the annotations of all formats, the start of the workers included."""
    with tempfile.TemporaryDirectory() as output:
        began = time.perf_counter()
        fcam_zoo.label_images(model, images, output, FORMATS, batch_size=batch_size, workers=workers)
        return time.perf_counter() - began


if __name__ == '__main__':
    main()
