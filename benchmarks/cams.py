"""Time and memory of class maps: closed form compared with a forward pass, `cams.extract` and F-CAM with two peers.

The peers are pytorch-grad-cam and torch-cam (pip install -e '.[peers]'), each used on a whole batch as documented:
grad-cam with one target per image, torch-cam with a list of classes and its maps resized to the image. All run on the
same network with random weights, and the same images, labels and threads. They run in turn (A, B, C, A, B, C, ...), so
that drift of the machine affects all equally; the tables have medians. Maps with the same formula are checked for
equality.

Peak memory of a call on the CPU is the peak resident set of a fresh process (ru_maxrss) minus its resident set before
the call. A call on one small image comes first, so that code pages and thread pools do not count. On CUDA it is the
peak of allocated memory minus that before the call.

    python benchmarks/cams.py -o results/cams.md
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F

import fcam_zoo
from fcam_zoo import cams

try:
    import pytorch_grad_cam
    import torchcam.methods
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
except ImportError as e:
    raise SystemExit(f"{e.name} is missing: pip install -e '.[peers]'") from e

SIDE = 224
MIB = 2**20
# Method: classes of grad-cam and torch-cam.
METHODS = {
    'gradcam': ('GradCAM', 'GradCAM'),
    'gradcampp': ('GradCAMPlusPlus', 'GradCAMpp'),
    'layercam': ('LayerCAM', 'LayerCAM'),
    'xgradcam': ('XGradCAM', 'XGradCAM'),
}
# The peers have other variants of Grad-CAM++: their cost is comparable, their maps are not.
SAME_FORMULA = ('gradcam', 'layercam', 'xgradcam')
LAYERS = ('layer4', 'layer3')
# The paper's network, and the smallest of the zoo, where the map is the largest share of the time.
CLOSED_FORM = ('fcam_resnet50', 'fcam_mobilenetv1_025')


class Options(NamedTuple):
    """Options of the command line."""

    threads: int
    batch: int
    repeats: int
    device: str
    quick: bool


class Case(NamedTuple):
    """One call to measure. `frozen` freezes all parameters except those of the layer, which saves the peers work."""

    library: str
    method: str
    layer: str
    frozen: bool = False


def by_fcam_zoo(net: nn.Module, case: Case, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute maps (B,H,W) with `cams.extract`."""
    return cams.extract(net, x, labels, case.method, case.layer)


def by_grad_cam(net: nn.Module, case: Case, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Compute maps (B,H,W) with pytorch-grad-cam."""
    targets = None if labels is None else [ClassifierOutputTarget(label) for label in labels.tolist()]
    cls = getattr(pytorch_grad_cam, METHODS[case.method][0])
    with cls(model=net, target_layers=[net.get_submodule(case.layer)]) as extractor:
        return torch.from_numpy(extractor(input_tensor=x, targets=targets))


def by_torch_cam(net: nn.Module, case: Case, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute maps (B,H,W) with torch-cam."""
    with getattr(torchcam.methods, METHODS[case.method][1])(net, case.layer) as extractor:
        (maps,) = extractor(labels.tolist(), net(x))
    return F.interpolate(maps[:, None], x.shape[-2:], mode='bilinear')[:, 0]


@torch.no_grad()
def forward_only(net: nn.Module, _case: Case, x: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
    """Compute the logits, the least that any map costs."""
    return net(x)


LIBRARIES = {'fcam_zoo': by_fcam_zoo, 'grad-cam': by_grad_cam, 'torch-cam': by_torch_cam}
FUNCTIONS = {'forward': forward_only, **LIBRARIES}


def make_inputs(options: Options, side: int = SIDE, batch: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and one label per image."""
    generator = torch.Generator().manual_seed(0)
    batch = batch or options.batch
    x = torch.randn(batch, 3, side, side, generator=generator)
    return x.to(options.device), (torch.arange(batch) * 37 % 1000).to(options.device)


def make_net(options: Options) -> nn.Module:
    """Create a resnet50 with random weights and active residual branches."""
    torch.manual_seed(0)
    return timm.create_model('resnet50', zero_init_last=False).eval().to(options.device)


def call(net: nn.Module, case: Case, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Run a case."""
    return FUNCTIONS[case.library](net, case, x, labels)


def freeze(net: nn.Module, case: Case) -> None:
    """Set which parameters are trainable in a case."""
    net.requires_grad_(not case.frozen)
    net.get_submodule(case.layer).requires_grad_(True)


def seconds(function: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Return the time of a call, and its result."""
    _synchronize(device)
    start = time.perf_counter()
    result = function()
    _synchronize(device)
    return time.perf_counter() - start, result


def _synchronize(device: str) -> None:
    if device != 'cpu':
        torch.cuda.synchronize()


def peak_memory(job: tuple[Case, Options]) -> float:
    """Return the peak memory of a call in bytes; run it in a fresh process."""
    case, options = job
    torch.set_num_threads(options.threads)
    net, (x, labels) = make_net(options), make_inputs(options)
    freeze(net, case)
    call(net, case, *make_inputs(options, 64, 1))
    net.zero_grad()
    gc.collect()
    if options.device != 'cpu':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(net, case, x, labels)
        return torch.cuda.max_memory_allocated() - before
    before = int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()
    call(net, case, x, labels)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def peak_memories(cases: Sequence[Case], options: Options) -> dict[Case, float]:
    """Measure the peak of each case in its own process, with the libraries loaded before."""
    context = multiprocessing.get_context('forkserver' if options.device == 'cpu' else 'spawn')
    if options.device == 'cpu':
        context.set_forkserver_preload(['fcam_zoo', 'pytorch_grad_cam', 'torchcam.methods'])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return dict(zip(cases, pool.map(peak_memory, [(case, options) for case in cases], chunksize=1)))


def check_maps(maps: dict[Case, torch.Tensor]) -> None:
    """Exit if a peer with the same formula gives another map."""
    for case, got in maps.items():
        want = maps[case._replace(library='fcam_zoo', frozen=False)]
        # grad-cam applies a second min-max after its resize.
        off = float((cams.normalize(got.cpu()) - cams.normalize(want.cpu())).abs().max())
        if case.method in SAME_FORMULA and off > 1e-3:
            raise SystemExit(f'{case.library}, {case.method}, {case.layer}: the maps differ by {off:.2g}')


def measure_extract(layer: str, options: Options) -> tuple[dict[Case, float], dict[Case, float]]:
    """Return the median times and the peaks of all cases at a layer."""
    methods = list(METHODS)[:1] if options.quick else list(METHODS)
    cases = [Case('forward', '', layer)]
    cases += [Case(library, method, layer) for method in methods for library in LIBRARIES]
    cases += [Case(library, 'gradcam', layer, True) for library in LIBRARIES if library != 'fcam_zoo']
    net, (x, labels) = make_net(options), make_inputs(options)
    call(net, cases[0], x, labels)
    times: dict[Case, list[float]] = {case: [] for case in cases}
    for turn in range(options.repeats):
        maps = {}
        for case in cases:
            freeze(net, case)
            gc.collect()
            spent, result = seconds(lambda case=case: call(net, case, x, labels), options.device)
            times[case].append(spent)
            if case.library != 'forward':
                maps[case] = result
            net.zero_grad()
        if turn == 0:
            check_maps(maps)
    return {case: statistics.median(t) for case, t in times.items()}, peak_memories(cases, options)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def extract_table(layer: str, options: Options) -> str:
    """Compare `cams.extract` with the peers at a layer of resnet50."""
    times, peaks = measure_extract(layer, options)
    forward = Case('forward', '', layer)
    rows = []
    for case in [case for case in times if case.library == 'grad-cam']:
        own, other = case._replace(library='fcam_zoo', frozen=False), case._replace(library='torch-cam')
        ratios = [f'{values[c] / values[own]:.2f}' for values in (times, peaks) for c in (case, other)]
        name = f'{case.method}, peers frozen' if case.frozen else case.method
        absolute = [' / '.join(f'{times[c]:.2f}' for c in (own, case, other))]
        absolute.append(' / '.join(f'{peaks[c] / MIB:.0f}' for c in (own, case, other)))
        rows.append([name, *ratios, f'{times[own] / times[forward]:.2f}', *absolute])
    peers = ('grad-cam : ours', 'torch-cam : ours')
    header = ['method', *(f'{what}, {peer}' for what in ('time', 'peak memory') for peer in peers)]
    header += ['time, ours : forward', 's, ours / grad-cam / torch-cam', 'MiB, ours / grad-cam / torch-cam']
    return (
        f'## cams.extract, resnet50, {layer}, {options.batch} images of {SIDE} px\n\n{table(header, rows)}\n\n'
        f'Forward pass without a graph: {times[forward]:.2f} s, {peaks[forward] / MIB:.0f} MiB.'
    )


def closed_form_table(options: Options) -> str:
    """Measure the time of a class map relative to the forward pass.

    The map is timed separately, right after the forward pass whose features it uses, because its share is smaller than
    the spread of two forward passes.
    """
    added: dict[str, list[str]] = {method: [] for method in cams.METHODS}
    x, _ = make_inputs(options)
    for name in CLOSED_FORM:
        torch.manual_seed(0)
        model = fcam_zoo.create_model(name, num_classes=200).eval().to(options.device)
        ratios: dict[str, list[float]] = {method: [] for method in cams.METHODS}

        def forward(model: fcam_zoo.FCAM = model) -> tuple[Any, torch.Tensor]:
            encoding = model.encode(x)
            return encoding, model.classify(encoding)

        with torch.no_grad():
            for turn in range(options.repeats + 1):
                base, (encoding, logits) = seconds(forward, options.device)
                for method, spread in ratios.items():
                    spent, _ = seconds(
                        lambda: model.class_map(encoding, logits.argmax(1), method),  # noqa: B023
                        options.device,
                    )
                    # The first turn is a warm-up.
                    spread += [spent / base] if turn else []
        for method, spread in ratios.items():
            added[method].append(f'+{100 * statistics.median(spread):.2f} %')
    rows = [[method, *cells] for method, cells in added.items()]
    header = ['teacher', *(f'{name}: forward + map, relative to forward' for name in CLOSED_FORM)]
    return f'## Closed-form class maps, {options.batch} images of {SIDE} px\n\n{table(header, rows)}'


def fcam_table(options: Options) -> str:
    """Compare F-CAM inference with Grad-CAM++ of grad-cam on the same backbone."""
    torch.manual_seed(0)
    # Trainable, because grad-cam needs a gradient of the parameters. F-CAM runs without a graph in any case.
    model = fcam_zoo.create_model('fcam_resnet50', num_classes=200).unfreeze().eval().to(options.device)
    x, _ = make_inputs(options)

    @torch.inference_mode()
    def fcam() -> torch.Tensor:
        return model.fcam(x)

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return model.backbone(x)

    functions = {
        'classifier only': forward,
        'F-CAM': fcam,
        'Grad-CAM++ of grad-cam': lambda: by_grad_cam(model.backbone, Case('grad-cam', 'gradcampp', 'layer4'), x, None),
    }
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(options.repeats):
        for name, function in functions.items():
            gc.collect()
            times[name].append(seconds(function, options.device)[0])
            model.zero_grad()
    medians = {name: statistics.median(t) for name, t in times.items()}
    rows = [[name, f'{t / medians["F-CAM"]:.2f}', f'{options.batch / t:.2f}'] for name, t in medians.items()]
    header = ['map of the predicted class', 'time : F-CAM', 'images/s']
    return f'## fcam_resnet50 (stride 8), {options.batch} images of {SIDE} px\n\n{table(header, rows)}'


def environment(options: Options) -> str:
    """Describe the command, versions and machine."""
    command = f'python benchmarks/cams.py --threads {options.threads} --batch {options.batch}'
    command += f' --repeats {options.repeats} --device {options.device}' + (' --quick' if options.quick else '')
    versions = {
        'python': platform.python_version(),
        'torch': torch.__version__,
        'timm': timm.__version__,
        'numpy': np.__version__,
        'fcam_zoo': fcam_zoo.__version__,
        **{name: version(name) for name in ('grad-cam', 'torchcam')},
    }
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next(
        (line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.machine()
    )
    machine = f'{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}'
    if options.device != 'cpu':
        machine += f', {torch.cuda.get_device_name()}'
    found = ', '.join(f'{name} {number}' for name, number in versions.items())
    return f'`{command}`\n\n{found}. {machine}, {options.threads} threads. Medians of {options.repeats}.'


NOTES = """\
Memory: autograd keeps activations for the backward pass from the first trainable parameter on (those near the image are
the largest); grad-cam also computes the gradients of all parameters. Time: each library runs one forward pass; the
backward pass of grad-cam goes through the whole network and its parameters, that of torch-cam ends at the layer. "Peers
frozen": the user of the peer has called `requires_grad_(False)` on all parameters except those of the layer."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument('--batch', type=int, help='images (default: 16; 2 with --quick)')
    parser.add_argument('--repeats', type=int, help='turns per library (default: 5; 1 with --quick)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--quick', action='store_true', help='smaller batch, one method, one turn: about a minute')
    parser.add_argument('-o', '--output', type=Path, help='Markdown file to write')
    args = parser.parse_args(argv)
    batch = args.batch or (2 if args.quick else 16)
    options = Options(args.threads, batch, args.repeats or (1 if args.quick else 5), args.device, args.quick)
    torch.set_num_threads(options.threads)
    parts = ['# Cost of class maps', environment(options)]
    print('\n\n'.join(parts))
    makers = [closed_form_table, fcam_table, *(lambda o, layer=layer: extract_table(layer, o) for layer in LAYERS)]
    for make in makers:
        parts.append(make(options))
        print(f'\n{parts[-1]}', flush=True)
    parts.append(NOTES)
    print(f'\n{NOTES}')
    if args.output:
        args.output.write_text('\n\n'.join(parts) + '\n')


if __name__ == '__main__':
    main()
