"""Compare criteria that select an epoch without boxes with selection by boxes.

Takes finished runs with all decoder epochs (`--set keep_epochs=true`) and measures every epoch on val, by its boxes and
by criteria that need images and labels only. Usage:

    python benchmarks/label_free.py DATA RUN [RUN ...] > benchmarks/results/label_free.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from fcam_zoo import create_model, losses
from fcam_zoo.data import EvalTransform, ImageDataset, open_dataset
from fcam_zoo.train import TrainConfig
from fcam_zoo.train.selection import localization_score
from fcam_zoo.train.stages import DecoderStage, image_size
from fcam_zoo.train.teacher import class_map_method
from fcam_zoo.train.validation import label_probability, remove_background

CRITERIA = {
    'last epoch': 'number of the epoch',
    'seed loss': 'minus the partial cross-entropy on the whole seed regions',
    'total loss': 'minus the training loss on val',
    'agreement': "mean of the map on the teacher's foreground minus that on its background",
    'mirror': 'overlap (soft IoU) of the map with that of the mirrored image, mirrored back',
    'kept': 'probability of the label with the background removed',
    'removed': 'minus the probability of the label with the object removed',
    'kept - removed': 'sum of the two',
    'kept - removed - area': 'the same minus the area of the object',
    'certainty': 'mean of abs(2p - 1)',
    'edges': 'minus the CRF energy per pixel',
}


@torch.no_grad()
def measure(stage: DecoderStage, dataset: ImageDataset, images: int, batch_size: int = 25) -> dict[str, float]:
    """Compute the mean of each criterion over images spread over a data set."""
    sums: dict[str, float] = {}
    stage.model.eval()
    index = np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int).tolist()
    for start in range(0, len(index), batch_size):
        items = [dataset[i] for i in index[start : start + batch_size]]
        batch, labels = torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])
        for name, value in criteria(stage, batch, labels).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(items)
    return {name: value / len(index) for name, value in sums.items()}


def criteria(stage: DecoderStage, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute the criteria of a batch; higher is better."""
    model, size = stage.model, image_size(images)
    encoding = stage.encode(images)
    logits = model.decoder(encoding.levels, size)
    maps = logits.softmax(1)[:, 1]
    foreground, background = stage.regions(stage.teacher_map(encoding, labels, size))
    # The whole regions as labels, equally weighted, instead of random seeds.
    log_p = logits.log_softmax(1)
    fg_loss = -(log_p[:, 1] * foreground).sum((1, 2)) / foreground.sum((1, 2)).clamp(min=1)
    bg_loss = -(log_p[:, 0] * background).sum((1, 2)) / background.sum((1, 2)).clamp(min=1)
    seed_loss = 0.5 * (fg_loss + bg_loss).mean()
    crf = losses.crf_loss(images, logits.softmax(1))
    size_term = losses.size_loss(logits, stage.criterion.t)
    config = stage.config
    fg_mean = (maps * foreground).sum((1, 2)) / foreground.sum((1, 2)).clamp(min=1)
    bg_mean = (maps * background).sum((1, 2)) / background.sum((1, 2)).clamp(min=1)
    mirrored = model.decoder(stage.encode(images.flip(3)).levels, size).softmax(1)[:, 1].flip(2)
    overlap = torch.minimum(maps, mirrored).sum((1, 2)) / torch.maximum(maps, mirrored).sum((1, 2)).clamp(min=1e-6)
    kept = label_probability(stage, remove_background(images, maps), labels)
    removed = label_probability(stage, remove_background(images, 1 - maps), labels)
    return {
        'seed loss': -seed_loss,
        'total loss': -(config.seed_weight * seed_loss + config.crf_weight * crf + config.size_weight * size_term),
        'agreement': (fg_mean - bg_mean).mean(),
        'mirror': overlap.mean(),
        'kept': kept.mean(),
        'removed': -removed.mean(),
        'kept - removed': (kept - removed).mean(),
        'kept - removed - area': (kept - removed).mean() - maps.mean(),
        'certainty': (2 * maps - 1).abs().mean(),
        'edges': -crf / maps[0].numel() ** 2,
    }


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Compute Spearman's rank correlation; 0 if one input is constant."""
    ranks = [np.argsort(np.argsort(x)).astype(float) for x in (a, b)]
    if any(np.ptp(x) == 0 for x in (a, b)):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data')
    parser.add_argument('runs', nargs='+', type=Path)
    parser.add_argument('--images', type=int, default=100, help='number of val images for the criteria')
    args = parser.parse_args()
    table: dict[str, list[tuple[float, float]]] = {name: [] for name in CRITERIA}
    pooled: dict[str, list[float]] = {name: [] for name in CRITERIA}
    all_boxes: list[float] = []
    chance, n_epochs = [], 0
    for run in tqdm(args.runs, unit='run'):
        config = TrainConfig.from_file(run / 'config.json')
        dataset = open_dataset(args.data, 'val', EvalTransform(config.image_size))
        model = create_model(f'local-dir:{run / "best"}')
        stage = DecoderStage(model, config.decoder, class_map_method(config.teacher, model))
        rows = [json.loads(line) for line in (run / 'decoder' / 'metrics.jsonl').open()]
        boxes = [localization_score(row['val']) for row in rows]
        found: dict[str, list[float]] = {'last epoch': [float(row['epoch']) for row in rows]}
        for row in rows:
            model.load_state_dict(load_file(run / 'decoder' / f'epoch_{row["epoch"]:03d}.safetensors'))
            for name, value in measure(stage, dataset, args.images).items():
                found.setdefault(name, []).append(value)
        chance.append(max(boxes) - float(np.mean(boxes)))
        n_epochs += len(rows)
        all_boxes += boxes
        for name, values in found.items():
            pooled[name] += values
            regret = max(boxes) - boxes[int(np.argmax(values))]
            table[name].append((rank_correlation(values, boxes), regret))
    print('# Choosing an epoch without boxes\n')
    print(
        f'Made by `python benchmarks/label_free.py`: {len(args.runs)} runs with {n_epochs} decoder epochs, boxes of '
        f'val of {Path(args.data).name}, criteria on {args.images} of its images. Regret: points of the mean of '
        'MaxBoxAcc (or of PxAP) lost against selection by boxes, within each run and over all runs. A random epoch '
        f'of a run loses {np.mean(chance):.2f}.\n'
    )
    print('| criterion | what it is | rank correlation | mean regret | largest regret | regret over all runs |')
    print('|---|---|---|---|---|---|')
    for name, what in CRITERIA.items():
        correlation, regret = np.array(table[name]).T
        over = max(all_boxes) - all_boxes[int(np.argmax(pooled[name]))]
        print(f'| {name} | {what} | {correlation.mean():.2f} | {regret.mean():.2f} | {regret.max():.2f} | {over:.2f} |')


if __name__ == '__main__':
    main()
