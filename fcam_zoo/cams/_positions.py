"""Where the elements of the tensors of a forward pass look in the image, followed operation by operation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary


class Digit(NamedTuple):
    """A digit of an index: its axis (0 rows, 1 columns, -1 neither), its number of values, pixels from one to the next.

    Rows that are split into windows have two digits: the window, and the row in it.
    """

    axis: int
    size: int
    pitch: float = 0.0


# The digits of the index along one dimension of a tensor, from the most significant down.
Dim = tuple[Digit, ...]


class Positions(NamedTuple):
    """Where the elements of a tensor look: pixel of the first one, from `low` to `high` by branch, and all digits.

    `rolled` are pixels by which rows and columns stand displaced in a circle.
    """

    dims: tuple[Dim, ...]
    low: tuple[float, float] = (0.0, 0.0)
    high: tuple[float, float] = (0.0, 0.0)
    rolled: tuple[float, float] = (0.0, 0.0)

    def with_dim(self, index: int, dim: Dim) -> Positions:
        dims = list(self.dims)
        dims[index] = dim
        return self._replace(dims=tuple(dims))

    def moved(self, digit: Digit, steps: float) -> Positions:
        """With the first element as many steps of a digit further."""
        by = [digit.pitch * steps * (axis == digit.axis) for axis in (0, 1)]
        low, high = (tuple(a + b for a, b in zip(bound, by)) for bound in (self.low, self.high))
        return self._replace(low=low, high=high)

    def window(self, index: int, center: float, step: float, size: int) -> Positions:
        """After an operation whose element i along a dimension looks around element center + step * i of its input."""
        dim = self.dims[index]
        if not _is_position(dim):
            return self.with_dim(index, (Digit(-1, size),))
        if (center, step, size) == (0, 1, math.prod(d.size for d in dim)):
            return self
        if len(dim) > 1:
            raise LostError
        new = dim[0]._replace(size=size, pitch=dim[0].pitch * step)
        return self.moved(dim[0], center).with_dim(index, (new,))

    def summed(self, index: int, size: int) -> Positions:
        """After a sum over a dimension, in whose place another of no position comes: the middle of the sum counts."""
        cells = self
        for digit in self.dims[index]:
            cells = cells.moved(digit, (digit.size - 1) / 2)
        return cells.with_dim(index, (Digit(-1, size),))

    def followed(self) -> bool:
        """Whether both rows and columns are still told apart."""
        return {digit.axis for dim in self.dims for digit in dim} >= {0, 1}


class LostError(Exception):
    """The positions cannot be followed through an operation."""


def _is_position(dim: Dim) -> bool:
    return any(digit.axis >= 0 for digit in dim)


def _is_split(dim: Dim) -> bool:
    return len(dim) > 1 and _is_position(dim)


class Follower(TorchDispatchMode):
    """Notes where the elements of every tensor look, from one image on.

    Args:
        images: The image (1,C,H,W).
        trained: Take the centroid of a kernel's squared weights for its centre, instead of its middle.
    """

    def __init__(self, images: torch.Tensor, trained: bool = False) -> None:
        super().__init__()
        self.trained = trained
        batch, channels, rows, columns = images.shape
        dims = ((Digit(-1, batch),), (Digit(-1, channels),), (Digit(0, rows, 1.0),), (Digit(1, columns, 1.0),))
        self.known = WeakTensorKeyDictionary()
        self.known[images] = Positions(dims)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # Before the call: an operation in place changes its input.
        inputs = [self._of(x) for x in args]
        result = func(*args, **(kwargs or {}))
        for i, tensor in enumerate(result if isinstance(result, (list, tuple)) else (result,)):
            if not isinstance(tensor, torch.Tensor):
                continue
            try:
                cells = _after(func, args, inputs, i, tuple(tensor.shape), self.trained)
            except LostError:
                cells = None
            if cells is not None and cells.followed():
                self.known[tensor] = cells
            else:
                self.known.pop(tensor, None)
        return result

    def grid(self, tensor: torch.Tensor) -> tuple[tuple[float, ...], ...] | None:
        """Lowest and highest first pixel, and pitch, by axis, of a tensor with a dimension of rows and one of columns.

        None when there are no such dimensions, or when positions are split, or still displaced by a roll.
        """
        x = self.known.get(tensor)
        digits = [d for dim in x.dims for d in dim if d.axis >= 0] if x else []
        if len(digits) != 2 or any(map(_is_split, x.dims)) or any(x.rolled):
            return None
        return x.low, x.high, tuple(digit.pitch for digit in sorted(digits))

    def _of(self, x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return [self._of(v) for v in x]
        return self.known.get(x) if isinstance(x, torch.Tensor) else None


# What leaves elements at their place, beside the operations that torch itself calls pointwise. Whatever is neither
# here nor in `_after` loses the positions: an unknown operation must not pass for a harmless one.
_STAYING = frozenset(
    (
        *('_log_softmax', '_prelu_kernel', '_safe_softmax', '_softmax', '_to_copy', 'alias', 'bernoulli', 'clone'),
        *('contiguous', 'detach', 'expand', 'hardswish', 'lift_fresh', 'log_sigmoid_forward', 'masked_fill'),
        *('native_dropout', 'prelu'),
        # Norms; their statistics have no positions.
        *('_batch_norm_no_update', '_fused_rms_norm', '_native_batch_norm_legit', 'cudnn_batch_norm'),
        *('_native_batch_norm_legit_no_training', 'miopen_batch_norm', 'native_batch_norm', 'native_group_norm'),
        *('native_layer_norm', 'rms_norm'),
    )
)


def _after(
    func: Any, args: tuple, inputs: list[Any], i: int, shape: tuple[int, ...], trained: bool
) -> Positions | None:
    """Where result i, of this shape, looks, after an operation on inputs of which this is known.

    Raises:
        LostError: When this cannot be told.
    """
    space, name = func.name().split('::')
    name = name.partition('.')[0].rstrip('_')
    x = inputs[0] if inputs else None
    if space != 'aten':
        return None
    if torch.Tag.pointwise in func.tags or name in _STAYING:
        return _meet(inputs, shape)
    match name:
        case 'copy':
            return _meet(inputs[1:2], shape)
        case 'cat' | 'stack':
            return _joined(x, _arg(args, 1, 0) % len(shape), shape, new=name == 'stack')
        case 'mm' | 'bmm':
            return _product(*inputs[:2], shape)
        case 'addmm' | 'baddbmm':
            return _product(*inputs[1:3], shape)
    if not isinstance(x, Positions):
        return None
    match name:
        case 'convolution':
            return _convolved(x, args, shape, trained)
        case 'max_pool2d_with_indices' | 'max_pool2d' | 'avg_pool2d':
            return _pooled(x, args, shape, name != 'avg_pool2d') if i == 0 else None
        case '_adaptive_avg_pool2d' | 'adaptive_max_pool2d':
            return _pooled_to(x, shape) if i == 0 else None
        case 'constant_pad_nd' | 'reflection_pad2d' | 'replication_pad2d':
            for k, left in enumerate(args[1][::2], 1):
                x = x.window(-k, -left, 1, shape[-k])
            return x
        case 'upsample_bilinear2d' | 'upsample_bicubic2d' | '_upsample_bilinear2d_aa' | '_upsample_bicubic2d_aa':
            return _resized(x, shape, args[3:], 'corners' if args[2] else 'centers')
        case 'upsample_nearest2d' | '_upsample_nearest_exact2d':
            return _resized(x, shape, args[2:], 'nearest')
        case 'view' | '_unsafe_view' | '_reshape_alias' | 'squeeze' | 'unsqueeze':
            return x._replace(dims=_regrouped(x.dims, shape))
        case 'permute':
            return x._replace(dims=tuple(x.dims[d] for d in args[1]))
        case 'transpose' | 't':
            a, b = args[1:3] if name == 'transpose' else (0, -1)
            return x.with_dim(a, x.dims[b]).with_dim(b, x.dims[a])
        case 'slice':
            dim, start = _arg(args, 1, 0), _arg(args, 2, None) or 0
            length = math.prod(d.size for d in x.dims[dim])
            start = max(0, start + length) if start < 0 else start
            return x.window(dim, start, _arg(args, 4, 1), shape[dim])
        case 'split' | 'split_with_sizes' | 'select' | 'unbind':
            return _parted(x, _arg(args, 1 if name in ('select', 'unbind') else 2, 0), shape)
        case 'roll':
            return _rolled(x, args[1], _arg(args, 2, ()))
    if name.startswith('_scaled_dot_product') and i == 0:
        # Each query takes a mean of the values, and stays where it is.
        return x.with_dim(-1, (Digit(-1, shape[-1]),))
    return None


def _arg(args: tuple, i: int, default: Any) -> Any:
    return args[i] if len(args) > i else default


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return (value[0], value[-1])


def _meet(inputs: Sequence[Any], shape: tuple[int, ...]) -> Positions | None:
    """Branches, broadcast to a shape, meet element by element; weights and gates, without positions, do not count."""
    met: Positions | None = None
    for cells in inputs:
        if not isinstance(cells, Positions) or len(cells.dims) > len(shape):
            continue
        dims = ((),) * (len(shape) - len(cells.dims)) + cells.dims
        if any(_is_position(dim) and math.prod(d.size for d in dim) != n for dim, n in zip(dims, shape)):
            continue
        dims = tuple(dim if _is_position(dim) else (Digit(-1, n),) for dim, n in zip(dims, shape))
        cells = cells._replace(dims=dims)
        if met is None:
            met = cells
        elif not _same(met, cells):
            raise LostError
        else:
            low, high = tuple(map(min, met.low, cells.low)), tuple(map(max, met.high, cells.high))
            met = met._replace(low=low, high=high)
    return met


def _same(a: Positions, b: Positions) -> bool:
    """Whether two tensors of one shape have the same digits, wherever their first elements look."""
    if a.rolled != b.rolled:
        return False
    for dim, other in zip(a.dims, b.dims):
        if [d[:2] for d in dim] != [d[:2] for d in other]:
            return False
        if not all(math.isclose(d.pitch, e.pitch) for d, e in zip(dim, other)):
            return False
    return True


def _joined(inputs: Sequence[Any], dim: int, shape: tuple[int, ...], new: bool) -> Positions | None:
    """Tensors one behind the other along a dimension, or along a new one."""
    found = [cells for cells in inputs if isinstance(cells, Positions)]
    if new:
        found = [c._replace(dims=(*c.dims[:dim], (Digit(-1, 1),), *c.dims[dim:])) for c in found]
    if any(_is_position(cells.dims[dim]) for cells in found):
        raise LostError
    return _meet(found, shape)


def _product(a: Any, b: Any, shape: tuple[int, ...]) -> Positions | None:
    """Matrix product: rows are those of the first factor, columns those of the second; positions may be either."""
    if isinstance(a, Positions) and a.summed(-1, shape[-1]).followed():
        return a.summed(-1, shape[-1])
    return b.summed(-2, shape[-2]) if isinstance(b, Positions) else None


def _convolved(x: Positions, args: tuple, shape: tuple[int, ...], trained: bool) -> Positions:
    weight, stride, padding, dilation, transposed = args[1], *args[3:7]
    x = x.summed(1, shape[1])
    for k, middle in enumerate(_kernel_center(weight, trained)):
        # Shorter lists serve all dimensions.
        s, p, d = (v[k % len(v)] for v in (stride, padding, dilation))
        center, dim = d * middle - p, 2 + k
        x = x.window(dim, -center / s, 1 / s, shape[dim]) if transposed else x.window(dim, center, s, shape[dim])
    return x


def _kernel_center(weight: torch.Tensor, trained: bool) -> list[float]:
    """Position within a kernel (out,in,...), from its first element, by dimension.

    Trained weights count squared, and every output channel alike. Where signs are as good as random, the expected
    square of a gradient through several layers is the convolution of their squared kernels, whose centroids add up.
    """
    middle = [(n - 1) / 2 for n in weight.shape[2:]]
    if not trained:
        return middle
    energy = weight.detach().float().square()
    energy = energy / energy.flatten(1).sum(1).view(-1, *[1] * (weight.ndim - 1))
    # Channels that training has switched off have no weights, and no centroid.
    energy = energy.nan_to_num(0, 0, 0).sum((0, 1))
    total = float(energy.sum())
    if not total:
        return middle
    centers = []
    for k, n in enumerate(energy.shape):
        profile = energy.movedim(k, 0).reshape(n, -1).sum(1)
        centers.append(float(profile @ torch.arange(n, dtype=profile.dtype, device=profile.device)) / total)
    return centers


def _pooled(x: Positions, args: tuple, shape: tuple[int, ...], dilates: bool) -> Positions:
    kernel = _pair(args[1])
    stride, padding = _pair(_arg(args, 2, ()) or kernel), _pair(_arg(args, 3, (0,)))
    dilation = _pair(_arg(args, 4, (1,))) if dilates else (1, 1)
    for dim, k, s, p, d in zip((-2, -1), kernel, stride, padding, dilation):
        x = x.window(dim, d * (k - 1) / 2 - p, s, shape[dim])
    return x


def _pooled_to(x: Positions, shape: tuple[int, ...]) -> Positions:
    for dim in (-2, -1):
        step, rest = divmod(math.prod(d.size for d in x.dims[dim]), shape[dim])
        if rest:
            raise LostError
        x = x.window(dim, (step - 1) / 2, step, shape[dim])
    return x


def _resized(x: Positions, shape: tuple[int, ...], scales: tuple, kind: str) -> Positions:
    for dim, scale in zip((-2, -1), (*scales, None, None)):
        old, new = math.prod(d.size for d in x.dims[dim]), shape[dim]
        # A scale that was given holds, though the sizes may give another; 'nearest' is even at whole factors alone.
        if (kind == 'nearest' and new % old) or (scale is not None and not math.isclose(scale, new / old)):
            raise LostError
        if kind == 'corners':
            x = x.window(dim, 0, (old - 1) / (new - 1) if new > 1 else 1, new)
        else:
            x = x.window(dim, (old / new - 1) / 2, old / new, new)
    return x


def _parted(x: Positions, dim: int, shape: tuple[int, ...]) -> Positions:
    """One part of a tensor along a dimension that is no position, which goes when the part is a single one."""
    if _is_position(x.dims[dim]):
        raise LostError
    if len(shape) == len(x.dims):
        return x.with_dim(dim, (Digit(-1, shape[dim]),))
    dim %= len(x.dims)
    return x._replace(dims=x.dims[:dim] + x.dims[dim + 1 :])


def _rolled(x: Positions, shifts: Sequence[int], dims: Sequence[int]) -> Positions:
    rolled = list(x.rolled)
    if not dims:
        raise LostError
    for shift, dim in zip(shifts, dims):
        if _is_split(x.dims[dim]):
            raise LostError
        digit = x.dims[dim][0]
        if digit.axis >= 0:
            rolled[digit.axis] += digit.pitch * shift
    return x._replace(rolled=tuple(rolled))


def _regrouped(dims: Sequence[Dim], shape: tuple[int, ...]) -> tuple[Dim, ...]:
    """The digits of all dimensions, dealt out anew to the dimensions of a view of another shape."""
    left = _merged(digit for dim in dims for digit in dim)[::-1]
    new = []
    for size in shape:
        dim = []
        while size > 1:
            digit = left.pop()
            if size % digit.size == 0:
                dim.append(digit)
                size //= digit.size
            elif digit.size % size == 0:
                rest = digit.size // size
                dim.append(digit._replace(size=size, pitch=digit.pitch * rest))
                left.append(digit._replace(size=rest))
                size = 1
            else:
                raise LostError
        new.append(tuple(_merged(dim)) or (Digit(-1, 1),))
    return tuple(new)


def _merged(digits: Any) -> list[Digit]:
    """Digits without those of one value, and with neighbours as one that together count through evenly."""
    merged: list[Digit] = []
    for digit in digits:
        last = merged[-1] if merged else None
        if digit.size == 1:
            continue
        if last and last.axis == digit.axis and math.isclose(last.pitch, digit.pitch * digit.size):
            merged[-1] = digit._replace(size=last.size * digit.size)
        else:
            merged.append(digit)
    return merged
