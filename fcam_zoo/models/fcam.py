"""F-CAM (Belharbi et al., WACV 2022): a classifier, its class maps, and a decoder that draws them at full size."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from timm.models import VGG

from .. import cams
from .._index import verify_release
from .._weights import read_weights
from ..cams.closed_form import has_closed_form, linear_weight
from ..errors import UnknownModelError, WeightsError
from .backbone import build_backbone, load_exactly
from .decoder import UnetDecoder
from .manners import TimmManners
from .pyramid import Encoding, Pyramid

# The paper's decoder for networks of its size, a lighter one for mobile networks.
LARGE_DECODER = (256, 128, 64, 32, 16)
LIGHT_DECODER = (128, 64, 32, 16, 8)
LIGHT_PARAMETERS = 12e6


class FCAMOutput(NamedTuple):
    """Output of FCAM.forward: class logits (B,K); map logits (B,2,H,W), channel 0 background, channel 1 foreground."""

    logits: torch.Tensor
    maps: torch.Tensor


class FCAM(TimmManners, nn.Module):
    """A timm classifier with a U-Net decoder on its feature pyramid.

    Args:
        backbone: timm name, or a timm classifier to wrap as it is.
        num_classes: K; None keeps that of the wrapped classifier, or 1000.
        in_chans: Channels of the image.
        output_stride: Stride of the last feature map, by taking strides out; None leaves the network's own.
        dilated: Reach output_stride by timm's dilation instead.
        decoder_channels: Of each decoder block; default by the size of the backbone.
        center: Two extra convolutions before the first decoder block; default: for VGG alone, as in the paper's nets.
        frozen: Start with the classifier frozen, as the decoder stage trains it.
        backbone_pretrained: Load timm's weights of the backbone (network or cache).
        backbone_checkpoint: Load a local safetensors file into the backbone instead.
        backbone_kwargs: Further arguments of the timm network.
        threshold: tau at which `localize` cuts the F-CAM, relative to its maximum; set from val by training.
        cache_dir: Folder of timm's downloads.

    Raises:
        UnknownModelError: For a backbone that timm does not know, or that cannot serve.
    """

    wrapped = False

    def __init__(
        self,
        backbone: str | nn.Module = 'resnet50',
        num_classes: int | None = None,
        in_chans: int = 3,
        output_stride: int | None = None,
        dilated: bool = False,
        decoder_channels: Sequence[int] | None = None,
        center: bool | None = None,
        frozen: bool = True,
        backbone_pretrained: bool = False,
        backbone_checkpoint: str | os.PathLike | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        threshold: float = 0.5,
        cache_dir: str | os.PathLike | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(num_classes, output_stride, dilated, backbone_kwargs)
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
        else:
            # How a given classifier was built is not known; saving finds out whether its name tells.
            self.wrapped = True
        self.backbone = backbone
        self.pyramid = Pyramid(backbone, in_chans)
        if output_stride not in (None, self.pyramid.output_stride):
            raise UnknownModelError(
                f'backbone {name!r} cannot have output_stride={output_stride}{" dilated" if dilated else ""}: '
                f'its last map keeps stride {self.pyramid.output_stride}'
            )
        self.num_classes = backbone.num_classes
        self.num_features = backbone.num_features
        self.in_chans = in_chans
        # One block a skip connection and one a remaining doubling.
        blocks = len(self.pyramid.channels) - 1 + max(1, round(math.log2(self.pyramid.first_stride)))
        if decoder_channels is None:
            large = sum(p.numel() for p in backbone.parameters()) > LIGHT_PARAMETERS
            decoder_channels = (LARGE_DECODER if large else LIGHT_DECODER)[:blocks]
        elif len(decoder_channels) > blocks:
            raise ValueError(
                f'decoder_channels has {len(decoder_channels)} blocks: after {blocks} of them the map is at '
                f'full resolution with {name!r}; leave the others out'
            )
        center = isinstance(backbone, VGG) if center is None else center
        self.decoder = UnetDecoder(self.pyramid.channels, decoder_channels, center).to(next(backbone.parameters()))
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
        """Run the classifier's body once: (B,C,H,W), normalised -> pyramid levels and explained features."""
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            return self.pyramid.encode(self.backbone, x)

    def classify(self, encoding: Encoding) -> torch.Tensor:
        """Logits (B,K) of an encoding."""
        return self.pyramid.head(self.backbone, encoding.features, encoding.prefix)

    def forward(self, x: torch.Tensor) -> FCAMOutput:
        """Classify and localize in one pass.

        Args:
            x: (B,C,H,W), normalised with `pretrained_cfg['mean']` and `['std']`; any size of at least 32 pixels, which
                a network of fixed input size sees resized.
        """
        encoding = self.encode(x)
        return FCAMOutput(self.classify(encoding), self.decoder(encoding.levels, tuple(x.shape[-2:])))

    def fcam(self, x: torch.Tensor) -> torch.Tensor:
        """The F-CAM: softmax of the foreground channel, (B,C,H,W) -> (B,H,W) in [0,1]; not min-max normalised."""
        return self.forward(x).maps.softmax(1)[:, 1]

    def cam(
        self,
        x: torch.Tensor,
        labels: torch.Tensor | None = None,
        method: str = 'cam',
        variant: str = 'published',
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The classifier's low-resolution class map, as WSOL methods score it.

        Args:
            x: (B,C,H,W), normalised.
            labels: Class to explain (B,); default: the predicted one.
            method: One of `cams.METHODS`.
            variant: Reading of the Grad-CAM++ formulas (see `cams.methods`).
            generator: Source of the noise of 'smoothgradcampp' behind a head without closed form.

        Returns:
            (B,H,W) in [0,1]: min-max normalised, then resized bilinearly; detached.
        """
        with torch.no_grad():
            encoding = self.encode(x)
            labels = self.classify(encoding).argmax(1) if labels is None else labels.to(x.device)
        return cams.resize(self.class_map(encoding, labels, method, variant, generator), tuple(x.shape[-2:]))

    def class_map(
        self,
        encoding: Encoding,
        labels: torch.Tensor,
        method: str = 'cam',
        variant: str = 'published',
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Min-max normalised class map (B,h,w) of an encoding, in closed form or by one backward pass of the head.

        Smooth Grad-CAM++ without a closed form runs the network again, on noisy images.
        """
        features = encoding.features.detach()
        if self.pyramid.linear_head and has_closed_form(method, variant):
            weight = linear_weight(self.backbone.get_classifier())
            return cams.normalize(cams.class_activation_map(features, weight, labels, method, variant=variant))
        whole = method == 'smoothgradcampp'
        tail = _Tail(self, None if whole else encoding)
        source = encoding.images if whole else features
        return cams.extract(
            tail, source, labels, method, tail.features, size=None, variant=variant, generator=generator
        )

    def load_weights(self, path: str | os.PathLike, reset_head: bool = False) -> None:
        """Load a safetensors file of the whole model, or of its decoder alone.

        Args:
            path: The file.
            reset_head: Keep the fresh head where the file's has another number of classes.

        Raises:
            WeightsError: When the file is damaged or does not fit; the message lists what differs.
        """
        path = Path(path)
        state, own = read_weights(path), self.state_dict()
        if not any(key.startswith('backbone.') for key in state):
            load_exactly(self.decoder, {k.removeprefix('decoder.'): v for k, v in state.items()}, path)
            return
        head = self.pretrained_cfg.get('classifier')
        heads = (head,) if isinstance(head, str) else tuple(head or ())
        for key in (f'{h}.{kind}' for h in heads for kind in ('weight', 'bias')):
            if key in state and key in own and len(state[key]) != len(own[key]):
                if not reset_head:
                    raise WeightsError(
                        f'{path.name} has {len(state[key])} classes, the model was asked for num_classes='
                        f'{self.num_classes}: leave num_classes out, or give reset_head=True to start with a fresh head'
                    )
                state[key] = own[key]
        load_exactly(self, state, path)

    def load_pretrained(self, path: str | os.PathLike) -> None:
        """Load a file of the weights folder, after its size and SHA-256 were checked; timm's helpers call this.

        Raises:
            WeightsError: When the file is missing, truncated, altered, not of the index, or does not fit.
        """
        self.load_weights(verify_release(path))


def _check_arguments(
    num_classes: int | None, output_stride: int | None, dilated: bool, backbone_kwargs: dict[str, Any] | None
) -> None:
    for what, value in (('num_classes', num_classes), ('output_stride', output_stride)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f'{what} is {value!r}: give a whole number of at least 1')
    if dilated and output_stride is None:
        raise ValueError('dilated=True needs output_stride: give 8 or 16')
    taken = {'num_classes', 'in_chans', 'output_stride', 'pretrained'} & (backbone_kwargs or {}).keys()
    if taken:
        raise ValueError(
            f'backbone_kwargs holds {", ".join(sorted(taken))}: give it as an argument of the F-CAM instead'
        )


class _Tail(nn.Module):
    """What comes after the explained features, behind an identity whose output stands for them.

    It takes these features where the tokens that go with them are given, else images.
    """

    def __init__(self, model: FCAM, encoding: Encoding | None) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.backbone, self.pyramid, self.encoding = model.backbone, model.pyramid, encoding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.encoding is None:
            _, x, prefix, _ = self.pyramid.encode(self.backbone, x)
        else:
            prefix = self.encoding.prefix
        return self.pyramid.head(self.backbone, self.features(x), prefix)


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
    first = next((m for m in classifier.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None:
        kwargs.setdefault('in_chans', first.in_channels)
    return FCAM(classifier, **kwargs)
