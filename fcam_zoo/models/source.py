"""Find and verify the weights of a release or of a model folder (timm's Hub format)."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm.models import get_pretrained_cfg

from .._download import WEIGHTS, commit_of, repo_of
from .._index import ModelName, ReleaseEntry, fetch_weights
from .._weights import digest, read_shapes
from ..errors import WeightsError
from .backbone import check_num_classes, head_parameters
from .model_folder import verify_folder

if TYPE_CHECKING:
    from .fcam import FCAM


@dataclass(frozen=True)
class WeightsSource:
    """A verified weight file and the model that it belongs to.

    Attributes:
        path: Safetensors file of the whole model or of its decoder only.
        architecture: timm architecture, `fcam` or `fcam_<backbone>`.
        pretrained_cfg: timm's configuration of the weights, or its tag.
        num_classes: Number of classes of the weights.
        arguments: Arguments of `FCAM`.
        backbone: timm name of the classifier and its weights, which a decoder-only file needs.
        classifier_sha256: Digest of that classifier, if recorded.
        released: Whether the file and its arguments are those of the installed index.
    """

    path: Path
    architecture: str
    pretrained_cfg: str | dict[str, Any]
    num_classes: int
    arguments: dict[str, Any]
    backbone: str | None
    classifier_sha256: str = ''
    released: bool = False

    def classifier_arguments(self, arguments: dict[str, Any], reset_head: bool) -> dict[str, Any]:
        """Return the arguments that load the classifier of a decoder-only file; a whole file needs no other weights.

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
        """Check that the classifier is the one with which the decoder was trained; other features give wrong maps.

        Raises:
            WeightsError: When the classifier differs from the recorded one.
        """
        if self.classifier_sha256 and digest(model.backbone.state_dict()) != self.classifier_sha256:
            raise WeightsError(
                f'{self.path.name} is the decoder of {self.backbone}, but other classifier weights were loaded: '
                f'give those of {self.backbone} as backbone_checkpoint'
            )


def release_source(
    entry: ReleaseEntry, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False
) -> WeightsSource:
    """Find the weights of a released model, and download them if needed.

    Raises:
        HubError: When the file cannot be downloaded.
        WeightsError: When the file is missing, truncated or altered.
    """
    name = ModelName.parse(entry.name)
    return WeightsSource(
        fetch_weights(entry, cache_dir, local_files_only),
        name.architecture,
        name.tag,
        entry.num_classes,
        {'num_classes': entry.num_classes, **entry.model_args},
        entry.backbone,
        entry.classifier_sha256,
        released=True,
    )


def folder_source(folder: Path) -> WeightsSource:
    """Verify a model folder. For a folder in the Hub's cache, the source records repository and commit."""
    config = verify_folder(folder)
    cfg = {key: value for key, value in asdict(config.pretrained_cfg).items() if value is not None}
    cfg['num_classes'] = config.num_classes
    if config.label_names is not None:
        cfg['label_names'] = config.label_names
    commit = commit_of(folder)
    place = {'source': 'local-dir', 'file': str(folder)}
    if commit:
        place = {'source': 'hf-hub', 'hf_hub_id': f'{repo_of(folder)}@{commit}'}
    return WeightsSource(
        folder / WEIGHTS,
        config.architecture,
        {**cfg, **place},
        config.num_classes,
        # Models of earlier versions do not record their decoder.
        {'decoder_type': 'unet', **config.model_args, 'num_classes': config.num_classes},
        config.model_args.get('backbone'),
    )
