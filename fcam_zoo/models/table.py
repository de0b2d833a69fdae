"""The zoo table: every architecture and data set, from which timm's names, torch.hub's names and lists follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import _index
from .._names import ModelName
from ..cams import METHODS as TEACHERS
from ..errors import UnknownModelError

# Architecture -> arguments of FCAM. The paper's networks have output stride 8 without dilation, and so does `_s8`.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    'fcam_resnet50': {'backbone': 'resnet50', 'output_stride': 8},
    'fcam_vgg16': {'backbone': 'vgg16_wsol', 'output_stride': 8},
    'fcam_inception_v3': {'backbone': 'inception_v3_wsol', 'output_stride': 8},
    'fcam_mobilenetv1_075_s8': {'backbone': 'mobilenetv1_075', 'output_stride': 8},
    'fcam_mobilenetv1_075': {'backbone': 'mobilenetv1_075', 'output_stride': 16},
    'fcam_mobilenetv1_025': {'backbone': 'mobilenetv1_025', 'output_stride': 16},
}
# The paper's networks and data sets (F-CAM, Tables 1 and 2), with their numbers of classes. The index adds the
# released names.
PAPER_ARCHITECTURES = ('fcam_resnet50', 'fcam_vgg16', 'fcam_inception_v3')
PAPER_DATASETS = {'cub': 200, 'openimages': 100}
RECIPES = Path(__file__).resolve().parent.parent / 'recipes'


def names() -> list[str]:
    """Every name of the zoo, `fcam_<backbone>.<teacher>_<dataset>`, by architecture (table order) and tag."""
    found = set(_index.index())
    found |= {
        str(ModelName(architecture, teacher, dataset))
        for architecture in PAPER_ARCHITECTURES
        for dataset in PAPER_DATASETS
        for teacher in TEACHERS
    }
    order = list(ARCHITECTURES)
    return sorted(found, key=lambda name: (order.index(ModelName.parse(name).architecture), name))


def hub_names() -> dict[str, list[str]]:
    """torch.hub names without dots, `fcam_<backbone>_<dataset>` -> zoo names, the best released one first."""
    groups: dict[str, list[str]] = {}
    for name in names():
        groups.setdefault(ModelName.parse(name).hub_name, []).append(name)
    for group in groups.values():
        group.sort(key=_val_score, reverse=True)
    return groups


def full_name(name: str) -> str:
    """The best released name of a torch.hub name; any other name is returned unchanged."""
    return hub_names().get(name, [name])[0]


def released(name: str) -> _index.ReleaseEntry:
    """Index entry of a full name or a torch.hub name.

    Raises:
        UnknownModelError: When it has no released weights.
    """
    name = full_name(name)
    if name not in _index.index():
        raise no_weights(name)
    return _index.index()[name]


def no_weights(name: str) -> UnknownModelError:
    """The error for a name that cannot be loaded: unknown, only an architecture, or without released weights."""
    available = f'Released: {", ".join(sorted(_index.index())) or "none"}.'
    if name == 'fcam' or name in ARCHITECTURES:
        return UnknownModelError(f'{name} is an architecture without weights: add a teacher and data set. {available}')
    if name not in names():
        return UnknownModelError(
            f'unknown model {name!r}. Architectures: fcam, {", ".join(ARCHITECTURES)}. {available} '
            'fcam_zoo.list_models() lists every name'
        )
    return UnknownModelError(f'{name} has no released weights. {available} Train it: {training_command(name)}')


def training_command(name: str) -> str:
    """The command that trains a model of the zoo: with its recipe if the package has one, else with its settings."""
    parts = ModelName.parse(name)
    arguments = ARCHITECTURES[parts.architecture]
    settings = f'--backbone {arguments["backbone"]} --backbone-pretrained --output-stride {arguments["output_stride"]}'
    if (RECIPES / f'{parts.hub_name}.yaml').is_file():
        settings = f'--recipe {parts.hub_name}'
    return f'fcam-zoo train DATA -o RUN {settings} --teacher {parts.teacher}'


def _val_score(name: str) -> float:
    """Localization metric on val, by which the best teacher is selected; -1 without released weights."""
    if name not in _index.index():
        return -1.0
    metrics = _index.index()[name].metrics['val']['fcam']
    return metrics.get('mean', metrics.get('pxap', 0.0))
