"""Models by name."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import Any

import timm

from .. import _index
from .._download import commit_of, fetch_folder, repo_of
from .._names import ModelName
from ..errors import UnknownModelError
from .fcam import FCAM
from .folder import MODEL_ARGS, check_folder
from .zoo import ARCHITECTURES, hub_names, names


def list_models(filter: str = '', pretrained: bool = False) -> list[str]:
    """Names of the zoo: architectures in the order of its table, larger ones of a family first; then by name.

    Args:
        filter: Shell pattern such as '*cub*'; '' lists all.
        pretrained: Only those with released weights.
    """
    found = [n for n in names() if not pretrained or n in _index.index()]
    return [n for n in found if not filter or fnmatch.fnmatch(n, filter)]


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    num_classes: int | None = None,
    reset_head: bool = False,
    backbone_pretrained: bool = False,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    **kwargs: Any,
) -> FCAM:
    """Create an F-CAM.

    Args:
        name: `fcam_<backbone>.<teacher>_<dataset>`; `fcam_<backbone>_<dataset>`, the best released teacher;
            `fcam_<backbone>`; 'fcam' with backbone=any timm name; 'local-dir:<folder>' or 'hf-hub:<org>/<name>', also
            with '@<branch, tag or commit>', which come with their weights.
        pretrained: Load the released weights.
        num_classes: Classes of the head; default: that of the data set, of the folder, or 1000.
        reset_head: Let the head start anew where num_classes is not that of the weights, instead of refusing.
        backbone_pretrained: Load timm's weights into the backbone (network or cache). Of no effect where the F-CAM's
            weights hold the backbone; where they are the decoder alone it is implied, but for backbone_checkpoint=….
        cache_dir: Folder of downloads; default: that of the Hub's client (HF_HOME).
        local_files_only: Take downloads of the F-CAM from the cache or fail.
        **kwargs: Further arguments of `FCAM`.

    Returns:
        The model, in eval mode when it has its weights.

    Raises:
        UnknownModelError: For a name that does not exist or has no released weights; the message lists what does.
        FileNotFoundError: For a local folder or checkpoint that does not exist.
        HubError: When the Hub cannot give a file.
        WeightsError: When weights are altered, truncated, or do not fit.
    """
    folder = _folder(name, cache_dir, local_files_only)
    if folder is not None:
        name, pretrained = f'local-dir:{folder}', True
    else:
        name = _resolve(name, pretrained)
    model = timm.create_model(
        name,
        pretrained=pretrained,
        num_classes=num_classes,
        cache_dir=cache_dir,
        reset_head=reset_head,
        backbone_pretrained=backbone_pretrained or None,
        local_files_only=local_files_only,
        **kwargs,
    )
    # timm publishes the arguments it was called with; how a model was loaded is not how it is built.
    recorded = getattr(model, '_model_args', {})
    for key in recorded.keys() - MODEL_ARGS.keys():
        del recorded[key]
    if folder is not None and (commit := commit_of(folder)):
        model.pretrained_cfg.pop('file')
        model.pretrained_cfg.update(source='hf-hub', hf_hub_id=f'{repo_of(folder)}@{commit}')
    return model.eval() if pretrained else model


def _folder(name: str, cache_dir: str | os.PathLike | None, local_files_only: bool) -> Path | None:
    """The checked folder that a name with a source stands for, downloaded if needed; None for a name of the zoo."""
    source, _, place = name.partition(':')
    if source in ('hf-hub', 'hf_hub') and place:
        folder = fetch_folder(place, cache_dir=cache_dir, local_files_only=local_files_only)
    elif source == 'local-dir' and place:
        folder = Path(place)
    else:
        return None
    check_folder(folder)
    return folder


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
    parts = ModelName.parse(name)
    arguments = ARCHITECTURES[parts.architecture]
    return (
        f'fcam-zoo train <{parts.dataset} folder> -o runs/{name} --backbone {arguments["backbone"]} '
        f'--backbone-pretrained --output-stride {arguments["output_stride"]} --teacher {parts.teacher}'
    )
