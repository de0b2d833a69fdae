"""Run time of the paper's networks: the classifier, F-CAM and six CAM methods, beside grad-cam and torch-cam.

Parameters, GMACs and times of maps at the size of the image, for one image at a time as in the paper's supplementary.
All weights are random, which does not change the times. The calls run in turn (A, B, C, A, B, C, ...), so that drift of
the machine affects all equally; the tables have the median of the ratios to the classifier's forward pass of the same
turn. Needs the peers (pip install -e '.[peers]') and an idle machine:

    python benchmarks/runtime.py --threads 2 -o benchmarks/results/runtime.md
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from tables import Table, machine
from torch.utils.flop_counter import FlopCounterMode

import fcam_zoo
from fcam_zoo import FCAM, cams
from fcam_zoo.benchmark.descriptions import MAP_TITLES

try:
    import pytorch_grad_cam
    import torchcam.methods
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
except ImportError as e:
    raise SystemExit(f"{e.name} is missing: pip install -e '.[peers]'") from e


class Network(NamedTuple):
    """A network of the paper, and the names of its last layer and of its linear layer."""

    title: str
    layer: str
    linear: str


NETWORKS = {
    'fcam_resnet50': Network('ResNet50', 'layer4', 'fc'),
    'fcam_vgg16': Network('VGG16', 'pre_logits', 'head.fc'),
    'fcam_inception_v3': Network('Inception v3', 'extra2', 'fc'),
}
# Classes of grad-cam and torch-cam, where they have the method. Their variants of some formulas differ from ours, at a
# comparable cost.
PEERS = {
    'cam': (None, 'CAM'),
    'gradcam': ('GradCAM', 'GradCAM'),
    'gradcampp': ('GradCAMPlusPlus', 'GradCAMpp'),
    'smoothgradcampp': (None, 'SmoothGradCAMpp'),
    'xgradcam': ('XGradCAM', 'XGradCAM'),
    'layercam': ('LayerCAM', 'LayerCAM'),
}
CLASSES = 200
FORWARD, FCAM_MAP = 'classifier, no map', 'F-CAM'
COLUMNS = ('FCAM.cam', 'cams.extract', 'grad-cam', 'torch-cam')
NOTES = """`FCAM.cam`: the closed form for networks with average pooling and one linear layer, in the pass that also
gives the class; its Smooth Grad-CAM++ runs no noisy images, because the gradient of a linear layer does not depend on
the image. `cams.extract`: any network and layer, with four noisy images, as torch-cam. The peers keep the graph of the
whole network unless the user freezes it. F-CAM needs no label and no gradient. A class map
cannot be faster than the classifier: ratios below 1 show the noise of the machine."""

Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--side', type=int, default=224, help='width and height of the image (default: 224)')
    parser.add_argument('--turns', type=int, default=5, help='timed turns, after one to warm up (default: 5)')
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument('-o', '--output', type=Path, help='Markdown file to write')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    versions = ', '.join(f'{name} {version(name)}' for name in ('grad-cam', 'torchcam'))
    cost = Table(
        '## Size\n',
        '| network | classifier: 10^6 parameters | decoder | F-CAM | classifier: GMACs | decoder | F-CAM |',
        '|---|---|---|---|---|---|---|',
    )
    tables = [cost]
    for name in args.networks:
        torch.manual_seed(0)
        model = fcam_zoo.create_model(name, num_classes=CLASSES).eval()
        x = torch.randn(1, 3, args.side, args.side)
        cost.add(f'| {NETWORKS[name].title} | {" | ".join(size_of(model, x))} |')
        tables.append(times(name, model, x, args.turns))
    if args.output:
        args.output.unlink(missing_ok=True)
        command = f'python benchmarks/runtime.py --threads {args.threads} --side {args.side} --turns {args.turns}'
        head = f'Made by `{command}`: one image of {args.side} px, {CLASSES} classes, random weights.'
        about = f'{machine(args.threads)}; {versions}. Medians of {args.turns} turns.'
        for found in (Table('# Run time', '', head, about), *tables, Table(NOTES)):
            found.append_to(args.output)


def size_of(model: FCAM, x: torch.Tensor) -> list[str]:
    """Return parameters and GMACs of the classifier, the decoder and both."""
    values = []
    for part, digits in ((parameters, 1), (gmacs, 2)):
        classifier, both = (part(net, x) for net in (model.backbone, model))
        values += [f'{value:.{digits}f}' for value in (classifier, both - classifier, both)]
    return values


def parameters(net: nn.Module, _x: torch.Tensor) -> float:
    return sum(p.numel() for p in net.parameters()) / 1e6


@torch.no_grad()
def gmacs(net: nn.Module, x: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        net(x)
    return counter.get_total_flops() / 2e9


def calls(name: str, model: FCAM, x: torch.Tensor) -> dict[tuple[str, str], Call]:
    """Return the calls to time by row and column of the table; each makes a map (1,H,W)."""
    network, net = NETWORKS[name], model.backbone
    label = torch.tensor([7])

    def grad_cam(method: str) -> Any:
        with getattr(pytorch_grad_cam, method)(model=net, target_layers=[net.get_submodule(network.layer)]) as cam:
            return cam(input_tensor=x, targets=[ClassifierOutputTarget(7)])

    def torch_cam(method: str) -> torch.Tensor:
        linear = {'fc_layer': network.linear} if method == 'CAM' else {}
        with getattr(torchcam.methods, method)(net, network.layer, **linear) as cam:
            (maps,) = cam([7], net(x))
        return F.interpolate(maps[:, None], x.shape[-2:], mode='bilinear')[:, 0]

    @torch.no_grad()
    def forward() -> torch.Tensor:
        return net(x)

    @torch.no_grad()
    def fcam() -> torch.Tensor:
        return model.fcam(x)

    found: dict[tuple[str, str], Call] = {(FORWARD, ''): forward, (FCAM_MAP, 'FCAM.fcam'): fcam}
    for method, (of_grad_cam, of_torch_cam) in PEERS.items():
        title = MAP_TITLES[method]
        found[title, 'FCAM.cam'] = lambda method=method: model.cam(x, label, method)
        found[title, 'cams.extract'] = lambda method=method: cams.extract(net, x, label, method, network.layer)
        if of_grad_cam:
            found[title, 'grad-cam'] = lambda cls=of_grad_cam: grad_cam(cls)
        if of_torch_cam:
            found[title, 'torch-cam'] = lambda cls=of_torch_cam: torch_cam(cls)
    return found


def times(name: str, model: FCAM, x: torch.Tensor, turns: int) -> Table:
    """Time all calls, and return the table of their ratios to the forward pass."""
    model.unfreeze().eval()  # grad-cam needs gradients of parameters.
    made = calls(name, model, x)
    ratios: dict[tuple[str, str], list[float]] = {key: [] for key in made}
    for turn in range(turns + 1):
        spent = {}
        for key, call in made.items():
            started = time.perf_counter()
            call()
            spent[key] = time.perf_counter() - started
            model.zero_grad()
        if turn:  # The first one warms up.
            for key, value in spent.items():
                ratios[key].append(value / spent[FORWARD, ''])
    medians = {key: statistics.median(values) for key, values in ratios.items()}
    table = Table(
        f'## {NETWORKS[name].title}: time per image, relative to the forward pass of the classifier\n',
        f'| map | {" | ".join(COLUMNS)} |',
        f'|{"---|" * (1 + len(COLUMNS))}',
    )
    table.add(f'| {FCAM_MAP} (`FCAM.fcam`) | {medians[FCAM_MAP, "FCAM.fcam"]:.2f} | - | - | - |')
    for title in (MAP_TITLES[method] for method in PEERS):
        cells = (medians.get((title, column)) for column in COLUMNS)
        table.add(f'| {title} | {" | ".join("-" if cell is None else f"{cell:.2f}" for cell in cells)} |')
    return table


if __name__ == '__main__':
    main()
