"""Names of the zoo: its architectures, the models of the index, and those of the paper; short names; suggestions."""

from __future__ import annotations

import difflib
import fnmatch
import functools
from typing import Any

from .. import _index
from .._catalog import CAM_METHODS
from .._checks import as_flag
from .._index import ModelName
from .._schema import show
from ..errors import UnknownModelError

# Architecture -> arguments of FCAM. The paper's networks have output stride 8 without dilation, and so does `_s8`.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    'fcam_resnet50': {'backbone': 'resnet50', 'output_stride': 8},
    'fcam_vgg16': {'backbone': 'vgg16_wsol', 'output_stride': 8},
    'fcam_inception_v3': {'backbone': 'inception_v3_wsol', 'output_stride': 8},
    'fcam_mobilenetv1_075_s8': {'backbone': 'mobilenetv1_075', 'output_stride': 8},
    'fcam_mobilenetv1_075': {'backbone': 'mobilenetv1_075', 'decoder_type': 'fpn'},
    'fcam_mobilenetv1_025': {'backbone': 'mobilenetv1_025', 'decoder_type': 'fpn'},
}
# Networks of the paper, and its data sets with their numbers of classes (F-CAM, Tables 1 and 2).
PAPER_ARCHITECTURES = ('fcam_resnet50', 'fcam_vgg16', 'fcam_inception_v3')
PAPER_DATASETS = {'cub': 200, 'openimages': 100}


@functools.cache
def _table(released: tuple[str, ...]) -> dict[str, ModelName]:
    parsed = [ModelName.parse(name) for name in released]
    paper = [
        ModelName(architecture, teacher, dataset)
        for architecture in PAPER_ARCHITECTURES
        for dataset in PAPER_DATASETS
        for teacher in CAM_METHODS
    ]
    order = list(ARCHITECTURES)
    return {str(n): n for n in sorted({*parsed, *paper}, key=lambda n: (order.index(n.architecture), n.tag))}


def names() -> dict[str, ModelName]:
    """Return every name of the zoo with its parts: released names and those of the paper, by architecture and tag."""
    return _table(tuple(_index.index()))


def hub_names() -> dict[str, list[str]]:
    """Return the zoo names behind each torch.hub name, `fcam_<backbone>_<dataset>`, the best released one first."""
    groups: dict[str, list[str]] = {}
    for name, parts in names().items():
        groups.setdefault(parts.hub_name, []).append(name)
    return {group: sorted(members, key=_val_score, reverse=True) for group, members in groups.items()}


def full_name(name: str) -> str:
    """Return the released name behind a short name; any other name is returned unchanged.

    Short names are torch.hub names, which stand for the best teacher, and architectures with one released model.
    """
    of_architecture = _released_of(name)
    return of_architecture[0] if len(of_architecture) == 1 else best_of_hub_name(name)


def short_name(name: str) -> str:
    """Return the shortest name that `full_name` resolves to a full name; the full name if there is none."""
    parts = names()[name]
    return next((short for short in (parts.architecture, parts.hub_name) if full_name(short) == name), name)


def similar_names(name: str, number: int = 3) -> list[str]:
    """Return names of the zoo that are spelled like a text, or contain it; released ones first if they contain it."""
    text = name[:100].lower()
    known = [*_index.index(), *hub_names(), *names(), *ARCHITECTURES]
    containing = [candidate for candidate in known if len(text) > 2 and text in candidate]
    return list(dict.fromkeys([*difflib.get_close_matches(text, known, number), *containing]))[:number]


def best_of_hub_name(name: str) -> str:
    """Return the full name behind a torch.hub name; any other name is returned unchanged."""
    return hub_names().get(name, [name])[0]


def _released_of(architecture: str) -> list[str]:
    """Return the released models of an architecture; none for another text."""
    own = architecture in ARCHITECTURES
    return [name for name in _index.index() if own and names()[name].architecture == architecture]


def released(name: str) -> _index.ReleaseEntry:
    """Return the index entry of a full or short name.

    Raises:
        UnknownModelError: When it has no released weights.
    """
    name = full_name(name)
    entry = _index.index().get(name)
    if entry is None:
        raise no_weights(name)
    return entry


def no_weights(name: str) -> UnknownModelError:
    """Return the error for a name without weights: unknown, only an architecture, or not released."""
    available = f'Released: {", ".join(sorted(_index.index())) or "none"}.'
    if several := _released_of(name):
        return UnknownModelError(f'{name} has several released models: choose one of {", ".join(several)}')
    if name == 'fcam' or name in ARCHITECTURES:
        return UnknownModelError(f'{name} is an architecture without weights: add a teacher and data set. {available}')
    if name not in names():
        similar = similar_names(name)
        hint = (
            f'Did you mean {" or ".join(similar)}?' if similar else f'Architectures: fcam, {", ".join(ARCHITECTURES)}.'
        )
        return UnknownModelError(
            f'unknown model {show(name)}. {hint} {available} `fcam-zoo list --all` and fcam_zoo.list_models() list all'
        )
    # The other names without weights are the paper's grid, which has recipes.
    parts = ModelName.parse(name)
    command = f'fcam-zoo train DATA -o RUN --recipe {parts.hub_name} --teacher {parts.teacher}'
    return UnknownModelError(f'{name} has no released weights. {available} Train it: {command}')


def _val_score(name: str) -> float:
    """Return the localization metric on val, which selects the best teacher; -1 without released weights."""
    entry = _index.index().get(name)
    if entry is None:
        return -1.0
    metrics = entry.metrics['val']['fcam']
    return metrics.get('mean', metrics.get('pxap', 0.0))


def list_models(filter: str = '', pretrained: bool = False) -> list[str]:
    """List the names of the zoo, by architecture in the order of `ARCHITECTURES`, then by tag.

    Args:
        filter: Shell pattern such as '*cub*'; '' lists all.
        pretrained: List only models with released weights.

    Raises:
        TypeError: For a filter that is not text of at most 1000 characters.
    """
    if not isinstance(filter, (str, type(None))) or len(filter or '') > 1000:
        raise TypeError(f"filter is {show(filter)}: give a shell pattern such as '*cub*'")
    pretrained = as_flag(pretrained, 'pretrained')
    released = _index.index()
    return [name for name in names() if fnmatch.fnmatch(name, filter or '*') and (not pretrained or name in released)]
