"""The training run: both stages, validation after each epoch, best and last kept, resumed after a stop."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

from .._io import atomic_path, write_json
from ..benchmark import evaluate_many
from ..data import EvalTransform, ScaleTransform, TrainTransform, open_dataset
from ..errors import DatasetError, TrainingError
from ..hub import save_pretrained
from ..models import FCAM, create_model
from .checkpoint import load_state, save_state
from .config import ClassifierConfig, DecoderConfig, TrainConfig
from .stages import ClassifierStage, DecoderStage, Stage

logger = logging.getLogger(__name__)
# Of the validation after each epoch, as the reference does for boxes; the final figures use step 0.001.
VAL_THRESHOLDS = [i * 0.004 for i in range(250)]


def train(config: TrainConfig, run_dir: str | os.PathLike, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train a classifier and its decoder (F-CAM, Sec. 4.1).

    `run_dir` gets config.json, a folder a stage (metrics.jsonl, state.safetensors, best.safetensors), and the finished
    models `best` and `last`, which `create_model('local-dir:…')` loads.

    Args:
        config: All settings.
        run_dir: Output folder; must be empty unless resuming.
        resume: Go on from the last finished epoch of an interrupted run with the same config.
        quiet: No progress bars.

    Returns:
        Summary: best epoch and validation figures of each stage.

    Raises:
        DatasetError: When the data set is at fault.
        TrainingError: When the folder holds another run, or the loss is not finite.
    """
    run_dir = Path(run_dir)
    _check_claim(run_dir, config, resume)
    automatic = 'cuda' if torch.cuda.is_available() else 'cpu'
    device = _device(automatic if config.device == 'auto' else config.device)
    train_set = open_dataset(config.data, 'train', TrainTransform(config.image_size), ground_truth=False)
    val_set = _open_val(config)
    num_classes = config.num_classes or train_set.num_classes
    if num_classes < train_set.num_classes:
        raise DatasetError(f'num_classes={num_classes}, but {config.data} has labels up to {train_set.num_classes - 1}')
    torch.manual_seed(config.seed)
    model = create_model(
        'fcam',
        backbone=config.backbone,
        num_classes=num_classes,
        output_stride=config.output_stride,
        decoder_channels=config.decoder_channels,
        backbone_checkpoint=config.backbone_checkpoint,
        backbone_pretrained=config.backbone_pretrained,
        backbone_kwargs=config.backbone_kwargs or None,
    )
    if config.teacher == 'cam' and not model.pyramid.linear_head:
        raise TrainingError(
            f'teacher cam needs a head of average pooling and one linear layer, and {config.backbone} has another: '
            'choose gradcam, layercam or another teacher'
        )
    # What is trained at one size is used at it.
    model.pretrained_cfg['input_size'] = (3, config.image_size, config.image_size)
    model.pretrained_cfg['label_names'] = [train_set.class_names.get(i, str(i)) for i in range(num_classes)]
    if not config.backbone_pretrained and not config.backbone_checkpoint:
        logger.warning('the backbone starts from random weights: give --backbone-pretrained or --backbone-checkpoint')
    if val_set is not None and val_set.num_classes > num_classes:
        raise DatasetError(
            f'val of {config.data} has labels up to {val_set.num_classes - 1}: train has {num_classes} classes'
        )
    _claim(run_dir, config)
    model.to(device)
    if device.type == 'cpu':
        model.to(memory_format=torch.channels_last)
    summary: dict[str, Any] = {}
    stages = ((ClassifierStage, config.classifier), (DecoderStage, config.decoder))
    for number, (kind, settings) in enumerate(stages):
        if settings.epochs:
            stage = kind(model, settings, config.teacher)
            train_set.transform = _train_transform(config.image_size, settings)
            summary[stage.name] = _run_stage(stage, number, config, train_set, val_set, run_dir / stage.name, quiet)
    final = next(reversed(summary), None)
    for which in ('last', 'best') if final else ():
        _load_weights(model, run_dir / final, which)
        metrics = summary[final][which].get('val', {})
        threshold = metrics.get('best_threshold_50', metrics.get('best_threshold'))
        if final == 'decoder' and threshold is not None:
            model.threshold = model.model_args['threshold'] = threshold
        save_pretrained(model, run_dir / which)
    write_json(run_dir / 'summary.json', summary)
    return summary


def _train_transform(size: int, settings: ClassifierConfig | DecoderConfig) -> TrainTransform:
    scale = getattr(settings, 'crop_scale', None)
    return TrainTransform(size) if scale is None else ScaleTransform(size, scale)


def _open_val(config: TrainConfig) -> Any:
    """The val split when it exists; one without boxes or masks cannot select and is left out."""
    try:
        val_set = open_dataset(config.data, 'val', EvalTransform(config.image_size))
    except DatasetError:
        if (Path(config.data) / 'metadata' / 'val').is_dir() or (Path(config.data) / 'val').is_dir():
            raise
        val_set = None
    if val_set is not None and val_set.boxes is None and val_set.masks is None:
        val_set = None
    if val_set is None:
        logger.warning('%s has no val split with boxes or masks: the last epoch is taken as the best', config.data)
    return val_set


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as e:
        raise TrainingError(f'device {name!r} cannot be used ({str(e).splitlines()[0]}): choose auto or cpu') from e


def _check_claim(run_dir: Path, config: TrainConfig, resume: bool) -> None:
    """The output folder must be free, or hold the run that is resumed.

    Raises:
        TrainingError: When it holds another run, or a damaged config.json.
    """
    path = run_dir / 'config.json'
    if path.exists():
        if not resume:
            raise TrainingError(f'{run_dir} holds a training already: resume it (--resume) or choose another folder')
        try:
            old = json.loads(path.read_text(encoding='utf-8'))
        except ValueError as e:
            raise TrainingError(f'{path} is damaged ({e}): choose another output folder') from e
        changed = [k for k, v in config.to_dict().items() if old.get(k) != v and k not in ('workers', 'device')]
        if changed:
            raise TrainingError(f'{path} differs in {", ".join(changed)}: resume with the settings the run began with')


def _claim(run_dir: Path, config: TrainConfig) -> None:
    """Make the folder ours, once data and model are known to be good and before the first epoch."""
    try:
        write_json(run_dir / 'config.json', config.to_dict())
    except OSError as e:
        raise TrainingError(f'{run_dir} cannot be written ({e}): choose another output folder') from e


def _run_stage(
    stage: Stage, number: int, config: TrainConfig, train_set: Any, val_set: Any, folder: Path, quiet: bool
) -> dict[str, Any]:
    model, settings = stage.model, stage.config
    optimizer = torch.optim.SGD(
        stage.parameter_groups(), momentum=settings.momentum, weight_decay=settings.weight_decay, nesterov=True
    )
    progress: dict[str, Any] = {'epoch': 0, 'best_epoch': 0, 'best_score': -math.inf, 'history': []}
    if (folder / 'state.safetensors').exists():
        progress = load_state(folder / 'state.safetensors', model, optimizer)
        stage.load_state(progress['stage'])
        logger.info('%s: resumed after epoch %d', stage.name, progress['epoch'])
    steps = max(1, len(train_set) // settings.batch_size)
    device = next(model.parameters()).device
    for epoch in range(progress['epoch'] + 1, settings.epochs + 1):
        # A seed an epoch makes a resumed run draw what an uninterrupted one draws.
        torch.manual_seed(config.seed + 1_000_003 * (number + 1) + epoch)
        started = time.perf_counter()
        losses = _run_epoch(stage, optimizer, train_set, epoch, steps, config.workers, device, quiet)
        stage.end_epoch()
        row: dict[str, Any] = {'epoch': epoch, **losses, 'seconds': round(time.perf_counter() - started, 1)}
        score = float(epoch)
        if val_set is not None:
            report = evaluate_many(
                model, val_set, (stage.val_maps,), thresholds=VAL_THRESHOLDS, rows=False, quiet=quiet
            )
            metrics = report[stage.val_maps].metrics
            row['val'] = {k: round(v, 3) for k, v in metrics.items()}
            score = stage.score(metrics)
        progress['history'].append(row)
        logger.info('%s %d/%d: %s', stage.name, epoch, settings.epochs, json.dumps(row))
        if score > progress['best_score']:
            progress.update(best_epoch=epoch, best_score=score)
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / 'best.safetensors') as temporary:
                save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
        progress.update(epoch=epoch, stage=stage.state())
        # The state comes last: a run stopped before it redoes the epoch and writes the same again.
        _write_history(folder / 'metrics.jsonl', progress['history'])
        save_state(folder / 'state.safetensors', model, optimizer, progress)
    _load_weights(model, folder, 'best')
    last, best = progress['history'][-1], progress['history'][progress['best_epoch'] - 1]
    return {'best_epoch': progress['best_epoch'], 'best': best, 'last': last}


def _run_epoch(
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    train_set: Any,
    epoch: int,
    steps: int,
    workers: int,
    device: torch.device,
    quiet: bool,
) -> dict[str, float]:
    loader = DataLoader(
        train_set,
        stage.config.batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=len(train_set) > stage.config.batch_size,
    )
    stage.model.train()
    sums: dict[str, float] = {}
    total = stage.config.epochs * steps
    title = f'{stage.name} {epoch}/{stage.config.epochs}'
    base_lrs = [group['lr'] for group in stage.parameter_groups()]
    with tqdm(loader, title, unit='step', disable=quiet, leave=False) as bar:
        for step, (images, labels, index) in enumerate(bar):
            factor = 1.0
            if stage.config.schedule == 'cosine':
                factor = 0.5 * (1 + math.cos(math.pi * min(1, ((epoch - 1) * steps + step) / total)))
            for group, lr in zip(optimizer.param_groups, base_lrs):
                group['lr'] = lr * factor
            terms = stage.loss(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))
            loss = sum(terms.values())
            if not torch.isfinite(loss):
                ids = ', '.join(train_set.ids[i] for i in index.tolist())
                raise TrainingError(
                    f'{stage.name}: loss is {loss.item()} at epoch {epoch}, step {step} ({ids}): lower the lr'
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.item()
            bar.set_postfix({k: f'{v / (step + 1):.3f}' for k, v in sums.items()})
    return {k: round(v / (step + 1), 5) for k, v in sums.items()}


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(''.join(json.dumps(row) + '\n' for row in history), encoding='utf-8')


def _load_weights(model: FCAM, folder: Path, which: str) -> None:
    """The best weights of a stage, or those of its last epoch from the state file."""
    if which == 'best':
        model.load_state_dict(load_file(folder / 'best.safetensors'))
    else:
        state = load_file(folder / 'state.safetensors')
        model.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith('model.')})
