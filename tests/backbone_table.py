"""Table of the supported timm families; `python tests/backbone_table.py` writes it to docs/backbones.md."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import fcam_zoo
from fcam_zoo._io import write_text
from fcam_zoo.errors import UnknownModelError
from fcam_zoo.models.pyramid import Encoding

PAGE = Path(__file__).parents[1] / 'docs' / 'backbones.md'
BEGIN, END = '<!-- backbones: begin (python tests/backbone_table.py) -->', '<!-- backbones: end -->'
HEAD = (
    '| family | tried with | own stride | undilated strides | dilated 16 (timm) | images of 225, 299, 320x240 '
    '| class maps |\n'
    '|---|---|---|---|---|---|---|'
)
# The smallest member of each family.
FAMILIES = {
    'ResNet': 'resnet18',
    'ResNet, blur pooling': 'resnetblur18',
    'ResNetV2': 'resnetv2_50',
    'RegNet': 'regnetx_002',
    'RepVGG': 'repvgg_a0',
    'DenseNet': 'densenet121',
    'VGG': 'vgg11',
    'VGG, batch norm': 'vgg11_bn',
    'Inception v3': 'inception_v3',
    'Inception v4': 'inception_v4',
    'Xception': 'legacy_xception',
    'Xception, aligned': 'xception41',
    'MobileNet v1': 'mobilenetv1_025',
    'MobileNet v2': 'mobilenetv2_035',
    'MobileNet v3': 'mobilenetv3_small_050',
    'MixNet': 'mixnet_s',
    'EfficientNet': 'efficientnet_b0',
    'EfficientNet v2': 'tf_efficientnetv2_b0',
    'ConvNeXt': 'convnext_atto',
    'ConvNeXt v2': 'convnextv2_atto',
    'Swin': 'swin_tiny_patch4_window7_224',
    'Swin v2': 'swinv2_tiny_window8_256',
    'MaxViT': 'maxvit_rmlp_pico_rw_256',
    'ViT': 'vit_tiny_patch16_224',
    'DeiT': 'deit_tiny_patch16_224',
    'DeiT, distilled': 'deit_tiny_distilled_patch16_224',
    'EVA-02': 'eva02_tiny_patch14_224',
    'DLA': 'dla34',
    'CaiT': 'cait_xxs24_224',
    'LeViT': 'levit_128s',
}
# timm arguments that shrink a family whose smallest member is large, without changing its structure.
SMALLER = {
    'vgg11': {'mlp_ratio': 1 / 64},
    'vgg11_bn': {'mlp_ratio': 1 / 64},
}
SIZES = ((225, 225), (299, 299), (320, 240))


def build(backbone: str, **kwargs) -> fcam_zoo.FCAM:
    """A random F-CAM of 3 classes on a backbone."""
    torch.manual_seed(0)
    kwargs.setdefault('backbone_kwargs', SMALLER.get(backbone))
    return fcam_zoo.create_model('fcam', backbone=backbone, num_classes=3, **kwargs).eval()


def row(family: str) -> str:
    """Build and run models of a family, and return its line of the table.

    Raises:
        AssertionError: When a model that could be built gives wrong shapes or strides.
    """
    name = FAMILIES[family]
    try:
        model = build(name)
    except UnknownModelError as e:
        return f'| {family} | `{name}` | refused: {_reason(e)} | | | | |'
    for size in SIZES:
        encoding = _check(model, size)
    # `encode` and `classify` together equal the network.
    with torch.no_grad():
        torch.testing.assert_close(model.classify(encoding), model.backbone(encoding.images), rtol=1e-3, atol=1e-4)
    own = model.pyramid.output_stride
    strides = [s for s in (8, 16, 32) if _strides(name, s, dilated=False)]
    dilated = _strides(name, 16, dilated=True)
    fixed, multiple = model.pyramid.fixed_size, model.pyramid.multiple
    sizes = 'not resized' if multiple == 1 else f'resized to multiples of {multiple}'
    sizes = f'resized to {fixed[0]}x{fixed[1]}' if fixed else sizes
    maps = 'closed form' if model.pyramid.linear_head else 'gradient of the head'
    return (
        f'| {family} | `{name}` | {own} | {", ".join(map(str, strides)) or "-"} | '
        f'{"yes" if dilated else "-"} | {sizes} | {maps} |'
    )


def _strides(name: str, stride: int, dilated: bool) -> bool:
    try:
        model = build(name, output_stride=stride, dilated=dilated)
    except UnknownModelError:
        return False
    width = (model.pyramid.fixed_size or (0, 128))[1]
    cells = _check(model, (97, 128)).features.shape[-1]
    # Valid padding costs a few cells.
    assert width // stride - 3 <= cells <= width // stride, (name, stride, cells)
    convolutions = [m for m in model.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert dilated or all(m.dilation == (1, 1) for m in convolutions), name
    return True


@torch.no_grad()
def _check(model: fcam_zoo.FCAM, size: tuple[int, int]) -> Encoding:
    """Run a model and check shapes and ranges of its map and class map; return the encoding."""
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    encoding = model.encode(x)
    assert model.decoder(encoding.levels, size).shape == (1, 2, *size)
    cam = model.class_map(encoding, torch.tensor([1]), 'gradcampp')
    assert cam.shape == (1, *encoding.features.shape[-2:])
    assert 0 <= cam.min() <= cam.max() <= 1 + 1e-6
    return encoding


def _reason(error: Exception) -> str:
    return re.sub(r'\s+', ' ', str(error)).replace('|', '\\|')


def render(text: str) -> str:
    """Return the page with a new table."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f'{before}{BEGIN}\n{HEAD}\n' + '\n'.join(row(family) for family in FAMILIES) + f'\n{END}{after}'


if __name__ == '__main__':
    write_text(PAGE, render(PAGE.read_text(encoding='utf-8')))
