"""Small data sets for tests: bright squares (class 0) and discs (class 1) on dark noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig

SIZE = 72


def shape_image(label: int, seed: int) -> tuple[Image.Image, np.ndarray]:
    """Return an image and the mask of its object."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (SIZE, SIZE, 3), np.uint8)
    radius = int(rng.integers(10, 18))
    cy, cx = rng.integers(radius + 2, SIZE - radius - 2, 2)
    y, x = np.mgrid[:SIZE, :SIZE]
    square = (abs(y - cy) <= radius) & (abs(x - cx) <= radius)
    mask = square if label == 0 else (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
    image[mask] = (230, 60, 40) if label == 0 else (40, 90, 230)
    return Image.fromarray(image), mask


def make_wsol(root: Path, counts: dict[str, int], kind: str = 'boxes') -> Path:
    """Write a data set in the WSOL layout; `counts` has the number of images of each split."""
    for number, (split, count) in enumerate(counts.items()):
        rows: dict[str, list[str]] = {f: [] for f in ('image_ids', 'class_labels', 'image_sizes', 'localization')}
        for i in range(count):
            label = i % 2
            image, mask = shape_image(label, 1000 * number + i)
            image_id = f'{"square" if label == 0 else "disc"}/{split}_{i}.png'
            path = root / 'images' / image_id
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            rows['image_ids'].append(image_id)
            rows['class_labels'].append(f'{image_id},{label}')
            rows['image_sizes'].append(f'{image_id},{SIZE},{SIZE}')
            if kind == 'boxes':
                y, x = np.nonzero(mask)
                rows['localization'].append(f'{image_id},{x.min()},{y.min()},{x.max() + 1},{y.max() + 1}')
            else:
                mask_id = image_id.replace('.png', '_mask.png')
                (root / 'masks' / mask_id).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(root / 'masks' / mask_id)
                rows['localization'].append(f'{image_id},{mask_id},')
        metadata = root / 'metadata' / split
        metadata.mkdir(parents=True)
        for file, lines in rows.items():
            (metadata / f'{file}.txt').write_text('\n'.join(lines))
    return root


def make_folder(root: Path, counts: dict[str, int]) -> Path:
    """Make class folders `split/square` and `split/disc`; `counts` gives the number of images per split."""
    for number, (split, count) in enumerate(counts.items()):
        for i in range(count):
            path = root / split / ('square', 'disc')[i % 2] / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            shape_image(i % 2, 1000 * number + i)[0].save(path)
    return root


def train_config(data: Path, **kwargs) -> TrainConfig:
    """Return the config of a short training of a tiny network on such a data set."""
    values = {
        'data': str(data),
        'backbone': 'test_resnet',
        'output_stride': 8,
        'image_size': 64,
        'workers': 0,
        'device': 'cpu',
        'classifier': ClassifierConfig(epochs=2, batch_size=8),
        'decoder': DecoderConfig(epochs=2, batch_size=8),
    }
    return TrainConfig(**{**values, **kwargs})
