"""MobileNet v1 of width 0.75 and 0.25 (Howard et al., 2017); timm has only widths of 1.0 and above.

The networks use timm's EfficientNet class with TensorFlow's 'same' padding and batch-norm epsilon, and timm's parameter
names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn as nn
from timm.layers import make_divisible
from timm.models import EfficientNet, build_model_with_cfg, generate_default_cfgs, register_model

# Of each stage: number of blocks, stride of the first block, output channels at width 1.0.
STAGES = ((1, 1, 64), (2, 2, 128), (2, 2, 256), (6, 2, 512), (2, 2, 1024))


CFG = {
    'url': '',
    'num_classes': 1000,
    'input_size': (3, 224, 224),
    'pool_size': (7, 7),
    'crop_pct': 0.875,
    'interpolation': 'bilinear',
    'mean': (0.5, 0.5, 0.5),
    'std': (0.5, 0.5, 0.5),
    'first_conv': 'conv_stem',
    'classifier': 'classifier',
    'license': 'apache-2.0',
}
default_cfgs = generate_default_cfgs({'mobilenetv1_075.tf_in1k': CFG, 'mobilenetv1_025.tf_in1k': CFG})


def _create_mobilenetv1(variant: str, width: float, pretrained: bool, **kwargs: Any) -> EfficientNet:
    block = {
        'block_type': 'dsa',
        'dw_kernel_size': 3,
        'pw_kernel_size': 1,
        'noskip': True,
        'pw_act': True,
        'act_layer': None,
    }
    defaults = {
        'block_args': [
            [{**block, 'stride': stride if i == 0 else 1, 'out_chs': channels} for i in range(blocks)]
            for blocks, stride, channels in STAGES
        ],
        'num_features': 0,
        'stem_size': 32,
        'round_chs_fn': lambda channels: make_divisible(channels * width, 8, round_limit=0.9),
        'norm_layer': partial(nn.BatchNorm2d, eps=kwargs.pop('bn_eps', 1e-3)),
        'act_layer': nn.ReLU6,
        'pad_type': 'same',
    }
    return build_model_with_cfg(EfficientNet, variant, pretrained, **{**defaults, **kwargs})


@register_model
def mobilenetv1_075(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """MobileNet v1, width 0.75."""
    return _create_mobilenetv1('mobilenetv1_075', 0.75, pretrained, **kwargs)


@register_model
def mobilenetv1_025(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """MobileNet v1, width 0.25."""
    return _create_mobilenetv1('mobilenetv1_025', 0.25, pretrained, **kwargs)
