"""Figures of the F-CAM paper (WACV 2022) for any localizer: pictures with maps, threshold curves, activations."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from . import viz
from ._io import atomic_path
from ._modes import eval_mode
from .benchmark.descriptions import MAP_TITLES, Curve, map_title
from .benchmark.report import Report, check_comparable
from .cams import METHODS
from .data import EvalTransform, normalize
from .localization import Localization, localize, resize_map
from .models import FCAM
from .objects import Threshold, check_threshold, find_regions, foreground

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, distinguishable by colour-blind readers; lines also differ in their dashes. The kinds of map
# that the paper compares have the same colour in every figure.
_LINES = (
    ('#d55e00', '--'),
    ('#0072b2', '-.'),
    ('#009e73', '-'),
    ('#cc79a7', '--'),
    ('#e69f00', '-.'),
    ('#56b4e9', '-'),
    ('#000000', '--'),
)
_FIRST = {'cam': 0, 'layercam': 1, 'fcam': 2}
_GREY, _INSIDE, _OUTSIDE = '#777777', '#0072b2', '#d55e00'
_DPI = 120
_COLUMNS = 4


def curves(reports: Mapping[str, Report], iou: Sequence[float] | None = None) -> Figure:
    """Plot localization against the threshold tau (Fig. 5 of the paper).

    With boxes: the percentage of images whose box is correct, over tau relative to the maximum of each map, one panel
    per IoU; dots are the best thresholds. With masks: precision over recall of all pixels, and their F1 over tau, which
    is absolute.

    Args:
        reports: Name -> report of the same data set, from `benchmark.evaluate_many` or `benchmark.read_reports`.
        iou: IoUs in percent, only with boxes; default: 50, or the first if 50 was not measured.

    Returns:
        A matplotlib figure; `save` writes it.

    Raises:
        ImportError: Without matplotlib (extra `viz`).
        ValueError: For no report, reports of different data or metrics, or an IoU that was not measured.
    """
    check_comparable(reports)
    first = next(iter(reports.values()))
    known = first.description.curves
    names = [f'accuracy_{level:g}' for level in iou] if iou else first.description.main_curves
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f'curve {", ".join(unknown)} is not in the reports: choose from {", ".join(known)}')
    figure, panels = _panels(len(names), (4.6, 3.5 + 0.18 * len(reports)))
    for axes, name in zip(panels, names):
        _draw_curve(axes, reports, known[name])
    figure.suptitle(_data(first), fontsize=11)
    return figure


def activations(reports: Mapping[str, Report], bins: int = 32) -> Figure:
    """Plot the distribution of map values inside and outside objects (Fig. 6 of the paper), one panel per kind of map.

    Objects are the true boxes or masks of the data set; ignored pixels are excluded. Each panel shows the overlap of
    both distributions: the sum over the 128 bins of the report of the smaller share, 0 % if a threshold separates
    objects from background without error.

    Args:
        reports: As for `curves`.
        bins: Number of bins between 0 and 1, a power of two up to 128.

    Returns:
        A matplotlib figure; `save` writes it.

    Raises:
        ImportError: Without matplotlib (extra `viz`).
        ValueError: For no report, reports of different data or without activations, or another number of bins.
    """
    check_comparable(reports)
    first = next(iter(reports.values()))
    if bins not in (sizes := [2**k for k in range(1, 8)]):
        raise ValueError(f'bins is {bins}: choose one of {", ".join(map(str, sizes))}')
    bare = [name for name, report in reports.items() if not report.activations]
    if bare:
        raise ValueError(f'report {bare[0]} has no activations: evaluate again')
    figure, panels = _panels(len(reports), (3.3, 3.1), share=True)
    for i, (axes, (name, report)) in enumerate(zip(panels, reports.items())):
        for key, color in (('outside', _OUTSIDE), ('inside', _INSIDE)):
            shares = np.reshape(report.activations[key], (bins, -1)).sum(1)
            label = f'{key} true {first.description.kind}'
            axes.stairs(shares, np.linspace(0, 1, bins + 1), fill=True, color=color, alpha=0.3)
            axes.stairs(shares, np.linspace(0, 1, bins + 1), color=color, linewidth=1.4, label=label)
        axes.set_title(f'{map_title(name)}: overlap {overlap(report):.0f} %', fontsize=10)
        axes.set(xlabel='map value', yscale='log', xlim=(0, 1), ylim=(0.05, 100))
        axes.yaxis.set_major_formatter('{x:g}')
        if i % _COLUMNS == 0:
            axes.set_ylabel(f'pixels (% per bin of 1/{bins}), log scale', fontsize=9)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=9, loc='outside lower center', ncols=min(len(panels), 2))
    figure.suptitle(_data(first), fontsize=11)
    return figure


def overlap(report: Report) -> float:
    """Return the overlap of the distributions of map values inside and outside objects in percent, 100 if equal."""
    return float(np.minimum(report.activations['inside'], report.activations['outside']).sum())


def save(figure: Figure | Image.Image, path: str | os.PathLike) -> None:
    """Write a figure, or a picture of `grid`, atomically, in the format of the suffix (.png, .jpg, .pdf, ...).

    Raises:
        ValueError: For an unknown suffix.
    """
    check_suffix(path, isinstance(figure, Image.Image))
    with atomic_path(path) as temporary:
        if isinstance(figure, Image.Image):
            figure.save(temporary, quality=80, optimize=True)
        else:
            figure.savefig(temporary, dpi=_DPI, facecolor='white')


def check_suffix(path: str | os.PathLike, picture: bool) -> None:
    """Raise ValueError for a file name whose suffix is not a format of pictures, or of plots."""
    known = ('.png', '.jpg', '.jpeg', '.webp') if picture else ('.png', '.jpg', '.jpeg', '.webp', '.svg', '.pdf')
    if Path(path).suffix.lower() not in known:
        raise ValueError(f'{path}: the suffix is not a supported format; use one of {", ".join(known)}')


def grid(
    model: FCAM,
    images: Mapping[str, Image.Image],
    maps: Sequence[str] = ('cam', 'gradcam', 'gradcampp', 'layercam', 'fcam'),
    *,
    threshold: Threshold | None = None,
    cam_threshold: Threshold = 'otsu',
    height: int = 130,
) -> tuple[Image.Image, dict[str, Localization]]:
    """Draw photographs, their class maps and F-CAMs, with the boxes found in them (Figs. 3 and 4 of the paper).

    Class maps are those of the predicted class. The box is that of the largest region above the threshold.

    Args:
        model: An F-CAM; runs on its device, in eval mode (its mode is restored).
        images: Title -> picture of any size, one column each.
        maps: 'fcam' and CAM methods, one row each, below the photographs.
        threshold: Of the F-CAM, as in `localize`: in [0,1), relative to the maximum of the map, or 'otsu'. Default:
            that of the model, chosen on its validation data.
        cam_threshold: The same for class maps. The default, Otsu's method, needs no boxes.
        height: Height of a row in pixels.

    Returns:
        The picture, and the results of `localize` by title.

    Raises:
        ValueError: For no image, unknown maps, thresholds outside [0,1), or a height below 32.
    """
    check_maps(maps)
    check_threshold(cam_threshold)
    if not images or height < 32:
        raise ValueError(f'{len(images)} images in rows of {height} pixels: give at least 1 image and 32 pixels')
    pictures = {title: image.convert('RGB') for title, image in images.items()}
    found = dict(zip(pictures, localize(model, list(pictures.values()), threshold)))
    columns = []
    for title, image in pictures.items():
        drawn = {'fcam': (found[title].map, found[title].box)}
        for method, small in _class_maps(model, image, [name for name in maps if name != 'fcam']).items():
            large = resize_map(small, image.size)
            regions = find_regions(foreground(large, cam_threshold), large, False, 0)
            drawn[method] = large, regions[0].box if regions else (0, 0, 0, 0)
        columns.append([(image, title), *((_drawn(image, *drawn[name], height), MAP_TITLES[name]) for name in maps)])
    return viz.grid(list(zip(*columns)), height=height), found


def check_maps(maps: Sequence[str]) -> None:
    """Raise ValueError for no map, or for one that is neither 'fcam' nor a CAM method."""
    if not maps or not {*maps} <= {'fcam', *METHODS}:
        raise ValueError(f'maps {", ".join(maps)}: choose from fcam, {", ".join(METHODS)}')


@torch.no_grad()
def _class_maps(model: FCAM, image: Image.Image, methods: Sequence[str]) -> dict[str, np.ndarray]:
    """Compute class maps (s,s) of the predicted class, float32 in [0,1]."""
    cfg = model.pretrained_cfg
    x = normalize(EvalTransform(cfg['input_size'][-1])(image)[None], cfg['mean'], cfg['std'])
    x = x.to(next(model.parameters()).device)
    with eval_mode(model):
        return {method: model.cam(x, method=method)[0].float().cpu().numpy() for method in methods}


def _drawn(image: Image.Image, score_map: np.ndarray, box: Sequence[int], height: int) -> Image.Image:
    """Draw the map and its box over the picture, at the height of the row, so that all lines have the same width."""
    scale = height / image.height
    small = image.resize((max(1, round(image.width * scale)), height), Image.Resampling.LANCZOS)
    return viz.draw_box(viz.blend(small, score_map), [round(edge * scale) for edge in box])


def _panels(count: int, size: tuple[float, float], share: bool = False) -> tuple[Figure, list[Axes]]:
    """Create a figure with panels of a size in inches, four per row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'fcam-zoo[viz]'") from error
    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel()
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(color='#dddddd', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return figure, list(panels[:count])


def _data(report: Report) -> str:
    return f'{report.data_name}, {report.meta["n"]} images'


def _styles(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """Choose colour and dashes of each line; the centre baseline is thin and grey."""
    styles, free = [], list(range(len(_LINES)))
    for report in reports.values():
        if report.maps == 'center':
            styles.append({'color': _GREY, 'linestyle': ':', 'linewidth': 1.2})
            continue
        others = [i for i in free if i not in _FIRST.values()] or free or list(range(len(_LINES)))
        number = _FIRST.get(report.maps)
        number = number if number in free else others[0]
        free = [i for i in free if i != number]
        styles.append(dict(zip(('color', 'linestyle'), _LINES[number]), linewidth=1.8))
    return styles


def _draw_curve(axes: Axes, reports: Mapping[str, Report], curve: Curve) -> None:
    """Draw a curve of each report, with its value in the legend and its best threshold as a dot."""
    for (name, report), style in zip(reports.items(), _styles(reports)):
        axes.plot(*curve.points(report.curves), label=f'{map_title(name)}: {curve.legend(report.metrics)}', **style)
        if (dot := curve.dot(report.metrics)) is not None:
            axes.plot(*dot, 'o', color=style['color'], markersize=5)
    axes.set(xlabel=curve.x_label, ylabel=curve.y_label, xlim=(0, curve.x_end), ylim=(0, 100))
    # Above the panel, where it hides no line.
    axes.legend(fontsize=8, loc='lower left', bbox_to_anchor=(0, 1), frameon=False)
