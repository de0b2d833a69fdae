"""Output for people after an epoch: a log line, TensorBoard curves, sample maps."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

from .. import viz
from .._io import atomic_path, write_text
from .._modes import eval_mode
from .loading import items_of
from .records import EpochMetrics, main_metrics
from .setup import Setup
from .stages import TRAIN_ACCURACY, Stage, image_size

logger = logging.getLogger(__name__)
SAMPLES = 4
SAMPLES_FOLDER = 'samples'


def write_epoch(stage: Stage, setup: Setup, run_dir: Path, history: list[EpochMetrics]) -> None:
    """Log the last epoch of the history; write metrics.jsonl, TensorBoard curves and sample maps."""
    metrics, folder = history[-1], run_dir / stage.name
    terms = ', '.join(f'{name} {value:.3f}' for name, value in metrics.terms.items() if name != TRAIN_ACCURACY)
    val = main_metrics(metrics.val)
    speed = f'{metrics.seconds:.0f} s, {metrics.images_per_second:.1f} images/s'
    accuracy = f'accuracy on augmented training images: {metrics.terms.get(TRAIN_ACCURACY, 0):.1f}'
    parts = [terms, accuracy * (TRAIN_ACCURACY in metrics.terms), val and f'val: {val}', terms and speed]
    logger.info('%s %d/%d: %s', stage.name, metrics.epoch, stage.config.epochs, '; '.join(filter(None, parts)))
    write_metrics(folder, history)
    if find_spec('tensorboard') is not None:
        _write_curves(metrics, run_dir / 'tensorboard' / stage.name)
    # Unreadable sample images are left out; training itself decides whether they stop the run.
    items = list(items_of(setup.eval_set, SAMPLES, skip_bad=True))
    if items:
        with atomic_path(folder / SAMPLES_FOLDER / f'epoch_{metrics.epoch:03d}.png') as temporary:
            sample_sheet(stage, items).save(temporary)


def write_metrics(folder: Path, history: list[EpochMetrics]) -> None:
    """Write metrics.jsonl, a line per epoch, to the folder of a stage."""
    write_text(folder / 'metrics.jsonl', ''.join(json.dumps(m.to_row()) + '\n' for m in history))


def _write_curves(metrics: EpochMetrics, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    values = {**metrics.terms, 'seconds': metrics.seconds, 'images_per_second': metrics.images_per_second}
    values.update({f'val/{name}': value for name, value in metrics.val.items()})
    with SummaryWriter(str(folder), purge_step=metrics.epoch) as writer:
        for name, value in values.items():
            writer.add_scalar(name, value, metrics.epoch)


@torch.no_grad()
def sample_sheet(stage: Stage, items: list[tuple[torch.Tensor, int, int]]) -> Image.Image:
    """Draw images beside the class map of the classifier (as training uses it, if it is its own teacher) and the F-CAM.

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
