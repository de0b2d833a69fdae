"""Draw results: maps and boxes over images, and models side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ._drawing import BOX_COLOR as BOX_COLOR
from ._drawing import WIDTH as WIDTH
from ._drawing import blend as blend
from ._drawing import contact_sheet as contact_sheet
from ._drawing import draw_box as draw_box
from ._drawing import grid as grid
from ._drawing import heat_map as heat_map
from ._drawing import overlay as overlay
from ._drawing import row as row
from ._schema import as_whole, show
from .localization import ImageLike, as_image, localize
from .models import FCAM, create_model
from .models.zoo import is_folder_name
from .objects import Threshold

Model = str | os.PathLike | FCAM

_MAX_WIDTH = 16384


def compare(
    image: ImageLike,
    models: Model | Sequence[Model] | Mapping[str, Model],
    *,
    threshold: Threshold | None = None,
    multi: bool = False,
    width: int = WIDTH,
) -> Image.Image:
    """Localize an image with several models and draw one row: the photograph, then the map and boxes of each model.

    Captions below the pictures have the name of the model, its label and the probability.

    Args:
        image: As in `localize`.
        models: Names of released models, model folders, `hf-hub:` names, or F-CAMs; with a mapping, its keys are the
            captions. Models given by name are loaded one after another.
        threshold: As in `localize`; default: that of each model.
        multi: Draw all regions that are large enough, not only the largest.
        width: Largest width of the picture in pixels.

    Returns:
        The picture, which notebooks display; `.save('row.png')` writes it.

    Raises:
        ValueError: Without models, or for a width outside 64 to 16384.
        TypeError, UnknownModelError, ImageError: As `create_model` and `localize`.

    Examples:
        >>> import numpy as np, fcam_zoo
        >>> model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
        >>> image = np.zeros((200, 300, 3), np.uint8)
        >>> picture = fcam_zoo.viz.compare(image, {'first': model, 'second': model})
        >>> picture.width <= 900
        True
    """
    if as_whole(width, 64, _MAX_WIDTH) is None:
        raise ValueError(f'width is {show(width)}: give at least 64 pixels, at most {_MAX_WIDTH}')
    if not isinstance(models, (Mapping, list, tuple)):
        models = [models]  # type: ignore[list-item]  # Another type raises TypeError below.
    titled = list(models.items()) if isinstance(models, Mapping) else [(_title(model), model) for model in models]
    if not titled:
        raise ValueError('models is empty: give at least one name or model')
    photo = as_image(image)
    found = []
    for title, model in titled:
        loaded = create_model(model, pretrained=True) if isinstance(model, (str, os.PathLike)) else model
        found.append((str(title), localize(loaded, photo, threshold, multi=multi)[0]))
    return row(photo, found, width)


def _title(model: Model) -> str:
    """Return a caption for a model: its name, or the last folders of its path."""
    if isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        folder = name.removeprefix('local-dir:')
        return '/'.join(Path(folder).parts[-2:]) if folder != name or is_folder_name(name) else name
    cfg = getattr(model, 'pretrained_cfg', {})
    return '.'.join(filter(None, (cfg.get('architecture'), cfg.get('tag')))) or type(model).__name__
