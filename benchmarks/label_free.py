"""Which criterion without boxes chooses the epoch that boxes would choose?

Trains nothing: takes runs whose decoder epochs were all kept (`--set keep_epochs=true`) and measures every epoch on
val, by its boxes and by criteria that see images and labels alone. Usage:

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
from fcam_zoo.data import EvalTransform, open_dataset
from fcam_zoo.train import DecoderConfig, TrainConfig
from fcam_zoo.train.stages import DecoderStage, localization_score

CRITERIA = {
    'last epoch': 'the later the better',
    'seed loss': 'minus the partial cross-entropy on the whole seed regions',
    'total loss': 'minus the training loss on val',
    'agreement': "mean of the map on the teacher's foreground minus that on its background",
    'mirror': 'overlap (soft IoU) of the map with that of the mirrored image, mirrored back',
    'kept': 'probability of the label where the background is painted over',
    'removed': 'minus the probability of the label where the object is painted over',
    'kept - removed': 'sum of the two',
    'kept - removed - area': 'minus the area of the object, too',
    'certainty': 'mean of abs(2p - 1)',
    'edges': 'minus the CRF energy by pixel',
}


@torch.no_grad()
def measure(stage: DecoderStage, dataset, images: int, batch_size: int = 25) -> dict[str, float]:
    """Mean of each criterion over images that are spread over a data set."""
    sums: dict[str, float] = {}
    model = stage.model.eval()
    index = np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int).tolist()
    for start in range(0, len(index), batch_size):
        items = [dataset[i] for i in index[start : start + batch_size]]
        images, labels = torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])
        for name, value in _criteria(stage, model, images, labels).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(items)
    return {name: value / len(index) for name, value in sums.items()}


def _criteria(stage, model, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    size = tuple(images.shape[-2:])
    encoding = stage.encode(images)
    logits = model.decoder(encoding.levels, size)
    maps = logits.softmax(1)[:, 1]
    foreground, background = stage.regions(encoding, labels, size)
    # The regions themselves as labels, equally weighted, in place of random pixels of them.
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
    kept = _probability(stage, model, images, maps, labels)
    removed = _probability(stage, model, images, 1 - maps, labels)
    return {
        'seed loss': -seed_loss,
        'total loss': -(config.alpha * seed_loss + config.crf * crf + config.size * size_term),
        'agreement': (fg_mean - bg_mean).mean(),
        'mirror': overlap.mean(),
        'kept': kept.mean(),
        'removed': -removed.mean(),
        'kept - removed': (kept - removed).mean(),
        'kept - removed - area': (kept - removed).mean() - maps.mean(),
        'certainty': (2 * maps - 1).abs().mean(),
        'edges': -crf / maps[0].numel() ** 2,
    }


def _probability(stage, model, images: torch.Tensor, shown: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Probability of the label (B,) where only what is shown (B,H,W) is left of the image, the rest its mean colour."""
    colours = images.float()
    mean = colours.mean((2, 3), keepdim=True)
    painted = (mean + shown[:, None] * (colours - mean)).round().to(torch.uint8)
    return model.classify(stage.encode(painted)).softmax(1).gather(1, labels[:, None])[:, 0]


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's; 0 where one is constant."""
    ranks = [np.argsort(np.argsort(x)).astype(float) for x in (a, b)]
    if any(np.ptp(x) == 0 for x in (a, b)):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data')
    parser.add_argument('runs', nargs='+', type=Path)
    parser.add_argument('--images', type=int, default=100, help='on which the criteria are measured')
    args = parser.parse_args()
    table: dict[str, list[tuple[float, float]]] = {name: [] for name in CRITERIA}
    pooled: dict[str, list[float]] = {name: [] for name in CRITERIA}
    all_boxes: list[float] = []
    chance, n_epochs = [], 0
    for run in tqdm(args.runs, unit='run'):
        config = TrainConfig.from_file(run / 'config.json')
        dataset = open_dataset(args.data, 'val', EvalTransform(config.image_size))
        model = create_model(f'local-dir:{run / "best"}')
        stage = DecoderStage(model, DecoderConfig(**config.to_dict()['decoder']), config.teacher)
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
        f'Made by `python benchmarks/label_free.py`: {len(args.runs)} runs of {n_epochs} decoder epochs in all, boxes '
        f'of val of {Path(args.data).name}, criteria on {args.images} images of it. Regret: points of the mean of '
        'MaxBoxAcc (or of PxAP) that are lost against the choice by boxes, of an epoch of each run and of all runs; a '
        f'random epoch of a run loses {np.mean(chance):.2f}.\n'
    )
    print('| criterion | what it is | rank correlation | mean regret | largest regret | regret over all runs |')
    print('|---|---|---|---|---|---|')
    for name, what in CRITERIA.items():
        correlation, regret = np.array(table[name]).T
        over = max(all_boxes) - all_boxes[int(np.argmax(pooled[name]))]
        print(f'| {name} | {what} | {correlation.mean():.2f} | {regret.mean():.2f} | {regret.max():.2f} | {over:.2f} |')


if __name__ == '__main__':
    main()
