"""What refinements of inference bring: mirrored images, several sizes, larger images, tiles.

Scores a released model on the split `val` of its data, with boxes (MaxBoxAcc at IoU 30, 50, 70 and their mean) or masks
(PxAP), maps resized to 224x224 as in the protocol, with the cost of each way: the pixels that the network sees,
relative to one pass. A Markdown table is printed:

    python benchmarks/refine.py CUB/ --model fcam_mobilenetv1_075.layercam_cub50 -o benchmarks/results/refine.md

Tiles are crops of an enlarged image, half a crop apart; maps are averaged where they overlap.
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
from fcam_zoo.inference import Passes

SIDE = 224

Way = Callable[[FCAM, list[Image.Image]], tuple[torch.Tensor, torch.Tensor]]
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
    for name, (way, cost) in WAYS.items():
        table.add(f'| {name} | {score(model, dataset, way, args.batch_size)} | {cost:.1f} |')
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


def passes(*sizes: int, flip: bool = False) -> tuple[Way, float]:
    """Whole images at these sizes."""

    def way(model: FCAM, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        how = Passes(sizes, flip)
        return how.run(model, [how.prepare(image) for image in images])

    return way, (2 if flip else 1) * sum(size**2 for size in sizes) / SIDE**2


def tiles(side: int) -> tuple[Way, float]:
    """Crops of 224 pixels of images of side x side."""

    corners = range(0, side - SIDE + 1, SIDE // 2)

    def way(model: FCAM, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        whole, probs = Passes((SIDE,)).run(model, [Passes((SIDE,)).prepare(image) for image in images])
        total, count = torch.zeros(len(images), side, side), torch.zeros(side, side)
        large = [Passes((side,)).prepare(image)[0] for image in images]
        for y in corners:
            for x in corners:
                crops = [(image[:, y : y + SIDE, x : x + SIDE],) for image in large]
                total[:, y : y + SIDE, x : x + SIDE] += Passes((SIDE,)).run(model, crops)[0]
                count[y : y + SIDE, x : x + SIDE] += 1
        # A tile inside the object has no context, the whole image has: their mean.
        whole = F.interpolate(whole[:, None], (side, side), mode='bilinear')[:, 0]
        return (total / count + whole) / 2, probs

    return way, 1.0 + len(corners) ** 2


WAYS: dict[str, tuple[Way, float]] = {
    'none': passes(224),
    'flip': passes(224, flip=True),
    'sizes 192, 224, 256': passes(192, 224, 256),
    'sizes 224, 288': passes(224, 288),
    'sizes 192, 224, 256, flip': passes(192, 224, 256, flip=True),
    'size 192': passes(192),
    'size 256': passes(256),
    'size 288': passes(288),
    'size 320': passes(320),
    'size 448': passes(448),
    'tiles of 336': tiles(336),
    'tiles of 448': tiles(448),
}


def score(model: FCAM, dataset: WSOLDataset, way: Way, batch_size: int) -> str:
    """Figures of a way as cells of the table."""
    metric = BoxMetric() if dataset.boxes is not None else PixelAP()
    right = 0
    for start in range(0, len(dataset), batch_size):
        index = range(start, min(start + batch_size, len(dataset)))
        images = [open_image(dataset.path(i), exif=False) for i in index]
        maps, probs = way(model, images)
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
