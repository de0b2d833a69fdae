"""Models for other runtimes: one graph for any batch and image size, as a torch program or as a verified ONNX file."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm.layers.padding
import torch
import torch.nn as nn

from ._io import atomic_path
from ._version import __version__
from .errors import ExportError
from .models import FCAM

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, int, int, int]

# The exporter's own opset: the oldest that it writes, so that the most runtimes read it.
OPSET = 18
INPUT, OUTPUTS = 'images', ('logits', 'fcam')
# Smallest side of an image that every F-CAM takes; some networks need more.
MIN_SIDE = 32
# Dynamic graphs are traced at this side at least: networks that treat small maps apart do it below.
TRACED_SIDE = 224
# A protobuf holds 2 GiB; the graph needs a little of it.
MAX_BYTES = 2_000_000_000
DESCRIPTION = (
    'F-CAM, a weakly-supervised localizer. images (B,C,H,W): RGB in [0,1], resized to input_size without cropping, '
    'then (x - mean) / std. logits (B,K): class scores before softmax. fcam (B,H,W): how far each pixel belongs to the '
    'object, in [0,1]; with grey = floor(255 * fcam), the object is where grey > floor(threshold * max(grey)).'
)


@dataclass(frozen=True)
class OnnxExport:
    """A file that was written and verified.

    Attributes:
        path: The file.
        size: Its bytes.
        difference: Largest absolute difference from the torch model over all outputs.
        shapes: Of the inputs that were compared, (B,C,H,W) each.
    """

    path: Path
    size: int
    difference: float
    shapes: tuple[Shape, ...]


class _Deployed(nn.Module):
    """What a deployment wants of a model: class logits and the map that is cut by the threshold."""

    def __init__(self, model: FCAM) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, maps = self.model(images)
        return logits, maps.softmax(1)[:, 1]


def to_program(
    model: FCAM, *, size: int | tuple[int, int] | None = None, dynamic: bool = True
) -> torch.export.ExportedProgram:
    """Export with torch.export: images (B,C,H,W), normalised -> logits (B,K) and F-CAM (B,H,W) in [0,1].

    Args:
        model: Is left as it is; its copy is exported in eval mode, in float32 and on the CPU.
        size: Side or (H,W) in pixels; default: the model's input size.
        dynamic: Take any batch of images of any size, from 32 x 32 pixels up or what the network needs; sizes that the
            graph does not serve raise when it runs. Otherwise one image of `size`.

    Raises:
        TypeError: When the model is no FCAM.
        ValueError: For a size below 32 pixels.
        ImportError: With a torch that is too old.
        ExportError: When the network has no such graph.
    """
    _check_torch()
    size = _image_size(model, size)
    return _trace(_deployed(model, None if dynamic else size), size, dynamic)


def to_onnx(
    model: FCAM,
    path: str | os.PathLike,
    *,
    size: int | tuple[int, int] | None = None,
    dynamic: bool = True,
    opset: int = OPSET,
    tolerance: float = 1e-4,
) -> OnnxExport:
    """Write one ONNX file, after onnxruntime gave the same results with it as the model.

    Input `images` (B,C,H,W), normalised; outputs `logits` (B,K) and `fcam` (B,H,W) in [0,1], as `FCAM.fcam` gives it.
    The file's metadata say how to use it: name, mean, std, input_size, min_size, interpolation, threshold, class_names
    (where the model has them), license; lists are JSON. A dynamic file is compared at three batch and image sizes,
    among them an odd one that is not square and the smallest.

    Args:
        model: Is left as it is; weights are written in float32.
        path: Appears whole and verified or not at all; an older file is replaced.
        size: Side or (H,W) in pixels: that of a static file, the recommended one of a dynamic file. Default: the
            model's input size.
        dynamic: Take any batch of images of any size, from 32 x 32 pixels up or what the network needs. Otherwise one
            image of `size`.
        opset: ONNX opset, 18 or later.
        tolerance: Largest absolute difference from the model that is accepted, beside float32's own rounding of large
            values (1e-5 of the largest).

    Raises:
        TypeError: When the model is no FCAM.
        ValueError: For a size below 32 pixels, or an opset that cannot be written.
        ImportError: Without the extra `export`.
        OSError: When the file cannot be written.
        ExportError: When the network cannot be exported, is too large for one file, or the file disagrees with it.
    """
    _check_torch()
    onnx, *_ = map(_import, ('onnx', 'onnxruntime', 'onnxscript'))
    path = Path(path)
    _check_output(path)
    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise ValueError(f'opset is {opset}: choose {OPSET} to {newest}')
    size = _image_size(model, size)
    net = _deployed(model, None if dynamic else size)
    weights = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    if weights > MAX_BYTES:
        raise ExportError(
            f'the model has {weights / 1e9:.1f} GB of weights and one ONNX file holds {MAX_BYTES / 1e9:.0f} GB: choose '
            'a smaller backbone, or use fcam_zoo.export.to_program'
        )
    with atomic_path(path) as temporary:
        program = _trace(net, size, dynamic)
        smallest = _smallest(program)
        proto = _convert(program, opset, dynamic)
        _describe(proto, model, size, smallest)
        temporary.write_bytes(proto.SerializeToString())
        shapes = _shapes(model.in_chans, size, smallest, dynamic)
        difference = _compare(temporary, net, shapes, tolerance, _mend(dynamic))
        written = temporary.stat().st_size
    return OnnxExport(path, written, difference, shapes)


def _check_torch() -> None:
    if tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 9):
        raise ImportError(f"export needs torch>=2.9, this is {torch.__version__}: pip install 'fcam-zoo[export]'")


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise ImportError(f"ONNX export needs {package} ({e}): pip install 'fcam-zoo[export]'") from e


def _check_output(path: Path) -> None:
    """Find out before the work, not after it, that the result cannot be written."""
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder: name a file, such as {path / "model.onnx"}')
    folder = next(p for p in path.absolute().parents if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = 'may not be written to' if folder.is_dir() else 'is no folder'
        raise OSError(f'{path} cannot be written, {folder} {reason}: choose another output')


def _image_size(model: FCAM, size: int | Sequence[int] | None) -> tuple[int, int]:
    if not isinstance(model, FCAM):
        raise TypeError(f'{type(model).__name__} is no FCAM: fcam_zoo.wrap(classifier) makes one')
    if size is None:
        size = model.pretrained_cfg['input_size'][-2:]
    size = (size, size) if isinstance(size, int) else tuple(size)
    if len(size) != 2 or min(size) < MIN_SIDE:
        raise ValueError(f'size is {size}: give a side or (height, width), at least {MIN_SIDE} pixels each')
    return size


def _deployed(model: FCAM, size: tuple[int, int] | None = None) -> _Deployed:
    """A copy to export; of a static graph's size a vision transformer gets its position embedding here, not there."""
    net = _Deployed(copy.deepcopy(model)).cpu().float().to(memory_format=torch.contiguous_format).eval()
    for module in net.modules():
        # Same values, but each in-place layer is rewritten at length when a graph is made functional.
        if getattr(module, 'inplace', False):
            module.inplace = False
    backbone = net.model.backbone
    if size is not None and getattr(backbone, 'dynamic_img_size', False) and hasattr(backbone, 'set_input_size'):
        seen = net.model.pyramid.fit(torch.zeros(1, model.in_chans, *size))
        backbone.set_input_size(img_size=tuple(seen.shape[-2:]))
    return net


@torch.no_grad()
def _trace(net: _Deployed, size: tuple[int, int], dynamic: bool) -> torch.export.ExportedProgram:
    model = net.model
    axes = None
    images = torch.zeros(1, model.in_chans, *size)
    if dynamic:
        if model.pyramid.multiple > 1:
            raise ExportError(
                f'{_name(model)} sees images resized to multiples of {model.pyramid.multiple} pixels, which a graph '
                f'for every size cannot do: {_mend(dynamic)}'
            )
        # Batch and sides of which nothing special is true; torch finds the smallest sides that the graph serves.
        height, width = (max(side, TRACED_SIDE) for side in size)
        images = torch.zeros(2, model.in_chans, height | 1, (width + 34) | 1)
        axes = {0: torch.export.Dim('batch', min=1), 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        with _integer_padding():
            program = torch.export.export(
                net,
                (images,),
                dynamic_shapes={INPUT: axes},
                strict=False,
                # Layers state facts that are true at every size and that the solver of symbolic shapes cannot prove.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        smallest = _smallest(program)
    except Exception as e:  # whatever a network does that has no graph
        raise ExportError(f'torch.export cannot follow {_name(model)} ({_first_line(e)}): {_mend(dynamic)}') from e
    if min(a - b for a, b in zip(size, smallest)) < 0:
        raise ExportError(f'size is {size}, the graph of {_name(model)} takes {smallest} at least: give a larger size')
    try:
        # What was assumed at the traced size may not hold at others; it is asserted in the graph, but not in ONNX.
        program.module()(torch.zeros(1, model.in_chans, *size))
    except Exception as e:
        raise ExportError(f'{_name(model)} branches on the size of images ({_first_line(e)}): {_mend(dynamic)}') from e
    return program


def _smallest(program: torch.export.ExportedProgram) -> tuple[int, int]:
    """Smallest (H,W) of images that a program takes."""
    images = next(n for n in program.graph.nodes if n.op == 'placeholder' and n.name == INPUT).meta['val']
    sides = []
    for side in images.shape[-2:]:
        if isinstance(side, int):
            sides.append(side)
            continue
        served = program.range_constraints[side.node.expr]
        if served.upper < 2**31:
            raise ValueError(f'its graph ends at sides of {served.upper} pixels')
        sides.append(max(MIN_SIDE, int(served.lower)))
    return sides[0], sides[1]


def _shapes(channels: int, size: tuple[int, int], smallest: tuple[int, int], dynamic: bool) -> tuple[Shape, ...]:
    """Batches to compare: one image of `size`; of a dynamic file also two of odd sides, and three of the smallest."""
    if not dynamic:
        return ((1, channels, *size),)
    odd = (size[0] * 5 // 4) | 1, max(smallest[1], size[1] * 3 // 4) | 1
    return (1, channels, *size), (2, channels, *odd), (3, channels, *smallest)


@contextlib.contextmanager
def _integer_padding() -> Iterator[None]:
    """Let timm compute its TensorFlow-like 'same' padding by `_same_padding` for a while."""
    original = timm.layers.padding.get_same_padding
    timm.layers.padding.get_same_padding = _same_padding
    try:
        yield
    finally:
        timm.layers.padding.get_same_padding = original


def _same_padding(side: int, kernel_size: int, stride: int, dilation: int) -> int:
    """Pixels of 'same' padding along one side, in whole numbers.

    timm divides, rounds up and cuts at zero. The solver of symbolic shapes cannot simplify that: its terms multiply
    with every layer, and a dynamic export takes minutes or fails. These terms cancel down to the side of the output.
    """
    extent = (kernel_size - 1) * dilation + 1
    total = ((side + stride - 1) // stride - 1) * stride + extent - side
    return total if extent >= stride else torch.sym_max(total, 0)


def _convert(program: torch.export.ExportedProgram, opset: int, dynamic: bool) -> onnx.ModelProto:
    try:
        with warnings.catch_warnings():
            # Of the exporter's internals; the file itself is compared with the model.
            warnings.simplefilter('ignore')
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                # Gives the axes of the program their names.
                dynamic_shapes={INPUT: {0: 'batch', 2: 'height', 3: 'width'}} if dynamic else None,
                opset_version=opset,
                verbose=False,
            )
    except Exception as e:  # the exporter raises errors of several libraries
        raise ExportError(f'no ONNX graph of opset {opset} ({_first_line(e)}): {_mend(dynamic)}') from e
    proto = exported.model_proto
    got = next(o.version for o in proto.opset_import if not o.domain)
    if got != opset:
        raise ExportError(f'the exporter wrote opset {got} where {opset} was asked for: choose {got}')
    return proto


def _describe(proto: onnx.ModelProto, model: FCAM, size: tuple[int, int], smallest: tuple[int, int]) -> None:
    """Put into the file what a deployment needs, and take out the stack traces of this machine."""
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    del proto.graph.metadata_props[:], proto.metadata_props[:]
    cfg = model.pretrained_cfg
    properties = {
        'name': _name(model),
        'mean': json.dumps(list(cfg['mean'])),
        'std': json.dumps(list(cfg['std'])),
        'input_size': json.dumps([model.in_chans, *size]),
        'min_size': json.dumps([model.in_chans, *smallest]),
        'interpolation': cfg['interpolation'],
        'threshold': json.dumps(model.threshold),
    }
    if cfg.get('label_names'):
        properties['class_names'] = json.dumps(list(cfg['label_names']), ensure_ascii=False)
    if cfg.get('license'):
        properties['license'] = cfg['license']
    for key, value in properties.items():
        proto.metadata_props.add(key=key, value=value)
    proto.producer_name, proto.producer_version = 'fcam_zoo', __version__
    proto.graph.name, proto.doc_string = 'fcam', DESCRIPTION


@torch.no_grad()
def _compare(path: Path, net: _Deployed, shapes: Sequence[Shape], tolerance: float, mend: str) -> float:
    """Largest difference between the file in onnxruntime and the model, over noise of each shape.

    Raises:
        ExportError: When onnxruntime cannot run the file, or the difference is beyond the tolerance; it ends in `mend`.
    """
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(shape, generator=generator) for shape in shapes]
    try:
        session = _import('onnxruntime').InferenceSession(os.fspath(path), providers=['CPUExecutionProvider'])
        results = [session.run(list(OUTPUTS), {INPUT: images.numpy()}) for images in batches]
    except Exception as e:  # onnxruntime has no common class of errors
        raise ExportError(f'onnxruntime cannot run the file ({_first_line(e)}): try opset={OPSET} (--opset)') from e
    worst = 0.0
    for images, found in zip(batches, results):
        for name, a, b in zip(OUTPUTS, found, net(images)):
            difference = float(np.abs(a - b.numpy()).max()) if a.shape == b.shape else float('inf')
            if not difference <= tolerance + 1e-5 * float(b.abs().max()):
                raise ExportError(
                    f'{name} of the ONNX file is {difference:.1e} off the model for images {tuple(images.shape)}, '
                    f'beyond tolerance {tolerance:.0e}; nothing was written: {mend}, or give a tolerance'
                )
            worst = max(worst, difference)
    return worst


def _name(model: FCAM) -> str:
    cfg = model.pretrained_cfg
    name = cfg.get('architecture') or f'fcam, backbone {model.model_args["backbone"]}'
    return f'{name}.{cfg["tag"]}' if cfg.get('tag') else name


def _mend(dynamic: bool) -> str:
    return 'try dynamic=False (--static)' if dynamic else 'choose another backbone'


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
