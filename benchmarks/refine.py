"""Measure refinements of inference: mirrored images, several sizes, larger images, tiles.

Scores a released model on the split `val` of its data set, with boxes (MaxBoxAcc at IoU 30, 50, 70 and their mean) or
masks (PxAP), on maps resized to 224x224 as in the protocol. The cost is the number of pixels that the network
processes, relative to one pass. Prints a Markdown table:

    python benchmarks/refine.py CUB/ --model fcam_mobilenetv1_075.layercam_cub50 -o benchmarks/results/refine.md

Tiles are crops of an enlarged image that overlap by half; overlapping maps are averaged.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tables import Table, machine

import fcam_zoo
from fcam_zoo import FCAM
from fcam_zoo.benchmark import BoxMetric, PixelAP, resize_boxes
from fcam_zoo.data import WSOLDataset, open_image
from fcam_zoo.inference import InferenceOptions

SIDE = 224

Refinement = Callable[[FCAM, list[Image.Image]], tuple[torch.Tensor, torch.Tensor]]
"""Model and images -> maps (B,s,s), class probabilities (B,K)."""


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    model = fcam_zoo.create_model(args.model, pretrained=True)
    dataset = WSOLDataset(args.data, args.split)
    boxes = dataset.boxes is not None
    table = Table(
        f'{args.model}, {dataset.name} {args.split} ({len(dataset)} images); {machine(args.threads)}',
        '',
        f'| refinement | {"MaxBoxAcc 30 / 50 / 70, mean | top-1 loc. 50" if boxes else "PxAP"} | class. | cost |',
        '|---|---|---|---|' + ('---|' if boxes else ''),
    )
    for name, (refinement, cost) in REFINEMENTS.items():
        table.add(f'| {name} | {score(model, dataset, refinement, args.batch_size)} | {cost:.1f} |')
    table.append_to(args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, help='root of a data set in the WSOL layout, with boxes or masks')
    parser.add_argument('--model', required=True)
    parser.add_argument('--split', default='val')
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('-o', '--output', type=Path, help='Markdown file to which the table is appended')
    return parser.parse_args()


def whole(*sizes: int, flip: bool = False) -> tuple[Refinement, float]:
    """Process whole images at these sizes."""
    inference = InferenceOptions(sizes, flip)

    def run(model: FCAM, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        return inference.run(model, [inference.prepare(image) for image in images])

    return run, (2 if flip else 1) * sum(size**2 for size in sizes) / SIDE**2


def tiles(side: int) -> tuple[Refinement, float]:
    """Process crops of 224 pixels of images of side x side."""
    corners = range(0, side - SIDE + 1, SIDE // 2)
    crop, enlarged = InferenceOptions((SIDE,)), InferenceOptions((side,))

    def run(model: FCAM, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        context, probs = crop.run(model, [crop.prepare(image) for image in images])
        total, count = torch.zeros(len(images), side, side), torch.zeros(side, side)
        large = [enlarged.prepare(image)[0] for image in images]
        for y in corners:
            for x in corners:
                crops = [(image[:, y : y + SIDE, x : x + SIDE],) for image in large]
                total[:, y : y + SIDE, x : x + SIDE] += crop.run(model, crops)[0]
                count[y : y + SIDE, x : x + SIDE] += 1
        # Tiles inside an object lack context, so they are averaged with the map of the whole image.
        context = F.interpolate(context[:, None], (side, side), mode='bilinear')[:, 0]
        return (total / count + context) / 2, probs

    return run, 1.0 + len(corners) ** 2


REFINEMENTS: dict[str, tuple[Refinement, float]] = {
    'none': whole(224),
    'flip': whole(224, flip=True),
    'sizes 192, 224, 256': whole(192, 224, 256),
    'sizes 224, 288': whole(224, 288),
    'sizes 192, 224, 256, flip': whole(192, 224, 256, flip=True),
    'size 192': whole(192),
    'size 256': whole(256),
    'size 288': whole(288),
    'size 320': whole(320),
    'size 448': whole(448),
    'tiles of 336': tiles(336),
    'tiles of 448': tiles(448),
}


def score(model: FCAM, dataset: WSOLDataset, refine: Refinement, batch_size: int) -> str:
    """Return the metrics of a refinement as cells of the table."""
    metric = BoxMetric() if dataset.boxes is not None else PixelAP()
    right = 0
    for start in range(0, len(dataset), batch_size):
        index = range(start, min(start + batch_size, len(dataset)))
        images = [open_image(dataset.path(i), exif=False) for i in index]
        maps, probs = refine(model, images)
        maps = F.interpolate(maps[:, None], (SIDE, SIDE), mode='bilinear', antialias=True)[:, 0].clamp(0, 1)
        labels = torch.as_tensor(dataset.labels[start : start + len(index)])
        right += int((probs.argmax(1) == labels).sum())
        if dataset.boxes is None:
            metric.update(maps, np.stack([dataset.mask(i, (SIDE, SIDE)) for i in index]))
        else:
            boxes = [
                resize_boxes(dataset.boxes[i], image.size, (SIDE, SIDE)).clip(0, SIDE - 1)
                for i, image in zip(index, images)
            ]
            metric.update(maps, boxes, labels, probs.log())
    found = metric.compute()
    accuracy = f'{100 * right / len(dataset):.1f}'
    if dataset.boxes is None:
        return f'{found["pxap"]:.1f} | {accuracy}'
    at = ' / '.join(f'{value:.1f}' for value in found['max_box_acc'])
    return f'{at}, {found["mean"]:.1f} | {found["top1"][1]:.1f} | {accuracy}'


if __name__ == '__main__':
    main()
