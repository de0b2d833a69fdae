"""One stage: epochs of steps, validated, checkpointed, and resumed to the same bits."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from .._distributed import all_reduce, gather, rank, world_size
from ..data.base import ImageDataset
from ..errors import TrainingError
from .batch_norm import GlobalBatchNorm
from .checkpoint import Progress, load_state, save_state, save_tensors, weights_of
from .config import TrainConfig
from .loading import Batch, SeededDataset, batches, derived_seed
from .monitor import Monitor
from .stages import Stage, lr_factor

logger = logging.getLogger(__name__)
Validation = Callable[[Stage], dict[str, float] | None]
AMP_TYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


class StageRun:
    """A stage on its data set.

    Args:
        stage: Model and loss.
        config: All settings.
        train_set: Images and labels.
        validate: Metrics of the model after an epoch; None where nothing can be measured, and then the last epoch is
            taken as the best.
        folder: Output of the stage.
        monitor: What people see.
    """

    def __init__(
        self,
        stage: Stage,
        config: TrainConfig,
        train_set: ImageDataset,
        validate: Validation,
        folder: Path,
        monitor: Monitor,
    ) -> None:
        self.stage, self.config, self.settings = stage, config, stage.config
        self.validate, self.folder, self.monitor = validate, folder, monitor
        self.rank, self.world = rank(), world_size()
        self.device = next(stage.model.parameters()).device
        self.seed = derived_seed(config.seed, stage.name)
        self.dataset = SeededDataset(train_set, self.seed, config.skip_bad)
        parts = self.settings.accumulate * self.world
        self.batch_size = batch_size_for(len(train_set), self.settings.batch_size, parts)
        self.steps = len(train_set) // self.batch_size
        self.optimizer = torch.optim.SGD(
            stage.parameter_groups(),
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
            nesterov=self.settings.momentum > 0,
        )
        self.base_lrs = [group['lr'] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == 'float16')
        self.progress = Progress()
        self.module: Any = stage
        if self.world > 1:
            devices = [self.device] if self.device.type == 'cuda' else None
            self.module = DistributedDataParallel(stage, device_ids=devices, broadcast_buffers=False)

    @property
    def state_path(self) -> Path:
        return self.folder / 'state.safetensors'

    def run(self) -> dict[str, Any]:
        """Train to the end, from the state that is there.

        Returns:
            'best_epoch', and the rows of the metrics of the 'best' and the 'last' epoch.

        Raises:
            TrainingError: When the loss is not finite or the state cannot be read or written.
            KeyboardInterrupt: After an interruption, once the state is saved.
        """
        if self.state_path.exists():
            self.progress = load_state(self.state_path, self.stage.model, self.optimizer)
            self.stage.load_progress(self.progress.stage)
            if self.config.amp == 'float16':
                self.scaler.load_state_dict(self.progress.scaler)
            place = f'epoch {self.progress.epoch}, step {self.progress.step}'
            logger.info('%s: resumed after %s', self.stage.name, place)
        with _interruptions() as interrupted:
            while self.progress.epoch < self.settings.epochs:
                self._epoch(interrupted)
            if interrupted:
                raise KeyboardInterrupt
        history = self.progress.history
        best = history[self.progress.best_epoch - 1]
        return {'best_epoch': self.progress.best_epoch, 'best': best, 'last': history[-1], 'bad': self._bad_ids()}

    def _epoch(self, interrupted: list[int]) -> None:
        progress = self.progress
        self._steps(interrupted)
        progress.bad = sorted(set().union(*gather(lambda: progress.bad)))
        self.stage.end_epoch()
        epoch = progress.epoch + 1
        row: dict[str, Any] = {'epoch': epoch}
        row.update({name: round(value / self.steps, 5) for name, value in progress.sums.items()})
        row['seconds'] = round(progress.seconds, 1)
        row['images_per_second'] = round(self.steps * self.batch_size / max(progress.seconds, 1e-9), 2)
        metrics = self.validate(self.stage)
        score = float(epoch)
        if metrics is not None:
            row['val'] = {name: round(value, 3) for name, value in metrics.items()}
            score = self.stage.score(metrics)
        progress.history.append(row)
        if score > progress.best_score:
            progress.best_epoch, progress.best_score = epoch, score
            self._write(lambda: save_tensors(self.folder / 'best.safetensors', weights_of(self.stage.model)))
        if self.config.keep_epochs:
            path = self.folder / f'epoch_{epoch:03d}.safetensors'
            self._write(lambda: save_tensors(path, weights_of(self.stage.model)))
        self._write(lambda: self.monitor.epoch(self.stage, row, progress.history, self.folder))
        progress.epoch, progress.step, progress.sums, progress.seconds = epoch, 0, {}, 0.0
        # The state comes last: a run killed before it redoes what follows the state before, and writes the same again.
        self._save()

    def _steps(self, interrupted: list[int]) -> None:
        progress, epoch = self.progress, self.progress.epoch + 1
        self.stage.train()
        reported = set(progress.bad)
        loader = batches(
            self.dataset,
            epoch,
            progress.step,
            self.batch_size,
            self.settings.accumulate,
            (self.rank, self.world),
            self.config.workers,
            reported,
        )
        saved = time.monotonic()
        with self.monitor.bar(self.stage, epoch, self.steps, progress.step, self.batch_size) as bar:
            while progress.step < self.steps:
                started = time.perf_counter()
                terms, stop = self.step(epoch, list(islice(loader, self.settings.accumulate)), interrupted)
                for name, value in terms.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                progress.step += 1
                progress.seconds += time.perf_counter() - started
                progress.bad = sorted(reported)
                bar.update(progress.sums, progress.step, self.batch_size)
                if stop:
                    self._save()
                    raise KeyboardInterrupt
                if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()

    def step(self, epoch: int, parts: list[Batch], interrupted: list[int]) -> tuple[dict[str, float], bool]:
        """One step of the optimizer; the terms of its loss, and whether to stop after it."""
        step = self.progress.step
        # Dropout draws from here: the same in a resumed run, another in each process.
        torch.manual_seed(derived_seed(self.seed, 'step', epoch, step, self.rank))
        factor = lr_factor(self.settings, epoch, step, self.steps)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs):
            group['lr'] = lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        found = []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last or self.world == 1 else self.module.no_sync():
                terms = self._terms(epoch, part)
                loss = sum(terms.values()) / len(parts)
                self.scaler.scale(loss).backward()
            found.append(torch.stack([term.detach().float() for term in terms.values()]))
        values = torch.stack(found).mean(0)
        # One exchange tells every process the mean of the terms, and whether any of them must stop.
        flags = values.new_tensor([not bool(torch.isfinite(values).all()), bool(interrupted)])
        shared = all_reduce(torch.cat([values.nan_to_num(), flags])).tolist()
        if shared[-2]:
            self._refuse(epoch, step, values, parts)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: value / self.world for name, value in zip(terms, shared)}, bool(shared[-1])

    def _terms(self, epoch: int, part: Batch) -> dict[str, torch.Tensor]:
        generators = [torch.Generator().manual_seed(derived_seed(self.seed, 'seeds', epoch, i)) for i in part.index]
        images = part.images.to(self.device, non_blocking=True)
        labels = part.labels.to(self.device, non_blocking=True)
        amp = AMP_TYPES.get(self.config.amp)
        with (
            torch.autocast(self.device.type, amp, enabled=amp is not None),
            GlobalBatchNorm() if self.world > 1 else contextlib.nullcontext(),
        ):
            return self.module(images, labels, generators)

    def _refuse(self, epoch: int, step: int, values: torch.Tensor, parts: list[Batch]) -> None:
        if bool(torch.isfinite(values).all()):
            raise TrainingError(f'{self.stage.name}: the loss of another process is not finite')
        images = ', '.join(self.dataset.dataset.ids[i] for part in parts for i in part.index)
        raise TrainingError(
            f'{self.stage.name}: loss is {values.sum().item()} at epoch {epoch}, step {step} ({images}): lower the lr'
        )

    def _save(self) -> None:
        self.progress.stage = self.stage.progress()
        self.progress.scaler = self.scaler.state_dict()
        self._write(lambda: save_state(self.state_path, self.stage.model, self.optimizer, self.progress))

    def _write(self, function: Callable[[], None]) -> None:
        if self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            function()

    def _bad_ids(self) -> list[str]:
        return [self.dataset.dataset.ids[i] for i in self.progress.bad]


def batch_size_for(total: int, wanted: int, parts: int) -> int:
    """Images of a step: as many as wanted and there are, in equal parts.

    Raises:
        TrainingError: When there are fewer images than parts, or the wanted number cannot be cut into them.
    """
    if wanted % parts:
        raise TrainingError(
            f'batch_size={wanted} cannot be cut into {parts} equal parts (processes x accumulate): choose a multiple'
        )
    size = min(wanted, total // parts * parts)
    if size < 1:
        raise TrainingError(f'{total} images are fewer than {parts} parts of a step (processes x accumulate)')
    return size


@contextlib.contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Signals that ask to stop; the step under way is finished first. A second one stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        logger.warning('stopping after this step; once more stops at once')

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
