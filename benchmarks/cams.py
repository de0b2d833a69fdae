"""What class maps cost: the closed form beside a plain forward, `cams.extract` and F-CAM beside two peers.

Peers are pytorch-grad-cam and torch-cam (pip install -e '.[peers]'), each in its documented use on a whole batch:
grad-cam with one target an image, torch-cam with a list of classes and its maps resized to the image.
All run on the same net of random weights, images, labels and threads, in turn (A, B, C, A, B, C, ...), so that drift of
the machine hits all alike; medians are compared. Maps are asserted to be equal where the formulas are.

Peak memory of a call on the CPU is the peak of the resident set of a fresh process (ru_maxrss) less its resident set
right before the call; a call on one small image goes before, so that code pages and thread pools do not count. On CUDA
it is what the allocator handed out at most, less what was handed out before.

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
# Each peer has a Grad-CAM++ of its own; its cost is comparable, its map is not.
SAME_FORMULA = ('gradcam', 'layercam', 'xgradcam')
LAYERS = ('layer4', 'layer3')
# The paper's net, and the smallest of the zoo, beside whose forward a class map weighs most.
CLOSED_FORM = ('fcam_resnet50', 'fcam_mobilenetv1_025')


class Options(NamedTuple):
    """What the command line asks for."""

    threads: int
    batch: int
    repeats: int
    device: str
    quick: bool


class Case(NamedTuple):
    """One call to measure; `frozen` freezes all parameters but the layer's by hand, which spares peers work."""

    contestant: str
    method: str
    layer: str
    frozen: bool = False


def by_fcam_zoo(net: nn.Module, case: Case, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Maps (B,H,W) of `cams.extract`."""
    return cams.extract(net, x, labels, case.method, case.layer)


def by_grad_cam(net: nn.Module, case: Case, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Maps (B,H,W) of pytorch-grad-cam."""
    targets = None if labels is None else [ClassifierOutputTarget(label) for label in labels.tolist()]
    cls = getattr(pytorch_grad_cam, METHODS[case.method][0])
    with cls(model=net, target_layers=[net.get_submodule(case.layer)]) as extractor:
        return torch.from_numpy(extractor(input_tensor=x, targets=targets))


def by_torch_cam(net: nn.Module, case: Case, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Maps (B,H,W) of torch-cam."""
    with getattr(torchcam.methods, METHODS[case.method][1])(net, case.layer) as extractor:
        (maps,) = extractor(labels.tolist(), net(x))
    return F.interpolate(maps[:, None], x.shape[-2:], mode='bilinear')[:, 0]


@torch.no_grad()
def forward_alone(net: nn.Module, _case: Case, x: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
    """Logits: what any map costs at least."""
    return net(x)


CONTESTANTS = {'fcam_zoo': by_fcam_zoo, 'grad-cam': by_grad_cam, 'torch-cam': by_torch_cam}
FUNCTIONS = {'forward': forward_alone, **CONTESTANTS}


def make_inputs(options: Options, side: int = SIDE, batch: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and a class for each."""
    generator = torch.Generator().manual_seed(0)
    batch = batch or options.batch
    x = torch.randn(batch, 3, side, side, generator=generator)
    return x.to(options.device), (torch.arange(batch) * 37 % 1000).to(options.device)


def make_net(options: Options) -> nn.Module:
    """resnet50 of random weights, its residual branches alive."""
    torch.manual_seed(0)
    return timm.create_model('resnet50', zero_init_last=False).eval().to(options.device)


def call(net: nn.Module, case: Case, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Run a case."""
    return FUNCTIONS[case.contestant](net, case, x, labels)


def freeze(net: nn.Module, case: Case) -> None:
    """Set which parameters the case finds trainable."""
    net.requires_grad_(not case.frozen)
    net.get_submodule(case.layer).requires_grad_(True)


def seconds(function: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Time of a call, and its result."""
    _synchronize(device)
    start = time.perf_counter()
    result = function()
    _synchronize(device)
    return time.perf_counter() - start, result


def _synchronize(device: str) -> None:
    if device != 'cpu':
        torch.cuda.synchronize()


def peak_memory(job: tuple[Case, Options]) -> float:
    """Bytes by which a call raises the peak; runs in a fresh process."""
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
    """Peak of each case, each in a process of its own that finds the libraries loaded."""
    context = multiprocessing.get_context('forkserver' if options.device == 'cpu' else 'spawn')
    if options.device == 'cpu':
        context.set_forkserver_preload(['fcam_zoo', 'pytorch_grad_cam', 'torchcam.methods'])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return dict(zip(cases, pool.map(peak_memory, [(case, options) for case in cases], chunksize=1)))


def check_maps(maps: dict[Case, torch.Tensor]) -> None:
    """Stop when peers disagree on a map whose formula they share."""
    for case, got in maps.items():
        want = maps[case._replace(contestant='fcam_zoo', frozen=False)]
        # The second min-max is grad-cam's, after its resize.
        off = float((cams.normalize(got.cpu()) - cams.normalize(want.cpu())).abs().max())
        if case.method in SAME_FORMULA and off > 1e-3:
            raise SystemExit(f'{case.contestant}, {case.method}, {case.layer}: the maps differ by {off:.2g}')


def measure_extract(layer: str, options: Options) -> tuple[dict[Case, float], dict[Case, float]]:
    """Median times and peaks of all cases at a layer."""
    methods = list(METHODS)[:1] if options.quick else list(METHODS)
    cases = [Case('forward', '', layer)]
    cases += [Case(contestant, method, layer) for method in methods for contestant in CONTESTANTS]
    cases += [Case(contestant, 'gradcam', layer, True) for contestant in CONTESTANTS if contestant != 'fcam_zoo']
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
            if case.contestant != 'forward':
                maps[case] = result
            net.zero_grad()
        if turn == 0:
            check_maps(maps)
    return {case: statistics.median(t) for case, t in times.items()}, peak_memories(cases, options)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def extract_table(layer: str, options: Options) -> str:
    """`cams.extract` against the peers at a layer of resnet50."""
    times, peaks = measure_extract(layer, options)
    forward = Case('forward', '', layer)
    rows = []
    for case in [case for case in times if case.contestant == 'grad-cam']:
        own, other = case._replace(contestant='fcam_zoo', frozen=False), case._replace(contestant='torch-cam')
        ratios = [f'{figures[c] / figures[own]:.2f}' for figures in (times, peaks) for c in (case, other)]
        name = f'{case.method}, peers frozen by hand' if case.frozen else case.method
        absolute = [' / '.join(f'{times[c]:.2f}' for c in (own, case, other))]
        absolute.append(' / '.join(f'{peaks[c] / MIB:.0f}' for c in (own, case, other)))
        rows.append([name, *ratios, f'{times[own] / times[forward]:.2f}', *absolute])
    peers = ('grad-cam : ours', 'torch-cam : ours')
    header = ['method', *(f'{what}, {peer}' for what in ('time', 'peak memory') for peer in peers)]
    header += ['time, ours : forward', 's, ours / grad-cam / torch-cam', 'MiB, ours / grad-cam / torch-cam']
    return (
        f'## cams.extract, resnet50, {layer}, {options.batch} images of {SIDE} px\n\n{table(header, rows)}\n\n'
        f'Forward alone without a graph: {times[forward]:.2f} s, {peaks[forward] / MIB:.0f} MiB.'
    )


def closed_form_table(options: Options) -> str:
    """Forward and class map relative to the forward alone.

    The map is timed by itself, right behind the forward whose features it takes: the few per cent that it adds would
    drown in the spread of two forwards.
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
                alone, (encoding, logits) = seconds(forward, options.device)
                for method, spread in ratios.items():
                    spent, _ = seconds(
                        lambda: model.class_map(encoding, logits.argmax(1), method),  # noqa: B023
                        options.device,
                    )
                    # The first turn warms up.
                    spread += [spent / alone] if turn else []
        for method, spread in ratios.items():
            added[method].append(f'+{100 * statistics.median(spread):.2f} %')
    rows = [[method, *cells] for method, cells in added.items()]
    header = ['teacher', *(f'{name}: forward + map, relative to forward' for name in CLOSED_FORM)]
    return f'## Closed-form class maps, {options.batch} images of {SIDE} px\n\n{table(header, rows)}'


def fcam_table(options: Options) -> str:
    """F-CAM inference against Grad-CAM++ of grad-cam on the same backbone."""
    torch.manual_seed(0)
    # Trainable, since grad-cam takes its gradient by way of the parameters; F-CAM runs without a graph all the same.
    model = fcam_zoo.create_model('fcam_resnet50', num_classes=200).unfreeze().eval().to(options.device)
    x, _ = make_inputs(options)

    @torch.inference_mode()
    def fcam() -> torch.Tensor:
        return model.fcam(x)

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return model.backbone(x)

    functions = {
        'classifier alone': forward,
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
    """Command, versions and kind of machine."""
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
What drives the peaks: the activations that autograd keeps for the backward pass, from the first trainable parameter on
(those near the image are the largest), and in grad-cam the gradients of all parameters on top. What drives the times:
each contestant pays one forward; grad-cam's backward goes through the whole net and its parameters, torch-cam's ends at
the layer. "Frozen by hand": the peers' user has set `requires_grad_(False)` on all parameters but the layer's."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument('--batch', type=int, help='images (default: 16; 2 with --quick)')
    parser.add_argument('--repeats', type=int, help='turns of each contestant (default: 5; 1 with --quick)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--quick', action='store_true', help='a look within a minute: small batch, one method')
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
