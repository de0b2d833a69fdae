"""F-CAM (Belharbi et al., WACV 2022): a classifier, its class maps, and a decoder for full-resolution maps."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn as nn
from timm.models import VGG

from .. import cams, wsol
from .._checks import as_count, check_generator, check_tensor
from .._schema import show
from .._weights import read_shapes, read_weights
from ..cams.closed_form import has_closed_form, linear_weight
from ..errors import UnknownModelError
from .backbone import (
    build_backbone,
    check_num_classes,
    check_shapes,
    head_parameters,
    load_finite,
    shapes_of,
)
from .config import MAX_CLASSES, FCAMConfig
from .decoder import UnetDecoder
from .fpn_decoder import FpnDecoder
from .pretrained_cfg import prefixed
from .pyramid import Encoding, Pyramid, TimmClassifier
from .timm_mixin import TimmModelMixin

# Channels of the U-Net decoder: those of the paper, and fewer for backbones with fewer parameters than
# LIGHT_PARAMETERS. The FPN decoder has the last of FPN_CHANNELS, one for each level.
LARGE_DECODER = (256, 128, 64, 32, 16)
LIGHT_DECODER = (128, 64, 32, 16, 8)
LIGHT_PARAMETERS = 12e6
FPN_CHANNELS = (96, 64, 48, 32, 24, 16)


class FCAMOutput(NamedTuple):
    """Output of FCAM.forward: class logits (B,K); map logits (B,2,H,W), channel 0 background, channel 1 foreground."""

    logits: torch.Tensor
    maps: torch.Tensor


class FCAM(TimmModelMixin, nn.Module):
    """A timm classifier with a decoder on its feature pyramid.

    Args:
        backbone: timm name, or a timm classifier to wrap unchanged.
        **arguments: The other fields of `FCAMConfig`.

    Raises:
        UnknownModelError: For a backbone that timm does not have or that is not supported.
        ValueError: For an argument of the wrong type or out of range.
    """

    _model_args: dict[str, Any]

    def __init__(self, backbone: str | nn.Module = 'resnet50', **arguments: Any) -> None:
        super().__init__()
        # The arguments of a wrapped classifier are unknown, so saving checks that its name builds the same network.
        self.wrapped = isinstance(backbone, nn.Module)
        config = FCAMConfig(_name_of(backbone), **arguments)
        self.backbone = cast(TimmClassifier, backbone) if self.wrapped else build_backbone(config)
        self.pyramid = Pyramid(self.backbone, config.in_chans)
        if config.output_stride not in (None, self.pyramid.output_stride):
            raise UnknownModelError(
                f'backbone {config.backbone!r} cannot have output_stride={config.output_stride}'
                f'{" dilated" if config.dilated else ""}: its last map keeps stride {self.pyramid.output_stride}'
            )
        self.num_classes = self.backbone.num_classes
        self.num_features = self.backbone.num_features
        self.in_chans = config.in_chans
        self.config = self._with_defaults(config)
        self.frozen = False
        self.decoder = self._new_decoder().to(next(self.backbone.parameters()))
        self.method = self._new_method(self.config)
        self._initial_head = self.decoder.head.weight.detach().clone()
        self.pretrained_cfg = self.default_cfg = prefixed(getattr(self.backbone, 'pretrained_cfg', None) or {})
        self.threshold, self.cam_variant = config.threshold, config.cam_variant
        if config.frozen:
            self.freeze()

    def _with_defaults(self, config: FCAMConfig) -> FCAMConfig:
        """Set the arguments of the decoder that are left out; raise ValueError for those that do not fit."""
        levels, given = len(self.pyramid.channels), config.decoder_channels
        if config.decoder_type == 'fpn':
            if config.center:
                raise ValueError("center is an argument of the unet decoder: leave it out with decoder_type='fpn'")
            return replace(config, decoder_channels=list(given or FPN_CHANNELS[-levels:]), center=False)
        # One block per skip connection, and one per remaining doubling up to full resolution.
        most = levels - 1 + max(1, round(math.log2(self.pyramid.first_stride)))
        if given and len(given) > most:
            raise ValueError(
                f'decoder_channels has {len(given)} blocks: with {config.backbone!r} the map is at full resolution '
                f'after {most} of them; remove the others'
            )
        large = sum(p.numel() for p in self.backbone.parameters()) > LIGHT_PARAMETERS
        default = (LARGE_DECODER if large else LIGHT_DECODER)[:most]
        center = isinstance(self.backbone, VGG) if config.center is None else config.center
        return replace(config, decoder_channels=list(given or default), center=center)

    def _new_decoder(self) -> UnetDecoder | FpnDecoder:
        levels, channels = self.pyramid.channels, self.config.decoder_channels or ()
        if self.config.decoder_type == 'fpn':
            return FpnDecoder(levels, channels)
        return UnetDecoder(levels, channels, bool(self.config.center))

    def _new_method(self, config: FCAMConfig, num_classes: int | None = None) -> wsol.WSOLMethod:
        network = replace(self._network(), num_classes=num_classes or self.num_classes)
        return wsol.create_method(config.method, network).to(next(self.backbone.parameters()))

    def _network(self) -> wsol.Network:
        return wsol.Network(
            self.backbone,
            'NLC' if self.pyramid.tokens else 'NHWC' if self.pyramid.channels_last else 'NCHW',
            self.num_classes,
            self.in_chans,
            self.pyramid.channels,
            self.num_features,
            self.pyramid.linear_head,
            self.encode,
            self._head,
        )

    def set_method(self, method: str | dict[str, Any] | None) -> None:
        """Give the classifier another training method, with fresh weights (see `FCAMConfig.method`).

        Raises:
            ValueError: For an unknown method or setting; the model is unchanged then.
            UnknownModelError: When the backbone does not fit the method; the model is unchanged then.
        """
        config = replace(self.config, method=method)
        self._use_method(config, self._new_method(config))

    def _use_method(self, config: FCAMConfig, new: wsol.WSOLMethod) -> None:
        self.method.remove_hooks()
        self.config, self.method = config, new
        self.freeze() if self.frozen else self.unfreeze()

    @property
    def linear_head(self) -> bool:
        """Whether the logits are a linear layer of the mean features, so that class maps have a closed form."""
        return self.pyramid.linear_head and not self.method.own_head

    @property
    def model_args(self) -> dict[str, Any]:
        """Return the arguments that build the same network again, with the current threshold and variant."""
        return replace(self.config, threshold=self.threshold, cam_variant=self.cam_variant).to_dict()

    @property
    def is_untrained(self) -> bool:
        """Return whether the last layer of the decoder has the random weights with which it was created."""
        if self._initial_head.is_meta:
            return False
        weight = self.decoder.head.weight.detach().cpu()
        return torch.equal(weight, self._initial_head.to(weight))

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None, method: str | dict[str, Any] | None = None
    ) -> None:
        """Give the classifier a fresh head of `num_classes` classes, as timm's models do.

        Args:
            num_classes: Number of classes.
            global_pool: Another pooling, as in timm.
            method: Another training method, with fresh weights; None for the current one, which gets fresh weights if
                it has its own head.

        Raises:
            ValueError: When the settings of the method do not fit the classes, such as `parents` of DANet, which has
                one entry for each class: give `method` with others. The model is unchanged then.
            UnknownModelError: When the backbone does not fit the method; the model is unchanged then.
        """
        num_classes = as_count(num_classes, 'num_classes', 1, MAX_CLASSES)
        config = self.config if method is None else replace(self.config, method=method)
        # Before the head is replaced, since the method may not fit.
        changes = config.method != self.config.method or self.method.own_head
        new = self._new_method(config, num_classes) if changes else None
        self.backbone.reset_classifier(num_classes, global_pool)
        self.num_classes = num_classes
        self.pyramid = Pyramid(self.backbone, self.in_chans)
        if new is not None:
            self._use_method(config, new)
        self.method.network = self._network()
        self.drop_stale_label_names()

    def drop_stale_label_names(self) -> None:
        """Drop label_names whose count no longer matches num_classes."""
        if len(self.pretrained_cfg.get('label_names') or ()) != self.num_classes:
            self.pretrained_cfg.pop('label_names', None)

    def freeze(self) -> FCAM:
        """Freeze the classifier: no gradients, and batch norm and dropout in eval mode even after `train()`."""
        self.frozen = True
        for part in (self.backbone, self.method):
            part.requires_grad_(False).eval()
        return self

    def unfreeze(self) -> FCAM:
        """Make the classifier trainable again."""
        self.frozen = False
        for part in (self.backbone, self.method):
            part.requires_grad_(True).train(self.training)
        return self

    def train(self, mode: bool = True) -> FCAM:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
            self.method.eval()
        return self

    def encode(self, x: torch.Tensor) -> Encoding:
        """Run the classifier without its head on images (B,C,H,W), normalized."""
        self._check_images(x)
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            return self.pyramid.encode(self.backbone, x)

    def _check_images(self, x: torch.Tensor) -> None:
        """Check images in Python; not while the network is traced or compiled."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        check_tensor(x, 'images', '(B,C,H,W)', 'float')
        own = next(self.parameters())
        if x.shape[1] != self.in_chans or not x.numel():
            raise ValueError(f'images have the shape {tuple(x.shape)}: this model takes (B,{self.in_chans},H,W)')
        if x.device != own.device or (x.dtype != own.dtype and not torch.is_autocast_enabled(x.device.type)):
            raise ValueError(
                f'images are {x.dtype} on {x.device}, the model is {own.dtype} on {own.device}: convert one of them '
                'with .to(...)'
            )

    def classify(self, encoding: Encoding) -> torch.Tensor:
        """Compute the logits (B,K) of an encoding."""
        return self.method.logits(encoding) if self.method.own_head else self._head(encoding)

    def _head(self, encoding: Encoding) -> torch.Tensor:
        return self.pyramid.head(self.backbone, encoding.features, encoding.prefix)

    def forward(self, x: torch.Tensor) -> FCAMOutput:
        """Classify and localize in one pass.

        Args:
            x: (B,C,H,W), normalized with `pretrained_cfg['mean']` and `['std']`. Any size of at least 32 pixels;
                networks with a fixed input size resize it.

        Raises:
            TypeError: If x is not a floating-point tensor.
            ValueError: If it has another shape, type or device than the model, or is too small.
        """
        encoding = self.encode(x)
        return FCAMOutput(self.classify(encoding), self.decoder(encoding.levels, tuple(x.shape[-2:])))

    def fcam(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the F-CAM, the foreground probability: (B,C,H,W) -> (B,H,W) in [0,1]; not min-max normalized."""
        return self.forward(x).maps.softmax(1)[:, 1]

    def cam(
        self,
        x: torch.Tensor,
        labels: torch.Tensor | Sequence[int] | int | None = None,
        method: str = 'cam',
        variant: str | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Compute the class map of the classifier, resized to the images, as WSOL benchmarks score it.

        Args:
            x: (B,C,H,W), normalized.
            labels: Class to explain: integers (B,), or one for all images; default: the predicted one.
            method: One of `cams.METHODS`; 'cam' is the own map of a training method that has one (see `wsol`).
            variant: Variant of the Grad-CAM++ formulas (see `cams.methods`); default: that of the model.
            generator: Source of the noise of 'smoothgradcampp' if the head has no closed form.

        Returns:
            (B,H,W) in [0,1]: min-max normalized, then resized bilinearly; detached.

        Raises:
            TypeError: If x or labels are not tensors of the right type.
            ValueError: As `forward`; for an unknown method, or labels that are not one class per image.
        """
        cams.check_method(method, self.cam_variant if variant is None else variant)
        check_generator(generator)
        with torch.no_grad():
            encoding = self.encode(x)
            explained = self.classify(encoding).argmax(1) if labels is None else cams.as_labels(labels, len(x))
        height, width = x.shape[-2:]
        maps = self.class_map(encoding, explained.to(x.device), method, variant, generator)
        return cams.resize(maps, (height, width))

    def class_map(
        self,
        encoding: Encoding,
        labels: torch.Tensor,
        method: str = 'cam',
        variant: str | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Compute the class map (B,h,w) of an encoding, min-max normalized.

        It has a closed form behind a linear head; otherwise it takes one backward pass of the head. 'cam' is the own
        map of the classifier's training method, if it has one.
        Smooth Grad-CAM++ without a closed form runs the network again on noisy images.
        """
        if method == 'cam' and self.method.own_map:
            return cams.normalize(self.method.class_map(encoding, labels).detach())
        features, variant = encoding.features.detach(), self.cam_variant if variant is None else variant
        if self.linear_head and has_closed_form(method, variant):
            weight = cast(torch.Tensor, linear_weight(self.backbone.get_classifier()))
            return cams.normalize(cams.class_activation_map(features, weight, labels, method, variant=variant))
        whole = method == 'smoothgradcampp'
        tail = _Tail(self, None if whole else encoding)
        source = encoding.images if whole else features
        return cams.extract(
            tail, source, labels, method, tail.features, size=None, variant=variant, generator=generator
        )

    def load_weights(self, path: str | os.PathLike, reset_head: bool = False) -> None:
        """Load a safetensors file of the whole model or of its decoder.

        Args:
            path: The file.
            reset_head: Keep the model's own head if that of the file has another number of classes.

        Raises:
            TypeError: For a path of another type.
            FileNotFoundError: When the file does not exist.
            WeightsError: When the file is damaged, holds NaN or infinite values, or does not fit; the message lists the
                differences. The model is unchanged then.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f'path is {show(path)}: give the path of a safetensors file')
        path = Path(path)
        kept = self.check_weights(path, reset_head)
        load_finite(self, {key: value for key, value in read_weights(path).items() if key not in kept}, path)

    def check_weights(self, path: Path, reset_head: bool = False) -> set[str]:
        """Check from the header of a safetensors file that `load_weights` can load it; also on the meta device.

        Returns:
            The parameters of the head that keep their values because of `reset_head`.

        Raises:
            WeightsError: When the file is damaged or does not fit; the message lists the differences.
        """
        found, own, kept = read_shapes(path), shapes_of(self), set()
        if not any(key.startswith('backbone.') for key in found):
            own = {key: shape for key, shape in own.items() if key.startswith('decoder.')}
        own_head = [key for key in own if key.startswith('method.')] if self.method.own_head else []
        for key in (*head_parameters(self.pretrained_cfg), *own_head):
            if key in found and key in own and found[key][:1] != own[key][:1]:
                check_num_classes(path, next(iter(found[key]), 0), self.num_classes, reset_head)
                kept.add(key)
        check_shapes({**found, **{key: own[key] for key in kept}}, own, type(self).__name__, path)
        return kept


def _name_of(backbone: str | nn.Module) -> str:
    """Return the timm name of a backbone; for a wrapped classifier that does not record it, its class name."""
    if isinstance(backbone, str):
        return backbone
    cfg = getattr(backbone, 'pretrained_cfg', None)
    name = cfg.get('architecture') if isinstance(cfg, dict) else None
    return name if isinstance(name, str) and name else type(backbone).__name__


class _Tail(nn.Module):
    """The part of the network after the explained features, behind an identity layer that outputs them.

    Its input is the features of the given encoding, or images if there is none.
    """

    def __init__(self, model: FCAM, encoding: Encoding | None) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.backbone, self.method = model.backbone, model.method
        self.pyramid, self.classify, self.encoding = model.pyramid, model.classify, encoding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoding = self.encoding
        if encoding is None:
            encoding = self.pyramid.encode(self.backbone, x)
            x = encoding.features
        return self.classify(encoding._replace(features=self.features(x)))
