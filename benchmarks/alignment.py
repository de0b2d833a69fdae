"""Where to draw the cells of a class map: plain resize, paddings (cells), or paddings and trained kernels (kernels).

Scores CAM and LayerCAM on images with boxes (MaxBoxAcc at IoU 30, 50, 70 and their mean) or masks (PxAP) for each
`fcam_zoo.cams.ALIGNS`, and measures without labels where cells look horizontally: half the distance from the centroid
of a map to that of the mirrored image's map, mirrored back. A Markdown table is printed:

    python benchmarks/alignment.py CUB/ --model fcam_mobilenetv1_075.layercam_cub50 --splits val
    python benchmarks/alignment.py ILSVRC/ --splits val test --strides own 16 --mean 0.5 --std 0.5 \\
        --backbone mobilenetv1_075=mobilenetv1_075.safetensors \\
        --backbone mobilenetv2_100,pad_type=same=mobilenetv2_100.safetensors -o results.md

Files of backbones have 1000 classes, and labels must be ImageNet's. Two ways reach stride 16: `16` sets late strides to
1 and leaves the kernels as they are; `16-dilated` also dilates them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from tables import Table, machine

import fcam_zoo
from fcam_zoo import FCAM, cams
from fcam_zoo.benchmark import BoxMetric, PixelAP, resize_boxes
from fcam_zoo.data import EvalTransform, WSOLDataset

METHODS = ('cam', 'layercam')
# The level of a map's background, which stays where it is, would draw the centroid to the middle.
FLOOR = 0.3


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    splits = [WSOLDataset(args.data, split, EvalTransform(args.size)) for split in args.splits]
    boxes = splits[0].boxes is not None
    figures = '30 / 50 / 70, mean' if boxes else 'PxAP'
    results = ' | '.join(f'{align}: {figures}' for align in cams.ALIGNS)
    table = Table(
        header(args),
        f'| model | stride | top-1 | maps | pixels right: cells | kernels | mirror | {results} |',
        '|---' * (7 + len(cams.ALIGNS)) + '|',
    )
    for name, stride, model in models(args):
        for line in score(model, splits, args):
            table.add(f'| {name} | {stride} | {line} |')
    table.append_to(args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, help='root of a data set in the WSOL layout, with boxes or masks')
    parser.add_argument('--splits', nargs='+', default=['val', 'test'], help='scored as one set (default: val test)')
    parser.add_argument('--model', action='append', default=[], help='a released name; repeat for more')
    parser.add_argument(
        '--backbone', action='append', default=[], help='timm name, arguments, file: NAME[,KEY=VALUE…]=FILE; repeat'
    )
    parser.add_argument(
        '--strides',
        nargs='+',
        default=['own', '16'],
        choices=['own', '16', '16-dilated'],
        help='of the backbones (default: own 16)',
    )
    parser.add_argument('--size', type=int, default=224, help='side of the images (default: 224)')
    parser.add_argument('--limit', type=int, help='the first images of each split only')
    parser.add_argument('--mean', type=float, help="of the input, for files with other statistics than timm's name")
    parser.add_argument('--std', type=float, help='likewise, all channels')
    parser.add_argument('--threads', type=int, default=1, help='of torch (default: 1)')
    parser.add_argument('-o', '--output', type=Path, help='file to which the table is appended')
    args = parser.parse_args()
    if not args.model and not args.backbone:
        parser.error('nothing to score: give --model or --backbone')
    return args


def header(args: argparse.Namespace) -> str:
    """What the table was made with, without the paths."""
    return (
        f'{args.data.name}, {" + ".join(args.splits)}, {args.size} px; timm {timm.__version__}, '
        f'{machine(args.threads)}\n'
    )


def models(args: argparse.Namespace) -> Iterator[tuple[str, str, FCAM]]:
    """Name, stride and model of each row."""
    for name in args.model:
        yield name, '16', fcam_zoo.create_model(name, pretrained=True)
    for entry in args.backbone:
        spec, _, file = entry.rpartition('=')
        name, *pairs = spec.split(',')
        for stride in args.strides:
            model = fcam_zoo.create_model(
                'fcam',
                backbone=name,
                backbone_checkpoint=file,
                backbone_kwargs=dict(pair.split('=') for pair in pairs),
                output_stride=None if stride == 'own' else 16,
                dilated=stride == '16-dilated',
                num_classes=1000,
            )
            yield name, stride, model.eval()


@torch.no_grad()
def score(model: FCAM, splits: list[WSOLDataset], args: argparse.Namespace) -> list[str]:
    """A row for each kind of map."""
    size = (args.size, args.size)
    where = {
        align: cams.align_geometry(align, model.backbone, None, size, lambda x: model.encode(x).features)
        for align in cams.ALIGNS
    }
    boxes = splits[0].boxes is not None
    metrics = {(m, align): BoxMetric() if boxes else PixelAP() for m in METHODS for align in cams.ALIGNS}
    moved: dict[str, list[torch.Tensor]] = {m: [] for m in METHODS}
    hits = total = 0
    for data in splits:
        for index in torch.arange(min(len(data), args.limit or len(data))).split(32):
            x = normalized(model, torch.stack([data[int(i)][0] for i in index]), args)
            labels = torch.as_tensor(np.asarray(data.labels))[index]
            encoding, mirrored = model.encode(x), model.encode(x.flip(3))
            hits += int((model.classify(encoding).argmax(1) == labels).sum())
            total += len(index)
            truth = (
                [resize_boxes(data.boxes[i], data.sizes[i], size) for i in index]
                if boxes
                else np.stack([data.mask(int(i), size) for i in index])
            )
            for method in METHODS:
                low = model.class_map(encoding, labels, method)
                back = model.class_map(mirrored, labels, method).flip(2)
                moved[method].append((center(back) - center(low)) / 2 * args.size / low.shape[2])
                for align, geometry in where.items():
                    metrics[method, align].update(cams.resize(low, size, geometry=geometry).clamp(0, 1), truth)
    rows = []
    for method in METHODS:
        shifts = torch.cat(moved[method])
        error = float(shifts.std() / len(shifts) ** 0.5)
        predicted = ' | '.join(f'{where[align].shift[1]:+.1f}' for align in cams.ALIGNS[1:])
        results = ' | '.join(figures(metrics[method, align].compute()) for align in cams.ALIGNS)
        rows.append(
            f'{100 * hits / total:.1f} | {method} | {predicted} | {shifts.mean():+.1f} ± {error:.1f} | {results}'
        )
    return rows


def normalized(model: FCAM, images: torch.Tensor, args: argparse.Namespace) -> torch.Tensor:
    config = model.pretrained_cfg
    mean = torch.tensor(config['mean'] if args.mean is None else [args.mean])
    std = torch.tensor(config['std'] if args.std is None else [args.std])
    return (images / 255 - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def center(maps: torch.Tensor) -> torch.Tensor:
    """Column of the centroid of maps (B,h,w) above the floor, in cells."""
    weights = (maps - FLOOR).clamp(min=0).sum(1)
    return (weights * torch.arange(maps.shape[2])).sum(1) / weights.sum(1).clamp(min=1e-9)


def figures(result: dict) -> str:
    if 'pxap' in result:
        return f'{float(result["pxap"]):.1f}'
    values = [float(v) for v in result['max_box_acc']]
    return f'{" / ".join(f"{v:.1f}" for v in values)}, {sum(values) / len(values):.1f}'


if __name__ == '__main__':
    main()
