"""Time the parts of a training step, and compare the fast CRF kernel with the exact one. Prints Markdown:

    python benchmarks/train.py --photos FOLDER > benchmarks/results/train.md

FOLDER holds photographs (JPEG), for the CRF and for the loading of images. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_erosion
from skimage.filters import threshold_otsu

import fcam_zoo
from fcam_zoo import losses, sampling
from fcam_zoo.data import EvalTransform, TrainTransform
from fcam_zoo.data.images import open_image
from fcam_zoo.train import DecoderConfig
from fcam_zoo.train.stages import DecoderStage

SIDE = 224


def smooth_maps(count: int, seed: int = 0) -> torch.Tensor:
    """Make maps (B,224,224) in [0,1] from 14x14 random cells, like class maps."""
    cells = torch.rand(count, 1, 14, 14, generator=torch.Generator().manual_seed(seed))
    maps = F.interpolate(cells, (SIDE, SIDE), mode='bilinear')[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def median_time(function: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a call in seconds, after one warm-up call."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def seeds_by_loop(maps: np.ndarray, rng: np.random.Generator) -> None:
    """Baseline: sample the same seeds image by image with skimage and SciPy."""
    for image in maps:
        gray = (image * 255).astype(np.uint8)
        if gray.min() == gray.max():
            continue
        region = gray > np.clip(threshold_otsu(gray), 1, 254)
        eroded = binary_erosion(region, np.ones((11, 11)), border_value=1)
        foreground = np.flatnonzero(eroded if eroded.any() else region)
        background = np.argsort(image.ravel())[: int(0.1 * image.size)]
        labels = np.full(image.shape, -255)
        for value, candidates in ((1, foreground), (0, background)):
            y, x = divmod(int(rng.choice(candidates)), image.shape[1])
            labels[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = value


def report_seeds() -> None:
    """Time the seeds against the baseline."""
    maps = smooth_maps(32)
    rng = np.random.default_rng(0)
    ours = median_time(lambda: sampling.seeds(*sampling.regions(maps)))
    loop = median_time(lambda: seeds_by_loop(maps.numpy(), rng))
    print('\n## Seeds of 32 maps of 224x224, one thread\n')
    print(
        f'fcam_zoo {1e3 * ours:.0f} ms; image by image with skimage and SciPy {1e3 * loop:.0f} ms: {loop / ours:.1f} x.'
    )


def report_crf(photos: list[Path]) -> None:
    """Compare energy, gradient and time of both CRF kernels on photographs."""
    print('\n## The fast CRF kernel against the exact one, 224x224, one thread\n')
    print(
        '| photograph | energy, fast / exact - 1 | cosine of gradients | fast, ms | exact, ms |\n|---|---|---|---|---|'
    )
    transform = EvalTransform(SIDE)
    for number, path in enumerate(photos):
        image = transform(open_image(path))[None].float()
        cells = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(number))
        p = F.interpolate(cells, (SIDE, SIDE), mode='bilinear').sub(0.5).mul(6).sigmoid()
        probs = torch.cat([1 - p, p], 1)
        found = {}
        for kernel in ('fast', 'exact'):
            x = probs.clone().requires_grad_()
            both = partial(energy_and_gradient, image, x, kernel)
            started = time.perf_counter()
            loss = both()
            seconds = median_time(both) if kernel == 'fast' else time.perf_counter() - started
            found[kernel] = (loss.item(), x.grad.flatten(), 1e3 * seconds)
        (a, ga, ta), (b, gb, tb) = found['fast'], found['exact']
        print(f'| {number + 1} | {a / b - 1:+.4f} | {F.cosine_similarity(ga, gb, dim=0):.5f} | {ta:.0f} | {tb:.0f} |')


def energy_and_gradient(image: torch.Tensor, x: torch.Tensor, kernel: str) -> torch.Tensor:
    """Compute the CRF energy of probabilities x; its gradient is x.grad."""
    x.grad = None
    loss = losses.crf_loss(image, x, kernel=kernel)
    loss.backward()
    return loss


def report_step(title: str, model: fcam_zoo.FCAM, amp: bool, repeats: int) -> None:
    """Time a decoder step and its parts, for 224 pixels and batches of 8."""
    model = model.to(memory_format=torch.channels_last)
    stage = DecoderStage(model, DecoderConfig(), 'layercam')
    stage.train()
    optimizer = torch.optim.SGD(stage.parameter_groups(), lr=1e-6, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    # Smooth, like photographs: noise would be the worst case for the memory access of the CRF.
    images = F.avg_pool2d(images.float(), 9, 1, 4).to(torch.uint8)
    labels = torch.zeros(8, dtype=torch.int64)
    context = torch.autocast('cpu', torch.bfloat16, enabled=amp)

    def step() -> None:
        with context:
            loss = sum(stage(images, labels, [torch.Generator() for _ in range(8)]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def forward() -> object:
        with context, torch.no_grad():
            return stage.encode(images)

    whole, encode = median_time(step, repeats), median_time(forward, repeats)
    encoding = forward()
    logits = torch.randn(8, 2, SIDE, SIDE, generator=generator)

    def seeds_and_losses() -> None:
        x = logits.clone().requires_grad_()
        seeds = sampling.seeds(*stage.regions(stage.teacher_map(encoding, labels, (SIDE, SIDE))))
        sum(stage.criterion(x, seeds, images).values()).backward()

    alignment = median_time(seeds_and_losses, repeats)
    rest = whole - encode - alignment
    print(
        f'| {title}, {"bfloat16" if amp else "float32"} | {1 / whole:.2f} | {encode / whole:.0%} '
        f'| {alignment / whole:.0%} | {rest / whole:.0%} |'
    )


def report_loading(photos: list[Path]) -> None:
    """Time decoding and augmentation."""
    transform = TrainTransform(SIDE)
    photos = (photos * 200)[:200]
    seconds = median_time(lambda: [transform(open_image(path)) for path in photos], 3)
    sizes = {open_image(path).size for path in photos}
    width, height = (int(np.mean(side)) for side in zip(*sizes))
    print('\n## Loading\n')
    print(
        f'Decode (JPEG of about {width}x{height}), resize to 256, crop, flip: {len(photos) / seconds:.0f} images/s per '
        'worker process.'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--photos', type=Path, required=True)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    photos = sorted(args.photos.rglob('*.jpg'))
    photos = photos[:: max(1, len(photos) // 6)][:6]
    print('# Training: time and accuracy\n')
    print(
        f'Made by `python benchmarks/train.py`: {platform.machine()}, {args.threads} threads unless stated, torch '
        f'{torch.__version__.split("+")[0]}, fcam_zoo {fcam_zoo.__version__}.'
    )
    torch.set_num_threads(1)
    report_seeds()
    report_crf(photos)
    torch.set_num_threads(args.threads)
    print('\n## A decoder step, batch 8 at 224 pixels, layercam\n')
    print('| model | steps/s | backbone | seeds and losses | decoder, forward and backward |\n|---|---|---|---|---|')
    released = fcam_zoo.list_models(pretrained=True)[0]
    for amp in (False, True):
        report_step(released, fcam_zoo.create_model(released, pretrained=True), amp, 5)
    for amp in (False, True):
        report_step('fcam_resnet50', fcam_zoo.create_model('fcam_resnet50', num_classes=200), amp, 2)
    report_loading(photos)


if __name__ == '__main__':
    main()
