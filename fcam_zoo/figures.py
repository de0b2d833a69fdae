"""Figures of the F-CAM paper (WACV 2022) for any localizer: pictures with maps, curves, activations, convergence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from . import _drawing, viz
from ._convergence import STAGES as STAGES
from ._convergence import convergence as convergence
from ._drawing import SUFFIXES, WIDTH, save_picture
from ._io import atomic_path
from ._schema import as_whole, show
from .benchmark.descriptions import MAP_TITLES
from .benchmark.evaluate import ground_truth_kind
from .benchmark.plots import activations as activations
from .benchmark.plots import curves as curves
from .benchmark.plots import overlap as overlap
from .benchmark.sources import maps_of
from .benchmark.truth_pictures import photograph, show_found, show_truth
from .cams import METHODS
from .inference import class_maps
from .inputs import ImageLike, as_image
from .localization import Localization, localize, resize_map
from .models import FCAM
from .models.backbone_arguments import MAX_SIDE
from .objects import Threshold, as_threshold, find_regions, foreground

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120
_GAP = 6

MAX_IMAGES = 100
"""Largest number of photographs in a picture."""


def save(figure: Figure | Image.Image, path: str | os.PathLike) -> None:
    """Write a figure, or a picture of `grid`, atomically, in the format of the suffix (.png, .jpg, .pdf, ...).

    Raises:
        ValueError: For an unknown suffix, or a picture that is too large for its format.
    """
    if isinstance(figure, Image.Image):
        save_picture(figure, path)
        return
    check_suffix(path, picture=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, facecolor='white')


def check_suffix(path: str | os.PathLike, picture: bool) -> None:
    """Raise ValueError for a file name whose suffix is not a format of pictures, or of plots."""
    _drawing.check_suffix(path, SUFFIXES if picture else (*SUFFIXES, '.svg', '.pdf'))


def grid(
    model: FCAM,
    images: Mapping[str, ImageLike],
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
        images: Title -> image of any size, as in `localize`; one column each.
        maps: 'fcam' and CAM methods, one row each, below the photographs.
        threshold: Threshold of the F-CAM as in `localize`: in [0,1), relative to the maximum of the map, or 'otsu'.
            Default: that of the model, chosen on its validation data.
        cam_threshold: Threshold of the class maps. The default, Otsu's method, needs no boxes.
        height: Height of a row in pixels.

    Returns:
        The picture, and the results of `localize` by title.

    Raises:
        ValueError: Without images or with more than 100, or for unknown maps, thresholds outside [0,1), or a height
            outside 32 to 2048.
        ImageError, TypeError: As `localize`.
    """
    check_maps(maps)
    check_number(len(images))
    cam_threshold = as_threshold(cam_threshold, 'cam_threshold')
    check_height(height)
    pictures = {title: as_image(image) for title, image in images.items()}
    found = dict(zip(pictures, localize(model, list(pictures.values()), threshold)))
    columns = []
    for title, image in pictures.items():
        drawn = {'fcam': (found[title].map, found[title].box)}
        for method in (name for name in maps if name != 'fcam'):
            large = resize_map(class_maps(model, [image], method)[0], image.size)
            regions = find_regions(foreground(large, cam_threshold), large, False, 0)
            drawn[method] = large, regions[0].box if regions else (0, 0, 0, 0)
        columns.append([(image, title), *((_drawn(image, *drawn[name], height), MAP_TITLES[name]) for name in maps)])
    return viz.grid(list(zip(*columns)), height=height), found


def rows(
    model: FCAM, images: Mapping[str, ImageLike], *, width: int = WIDTH
) -> tuple[Image.Image, dict[str, Localization]]:
    """Draw a row per photograph: the photograph, the CAM of the predicted class, the F-CAM, and the box.

    Args:
        model: An F-CAM; runs on its device, in eval mode (its mode is restored).
        images: Title -> image of any size, as in `localize`.
        width: Largest width of the picture in pixels.

    Returns:
        The picture, and the results of `localize` by title.

    Raises:
        ValueError: Without images or with more than 100, or for a width outside 64 to 2048.
        ImageError, TypeError: As `localize`.
    """
    check_number(len(images))
    if as_whole(width, 64, MAX_SIDE) is None:
        raise ValueError(f'width is {show(width)}: give at least 64 pixels, at most {MAX_SIDE}')
    # Four columns, and the gaps of `viz.grid` between them.
    side = (width - 3 * _GAP) // 4
    found, drawn = {}, []
    for title, given in images.items():
        image = as_image(given)
        (found[title],) = localize(model, given)
        box, label = found[title].box, f'{found[title].label} {found[title].score:.2f}'
        scale = side / max(image.size)
        small = image.resize([max(1, round(edge * scale)) for edge in image.size], Image.Resampling.LANCZOS)
        drawn.append(
            [
                (small, title),
                (viz.blend(small, class_maps(model, [image])[0]), MAP_TITLES['cam']),
                (viz.blend(small, found[title].map), MAP_TITLES['fcam']),
                (viz.draw_box(small, [round(edge * scale) for edge in box]), label),
            ]
        )
    return viz.grid(drawn, height=None, gap=_GAP, narrowest=side), found


def localization(
    model: FCAM,
    dataset: Any,
    maps: Sequence[str] = ('cam', 'gradcam', 'gradcampp', 'fcam'),
    *,
    thresholds: Mapping[str, Threshold] | None = None,
    height: int = 130,
) -> tuple[Image.Image, dict[str, list[float]]]:
    """Draw maps of a data set and what they find beside the ground truth (Figs. 3 and 4 of the paper).

    Two columns per image: the photograph and its ground truth, then a row per kind of map: the map, and what it finds
    at the threshold. With boxes: pixels above the threshold and their box in red, the true box in green. With masks:
    true positives red, false negatives green, false positives blue. Class maps are those of the true class if the model
    knows it, as in `benchmark.evaluate_many`.

    Args:
        model: An F-CAM; runs on its device, in eval mode (its mode is restored).
        dataset: With boxes or masks, such as `data.open_dataset` returns; `benchmark.subset.limit_images` chooses some
            images.
        maps: 'fcam' and CAM methods, one row each.
        thresholds: By kind of map: in [0,1), or 'otsu'. With boxes they are relative to the maximum of the map, with
            masks absolute. Default: the model's own for 'fcam', Otsu's method for the others.
        height: Height of a row in pixels.

    Returns:
        The picture, and by kind of map the IoU of each image in percent: of the box as in MaxBoxAcc, or of the pixels.

    Raises:
        ValueError: Without images or with more than 100, without boxes or masks, for unknown maps, thresholds outside
            [0,1), or a height outside 32 to 2048.
        ImageError: As `localize`.
    """
    check_maps(maps)
    check_number(len(dataset))
    check_height(height)
    ground_truth_kind(dataset)
    given = {'fcam': model.threshold, **(thresholds or {})}
    chosen = {name: as_threshold(given.get(name, 'otsu'), f'the threshold of {name}') for name in maps}
    found: dict[str, list[float]] = {name: [] for name in maps}
    columns = []
    getters = maps_of(model, dataset, maps)
    for index in range(len(dataset)):
        image = photograph(dataset, index, height)
        left, right = [(image, Path(dataset.ids[index]).stem)], [(show_truth(image, dataset, index), 'ground truth')]
        for name in maps:
            score_map = getters[name](index)
            picture, iou = show_found(image, score_map, chosen[name], dataset, index)
            found[name].append(iou)
            left.append((viz.blend(image, score_map), MAP_TITLES[name]))
            right.append((picture, f'IoU {iou:.0f} %'))
        columns += [left, right]
    return viz.grid(list(zip(*columns)), height=height), found


def check_height(height: int) -> None:
    """Raise ValueError for the height of a row outside 32 to 2048 pixels."""
    if as_whole(height, 32, MAX_SIDE) is None:
        raise ValueError(f'height is {show(height)}: give at least 32 pixels, at most {MAX_SIDE}')


def check_number(count: int) -> None:
    """Raise ValueError unless so many photographs fit into a picture."""
    if not 1 <= count <= MAX_IMAGES:
        raise ValueError(f'{count} images: give at least 1 image, at most {MAX_IMAGES}')


def check_maps(maps: Sequence[str]) -> None:
    """Raise ValueError for an empty list, or a map that is neither 'fcam' nor a CAM method."""
    if not maps or not {*maps} <= {'fcam', *METHODS}:
        raise ValueError(f'maps {", ".join(maps)}: choose from fcam, {", ".join(METHODS)}')


def _drawn(image: Image.Image, score_map: np.ndarray, box: Sequence[int], height: int) -> Image.Image:
    """Draw the map and its box over the picture, at the height of the row, so that all lines have the same width."""
    scale = height / image.height
    small = image.resize((max(1, round(image.width * scale)), height), Image.Resampling.LANCZOS)
    return viz.draw_box(viz.blend(small, score_map), [round(edge * scale) for edge in box])
