"""Output for people: progress bar, log lines, TensorBoard curves, sample maps."""

from __future__ import annotations

import json
import logging
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
from .loading import items_of
from .records import MAIN_METRICS, EpochMetrics
from .stages import Stage, image_size

logger = logging.getLogger(__name__)
SAMPLES = 4


class Monitor:
    """Shows and writes the progress of a run.

    Args:
        run_dir: Folder of the run.
        samples: Data set of the sample pictures, not augmented.
        quiet: No progress bar.
        active: Whether this process writes; True in the first process only.
    """

    def __init__(self, run_dir: Path, samples: ImageDataset, quiet: bool, active: bool) -> None:
        self.run_dir, self.quiet = run_dir, quiet or not active
        # Spread over the data set, which is usually sorted by class.
        self.sample_index = np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples))).round().astype(int).tolist()
        self.samples = samples

    def bar(self, stage: Stage, epoch: int, done: int, total: int) -> tqdm:
        """Show a progress bar that counts the images of an epoch; `done` of them are finished."""
        title = f'{stage.name} {epoch}/{stage.config.epochs}'
        return tqdm(total=total, initial=done, desc=title, unit='image', disable=self.quiet, leave=False)

    def epoch(self, stage: Stage, history: list[EpochMetrics], folder: Path) -> None:
        """Log the last epoch of the history; write metrics.jsonl, TensorBoard curves and sample maps."""
        metrics = history[-1]
        logger.info('%s', epoch_line(stage, metrics))
        write_text(folder / 'metrics.jsonl', ''.join(json.dumps(m.to_row()) + '\n' for m in history))
        if find_spec('tensorboard') is not None:
            self._write_curves(stage, metrics)
        # Unreadable sample images are left out; training itself decides whether they stop the run.
        items = items_of(self.samples, self.sample_index, skip_bad=True)
        if items:
            with atomic_path(folder / 'samples' / f'epoch_{metrics.epoch:03d}.png') as temporary:
                self.sheet(stage, items).save(temporary)

    def _write_curves(self, stage: Stage, metrics: EpochMetrics) -> None:
        from torch.utils.tensorboard import SummaryWriter

        values = {**metrics.terms, 'seconds': metrics.seconds, 'images_per_second': metrics.images_per_second}
        values.update({f'val/{name}': value for name, value in metrics.val.items()})
        with SummaryWriter(str(self.run_dir / 'tensorboard' / stage.name), purge_step=metrics.epoch) as writer:
            for name, value in values.items():
                writer.add_scalar(name, value, metrics.epoch)

    @torch.no_grad()
    def sheet(self, stage: Stage, items: list[tuple[Any, int, int]]) -> Image.Image:
        """Draw images beside the teacher's map as training uses it and, in the decoder stage, the F-CAM.

        Args:
            stage: Model and teacher.
            items: Images uint8 (3,H,W), their labels and indices.
        """
        model, device = stage.model, next(stage.model.parameters()).device
        images = torch.stack([image for image, *_ in items]).to(device)
        labels = torch.tensor([label for _, label, _ in items], device=device)
        size = image_size(images)
        with eval_mode(model):
            encoding = stage.encode(images)
            maps = {stage.teacher: stage.teacher_map(encoding, labels, size)}
            if stage.name == 'decoder':
                maps['F-CAM'] = model.decoder(encoding.levels, size).softmax(1)[:, 1]
        rows = []
        for i, image in enumerate(images.cpu()):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            blends = [(viz.blend(picture, found[i].float().cpu().numpy()), name) for name, found in maps.items()]
            rows.append([(picture, ''), *blends])
        return viz.grid(rows, height=160)


def epoch_line(stage: Stage, metrics: EpochMetrics) -> str:
    """Format the metrics of an epoch as a log line."""
    terms = ', '.join(f'{name} {value:.3f}' for name, value in metrics.terms.items())
    val = ', '.join(f'{name} {value:.1f}' for name, value in metrics.val.items() if name in MAIN_METRICS)
    speed = f'{metrics.seconds:.0f} s, {metrics.images_per_second:.1f} images/s'
    return f'{stage.name} {metrics.epoch}/{stage.config.epochs}: {terms}; {f"val: {val}; " if val else ""}{speed}'
