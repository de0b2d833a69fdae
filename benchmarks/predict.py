"""Measure images per second of `label_images`, from files to annotations, and the share of time outside the network.

First only the network runs, on as many images from tensors in memory and with the same threads. Then the folder is
labelled in all formats, once per number of workers. The additional time is spent outside the network: reading, waiting
for threads, drawing at full resolution, writing. Prints a Markdown table:

    python benchmarks/predict.py photos/ --model fcam_mobilenetv1_075_cub50 -o benchmarks/results/predict.md

With `--device cuda`, image decoding is the bottleneck until further workers no longer help.
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
from fcam_zoo._malloc import keep_freed_memory
from fcam_zoo.data import list_images, open_image
from fcam_zoo.inference import InferenceOptions

FORMATS = ('coco', 'voc', 'yolo', 'csv', 'masks')


def main() -> None:
    args = parse()
    keep_freed_memory()  # As the command does.
    torch.set_num_threads(args.threads)
    model = fcam_zoo.create_model(args.model, pretrained=True).to(args.device)
    images = list_images(args.images)[: args.limit]
    network = network_seconds(model, images, args.batch_size)
    table = Table(
        f'{args.model}, {len(images)} images, batches of {args.batch_size}; {machine(args.threads, args.device)}',
        '',
        f'Network only: {len(images) / network:.1f} images/s.',
        '',
        '| workers | images/s | outside the network |',
        '|---|---|---|',
    )
    for workers in args.workers:
        seconds = run_seconds(model, images, args.batch_size, workers)
        table.add(f'| {workers} | {len(images) / seconds:.1f} | {max(0.0, 1 - network / seconds):.0%} |')
    table.append_to(args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', type=Path, help='folder of images')
    parser.add_argument('--model', required=True)
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--limit', type=int, default=512, help='number of images (default: 512)')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('-o', '--output', type=Path, help='Markdown file to which the table is appended')
    return parser.parse_args()


def network_seconds(model: FCAM, images: list[Path], batch_size: int) -> float:
    """Measure the forward passes over all images, from memory, after one warm-up batch."""
    inference = InferenceOptions.for_model(model)
    views = [inference.prepare(open_image(path)) for path in images[:batch_size]]
    inference.run(model, views)
    began = time.perf_counter()
    for start in range(0, len(images), batch_size):
        inference.run(model, views[: min(batch_size, len(images) - start)])
    return time.perf_counter() - began


def run_seconds(model: FCAM, images: list[Path], batch_size: int, workers: int) -> float:
    """Measure from the files to the annotations of all formats, including the start of the workers."""
    with tempfile.TemporaryDirectory() as output:
        began = time.perf_counter()
        options = fcam_zoo.LabelOptions(FORMATS, batch_size=batch_size, workers=workers)
        fcam_zoo.label_images(model, images, output, options)
        return time.perf_counter() - began


if __name__ == '__main__':
    main()
