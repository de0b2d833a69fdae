"""VGG16 and Inception v3 of the WSOL literature (F-CAM, Sec. 4.1; Choe et al., CVPR 2020), which keep large maps.

They are timm's networks without the late strides, with one (VGG16) or two (Inception v3) additional convolutions, and
with average pooling and one linear layer as the head. (The third network of the paper, ResNet50, is timm's without its
last two strides.) Layers shared with timm's networks keep their names, so that timm's pretrained weights load.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, create_classifier
from timm.models import VGG, InceptionV3, build_model_with_cfg, generate_default_cfgs, register_model

from .stride import StridedLayer, remove_strides

CAM_CHANNELS = 1024


class _WsolNet(nn.Module):
    """A network that loads the weights of timm's original one into the layers that both have."""

    own_layers: tuple[str, ...]

    def fit_checkpoint(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Adapt a state dict of the original network: `own_layers` that do not fit keep their weights."""
        fitted = {}
        for key, value in self.state_dict().items():
            own = key.startswith(self.own_layers)
            if key in state and not (own and state[key].shape != value.shape):
                fitted[key] = state[key]
            elif own:
                fitted[key] = value
        return fitted


class WsolVGG16(_WsolNet, VGG):
    """VGG16 without its last two pools and fully connected layers, with one additional convolution.

    Features (B,1024,H/8,W/8): 28x28 at 224 pixels.
    """

    own_layers = ('features.30.', 'head.')

    def __init__(
        self, num_classes: int = 1000, global_pool: str = 'avg', drop_rate: float = 0.0, **kwargs: Any
    ) -> None:
        layers = [64, 64, 'M', 128, 128, 'M', 256, 256, 256, 'M', *[512] * 3, 'M', *[512] * 3, 'M']
        # timm's fully connected layers are removed below; mlp_ratio makes them tiny, to save time.
        super().__init__(layers, num_classes=0, mlp_ratio=1 / 4096, **kwargs)
        self.add_module('pre_logits', nn.Identity())
        pools = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)]
        self.features[pools[3]] = nn.Identity()
        # The extra convolution, "conv6" of the published code, replaces the last pool.
        self.features[pools[4]] = _extra_convolution(512)
        self.features.append(nn.ReLU(inplace=True))
        # The levels are the maps before the first three pools, and the last map.
        last = len(self.features) - 1
        self.feature_info = [
            *self.feature_info[:3],
            {'num_chs': CAM_CHANNELS, 'reduction': 8, 'module': f'features.{last}'},
        ]
        self.feature_ends = [*self.feature_ends[:3], last]
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.num_features = self.head_hidden_size = CAM_CHANNELS
        self.head = ClassifierHead(CAM_CHANNELS, num_classes, pool_type=global_pool, drop_rate=drop_rate)


class WsolInceptionV3(_WsolNet, InceptionV3):
    """Inception v3 up to Mixed_6e at stride 8 with padded 3x3 convolutions, then two dropout + convolution blocks.

    Features (B,1024,29,29) at 224 pixels, because the padded pools round up.
    """

    own_layers = ('extra1.', 'extra2.', 'fc.')

    def __init__(
        self, num_classes: int = 1000, global_pool: str = 'avg', drop_rate: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(num_classes=0, **kwargs)
        for name in ('Mixed_7a', 'Mixed_7b', 'Mixed_7c'):
            self.add_module(name, nn.Identity())
        strided = [StridedLayer(f'Mixed_6a.{name}', 2, 8) for name in ('branch3x3.conv', 'branch3x3dbl_3.conv')]
        remove_strides(self, [*strided, StridedLayer('Mixed_6a', 2, 8)], 8)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)):
            conv.padding = (1, 1)
        for pool in (self.Pool1, self.Pool2):
            pool.padding, pool.ceil_mode = 1, True
        self.extra1, self.extra2 = _extra_block(768), _extra_block(CAM_CHANNELS)
        taps = {'Conv2d_2b_3x3': (64, 2), 'Conv2d_3b_1x1': (80, 4), 'Mixed_5c': (288, 8), 'Mixed_6e': (768, 8)}
        taps['extra2'] = (CAM_CHANNELS, 8)
        self.layer_names = [name for name in self.layer_names if not name.startswith('Mixed_7')] + ['extra1', 'extra2']
        self.feature_info = [{'num_chs': c, 'reduction': r, 'module': name} for name, (c, r) in taps.items()]
        self.feature_ends = [self.layer_names.index(name) for name in taps]
        self.num_classes, self.num_features = num_classes, CAM_CHANNELS
        self.global_pool, self.head_drop, self.fc = create_classifier(
            CAM_CHANNELS, num_classes, pool_type=global_pool, drop_rate=drop_rate
        )
        self.head_hidden_size = CAM_CHANNELS

    def forward_postaux(self, x: torch.Tensor) -> torch.Tensor:
        return self.extra2(self.extra1(x))


def _extra_convolution(in_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, CAM_CHANNELS, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
    nn.init.zeros_(conv.get_parameter('bias'))
    return conv


def _extra_block(in_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.5), _extra_convolution(in_channels), nn.ReLU(inplace=True))


def _cfg(source: str, **kwargs: Any) -> dict[str, Any]:
    # The published code uses ImageNet's mean and standard deviation for all networks, including Inception.
    return {
        'hf_hub_id': source,
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (28, 28),
        'crop_pct': 0.875,
        'interpolation': 'bilinear',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'license': 'bsd-3-clause',
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        'vgg16_wsol.tv_in1k': _cfg('timm/vgg16.tv_in1k', first_conv='features.0', classifier='head.fc'),
        'inception_v3_wsol.tv_in1k': _cfg(
            'timm/inception_v3.tv_in1k', first_conv='Conv2d_1a_3x3.conv', classifier='fc', pool_size=(29, 29)
        ),
    }
)


def _create(net: type[WsolVGG16 | WsolInceptionV3], variant: str, pretrained: bool, **kwargs: Any) -> Any:
    return build_model_with_cfg(
        net,
        variant,
        pretrained,
        pretrained_filter_fn=lambda state, model: model.fit_checkpoint(state),
        feature_cfg={'feature_cls': 'getter'},
        **kwargs,
    )


@register_model
def vgg16_wsol(pretrained: bool = False, **kwargs: Any) -> WsolVGG16:
    """VGG16 of the WSOL literature, stride 8."""
    return _create(WsolVGG16, 'vgg16_wsol', pretrained, **kwargs)


@register_model
def inception_v3_wsol(pretrained: bool = False, **kwargs: Any) -> WsolInceptionV3:
    """Inception v3 of the WSOL literature, stride 8."""
    return _create(WsolInceptionV3, 'inception_v3_wsol', pretrained, **kwargs)
