"""Models by name."""

from __future__ import annotations

import fnmatch
import json
import os
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open

from .. import _index
from ..errors import UnknownModelError, WeightsError
from .fcam import FCAM
from .zoo import ARCHITECTURES, hub_names, names


def list_models(filter: str = '', pretrained: bool = False) -> list[str]:
    """Names of the zoo.

    Args:
        filter: Shell pattern such as '*cub*'; '' lists all.
        pretrained: Only those with released weights.
    """
    found = sorted(_index.index()) if pretrained else names()
    return [n for n in found if not filter or fnmatch.fnmatch(n, filter)]


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    num_classes: int | None = None,
    backbone_pretrained: bool = False,
    cache_dir: str | os.PathLike | None = None,
    **kwargs: Any,
) -> FCAM:
    """Create an F-CAM.

    Args:
        name: `fcam_<backbone>.<teacher>_<dataset>`; `fcam_<backbone>_<dataset>`, the best released teacher;
            `fcam_<backbone>`; 'fcam' with backbone=any timm name; 'local-dir:<folder>' or 'hf-hub:<org>/<name>', which
            come with their weights.
        pretrained: Load the released weights.
        num_classes: Classes of the head; default: that of the data set, of the folder, or 1000.
        backbone_pretrained: Load timm's weights into the backbone (network or cache). Not needed with `pretrained`.
        cache_dir: Folder of downloads.
        **kwargs: Further arguments of `FCAM`.

    Returns:
        The model, in eval mode when it has its weights.

    Raises:
        UnknownModelError: For a name that does not exist or has no released weights; the message lists what does.
        FileNotFoundError: For a local folder or checkpoint that does not exist.
        WeightsError: When weights are altered, truncated, or do not fit.
    """
    from_folder = name.partition(':')[0] in ('local-dir', 'hf-hub', 'hf_hub') and ':' in name
    if from_folder:
        pretrained = True
        if name.startswith('local-dir:'):
            _check_folder(Path(name.partition(':')[2]), num_classes)
    else:
        name = _resolve(name, pretrained)
    if backbone_pretrained:
        kwargs['backbone_pretrained'] = True
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, cache_dir=cache_dir, **kwargs)
    except RuntimeError as e:
        if from_folder and 'state_dict' in str(e):
            raise WeightsError(f'the weights of {name} do not fit its config.json: {e}') from e
        raise
    return model.eval() if pretrained else model


def _resolve(name: str, pretrained: bool) -> str:
    """The timm name of any name of ours."""
    name = full_name(name)
    if name == 'fcam' or name in ARCHITECTURES:
        if pretrained:
            raise UnknownModelError(f'{name} is an architecture: name what it was trained on. {_what_is_released()}')
        return name
    if name not in names():
        raise UnknownModelError(
            f'unknown model {name!r}. Architectures: fcam, {", ".join(ARCHITECTURES)}. {_what_is_released()} '
            'fcam_zoo.list_models() gives every name'
        )
    if pretrained and name not in _index.index():
        raise UnknownModelError(
            f'{name} has no released weights. {_what_is_released()} Train it: {training_command(name)}'
        )
    return name


def full_name(name: str) -> str:
    """torch.hub's `fcam_<backbone>_<dataset>` -> the best released name of the group; any other name as it is."""
    return hub_names().get(name, [name])[0]


def _what_is_released() -> str:
    return f'Released: {", ".join(sorted(_index.index())) or "none"}.'


def training_command(name: str) -> str:
    """The command that trains a model of the zoo."""
    arch, tag = name.split('.')
    teacher, dataset = tag.split('_', 1)
    arguments = ARCHITECTURES[arch]
    return (
        f'fcam-zoo train <{dataset} folder> -o runs/{name} --backbone {arguments["backbone"]} --backbone-pretrained '
        f'--output-stride {arguments["output_stride"]} --teacher {teacher}'
    )


def _check_folder(folder: Path, num_classes: int | None) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f'model folder {folder} does not exist')
    for file in ('config.json', 'model.safetensors'):
        if not (folder / file).is_file():
            raise FileNotFoundError(f'{folder} has no {file}: a model folder holds config.json and model.safetensors')
    try:
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        architecture, own = config['architecture'], config['num_classes']
    except (ValueError, KeyError, TypeError) as e:
        raise WeightsError(f'{folder / "config.json"} is damaged ({e!r}): save or train the model again') from e
    if not timm.is_model(architecture):
        raise WeightsError(f'{folder / "config.json"} names an unknown architecture {architecture!r}')
    if num_classes is not None and num_classes != own:
        raise WeightsError(
            f'{folder} has {own} classes, the model was asked for num_classes={num_classes}: create it without '
            f'num_classes, then call reset_classifier({num_classes}) to train a new head'
        )
    try:
        with safe_open(folder / 'model.safetensors', 'pt') as f:
            f.keys()
    except (SafetensorError, OSError) as e:
        raise WeightsError(f'{folder / "model.safetensors"} is truncated or damaged ({e}): copy it again') from e
