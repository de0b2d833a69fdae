"""Training state in one safetensors file: weights, optimizer, and the progress as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .._io import atomic_path
from .._schema import DamagedText, InvalidValue, NotNegative, build, parse_json, reading, show
from ..errors import FcamZooError, TrainingError
from ..models import FCAM
from .records import EpochMetrics

# Files of a stage folder.
STATE, BEST = 'state.safetensors', 'best.safetensors'
AGAIN = 'delete the folder of this stage and use --resume to train the stage again'

_MODEL, _AVERAGE, _OPTIMIZER = 'model.', 'average.', 'optimizer.'
# What the optimizers keep for each parameter: tensors of its shape, and the number of steps.
BUFFERS, STEP = ('momentum_buffer', 'exp_avg', 'exp_avg_sq'), 'step'
Count = Annotated[int, NotNegative]


@dataclass
class Progress:
    """Progress of a stage: the finished part, and what a resumed run needs besides the weights.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the next epoch.
        sums: Sum of each term of the loss over these steps.
        seconds: Time of these steps.
        best_epoch: Best epoch so far, 0 also before the first.
        best_score: Its score on val.
        history: Metrics of the finished epochs, the first of which can be epoch 0.
        bad: Indices of unreadable images.
        scaler: State of the gradient scaler.
    """

    epoch: Count = 0
    step: Count = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: Annotated[float, NotNegative] = 0.0
    best_epoch: Count = 0
    best_score: float | None = None
    history: list[EpochMetrics] = field(default_factory=list)
    bad: list[Count] = field(default_factory=list)
    scaler: dict[str, int | float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the progress as JSON."""
        values = asdict(self) | {'history': [metrics.to_row() for metrics in self.history]}
        return json.dumps(values, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Read what `to_json` returned.

        Raises:
            DamagedText: When it is not JSON, or a value is missing, unknown, or has a wrong type.
        """
        values = parse_json(text)
        if not isinstance(values, dict) or not isinstance(values.get('history'), list):
            raise DamagedText('the progress is not a record with a history')
        values.pop('stage', None)  # Written by earlier versions.
        try:
            history = [EpochMetrics.from_row(row, f'history[{i}]') for i, row in enumerate(values['history'])]
            return build(cls, values | {'history': history}, 'progress')
        except InvalidValue as e:
            raise DamagedText(str(e)) from e

    def best(self) -> EpochMetrics:
        """Return the metrics of the best epoch."""
        return self.history[self.best_epoch - self.history[0].epoch]

    def check(self, epochs: int, steps: int, n_images: int, first: int) -> None:
        """Check that the numbers fit together and a stage of so many epochs, steps per epoch, and images.

        Args:
            epochs: Number of the last epoch.
            steps: Steps per epoch.
            n_images: Number of training images.
            first: Number of the first epoch that is validated, 0 or 1.

        Raises:
            DamagedText: When they do not.
        """
        fits = (
            self.epoch <= epochs
            and [metrics.epoch for metrics in self.history] == list(range(first, self.epoch + 1))
            and self.step <= (steps if self.epoch < epochs else 0)
            and (first <= self.best_epoch <= self.epoch if self.history else self.best_epoch == 0)
            and (self.best_score is None) == (not self.history)
            and all(index < n_images for index in self.bad)
        )
        if not fits:
            raise DamagedText(f'its progress does not fit {epochs} epochs of {steps} steps with {n_images} images')


def save_state(
    path: Path,
    model: FCAM,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    average: Mapping[str, torch.Tensor],
) -> None:
    """Write the state of a stage atomically.

    Raises:
        TrainingError: When it cannot be written; the previous state is kept.
    """
    tensors = {_MODEL + name: tensor for name, tensor in weights_of(model).items()}
    tensors |= {_AVERAGE + name: tensor for name, tensor in average.items()}
    for i, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state[parameter].items():
            if value is not None:
                tensors[f'{_OPTIMIZER}{key}.{i}'] = value.contiguous()
    save_tensors(path, tensors, {'progress': progress.to_json()})


def load_state(
    path: Path, model: FCAM, optimizer: torch.optim.Optimizer, average: Mapping[str, torch.Tensor]
) -> Progress:
    """Restore what `save_state` wrote, the averaged weights in place.

    Raises:
        TrainingError: When the file is damaged or belongs to another model.
    """
    parameters = _parameters(optimizer)
    kept: tuple[str, ...] = (*BUFFERS[1:], STEP)
    if isinstance(optimizer, torch.optim.SGD):
        kept = BUFFERS[:1] if optimizer.defaults['momentum'] else ()
    with _opened(path, model) as f:
        progress = Progress.from_json((f.metadata() or {}).get('progress', ''))
        # An optimizer keeps nothing for a parameter before its first step.
        saved = {name.rpartition('.')[2] for name in f.keys() if name.startswith(_OPTIMIZER)}  # noqa: SIM118
        own = [(i, p) for i, p in enumerate(parameters) if str(i) in saved]
        expected = {f'{key}.{i}': torch.zeros(()) if key == STEP else p for i, p in own for key in kept}
        found = _read_tensors(f, expected, _OPTIMIZER)
        if other := [name for name in f.keys() if not name.startswith((_MODEL, _AVERAGE, _OPTIMIZER))]:  # noqa: SIM118
            raise DamagedText(f'the tensor {show(other[0])} is not part of a state')
        # The gradient scaler of float16 skips steps whose gradients overflow, maybe all so far.
        if kept and not found and not progress.scaler and (progress.epoch or progress.step):
            raise DamagedText('the state of its optimizer is missing')
        model.load_state_dict(_read_tensors(f, model.state_dict(), _MODEL))
        averaged = _read_tensors(f, average, _AVERAGE)
    for name, value in averaged.items():
        average[name].copy_(value)
    for name, value in found.items():
        key, _, i = name.partition('.')
        parameter = parameters[int(i)]
        # Buffers get the memory format of their parameter.
        restored = value.cpu() if key == STEP else torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][key] = restored
    return progress


def read_progress(path: Path) -> Progress:
    """Read the progress of a state, without its weights.

    Raises:
        TrainingError: When the file is missing or damaged.
    """
    with _opened(path) as f:
        return Progress.from_json((f.metadata() or {}).get('progress', ''))


def replace_progress(path: Path, progress: Progress) -> None:
    """Write a state again with another progress.

    Raises:
        TrainingError: When the file is damaged or cannot be written.
    """
    with _opened(path) as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    save_tensors(path, tensors, {'progress': progress.to_json()})


def load_weights(model: FCAM, path: Path) -> None:
    """Load the weights of a state (averaged, if it has any), or of a file that contains only weights.

    Raises:
        TrainingError: When the file is missing, damaged, or belongs to another model.
    """
    with _opened(path, model) as f:
        averaged = any(name.startswith(_AVERAGE) for name in f.keys())  # noqa: SIM118
        prefix = (_AVERAGE if averaged else _MODEL) if path.name == STATE else ''
        model.load_state_dict(_read_tensors(f, model.state_dict(), prefix))


def weights_of(model: FCAM) -> dict[str, torch.Tensor]:
    """Return the state dict in the contiguous layout that safetensors needs."""
    return {k: v.contiguous() for k, v in model.state_dict().items()}


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Raises:
        TrainingError: When it cannot be written.
    """
    with writing(path), atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert the errors of writing files of a run in the block to `TrainingError`."""
    try:
        yield
    except FcamZooError:
        raise
    except (OSError, ValueError, SafetensorError) as e:  # ValueError: a path with a null byte.
        reason = getattr(e, 'strerror', None) or e
        raise TrainingError(
            f'{path} cannot be written ({reason}): free disk space or correct the path, then use --resume'
        ) from e


@contextmanager
def _opened(path: Path, model: FCAM | None = None) -> Iterator[Any]:
    """Open a safetensors file of a run on the device of the model, or the CPU.

    Errors of reading it in the block become `TrainingError`.
    """
    if not path.is_file():
        raise TrainingError(f'{path} is missing or not a file: {AGAIN}')
    device = 'cpu' if model is None else str(next(model.parameters()).device)
    with reading(path, TrainingError, AGAIN), safe_open(path, 'pt', device=device) as f:
        yield f


def _read_tensors(file: Any, expected: Mapping[str, torch.Tensor], prefix: str = '') -> dict[str, torch.Tensor]:
    """Read the tensors whose names have the prefix, which must be those expected, of the same shapes and types.

    Raises:
        DamagedText: When they are not, or a value is not finite.
    """
    stored = {name.removeprefix(prefix): name for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    if other := stored.keys() ^ expected.keys():
        raise DamagedText(f'the tensor {show(prefix + min(other))} is missing, or is not part of this model')
    tensors = {}
    for name, like in expected.items():
        shape = list(file.get_slice(stored[name]).get_shape())
        if shape != list(like.shape):
            raise DamagedText(f'{stored[name]} has the shape {show(shape)}, but this model needs {list(like.shape)}')
        tensor = file.get_tensor(stored[name])
        if tensor.dtype != like.dtype or not torch.isfinite(tensor).all():
            raise DamagedText(f'{stored[name]} is not of {like.dtype}, or not finite')
        tensors[name] = tensor
    return tensors


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group['params']]
