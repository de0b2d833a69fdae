"""The paper's three networks: sizes, shapes, names, and timm's weights in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn as nn
from safetensors.torch import save_file

import fcam_zoo
from fcam_zoo import cams
from fcam_zoo.errors import WeightsError
from fcam_zoo.hub.torch_hub import entry_points

# Golden name; channels and side of each level at 224 pixels; sides before the last resize at 225, 299, 321 pixels.
NETS = {
    'fcam_resnet50': ('resnet50', [(64, 112), (256, 56), (512, 28), (1024, 28), (2048, 28)], (226, 300, 322)),
    'fcam_vgg16': ('vgg16', [(128, 112), (256, 56), (1024, 28)], (224, 298, 320)),
    'fcam_inception_v3': ('inceptionv3', [(64, 112), (80, 57), (288, 29), (768, 29), (1024, 29)], (226, 300, 322)),
}
PARTS = {'encoder': 'backbone', 'decoder': 'decoder'}


@pytest.fixture(scope='module')
def models() -> dict[str, fcam_zoo.FCAM]:
    torch.manual_seed(0)
    return {name: fcam_zoo.create_model(name, num_classes=200).eval() for name in NETS}


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# Counts of the published code with K = 200: all parameters, and those of the decoder.
@pytest.mark.parametrize(
    ('name', 'total', 'decoder'),
    [
        ('fcam_resnet50', 32_931_050, 9_013_218),
        ('fcam_vgg16', 42_760_074, 23_120_770),
        ('fcam_inception_v3', 31_392_650, 5_704_674),
    ],
)
def test_parameters(models, name, total, decoder):
    assert sum(p.numel() for p in models[name].parameters()) == total
    assert trainable(models[name]) == decoder


@pytest.mark.parametrize('name', NETS)
def test_shapes_equal_golden(models, shared, name):
    path = shared / 'golden' / 'models.json'
    if not path.is_file():
        pytest.skip('golden/models.json is missing')
    golden, model = json.loads(path.read_text())[f'{NETS[name][0]}_200'], models[name]
    theirs: dict[str, list[tuple[int, ...]]] = {}
    for key, shape in golden['parameters']:
        theirs.setdefault(key.split('.')[0], []).append(tuple(shape))
    head = {id(p) for p in model.get_classifier().parameters()}
    body = [tuple(p.shape) for p in model.backbone.parameters() if id(p) not in head]
    # The order of branches may differ in the backbone, but not in the decoder.
    assert sorted(body) == sorted(theirs['encoder'])
    assert [tuple(p.shape) for p in model.decoder.parameters()] == theirs['decoder'] + theirs['segmentation_head']
    assert [tuple(p.shape) for p in model.get_classifier().parameters()] == theirs['classification_head']
    modes = [m.training for m in model.train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(modes) == golden['batchnorm_train_mode']['decoder']
    model.eval()


@pytest.mark.parametrize('name', NETS)
def test_maps_of_every_level(models, name):
    model = models[name]
    with torch.no_grad():
        encoding = model.encode(torch.rand(1, 3, 224, 224))
    assert [tuple(level.shape[1:]) for level in encoding.levels] == [(c, s, s) for c, s in NETS[name][1]]
    assert encoding.features is encoding.levels[-1]
    # The explained map follows a ReLU, as the CAM methods assume.
    assert encoding.features.min() >= 0
    assert model.pyramid.linear_head


@pytest.mark.parametrize('name', NETS)
def test_sides_before_the_last_resize(models, name):
    model, sides = models[name], []
    handle = model.decoder.head.register_forward_hook(lambda _m, _i, output: sides.append(output.shape[-1]))
    with torch.no_grad():
        for size in (225, 299, 321):
            assert model(torch.rand(1, 3, size, size)).maps.shape == (1, 2, size, size)
    handle.remove()
    assert tuple(sides) == NETS[name][2]


def test_no_dilation_and_convolutions_of_the_paper(models):
    for model in models.values():
        convolutions = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
        assert all(m.dilation == (1, 1) for m in convolutions)
    inception = models['fcam_inception_v3'].backbone
    assert all(m.padding == (1, 1) for m in inception.modules() if getattr(m, 'kernel_size', None) == (3, 3))
    assert [isinstance(m.decoder.center, nn.Sequential) for m in models.values()] == [False, True, False]


@pytest.mark.parametrize('method', cams.METHODS)
def test_class_maps_need_no_backward(models, method):
    model = models['fcam_vgg16']
    encoding = model.encode(torch.rand(2, 3, 64, 64))
    with torch.inference_mode():
        assert model.class_map(encoding, torch.tensor([3, 199]), method).shape == (2, 8, 8)


# The last layer up to which timm's network and ours are equal; for Inception, the padding differs from the start.
ORIGINALS = {
    'fcam_resnet50': ('resnet50', {}, 'layer2'),
    'fcam_vgg16': ('vgg16', {'mlp_ratio': 1 / 4096}, 'features.22'),
    'fcam_inception_v3': ('inception_v3', {}, None),
}


@pytest.fixture(scope='module', params=ORIGINALS)
def original(request, tmp_path_factory) -> tuple[str, nn.Module, Path, str | None]:
    """One of timm's networks with random weights, and a file of them."""
    name, kwargs, layer = ORIGINALS[request.param]
    torch.manual_seed(1)
    net = timm.create_model(name, num_classes=1000, **kwargs).eval()
    path = tmp_path_factory.mktemp(name) / 'model.safetensors'
    save_file(net.state_dict(), path)
    return request.param, net, path, layer


def output_of(net: nn.Module, layer: str, x: torch.Tensor) -> torch.Tensor:
    found = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _i, output: found.append(output.clone()))
    with torch.no_grad():
        net.forward_features(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize('route', ['pretrained', 'checkpoint'])
@pytest.mark.parametrize('num_classes', [7, 1000])
def test_timm_weights_load_into_equal_layers(original, route, num_classes):
    name, net, path, layer = original
    torch.manual_seed(2)
    if route == 'pretrained':
        # Replaces a download.
        overlay = {'file': str(path), 'hf_hub_id': None}
        kwargs = {'backbone_pretrained': True, 'backbone_kwargs': {'pretrained_cfg_overlay': overlay}}
    else:
        kwargs = {'backbone_checkpoint': path}
    model = fcam_zoo.create_model(name, num_classes=num_classes, **kwargs).eval()
    theirs, ours = net.state_dict(), model.backbone.state_dict()
    own = getattr(model.backbone, 'own_layers', ())
    head = model.pretrained_cfg['classifier'].removeprefix('backbone.')
    for key, value in ours.items():
        if key.startswith(f'{head}.'):
            assert len(value) == num_classes
        elif not key.startswith(own):
            assert torch.equal(value, theirs[key]), key
    assert {k.split('.')[0] for k in theirs.keys() - ours.keys()} <= {'pre_logits', 'Mixed_7a', 'Mixed_7b', 'Mixed_7c'}
    if layer is not None:
        x = torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(output_of(model.backbone, layer, x), output_of(net, layer, x))


def test_checkpoint_of_another_network_is_refused(original, tmp_path):
    name, net, _, _ = original
    state = net.state_dict()
    lost = next(iter(state))
    save_file({k: v for k, v in state.items() if k != lost}, tmp_path / 'other.safetensors')
    with pytest.raises(WeightsError, match=f'1 missing .{lost}'):
        fcam_zoo.create_model(name, backbone_checkpoint=tmp_path / 'other.safetensors')


def test_all_36_names_exist():
    grid = [
        f'{arch}.{teacher}_{dataset}' for arch in NETS for teacher in cams.METHODS for dataset in ('cub', 'openimages')
    ]
    assert len(grid) == 36
    assert set(grid) <= set(fcam_zoo.list_models())
    points = entry_points()
    for name in grid:
        arch, tag = name.split('.')
        teacher, dataset = tag.split('_')
        cfg = timm.models.get_pretrained_cfg(name)
        assert cfg.num_classes == {'cub': 200, 'openimages': 100}[dataset]
        assert f'{arch}_{dataset}' in points
        assert timm.is_model(name)
        with pytest.raises(ValueError, match=rf'no released weights.*--teacher {teacher}'):
            fcam_zoo.create_model(name, pretrained=True)


@pytest.mark.parametrize('name', ['fcam_vgg16.gradcampp_openimages', 'fcam_inception_v3.cam_cub'])
def test_names_build_by_every_route(name):
    arch, tag = name.split('.')
    dataset = tag.split('_')[1]
    classes = {'cub': 200, 'openimages': 100}[dataset]
    routes = (
        fcam_zoo.create_model(name),
        timm.create_model(name),
        entry_points()[f'{arch}_{dataset}'](pretrained=False),
    )
    for model in routes:
        assert model.num_classes == classes
        assert type(model) is fcam_zoo.FCAM
        assert model.pretrained_cfg['mean'] == timm.data.IMAGENET_DEFAULT_MEAN
