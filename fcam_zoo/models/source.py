"""Where the weights of a model come from: a name, a folder or a Hub id -> one verified `WeightsSource`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg, get_pretrained_cfg

from .. import _index
from .._download import WEIGHTS, commit_of, fetch_folder, repo_of
from .._names import ModelName
from .._weights import digest, read_shapes
from ..errors import WeightsError
from .backbone import check_num_classes, head_parameters
from .fcam import FCAM
from .folder import verify_folder
from .table import released


@dataclass(frozen=True)
class WeightsSource:
    """A verified weight file and the model that it belongs to.

    Attributes:
        path: Safetensors file of the whole model or only its decoder.
        architecture: timm architecture, `fcam` or `fcam_<backbone>`.
        pretrained_cfg: timm's configuration of the weights, or its tag.
        num_classes: Classes of the weights.
        arguments: Arguments of `FCAM`.
        backbone: timm name of the classifier's weights, which a decoder-only file needs.
        classifier_sha256: Digest of that classifier, if recorded.
    """

    path: Path
    architecture: str
    pretrained_cfg: str | dict[str, Any]
    num_classes: int
    arguments: dict[str, Any]
    backbone: str | None
    classifier_sha256: str = ''

    def classifier_arguments(self, arguments: dict[str, Any], reset_head: bool) -> dict[str, Any]:
        """Arguments that load the classifier: none if the file holds it, else timm's weights or a local checkpoint.

        Raises:
            WeightsError: When the requested num_classes or the local checkpoint does not fit.
        """
        check_num_classes(self.path, self.num_classes, arguments.get('num_classes'), reset_head)
        if any(key.startswith('backbone.') for key in read_shapes(self.path)):
            return {'backbone_pretrained': False, 'backbone_checkpoint': None}
        backbone = self.backbone or arguments['backbone']
        if arguments.get('backbone_checkpoint') is None:
            return {'backbone': backbone, 'backbone_pretrained': True}
        checkpoint, cfg = Path(arguments['backbone_checkpoint']), get_pretrained_cfg(backbone.split('.')[0])
        shapes = read_shapes(checkpoint) if checkpoint.is_file() and cfg else {}
        for key in head_parameters(cfg.to_dict() if cfg else {}):
            if key in shapes and shapes[key][0] != self.num_classes:
                raise WeightsError(
                    f'backbone_checkpoint {checkpoint} has {shapes[key][0]} classes, but {self.path} is the decoder of '
                    f'a classifier with {self.num_classes} classes: give the weights of {backbone}'
                )
        return {'backbone_pretrained': False}

    def check_classifier(self, model: FCAM) -> None:
        """A decoder gives meaningless maps on the features of another classifier than its own.

        Raises:
            WeightsError: When the classifier is not the recorded one.
        """
        if self.classifier_sha256 and digest(model.backbone.state_dict()) != self.classifier_sha256:
            raise WeightsError(
                f'{self.path.name} is the decoder of {self.backbone}, but other classifier weights were loaded: '
                f'give those of {self.backbone} as backbone_checkpoint'
            )


def find_source(name: str, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False) -> WeightsSource:
    """Resolve any name of weights, downloading them if needed.

    Args:
        name: A released name, `local-dir:<folder>`, or `hf-hub:<org>/<name>`, optionally with `@<revision>`.
        cache_dir: Folder of downloads; default: that of the Hub's client.
        local_files_only: Do not download.

    Raises:
        UnknownModelError: When the name has no released weights.
        FileNotFoundError: When the folder or one of its files does not exist.
        HubError: When a file cannot be downloaded.
        WeightsError: When the weights or their config are damaged.
    """
    kind, _, place = name.partition(':')
    if kind in ('hf-hub', 'hf_hub') and place:
        return _folder_source(fetch_folder(place, cache_dir=cache_dir, local_files_only=local_files_only))
    if kind == 'local-dir' and place:
        return _folder_source(Path(place))
    entry = released(name)
    parts = ModelName.parse(entry.name)
    return WeightsSource(
        _index.fetch_weights(entry, cache_dir, local_files_only),
        parts.architecture,
        parts.tag,
        entry.num_classes,
        {'num_classes': entry.num_classes, **entry.model_args},
        entry.backbone,
        entry.classifier_sha256,
    )


def timm_source(
    architecture: str,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
) -> WeightsSource | None:
    """The same for timm's arguments: an architecture and a tag, or the pretrained_cfg of a folder or repository.

    Returns:
        None for a pretrained_cfg that the caller made, whose weights timm loads.
    """
    cfg = pretrained_cfg
    if isinstance(cfg, dict) and cfg.get('source') in ('local-dir', 'hf-hub'):
        place = cfg['file'] if cfg['source'] == 'local-dir' else cfg['hf_hub_id']
        return find_source(f'{cfg["source"]}:{place}', cache_dir, local_files_only)
    if isinstance(cfg, (dict, PretrainedCfg)):
        return None
    if cfg is None and (default := get_pretrained_cfg(architecture)) is not None:
        cfg = default.tag
    return find_source(f'{architecture}.{cfg}' if cfg else architecture, cache_dir, local_files_only)


def _folder_source(folder: Path) -> WeightsSource:
    """Source of a model folder, also one in the Hub's cache, whose commit is then recorded."""
    config = verify_folder(folder)
    cfg = {**config['pretrained_cfg'], 'num_classes': config['num_classes']}
    if 'label_names' in config:
        cfg['label_names'] = config['label_names']
    commit = commit_of(folder)
    place = {'source': 'local-dir', 'file': str(folder)}
    if commit:
        place = {'source': 'hf-hub', 'hf_hub_id': f'{repo_of(folder)}@{commit}'}
    arguments = config.get('model_args', {})
    return WeightsSource(
        folder / WEIGHTS,
        config['architecture'],
        {**cfg, **place},
        config['num_classes'],
        {**arguments, 'num_classes': config['num_classes']},
        arguments.get('backbone'),
    )
