"""Export of models: a torch.export program, or an ONNX file that is compared with the model before it is kept."""

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
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import timm.layers.padding
import torch
import torch.nn as nn

from ._catalog import OPSET
from ._io import atomic_path, is_file, is_folder
from ._schema import as_whole, show
from ._version import __version__
from .errors import ExportError, install_hint
from .models import FCAM
from .models.backbone_arguments import MAX_SIDE

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, int, int, int]

INPUT, OUTPUTS = 'images', ('logits', 'fcam')
# Smallest side of an image in pixels; some networks need more.
MIN_SIDE = 32
# Dynamic graphs are traced at this side or larger: some networks handle smaller maps in a separate branch.
TRACED_SIDE = 224
# The limit of protobuf is 2 GiB, and the graph needs some of it.
MAX_BYTES = 2_000_000_000
DESCRIPTION = (
    'F-CAM, a weakly supervised localizer. images (B,C,H,W): RGB in [0,1], resized to input_size without cropping, '
    'then (x - mean) / std. logits (B,K): class scores before softmax. fcam (B,H,W): foreground probability per pixel, '
    'in [0,1]; with gray = floor(255 * fcam), the object is where gray > floor(threshold * max(gray)).'
)


@dataclass(frozen=True)
class OnnxExport:
    """A verified ONNX file.

    Attributes:
        path: The file.
        size: Its size in bytes.
        difference: Largest absolute difference from the torch model over all outputs.
        shapes: Input shapes (B,C,H,W) at which file and model were compared.
    """

    path: Path
    size: int
    difference: float
    shapes: tuple[Shape, ...]


class _Deployed(nn.Module):
    """A model with the outputs of the exported graph: class logits (B,K) and F-CAM (B,H,W) in [0,1]."""

    def __init__(self, model: FCAM) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, maps = self.model(images)
        return logits, maps.softmax(1)[:, 1]


def to_program(
    model: FCAM, *, size: int | tuple[int, int] | None = None, dynamic: bool = True
) -> torch.export.ExportedProgram:
    """Export with torch.export: images (B,C,H,W), normalized -> logits (B,K) and F-CAM (B,H,W) in [0,1].

    Args:
        model: A copy is exported in eval mode, in float32 and on the CPU.
        size: Side or (H,W) in pixels; default: the model's input size.
        dynamic: Accept any batch size and any image size of at least 32 x 32 pixels (or the network's own minimum); the
            program raises for sizes that it does not support. Otherwise it accepts one image of `size`.

    Raises:
        TypeError: If the model is not an FCAM.
        ValueError: If the size is below 32 or above 2048 pixels.
        ImportError: If torch is older than 2.9.
        ExportError: If the network cannot be exported.
    """
    _check_torch()
    size = _image_size(model, size)
    return _trace(_deployed(model, None if dynamic else size), size, dynamic)[0]


def to_onnx(
    model: FCAM,
    path: str | os.PathLike,
    *,
    size: int | tuple[int, int] | None = None,
    dynamic: bool = True,
    opset: int = OPSET,
    tolerance: float = 1e-4,
) -> OnnxExport:
    """Write one ONNX file, and compare its outputs in onnxruntime with those of the model.

    Input `images` (B,C,H,W), normalized; outputs `logits` (B,K) and `fcam` (B,H,W) in [0,1], as from `FCAM.fcam`.
    Metadata of the file: name, mean, std, input_size, min_size, interpolation, threshold, class_names (if the model has
    them) and license; lists are JSON. A dynamic file is compared at three batch and image sizes: `size`, one that is
    odd and not square, and the smallest.

    Args:
        model: As in `to_program`.
        path: Output file. It is only created or replaced after the comparison succeeds.
        size: Side or (H,W) in pixels: the only size of a static file, the recommended size of a dynamic file. Default:
            the model's input size.
        dynamic: As in `to_program`.
        opset: ONNX opset, 18 or later.
        tolerance: Largest accepted absolute difference from the model; 1e-5 of the largest output value is added for
            the rounding of float32.

    Raises:
        TypeError: If the model is not an FCAM.
        ValueError: If the size is below 32 or above 2048 pixels, the opset is not supported, or the tolerance is not
            below 1.
        ImportError: If the extra `export` is not installed.
        OSError: If the file cannot be written.
        ExportError: If the network cannot be exported, is too large for one file, or differs from the written file.
    """
    _check_torch()
    onnx = _import('onnx')
    for package in ('onnxruntime', 'onnxscript'):  # Used below: fail before the export, which takes long.
        _import(package)
    path = Path(path)
    if is_folder(path):
        raise IsADirectoryError(f'{path} is a folder: name a file, such as {path / "model.onnx"}')
    if is_file(path.parent):
        raise NotADirectoryError(f'{path.parent} is not a folder: choose another output')
    newest = onnx.defs.onnx_opset_version()
    if not isinstance(opset, int) or not OPSET <= opset <= newest:
        raise ValueError(f'opset is {show(opset)}: choose {OPSET} to {newest}')
    if not isinstance(tolerance, (int, float)) or not tolerance < 1:
        raise ValueError(f'tolerance is {show(tolerance)}: choose a number below 1')
    size = _image_size(model, size)
    net = _deployed(model, None if dynamic else size)
    weights = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    if weights > MAX_BYTES:
        raise ExportError(
            f'{weights / 1e9:.1f} GB of weights do not fit into one ONNX file: choose a smaller backbone, or use '
            'fcam_zoo.export.to_program'
        )
    with atomic_path(path) as temporary:
        program, smallest = _trace(net, size, dynamic)
        proto = _convert(program, opset, dynamic)
        _describe(proto, model, size, smallest)
        temporary.write_bytes(proto.SerializeToString())
        shapes: tuple[Shape, ...] = ((1, model.in_chans, *size),)
        if dynamic:
            odd = (size[0] * 5 // 4) | 1, max(smallest[1], size[1] * 3 // 4) | 1
            shapes += (2, model.in_chans, *odd), (3, model.in_chans, *smallest)
        difference = _compare(temporary, net, shapes, tolerance, _hint(dynamic))
    return OnnxExport(path, path.stat().st_size, difference, shapes)


def _check_torch() -> None:
    if tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 9):
        raise ImportError(f'export needs torch>=2.9, this is {torch.__version__}: {install_hint("export")}')


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise ImportError(f'ONNX export needs {package} ({e}): {install_hint("export")}') from e


def _image_size(model: FCAM, size: int | Sequence[int] | None) -> tuple[int, int]:
    if not isinstance(model, FCAM):
        raise TypeError(f'{type(model).__name__} is not an FCAM: create one with fcam_zoo.wrap(classifier)')
    if size is None:
        size = model.pretrained_cfg['input_size'][-2:]
    given = list(size) if isinstance(size, Sequence) else [size, size]
    sides = [side for value in given if (side := as_whole(value, MIN_SIDE, MAX_SIDE))]
    if not len(given) == len(sides) == 2:
        raise ValueError(
            f'size is {show(size)}: give a side or (height, width), each at least {MIN_SIDE} pixels and at most '
            f'{MAX_SIDE}'
        )
    return sides[0], sides[1]


def _deployed(model: FCAM, size: tuple[int, int] | None = None) -> _Deployed:
    """Copy a model for the export. For a static graph of `size`, a transformer resizes its position embedding here."""
    net = _Deployed(copy.deepcopy(model)).cpu().float().to(memory_format=torch.contiguous_format).eval()
    module: Any
    for module in net.modules():
        # The values stay the same; functionalization of in-place layers makes the graph much longer.
        if getattr(module, 'inplace', False):
            module.inplace = False
    backbone: Any = net.model.backbone
    if size is not None and getattr(backbone, 'dynamic_img_size', False) and hasattr(backbone, 'set_input_size'):
        fitted = net.model.pyramid.fit(torch.zeros(1, model.in_chans, *size))
        backbone.set_input_size(img_size=tuple(fitted.shape[-2:]))
    return net


@torch.no_grad()
def _trace(
    net: _Deployed, size: tuple[int, int], dynamic: bool
) -> tuple[torch.export.ExportedProgram, tuple[int, int]]:
    """Return the program and the smallest image (H,W) that it supports."""
    model = net.model
    axes = None
    images = torch.zeros(1, model.in_chans, *size)
    if dynamic:
        if model.pyramid.multiple > 1:
            raise ExportError(
                f'{_name(model)} needs images resized to multiples of {model.pyramid.multiple} pixels, which a dynamic '
                f'graph does not support: {_hint(dynamic)}'
            )
        # Torch specializes on 1, on equal and on even sizes: avoid them. It infers the smallest supported sides.
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
                # The solver of symbolic shapes cannot prove some conditions that are true at every size.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        smallest = _smallest(program)
    except Exception as e:  # torch.export raises errors of many types
        raise ExportError(f'torch.export fails for {_name(model)} ({_first_line(e)}): {_hint(dynamic)}') from e
    if any(side < least for side, least in zip(size, smallest)):
        raise ExportError(f'size is {size}, but {_name(model)} needs at least {smallest}: give a larger size')
    return program, smallest


def _smallest(program: torch.export.ExportedProgram) -> tuple[int, int]:
    images = next(n for n in program.graph.nodes if n.op == 'placeholder' and n.name == INPUT).meta['val']
    sides = []
    for side in images.shape[-2:]:
        if isinstance(side, int):
            sides.append(side)
            continue
        supported = program.range_constraints[side.node.expr]
        if supported.upper < 2**31:
            raise ValueError(f'its graph supports sides up to {supported.upper} pixels only')
        sides.append(max(MIN_SIDE, int(supported.lower)))
    return sides[0], sides[1]


@contextlib.contextmanager
def _integer_padding() -> Iterator[None]:
    """Replace timm's computation of TensorFlow's 'same' padding by `_same_padding` inside the context."""
    original = timm.layers.padding.get_same_padding
    timm.layers.padding.get_same_padding = _same_padding
    try:
        yield
    finally:
        timm.layers.padding.get_same_padding = original


def _same_padding(x: int, kernel_size: int, stride: int, dilation: int) -> Any:
    """Compute the 'same' padding in pixels along a side of x pixels, in integer arithmetic.

    timm divides, rounds up and clamps at zero, which the solver of symbolic shapes cannot simplify: the terms multiply
    with every layer, and a dynamic export takes minutes or fails. These terms cancel down to the side of the output.
    """
    extent = (kernel_size - 1) * dilation + 1
    total = ((x + stride - 1) // stride - 1) * stride + extent - x
    return total if extent >= stride else torch.sym_max(total, 0)


def _convert(program: torch.export.ExportedProgram, opset: int, dynamic: bool) -> onnx.ModelProto:
    try:
        with warnings.catch_warnings():
            # They are about the exporter's internals; the file itself is compared with the model.
            warnings.simplefilter('ignore')
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                # Names of the axes.
                dynamic_shapes={INPUT: {0: 'batch', 2: 'height', 3: 'width'}} if dynamic else None,
                opset_version=opset,
                verbose=False,
            )
    except Exception as e:  # the exporter raises errors of several libraries
        raise ExportError(f'the ONNX export at opset {opset} fails ({_first_line(e)}): {_hint(dynamic)}') from e
    proto = cast('torch.onnx.ONNXProgram', exported).model_proto  # never None with dynamo=True
    got = next(o.version for o in proto.opset_import if not o.domain)
    if got != opset:
        raise ExportError(f'the exporter wrote opset {got} instead of {opset}: choose opset {got}')
    return proto


def _describe(proto: onnx.ModelProto, model: FCAM, size: tuple[int, int], smallest: tuple[int, int]) -> None:
    """Add the metadata for deployment, and remove the exporter's stack traces, which have paths of this machine."""
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
def _compare(path: Path, net: _Deployed, shapes: Sequence[Shape], tolerance: float, hint: str) -> float:
    """Return the largest difference between the file in onnxruntime and the model, on noise images of each shape."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(shape, generator=generator) for shape in shapes]
    onnxruntime = _import('onnxruntime')
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), providers=['CPUExecutionProvider'])
        results = [session.run(list(OUTPUTS), {INPUT: images.numpy()}) for images in batches]
    except Exception as e:  # onnxruntime's errors have no common base class
        raise ExportError(f'onnxruntime cannot run the file ({_first_line(e)}): {hint}, or opset={OPSET}') from e
    worst = 0.0
    for images, found in zip(batches, results):
        for name, a, b in zip(OUTPUTS, found, net(images)):
            difference = float(np.abs(a - b.numpy()).max()) if a.shape == b.shape else float('inf')
            if not difference <= tolerance + 1e-5 * float(b.abs().max()):
                raise ExportError(
                    f'{name} of the ONNX file differs from the model by {difference:.1e} for images '
                    f'{tuple(images.shape)}, more than the tolerance {tolerance:.0e}; no file was written: {hint}, or '
                    'raise the tolerance'
                )
            worst = max(worst, difference)
    return worst


def _name(model: FCAM) -> str:
    cfg = model.pretrained_cfg
    name = cfg.get('architecture') or f'fcam, backbone {model.model_args["backbone"]}'
    return f'{name}.{cfg["tag"]}' if cfg.get('tag') else name


def _hint(dynamic: bool) -> str:
    return 'try dynamic=False (--static)' if dynamic else 'choose another backbone'


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
