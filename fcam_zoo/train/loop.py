"""The loop of one stage: epochs of steps, validation, checkpoints, and bit-identical resume."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from .._distributed import all_reduce, gather, rank, world_size
from .._schema import DamagedText, reading
from ..errors import TrainingError
from .averaging import WeightAverage
from .batch_norm import GlobalBatchNorm
from .checkpoint import (
    AGAIN,
    BEST,
    STATE,
    Progress,
    load_state,
    load_weights,
    save_state,
    save_tensors,
    weights_of,
    writing,
)
from .collapse import ADVICE
from .loading import Batch, MapFile, SeededDataset, batches, derived_seed, step_sizes
from .monitor import write_epoch, write_metrics
from .records import EpochMetrics, StageSummary, main_metrics
from .selection import best_epochs
from .setup import Setup, has_ground_truth
from .stages import Stage, lr_factor
from .validation import validate

logger = logging.getLogger(__name__)
AMP_TYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


class StageRun:
    """The training of one stage.

    Args:
        stage: Model and loss.
        setup: Data and all settings.
        run_dir: Output folder of the training.
        quiet: No progress bars.
        maps: Stored maps of the teacher (see `SeededDataset`).
    """

    def __init__(
        self, stage: Stage, setup: Setup, run_dir: Path, quiet: bool = True, maps: MapFile | None = None
    ) -> None:
        self.stage, self.setup, self.config, self.settings = stage, setup, setup.config, stage.config
        self.run_dir, self.folder, self.quiet = run_dir, run_dir / stage.name, quiet
        self.device = next(stage.model.parameters()).device
        self.seed = derived_seed(self.config.seed, stage.name)
        images = setup.images_of(stage.name)
        self.dataset = SeededDataset(images, self.seed, self.config.skip_bad, maps, stage.pairs)
        self.sizes = step_sizes(stage.name, self.settings, len(images), stage.pairs)
        self.steps = len(self.sizes)
        self.optimizer = new_optimizer(stage)
        self.base_lrs = [group['lr'] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.amp == 'float16')
        self.average = WeightAverage(stage.model, self.settings.average) if self.settings.average else None
        self.progress = Progress()
        self.interrupted = threading.Event()
        self.module: Any = stage
        self.distributed = world_size() > 1
        if self.distributed:
            devices = [self.device] if self.device.type == 'cuda' else None
            self.module = DistributedDataParallel(stage, device_ids=devices, broadcast_buffers=False)

    def run(self) -> StageSummary:
        """Train to the end, continuing from the saved state if there is one.

        Raises:
            TrainingError: When the loss is not finite, or the state cannot be read or written.
            KeyboardInterrupt: After an interruption, once the state is saved.
        """
        if (path := self.folder / STATE).exists():
            self._resume(path)
            logger.info('%s: resumed after epoch %d, step %d', self.stage.name, self.progress.epoch, self.progress.step)
        with _stop_on_signal(self.interrupted):
            if self.settings.select_start and not self.progress.history:
                self._finish_validation(0)
            while self.progress.epoch < self.settings.epochs:
                self._run_steps()
                self._finish_epoch()
            if self.interrupted.is_set():
                raise KeyboardInterrupt
        self._measure_copied()
        progress = self.progress
        bad = [self.dataset.dataset.ids[i] for i in progress.bad]
        found = best_epochs(progress.history, self.settings.select) if self.stage.trains_classifier else {}
        if found and rank() == 0:
            parts = [f'best {name} in epoch {best.epoch} ({main_metrics(best.val)})' for name, best in found.items()]
            logger.info('%s: %s', self.stage.name, ', '.join(parts))
        return StageSummary(progress.best_epoch, progress.best(), progress.history[-1], bad, found)

    def step(self, epoch: int, parts: list[Batch]) -> tuple[dict[str, float], bool]:
        """Take one optimizer step.

        Args:
            epoch: Number of the epoch.
            parts: Batches of this process, one per backward pass.

        Returns:
            Mean terms of the loss over all processes, and whether a process was interrupted.

        Raises:
            TrainingError: In all processes, when the loss of one is not finite.
        """
        step = self.progress.step
        # For dropout: the same in a resumed run, different in each process.
        torch.manual_seed(derived_seed(self.seed, 'step', epoch, step, rank()))
        factor = lr_factor(self.settings, epoch, step, self.steps)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs):
            group['lr'] = lr * factor
        self.stage.start_step(epoch - 1 + (step + 1) / self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        found = []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            # DistributedDataParallel synchronizes gradients once per step.
            with self.module.no_sync() if self.distributed and not last else contextlib.nullcontext():
                terms = self._loss_terms(epoch, part)
                loss = reduce(torch.add, (terms[k] for k in terms if k not in self.stage.logged)) / len(parts)
                self.scaler.scale(loss).backward()
            found.append(torch.stack([term.detach().float() for term in terms.values()]))
        values = torch.stack(found).mean(0)
        # One exchange shares the terms, and whether a process must stop.
        flags = values.new_tensor([not bool(torch.isfinite(values).all()), self.interrupted.is_set()])
        shared = all_reduce(torch.cat([values.nan_to_num(), flags])).tolist()
        if shared[-2]:
            if not flags[0]:
                raise TrainingError(f'{self.stage.name}: the loss of another process is not finite')
            images = ', '.join(self.dataset.dataset.ids[i] for part in parts for i in part.indices)
            raise TrainingError(
                f'{self.stage.name}: loss is {values.sum().item()} at epoch {epoch}, step {step} ({images}): '
                f'lower {self.stage.name}.lr'
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update((epoch - 1) * self.steps + step + 1)
        return {name: value / world_size() for name, value in zip(terms, shared)}, bool(shared[-1])

    def _resume(self, path: Path) -> None:
        """Restore the state of an interrupted run."""
        self.progress = progress = load_state(path, self.stage.model, self.optimizer, self._averaged())
        with reading(path, TrainingError, AGAIN):
            first = 0 if self.settings.select_start else 1
            progress.check(self.settings.epochs, self.steps, len(self.dataset), first)
            if self.scaler.is_enabled() and progress.scaler:
                changing = {name: progress.scaler[name] for name in ('scale', '_growth_tracker')}
                if progress.scaler != self.scaler.state_dict() | changing or changing['scale'] <= 0:
                    raise DamagedText('its gradient scaler is not that of this training')
                self.scaler.load_state_dict(progress.scaler)
        for _ in range(progress.epoch):
            self.stage.end_epoch()

    def _run_steps(self) -> None:
        """Run the remaining steps of the current epoch."""
        progress, epoch = self.progress, self.progress.epoch + 1
        self.stage.train()
        accumulate, workers = self.settings.accumulate, self.config.workers
        loader = batches(self.dataset, self.sizes, accumulate, epoch, progress.step, workers)
        saved = time.monotonic()
        with tqdm(
            desc=f'{self.stage.name} {epoch}/{self.settings.epochs}',
            initial=sum(self.sizes[: progress.step]),
            total=sum(self.sizes),
            unit='image',
            disable=self.quiet or rank() > 0,
            leave=False,
        ) as bar:
            while progress.step < self.steps:
                started = time.perf_counter()
                parts = list(islice(loader, accumulate))
                for index in sorted({i for part in parts for i in part.bad}.difference(progress.bad)):
                    logger.warning('%s cannot be read and is skipped', self.dataset.dataset.path(index))
                    progress.bad.append(index)
                terms, stop = self.step(epoch, parts)
                for name, value in terms.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                bar.update(self.sizes[progress.step])
                progress.step += 1
                progress.seconds += time.perf_counter() - started
                bar.set_postfix({k: value / progress.step for k, value in progress.sums.items()}, refresh=False)
                if stop:
                    self._save()
                    raise KeyboardInterrupt
                if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()

    def _finish_epoch(self) -> None:
        """Validate, and write metrics, the best weights and the state."""
        progress, epoch = self.progress, self.progress.epoch + 1
        progress.bad = sorted(set().union(*gather(lambda: progress.bad)))
        self.stage.end_epoch()
        self._finish_validation(epoch)

    def _finish_validation(self, epoch: int) -> None:
        """Validate the model after an epoch (0: before the first step), and save the state."""
        progress = self.progress
        with self.average.applied() if self.average else contextlib.nullcontext():
            self._validate(epoch)
        progress.epoch, progress.step, progress.sums, progress.seconds = epoch, 0, {}, 0.0
        # The state is written last: a run killed before that continues from the previous state and writes the same.
        self._save()

    def _measure_copied(self) -> None:
        """Measure the last and the best epoch of a stage that was copied without the metrics of its maps."""
        progress, model = self.progress, self.stage.model
        if not has_ground_truth(self.setup.val_set) or progress.history[-1].val.keys() != {'cls'}:
            return
        with self.average.applied() if self.average else contextlib.nullcontext():
            progress.history[-1].val = self._measured()
            if progress.best_epoch != progress.epoch:
                last = {name: value.clone() for name, value in model.state_dict().items()}
                load_weights(model, self.folder / BEST)
                progress.best().val = self._measured()
                model.load_state_dict(last)
        logger.info(
            '%s: copied from a run with another teacher; the maps of the best and the last epoch are measured again, '
            'those of the other epochs are not',
            self.stage.name,
        )
        self._save()
        if rank() == 0:
            with writing(self.folder):
                write_metrics(self.folder, progress.history)

    def _measured(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in validate(self.stage, self.setup, self.quiet).items()}

    def _validate(self, epoch: int) -> None:
        """Validate the weights of the model, and write metrics and, if they are the best, the weights."""
        progress = self.progress
        weights = weights_of(self.stage.model)
        val = validate(self.stage, self.setup, self.quiet)
        if not all(map(math.isfinite, val.values())) or not all(torch.isfinite(w).all() for w in weights.values()):
            raise TrainingError(
                f'{self.stage.name}: weights or metrics are not finite after epoch {epoch}: lower {self.stage.name}.lr'
            )
        metrics = EpochMetrics(
            epoch,
            {name: round(value / self.steps, 5) for name, value in progress.sums.items()},
            round(progress.seconds, 1),
            round(sum(self.sizes) / progress.seconds, 2) if progress.seconds else 0.0,
            {name: round(value, 3) for name, value in val.items()},
        )
        progress.history.append(metrics)
        score = self.stage.score(val) if val else float(epoch)
        if improved := self._is_best(score):
            progress.best_epoch, progress.best_score = epoch, score
        if rank() == 0:
            if improved:
                save_tensors(self.folder / BEST, weights)
            if self.config.keep_epochs:
                save_tensors(self.folder / f'epoch_{epoch:03d}.safetensors', weights)
            with writing(self.folder):
                write_epoch(self.stage, self.setup, self.run_dir, progress.history)

    def _is_best(self, score: float) -> bool:
        """Return whether the last epoch is the best so far.

        Without boxes and masks, a collapsed one is the best only if all earlier ones collapsed, too.
        """
        progress, collapsed = self.progress, self.stage.collapse(self.progress.history)
        if collapsed and rank() == 0:
            logger.warning('%s %d: %s: %s', self.stage.name, progress.history[-1].epoch, collapsed, ADVICE)
        if progress.best_score is None:
            return True
        until_best = progress.history[: progress.best_epoch - progress.history[0].epoch + 1]
        best_collapsed = self.stage.collapse(until_best) is not None
        if 'kept' in progress.history[-1].val and best_collapsed != (collapsed is not None):
            return best_collapsed
        return score > progress.best_score

    def _loss_terms(self, epoch: int, part: Batch) -> dict[str, torch.Tensor]:
        generators = [torch.Generator().manual_seed(derived_seed(self.seed, 'seeds', epoch, i)) for i in part.indices]
        images = part.images.to(self.device, non_blocking=True)
        labels = part.labels.to(self.device, non_blocking=True)
        maps = None if part.maps is None else part.maps.to(self.device, non_blocking=True)
        amp = AMP_TYPES.get(self.config.amp)
        with (
            torch.autocast(self.device.type, amp, enabled=amp is not None),
            GlobalBatchNorm() if self.distributed else contextlib.nullcontext(),
        ):
            return self.module(images, labels, generators, maps)

    def _averaged(self) -> dict[str, torch.Tensor]:
        return self.average.weights if self.average else {}

    def _save(self) -> None:
        self.progress.scaler = self.scaler.state_dict()
        if rank() == 0:
            save_state(self.folder / STATE, self.stage.model, self.optimizer, self.progress, self._averaged())


def new_optimizer(stage: Stage) -> torch.optim.Optimizer:
    """Create the optimizer of a stage."""
    settings, groups = stage.config, stage.parameter_groups()
    if settings.optimizer == 'adamw':
        return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
    momentum = settings.momentum
    return torch.optim.SGD(groups, momentum=momentum, weight_decay=settings.weight_decay, nesterov=momentum > 0)


@contextlib.contextmanager
def _stop_on_signal(interrupted: threading.Event) -> Iterator[None]:
    """Set the event on SIGINT and SIGTERM, so that the current step is finished; a second signal stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        logger.warning('stopping after this step; interrupt again to stop at once')

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
