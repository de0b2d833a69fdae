"""What people see of a training: progress bar, a line an epoch, curves, sample maps, a table at the end."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .. import viz
from .._io import atomic_path, write_text
from .._modes import eval_mode
from ..data.base import ImageDataset
from ..errors import ImageError
from .stages import Stage

logger = logging.getLogger(__name__)
SAMPLES = 4


class Bar:
    """Progress of an epoch: mean of each term so far, images a second, and the time left."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def update(self, sums: dict[str, float], step: int, images: int) -> None:
        self.bar.set_postfix({name: f'{value / step:.3f}' for name, value in sums.items()}, refresh=False)
        self.bar.update(images)


class Monitor:
    """The outputs of a run that are for people; in other processes than the first it does nothing.

    Args:
        run_dir: Folder of the run.
        samples: Where sample pictures come from.
        quiet: No progress bar.
        active: Whether this is the process that writes.
    """

    def __init__(self, run_dir: Path, samples: ImageDataset, quiet: bool, active: bool) -> None:
        self.run_dir, self.quiet, self.active = run_dir, quiet or not active, active
        # Spread over the data set, which is sorted by class as a rule.
        self.sample_index = np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples))).round().astype(int).tolist()
        self.samples = samples

    @contextlib.contextmanager
    def bar(self, stage: Stage, epoch: int, steps: int, done: int, images: int) -> Iterator[Bar]:
        """Progress bar of an epoch, in images, of which each step has as many."""
        with tqdm(
            total=steps * images,
            initial=done * images,
            desc=f'{stage.name} {epoch}/{stage.config.epochs}',
            unit='image',
            disable=self.quiet,
            leave=False,
        ) as bar:
            yield Bar(bar)

    def epoch(self, stage: Stage, row: dict[str, Any], history: list[dict[str, Any]], folder: Path) -> None:
        """A line of log, metrics.jsonl, TensorBoard's curves where it is installed, and sample maps."""
        logger.info('%s', epoch_line(stage, row))
        write_text(folder / 'metrics.jsonl', ''.join(json.dumps(r) + '\n' for r in history))
        if find_spec('tensorboard') is not None:
            self._curves(stage, row)
        items = self._sample_items()
        if items:
            with atomic_path(folder / 'samples' / f'epoch_{row["epoch"]:03d}.png') as temporary:
                self.sheet(stage, items).save(temporary)

    def _curves(self, stage: Stage, row: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.run_dir / 'tensorboard' / stage.name), purge_step=row['epoch']) as writer:
            for name, value in {**row, **{f'val/{k}': v for k, v in row.get('val', {}).items()}}.items():
                if isinstance(value, (int, float)) and name != 'epoch':
                    writer.add_scalar(name, value, row['epoch'])

    def _sample_items(self) -> list[tuple[Any, int, int]]:
        """The sample images that can be read: whether a bad one stops the run is not for pictures to say."""
        items = []
        for i in self.sample_index:
            with contextlib.suppress(ImageError, OSError):
                items.append(self.samples[i])
        return items

    @torch.no_grad()
    def sheet(self, stage: Stage, items: list[tuple[Any, int, int]]) -> Image.Image:
        """Images beside the maps that the stage is about: the teacher's, and the F-CAM.

        Args:
            stage: Model and teacher.
            items: Images uint8 (3,H,W), their labels and positions.
        """
        model, device = stage.model, next(stage.model.parameters()).device
        images = torch.stack([image for image, *_ in items]).to(device)
        labels = torch.tensor([label for _, label, _ in items], device=device)
        with eval_mode(model):
            encoding = stage.encode(images)
            size = tuple(images.shape[-2:])
            with torch.enable_grad():
                low = model.class_map(encoding, labels, stage.teacher)
            kinds = {stage.teacher: torch.nn.functional.interpolate(low[:, None], size, mode='bilinear')[:, 0]}
            if stage.name == 'decoder':
                kinds['F-CAM'] = model.decoder(encoding.levels, size).softmax(1)[:, 1]
        rows = []
        for i, image in enumerate(images.cpu()):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            maps = [(viz.blend(picture, found[i].float().cpu().numpy()), name) for name, found in kinds.items()]
            rows.append([(picture, ''), *maps])
        return viz.grid(rows, height=160)


def epoch_line(stage: Stage, row: dict[str, Any]) -> str:
    """An epoch in words."""
    skipped = ('epoch', 'seconds', 'images_per_second', 'val')
    terms = ', '.join(f'{k} {v:.3f}' for k, v in row.items() if k not in skipped)
    val = ', '.join(f'{k} {v:.1f}' for k, v in row.get('val', {}).items() if k in MAIN_METRICS)
    speed = f'{row["seconds"]:.0f} s, {row["images_per_second"]:.1f} images/s'
    return f'{stage.name} {row["epoch"]}/{stage.config.epochs}: {terms}; {f"val: {val}; " if val else ""}{speed}'


# Of all the figures of a validation, those that a line has room for.
MAIN_METRICS = ('max_box_acc_50', 'mean', 'top1_50', 'pxap', 'cls', 'agreement')


def summary_table(summary: dict[str, Any]) -> str:
    """The best and the last epoch of each stage as a table."""
    rows = [('stage', 'epoch', *MAIN_METRICS)]
    for name, stage in summary.items():
        for which in ('best', 'last'):
            row, metrics = stage[which], stage[which].get('val', {})
            figures = (f'{metrics[m]:.1f}' if m in metrics else '' for m in MAIN_METRICS)
            rows.append((f'{name}, {which}', str(row['epoch']), *figures))
    used = [i for i in range(len(rows[0])) if i < 2 or any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    return '\n'.join('  '.join(row[i].ljust(widths[i]) for i in used).rstrip() for row in rows)
