"""Time a training step of the classifier with each training method, relative to cross-entropy. Prints Markdown:

    python benchmarks/train_methods.py > benchmarks/results/train_methods.md

Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from train import SIDE, median_time

import fcam_zoo
from fcam_zoo import wsol
from fcam_zoo.train import ClassifierConfig
from fcam_zoo.train.stages import ClassifierStage

BACKBONE = 'mobilenetv1_075'
CLASSES = 50
# Narrow heads for a narrow backbone, as in the comparison of docs/methods.md; frozen layers likewise.
NARROW = {
    'acol': {'channels': 256},
    'spg': {'channels': 128},
    'i2c': {'channels': 256},
    'danet': {'channels': [256, 256, 128]},
    'cstn': {'channels': 128, 'windows': [3, 5]},
}
FROZEN = ['conv_stem', 'bn1', 'blocks.0', 'blocks.1', 'blocks.2']


def new_step(method: dict[str, Any] | None, batch: int) -> Callable[[], None]:
    """Return a training step of the classifier of a random network on random images."""
    torch.manual_seed(0)
    model = fcam_zoo.create_model(
        'fcam', backbone=BACKBONE, num_classes=CLASSES, output_stride=32, decoder_type='fpn', method=method
    )
    config = ClassifierConfig(frozen_layers=FROZEN)
    stage = ClassifierStage(model.to(memory_format=torch.channels_last), config, 'cam').train()
    optimizer = torch.optim.SGD(stage.parameter_groups(), lr=1e-6, momentum=0.9, nesterov=True)
    images = torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8)
    # Pairs of one class, as I2C needs them.
    labels = torch.arange(batch).div(2, rounding_mode='floor')

    def step() -> None:
        generators = [torch.Generator().manual_seed(i) for i in range(batch)]
        optimizer.zero_grad()
        torch.stack(list(stage(images, labels, generators).values())).sum().backward()
        optimizer.step()

    return step


def report(batch: int, rounds: int) -> None:
    """Print a row per method: the median time of its steps over that of the plain steps beside them."""
    print('\n| method | time of a step, cross-entropy = 1 |\n|---|--:|')
    plain = new_step(None, batch)
    for name, method in wsol.METHODS.items():
        if name == 'ts_cam':
            continue  # For vision transformers.
        step = new_step({'name': name, **NARROW.get(name, {})}, batch)
        # In turns, so that a change of the machine's speed affects both.
        ratios = [median_time(step, 1) / median_time(plain, 1) for _ in range(rounds)]
        print(f'| {method.title} | {np.median(ratios):.2f} |', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--batch', type=int, default=32, help='images of a step')
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print('# Training methods: time of a classifier step\n')
    print(
        f'Made by `python benchmarks/train_methods.py`: {platform.machine()}, {args.threads} threads, torch '
        f'{torch.__version__.split("+")[0]}, fcam_zoo {fcam_zoo.__version__}. Batches of {args.batch} images of '
        f'{SIDE} pixels, {CLASSES} classes, float32, without loading. {BACKBONE} at stride 32 with its first three '
        'stages frozen; widths that are not the default: '
        f'{", ".join(f"{name} {settings}" for name, settings in NARROW.items())}.'
    )
    report(args.batch, args.rounds)


if __name__ == '__main__':
    main()
