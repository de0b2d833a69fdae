"""Measure how the size of a class map bounds localization: the simulation of footnote 3 of the F-CAM paper.

A simulated class map knows the object: it is made from the true box or mask at 224x224 on a grid of cells, in two ways.

- graded: the share of a cell that the object covers, the best that so many cells can give;
- binary: 1 for cells with at least half of the largest share, as if the network only told objects from background.

It is scored like any class map: normalized by minimum and maximum, resized bilinearly to 224x224, then MaxBoxAcc or
PxAP. With 224 cells the map is the ground truth. Prints Markdown tables:

    python benchmarks/cam_size.py cub50/ pets3/ cub24seg/ -o benchmarks/results/cam_size.md

Needs the metadata and masks of the data sets, not their images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tables import Table

import fcam_zoo
from fcam_zoo.benchmark import BoxMetric, PixelAP, resize_boxes
from fcam_zoo.cams import normalize
from fcam_zoo.data import WSOLDataset

SIDE = 224
CELLS = (7, 14, 28, 56, 112, 224)
IOU = (30, 50, 70)
BATCH = 100
KINDS = ('graded', 'binary')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', nargs='+', type=Path, help='roots of data sets in the WSOL layout')
    parser.add_argument('--split', default='test')
    parser.add_argument('--limit', type=int, help='score only the first images')
    parser.add_argument('-o', '--output', type=Path, help='Markdown file to write')
    args = parser.parse_args()
    tables = [table(WSOLDataset(root, args.split), args.limit) for root in args.data]
    if args.output:
        args.output.unlink(missing_ok=True)
        command = f'`python benchmarks/cam_size.py {" ".join(f"{root.name}/" for root in args.data)}`'
        Table('# The size of a class map bounds localization\n', f'Made by {command}, {NOTE}').append_to(args.output)
        for found in tables:
            found.append_to(args.output)


NOTE = f"""fcam_zoo {fcam_zoo.__version__}. A simulated class map is made
from the true box or mask on a grid of cells, then normalized and resized bilinearly to 224x224, as any class map.
*Graded* cells are the share that the object covers, *binary* ones are 1 from half of the largest share on. A network of
stride 32 has 7x7 cells, one of stride 8 (as in the paper) 28x28; an F-CAM has 224x224. Percent, on the test split. IoU:
mean over images at the best threshold for it; *smallest quarter*: of the images with the smallest objects, at the same
threshold. With 224x224 cells the IoU of boxes is not 100, because the protocol makes found boxes one pixel too wide and
high."""


def table(dataset: WSOLDataset, limit: int | None) -> Table:
    """Score simulated maps of each size on a data set."""
    number = min(limit or len(dataset), len(dataset))
    boxes = dataset.boxes is not None
    metrics = ('MaxBoxAcc 30 / 50 / 70', 'IoU', 'smallest quarter') if boxes else ('PxAP', 'best F1')
    head = ['cells', 'stride at 224', *(f'{kind}: {metric}' for kind in KINDS for metric in metrics)]
    found = Table(
        f'## {dataset.name} {dataset.split}, {"boxes" if boxes else "masks"} of {number} images\n',
        f'| {" | ".join(head)} |',
        f'| {" | ".join(["---"] * len(head))} |',
    )
    score = box_scores if boxes else mask_scores
    for cells in CELLS:
        values = [value for kind in KINDS for value in score(dataset, number, cells, kind)]
        found.add(f'| {cells}x{cells} | {SIDE // cells} | {" | ".join(values)} |')
    return found


def simulate(objects: torch.Tensor, cells: int, kind: str) -> torch.Tensor:
    """Return class maps of so many cells, resized, of objects (B,224,224), 1 inside and 0 outside.

    The normalization is that of class maps: the cell that covers most of an object becomes 1, as small as it is.
    """
    low = normalize(F.avg_pool2d(objects[:, None], SIDE // cells)[:, 0])
    if kind == 'binary':
        low = (low >= 0.5).float()
    return F.interpolate(low[:, None], (SIDE, SIDE), mode='bilinear', align_corners=False)[:, 0].clamp(0, 1)


def box_scores(dataset: WSOLDataset, number: int, cells: int, kind: str) -> list[str]:
    """Return MaxBoxAcc at each IoU, the best mean IoU, and that of the smallest objects at the same threshold."""
    metric = BoxMetric(iou=IOU)
    found, areas = [], []
    for start in range(0, number, BATCH):
        index = range(start, min(start + BATCH, number))
        truth = [resize_boxes(dataset.boxes[i], dataset.sizes[i], (SIDE, SIDE)) for i in index]
        objects = torch.zeros(len(index), SIDE, SIDE)
        for target, rows in zip(objects, truth):
            for x0, y0, x1, y1 in np.asarray(rows, int):
                target[y0 : y1 + 1, x0 : x1 + 1] = 1  # The protocol counts the last pixel.
        found.append(metric.best_iou(simulate(objects, cells, kind).numpy(), truth))
        areas += objects.sum((1, 2)).tolist()
    iou = np.concatenate(found)
    levels = metric.count(iou).compute()['max_box_acc']
    smallest = np.argsort(areas, kind='stable')[: max(1, number // 4)]
    best = iou.mean(0).argmax()
    means = [f'{100 * values[:, best].mean():.1f}' for values in (iou, iou[smallest])]
    return [' / '.join(f'{level:.1f}' for level in levels), *means]


def mask_scores(dataset: WSOLDataset, number: int, cells: int, kind: str) -> list[str]:
    """Return PxAP and the best F1 of pixels."""
    metric = PixelAP()
    for start in range(0, number, BATCH):
        index = range(start, min(start + BATCH, number))
        masks = np.stack([dataset.mask(i, (SIDE, SIDE)) for i in index])
        # Ignored pixels (255) count as background in the simulated map; they are left out of the score.
        metric.update(simulate(torch.from_numpy((masks == 1).astype(np.float32)), cells, kind), masks)
    found = metric.compute()
    precision, recall = np.nan_to_num(found['precision']), np.asarray(found['recall'])
    f1 = 200 * precision * recall / np.maximum(precision + recall, 1e-12)
    return [f'{found["pxap"]:.1f}', f'{f1.max():.1f}']


if __name__ == '__main__':
    main()
