"""F-CAM (Belharbi et al., WACV 2022): a classifier, its class maps, and a decoder that draws them at full size."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from safetensors.torch import load_file

from .. import cams
from .._index import verify_release
from ..errors import UnknownModelError, WeightsError
from .backbone import Pyramid, build_backbone, load_exactly
from .decoder import UnetDecoder

# The paper's decoder for networks of its size, a lighter one for mobile networks.
LARGE_DECODER = (256, 128, 64, 32, 16)
LIGHT_DECODER = (128, 64, 32, 16, 8)
LIGHT_PARAMETERS = 12e6


class FCAMOutput(NamedTuple):
    """Output of FCAM.forward: class logits (B,K); map logits (B,2,H,W), channel 0 background, channel 1 foreground."""

    logits: torch.Tensor
    maps: torch.Tensor


class Encoding(NamedTuple):
    """One pass of the classifier: pyramid levels from high to low resolution, and the map that its head pools."""

    levels: list[torch.Tensor]
    features: torch.Tensor


class FCAM(nn.Module):
    """A timm classifier with a U-Net decoder on its feature pyramid.

    Args:
        backbone: timm name, or a timm classifier to wrap as it is.
        num_classes: K; None keeps that of the wrapped classifier, or 1000.
        in_chans: Channels of the image.
        output_stride: Stride of the last feature map, by taking strides out; None leaves the network's own.
        dilated: Reach output_stride by timm's dilation instead.
        decoder_channels: Of each decoder block; default by the size of the backbone.
        center: Two extra convolutions before the first decoder block.
        frozen: Start with the classifier frozen, as the decoder stage trains it.
        backbone_pretrained: Load timm's weights of the backbone (network or cache).
        backbone_checkpoint: Load a local safetensors file into the backbone instead.
        backbone_kwargs: Further arguments of the timm network.
        threshold: tau at which `localize` cuts the F-CAM, relative to its maximum; set from val by training.
        cache_dir: Folder of timm's downloads.

    Raises:
        UnknownModelError: For a backbone that timm does not know, or that cannot serve.
    """

    def __init__(
        self,
        backbone: str | nn.Module = 'resnet50',
        num_classes: int | None = None,
        in_chans: int = 3,
        output_stride: int | None = None,
        dilated: bool = False,
        decoder_channels: Sequence[int] | None = None,
        center: bool = False,
        frozen: bool = True,
        backbone_pretrained: bool = False,
        backbone_checkpoint: str | os.PathLike | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        threshold: float = 0.5,
        cache_dir: str | os.PathLike | None = None,
    ) -> None:
        super().__init__()
        name = backbone if isinstance(backbone, str) else (backbone.pretrained_cfg or {}).get('architecture')
        if isinstance(backbone, str):
            backbone = build_backbone(
                backbone,
                1000 if num_classes is None else num_classes,
                in_chans,
                output_stride,
                dilated,
                backbone_pretrained,
                backbone_checkpoint,
                cache_dir,
                **(backbone_kwargs or {}),
            )
        self.backbone = backbone
        self.pyramid = Pyramid(backbone, in_chans)
        self.num_classes = backbone.num_classes
        self.num_features = backbone.num_features
        self.in_chans = in_chans
        if decoder_channels is None:
            large = sum(p.numel() for p in backbone.parameters()) > LIGHT_PARAMETERS
            decoder_channels = LARGE_DECODER if large else LIGHT_DECODER
            # One block a skip connection and one a remaining doubling.
            decoder_channels = decoder_channels[: len(self.pyramid.channels) - 1 + self._doublings()]
        self.decoder = UnetDecoder(self.pyramid.channels, decoder_channels, center)
        self.pretrained_cfg = self.default_cfg = prefixed(getattr(backbone, 'pretrained_cfg', None) or {})
        self.threshold = threshold
        # What config.json needs to build the same model again.
        self.model_args = {
            'backbone': name,
            'threshold': threshold,
            'output_stride': output_stride,
            'dilated': dilated,
            'in_chans': in_chans,
            'decoder_channels': list(decoder_channels),
            'center': center,
        }
        if backbone_kwargs:
            self.model_args['backbone_kwargs'] = dict(backbone_kwargs)
        self.frozen = False
        if frozen:
            self.freeze()

    def _doublings(self) -> int:
        return max(1, self.pyramid.first_stride.bit_length() - 1)

    def freeze(self) -> FCAM:
        """Freeze the classifier: no gradients, and batch norm and dropout in eval mode even after `train()`."""
        self.frozen = True
        self.backbone.requires_grad_(False).eval()
        return self

    def unfreeze(self) -> FCAM:
        """Let the classifier train again."""
        self.frozen = False
        self.backbone.requires_grad_(True).train(self.training)
        return self

    def train(self, mode: bool = True) -> FCAM:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, x: torch.Tensor) -> Encoding:
        """Run the classifier's body once: (B,C,H,W), normalised -> pyramid levels and last features."""
        guard = torch.no_grad() if self.frozen else contextlib.nullcontext()
        with guard:
            features, levels = self.backbone.forward_intermediates(x, indices=self.pyramid.indices)
        return Encoding(levels, features)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (B,K) of the last features."""
        return self.backbone.forward_head(features)

    def forward(self, x: torch.Tensor) -> FCAMOutput:
        """Classify and localize in one pass.

        Args:
            x: (B,C,H,W), normalised with `pretrained_cfg['mean']` and `['std']`; any size of at least 32 pixels.
        """
        levels, features = self.encode(x)
        return FCAMOutput(self.classify(features), self.decoder(levels, tuple(x.shape[-2:])))

    def fcam(self, x: torch.Tensor) -> torch.Tensor:
        """The F-CAM: softmax of the foreground channel, (B,C,H,W) -> (B,H,W) in [0,1]; not min-max normalised."""
        return self.forward(x).maps.softmax(1)[:, 1]

    def cam(self, x: torch.Tensor, labels: torch.Tensor | None = None, method: str = 'cam') -> torch.Tensor:
        """The classifier's low-resolution class map, as WSOL methods score it.

        Args:
            x: (B,C,H,W), normalised.
            labels: Class to explain (B,); default: the predicted one.
            method: One of `cams.METHODS`.

        Returns:
            (B,H,W) in [0,1]: min-max normalised, then resized bilinearly; detached.
        """
        with torch.no_grad():
            _, features = self.encode(x)
            labels = self.classify(features).argmax(1) if labels is None else labels.to(x.device)
        return cams.resize(self.class_map(features, labels, method), tuple(x.shape[-2:]))

    def class_map(self, features: torch.Tensor, labels: torch.Tensor, method: str = 'cam') -> torch.Tensor:
        """Min-max normalised class map (B,h,w) of the last features; no pass of the backbone."""
        features = features.detach()
        if self.pyramid.linear_head:
            weight = self.backbone.get_classifier().weight.detach()
            return cams.normalize(cams.class_activation_map(features, weight, labels, method))
        head = _Head(self.backbone)
        return cams.extract(head, features, labels, method, layer=head.features, size=None)

    def load_pretrained(self, path: str | os.PathLike) -> None:
        """Load a released weight file, after its size and SHA-256 were checked; timm calls this.

        Raises:
            WeightsError: When the file is missing, truncated, altered, not of the index, or does not fit.
        """
        state = load_file(verify_release(path))
        head = state.get(f'{self.pretrained_cfg["classifier"]}.weight')
        if head is not None and len(head) != self.num_classes:
            raise WeightsError(
                f'{Path(path).name} has {len(head)} classes, the model was asked for num_classes={self.num_classes}: '
                f'create it without num_classes, then call reset_classifier({self.num_classes}) to train a new head'
            )
        load_exactly(self, state, path)

    def get_classifier(self) -> nn.Module:
        return self.backbone.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the classifier a fresh head, as timm's models do."""
        self.backbone.reset_classifier(num_classes, global_pool)
        self.num_classes = num_classes
        self.pyramid.linear_head = Pyramid(self.backbone, self.in_chans).linear_head


class _Head(nn.Module):
    """The head alone, behind an identity whose output stands for the last features."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.backbone = backbone

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.backbone.forward_head(self.features(features))


# Direct resize to the input size, as WSOL evaluation does (F-CAM, Sec. 4.1).
INPUT_CFG = {
    'input_size': (3, 224, 224),
    'fixed_input_size': False,
    'interpolation': 'bilinear',
    'crop_pct': 1.0,
    'crop_mode': 'squash',
}


def prefixed(cfg: dict[str, Any]) -> dict[str, Any]:
    """pretrained_cfg of an F-CAM, from that of its backbone: its statistics, its layers under `backbone.`."""
    keys = ('mean', 'std', 'num_classes', 'pool_size', 'first_conv', 'classifier', 'license')
    kept = {k: cfg[k] for k in keys if cfg.get(k) is not None}
    for key in ('first_conv', 'classifier'):
        if isinstance(kept.get(key), str):
            kept[key] = f'backbone.{kept[key]}'
    return {**kept, **INPUT_CFG}


def wrap(classifier: nn.Module, **kwargs: Any) -> FCAM:
    """Put a fresh decoder on a trained timm classifier, whose weights and head stay as they are.

    Args:
        classifier: A timm model with a classification head.
        **kwargs: decoder_channels, center, frozen, threshold, in_chans of `FCAM`.

    Raises:
        UnknownModelError: When it is no timm classifier.
        ValueError: For an argument that would change the classifier.
    """
    if not isinstance(classifier, nn.Module) or not getattr(classifier, 'num_classes', 0):
        raise UnknownModelError('wrap() takes a timm classifier with num_classes > 0, e.g. timm.create_model(...)')
    unfit = sorted(kwargs.keys() - {'decoder_channels', 'center', 'frozen', 'threshold', 'in_chans'})
    if unfit:
        raise ValueError(f'wrap() keeps the classifier as it is: {", ".join(unfit)} cannot be given; use create_model')
    if not getattr(classifier, 'pretrained_cfg', None):
        raise UnknownModelError(f'{type(classifier).__name__} has no pretrained_cfg: wrap() takes models of timm')
    return FCAM(classifier, **kwargs)
