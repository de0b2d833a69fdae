"""The loop of one stage: epochs of steps, validation, checkpoints, and bit-identical resume."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from .._distributed import all_reduce, gather
from ..data.base import ImageDataset
from ..errors import TrainingError
from .batch_norm import GlobalBatchNorm
from .checkpoint import Progress, load_state, save_state, save_tensors, weights_of
from .config import TrainConfig
from .loading import Batch, SeededDataset, StepLayout, batches, derived_seed
from .monitor import Monitor
from .records import EpochMetrics, StageSummary
from .stages import Stage, lr_factor

logger = logging.getLogger(__name__)
Validation = Callable[[Stage], dict[str, float]]
AMP_TYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


class StageRun:
    """Runs a stage on its data set.

    Args:
        stage: Model and loss.
        config: All settings.
        train_set: Images and labels.
        validate: Returns the metrics of the model after an epoch; empty if nothing can be measured, and then the last
            epoch is the best.
        folder: Output folder of the stage.
        monitor: Progress bar, logs and sample pictures.
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
        self.state_path = folder / 'state.safetensors'
        self.device = next(stage.model.parameters()).device
        self.seed = derived_seed(config.seed, stage.name)
        self.dataset = SeededDataset(train_set, self.seed, config.skip_bad)
        self.layout = StepLayout.create(self.settings, len(train_set))
        self.steps = len(train_set) // self.layout.batch_size
        self.optimizer = torch.optim.SGD(
            stage.parameter_groups(),
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
            nesterov=self.settings.momentum > 0,
        )
        self.base_lrs = [group['lr'] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == 'float16')
        self.progress = Progress()
        self.interrupted = threading.Event()
        self.module: Any = stage
        self.distributed = self.layout.world_size > 1
        if self.distributed:
            devices = [self.device] if self.device.type == 'cuda' else None
            self.module = DistributedDataParallel(stage, device_ids=devices, broadcast_buffers=False)

    def run(self) -> StageSummary:
        """Train to the end, continuing from the saved state if there is one.

        Raises:
            TrainingError: When the loss is not finite, or the state cannot be read or written.
            KeyboardInterrupt: After an interruption, once the state is saved.
        """
        if self.state_path.exists():
            self._restore()
        with _stop_on_signal(self.interrupted):
            while self.progress.epoch < self.settings.epochs:
                self._run_steps()
                self._finish_epoch()
            if self.interrupted.is_set():
                raise KeyboardInterrupt
        history, best_epoch = self.progress.history, self.progress.best_epoch
        bad = [self.dataset.dataset.ids[i] for i in self.progress.bad]
        return StageSummary(best_epoch, history[best_epoch - 1], history[-1], bad)

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
        torch.manual_seed(derived_seed(self.seed, 'step', epoch, step, self.layout.rank))
        factor = lr_factor(self.settings, epoch, step, self.steps)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs):
            group['lr'] = lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        found = []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            # DistributedDataParallel synchronises gradients once per step.
            with self.module.no_sync() if self.distributed and not last else contextlib.nullcontext():
                terms = self._loss_terms(epoch, part)
                loss = reduce(torch.add, terms.values()) / len(parts)
                self.scaler.scale(loss).backward()
            found.append(torch.stack([term.detach().float() for term in terms.values()]))
        values = torch.stack(found).mean(0)
        # One exchange shares the terms, and whether a process must stop.
        flags = values.new_tensor([not bool(torch.isfinite(values).all()), self.interrupted.is_set()])
        shared = all_reduce(torch.cat([values.nan_to_num(), flags])).tolist()
        if shared[-2]:
            raise self._not_finite(epoch, values, parts)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: value / self.layout.world_size for name, value in zip(terms, shared)}, bool(shared[-1])

    def _run_steps(self) -> None:
        """Run the remaining steps of the current epoch."""
        progress, epoch = self.progress, self.progress.epoch + 1
        self.stage.train()
        reported = set(progress.bad)
        loader = batches(self.dataset, self.layout, epoch, progress.step, self.config.workers, reported)
        images, saved = self.layout.batch_size, time.monotonic()
        with self.monitor.bar(self.stage, epoch, progress.step * images, self.steps * images) as bar:
            while progress.step < self.steps:
                started = time.perf_counter()
                terms, stop = self.step(epoch, list(islice(loader, self.layout.accumulate)))
                for name, value in terms.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                progress.step += 1
                progress.seconds += time.perf_counter() - started
                progress.bad = sorted(reported)
                means = {name: f'{value / progress.step:.3f}' for name, value in progress.sums.items()}
                bar.set_postfix(means, refresh=False)
                bar.update(images)
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
        val = self.validate(self.stage)
        metrics = EpochMetrics(
            epoch,
            {name: round(value / self.steps, 5) for name, value in progress.sums.items()},
            round(progress.seconds, 1),
            round(self.steps * self.layout.batch_size / max(progress.seconds, 1e-9), 2),
            {name: round(value, 3) for name, value in val.items()},
        )
        progress.history.append(metrics)
        score = self.stage.score(val) if val else float(epoch)
        if score > progress.best_score:
            progress.best_epoch, progress.best_score = epoch, score
            self._write(lambda: save_tensors(self.folder / 'best.safetensors', weights_of(self.stage.model)))
        if self.config.keep_epochs:
            path = self.folder / f'epoch_{epoch:03d}.safetensors'
            self._write(lambda: save_tensors(path, weights_of(self.stage.model)))
        self._write(lambda: self.monitor.epoch(self.stage, progress.history, self.folder))
        progress.epoch, progress.step, progress.sums, progress.seconds = epoch, 0, {}, 0.0
        # The state is written last: a run killed before that continues from the previous state and writes the same.
        self._save()

    def _loss_terms(self, epoch: int, part: Batch) -> dict[str, torch.Tensor]:
        generators = [torch.Generator().manual_seed(derived_seed(self.seed, 'seeds', epoch, i)) for i in part.indices]
        images = part.images.to(self.device, non_blocking=True)
        labels = part.labels.to(self.device, non_blocking=True)
        amp = AMP_TYPES.get(self.config.amp)
        with (
            torch.autocast(self.device.type, amp, enabled=amp is not None),
            GlobalBatchNorm() if self.distributed else contextlib.nullcontext(),
        ):
            return self.module(images, labels, generators)

    def _not_finite(self, epoch: int, values: torch.Tensor, parts: list[Batch]) -> TrainingError:
        if bool(torch.isfinite(values).all()):
            return TrainingError(f'{self.stage.name}: the loss of another process is not finite')
        images = ', '.join(self.dataset.dataset.ids[i] for part in parts for i in part.indices)
        return TrainingError(
            f'{self.stage.name}: loss is {values.sum().item()} at epoch {epoch}, step {self.progress.step} '
            f'({images}): lower {self.stage.name}.lr'
        )

    def _restore(self) -> None:
        self.progress = load_state(self.state_path, self.stage.model, self.optimizer)
        self.stage.load_progress(self.progress.stage)
        if self.config.amp == 'float16':
            self.scaler.load_state_dict(self.progress.scaler)
        logger.info('%s: resumed after epoch %d, step %d', self.stage.name, self.progress.epoch, self.progress.step)

    def _save(self) -> None:
        self.progress.stage = self.stage.progress()
        self.progress.scaler = self.scaler.state_dict()
        self._write(lambda: save_state(self.state_path, self.stage.model, self.optimizer, self.progress))

    def _write(self, function: Callable[[], None]) -> None:
        """Call a function that writes to the folder, in the first process only."""
        if self.layout.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            function()


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
