"""Models by name."""

from __future__ import annotations

import fnmatch
import os
from typing import Any

from .. import _index
from .._names import ModelName
from .fcam import FCAM
from .source import find_source
from .table import ARCHITECTURES, full_name, names, no_weights
from .zoo import create_fcam


def list_models(filter: str = '', pretrained: bool = False) -> list[str]:
    """Names of the zoo, by architecture in the order of its table (larger ones of a family first), then by name.

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
            `fcam_<backbone>`; 'fcam' with backbone=<any timm name>; 'local-dir:<folder>' or 'hf-hub:<org>/<name>',
            optionally with '@<branch, tag or commit>', which always load their weights.
        pretrained: Load the released weights.
        num_classes: Classes of the head; default: that of the data set, of the folder, or 1000.
        reset_head: Keep a fresh head if num_classes differs from that of the weights, instead of raising an error.
        backbone_pretrained: Load timm's weights into the backbone (network or cache). Ignored if the F-CAM's weights
            hold the backbone; implied if they hold only the decoder, unless backbone_checkpoint is given.
        cache_dir: Folder of downloads; default: that of the Hub's client (HF_HOME).
        local_files_only: Do not download the weights of the F-CAM; use the cache or fail.
        **kwargs: Further arguments of `FCAMConfig`.

    Returns:
        The model, in eval mode when it has its weights.

    Raises:
        UnknownModelError: For a name that does not exist or has no released weights; the message lists those that do.
        FileNotFoundError: For a local folder or checkpoint that does not exist.
        HubError: When the Hub cannot provide a file.
        WeightsError: When weights are altered, truncated, or do not fit.
    """
    source, architecture, tag = None, name, None
    if pretrained or ':' in name:
        source = find_source(name, cache_dir, local_files_only)
        architecture = source.architecture
    elif (full := full_name(name)) in names():
        architecture, tag = ModelName.parse(full).architecture, ModelName.parse(full).tag
    elif name != 'fcam' and name not in ARCHITECTURES:
        raise no_weights(name)
    arguments = {'num_classes': num_classes, 'backbone_pretrained': backbone_pretrained or None, **kwargs}
    model = create_fcam(
        architecture,
        source=source,
        pretrained_cfg=tag,
        cache_dir=cache_dir,
        reset_head=reset_head,
        # As in timm, None stands for the default.
        **{key: value for key, value in arguments.items() if value is not None},
    )
    return model.eval() if source else model
