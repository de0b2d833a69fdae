"""WSOL methods on small networks: properties of each, and what the interface promises."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import fcam_zoo
from fcam_zoo import cams, wsol
from fcam_zoo._catalog import WSOL_METHODS
from fcam_zoo.errors import UnknownModelError, WeightsError
from fcam_zoo.models import FCAM
from fcam_zoo.wsol import acol, nl_ccam, spg

SMALL = {name: {'channels': 8} for name in ('acol', 'spg', 'i2c', 'spol')}
SMALL['cstn'] = {'channels': 8, 'windows': [1, 3]}
SMALL['danet'] = {'channels': [8, 8, 8], 'maps': 2, 'parents': [0, 1, 1], 'roots': [0, 0, 0]}
# Of the methods that do not fit a convolutional network.
BACKBONES = {'ts_cam': 'test_vit'}


def model_with(name: str, backbone: str = '', **settings) -> FCAM:
    """Return an F-CAM with a method, whose zero layers are set to random weights."""
    torch.manual_seed(0)
    method = {'name': name, **SMALL.get(name, {}), **settings}
    backbone = backbone or BACKBONES.get(name, 'test_resnet')
    model = fcam_zoo.create_model('fcam', backbone=backbone, num_classes=3, method=method)
    for block in getattr(model.method, 'blocks', ()):
        torch.nn.init.normal_(block.norm.weight)
    return model


def generators(count: int, seed: int = 0) -> wsol.Generators:
    return wsol.Generators(
        torch.Generator().manual_seed(seed), [torch.Generator().manual_seed(seed + i) for i in range(count)]
    )


def test_non_local_attention_does_not_overflow_in_half_precision():
    torch.manual_seed(0)
    block = nl_ccam.NonLocalBlock(8, 4).eval()
    torch.nn.init.ones_(block.norm.weight)
    # q . k is above the largest float16, 65504, although q and k are not.
    for layer in (block.query, block.key):
        layer.weight.data.mul_(1000)
    x = torch.rand(1, 8, 4, 4)
    with torch.no_grad(), torch.autocast('cpu', torch.float16):
        query, key = block.query(x), block.key(x)
        assert query.isfinite().all()
        assert key.isfinite().all()
        assert not torch.einsum('bchw,bcyx->bhwyx', query, key).isfinite().all()
        found = block(x)
    assert found.isfinite().all()


def test_help_text_lists_the_methods():
    assert tuple(wsol.METHODS) == WSOL_METHODS
    assert all(kind.name == name and kind.title for name, kind in wsol.METHODS.items())


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ('adl2', "method is 'adl2': name one of has, cutmix"),
        (3, 'method is 3'),
        ({'rate': 0.5}, 'method is .*: name one of'),
        ({'name': 'adl', 'rate': 2}, r'method\.rate is 2'),
        ({'name': 'adl', 'speed': 1}, r'unknown field method\.speed: choose one of rate, threshold, layers'),
        ({'name': 'spg', 'thresholds': [[0.7, 0.1]] * 2}, r'method\.thresholds .* give three pairs'),
        ({'name': 'spg', 'thresholds': [[0.1, 0.7]] * 3}, r'method\.thresholds\[0\] .* high and low'),
        ({'name': 'spg', 'layers': ['layer1']}, r'method\.layers .* name two layers'),
    ],
)
def test_wrong_settings(value, message):
    with pytest.raises(ValueError, match=message):
        wsol.complete_settings(value)


def test_settings_get_their_defaults():
    assert wsol.complete_settings('has') == {'name': 'has', 'cell': 44, 'rate': 0.5}
    assert wsol.complete_settings({'name': 'has', 'rate': 1}) == {'name': 'has', 'cell': 44, 'rate': 1.0}
    assert wsol.complete_settings(None) is None


@pytest.mark.parametrize('name', WSOL_METHODS)
def test_saved_and_loaded_models_and_copies_give_the_same(name, tmp_path):
    model = model_with(name).eval()
    x = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    want, cam = model(x), model.cam(x, [0, 2])
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'model')
    loaded = fcam_zoo.create_model(f'local-dir:{tmp_path / "model"}').eval()
    assert loaded.config.method == model.config.method
    for other in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x).logits, want.logits)
        assert torch.equal(other(x).maps, want.maps)
        assert torch.equal(other.cam(x, [0, 2]), cam)
    # A copy has its own hooks.
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert torch.equal(model.cam(x, [0, 2]), cam)


@pytest.mark.parametrize('name', WSOL_METHODS)
def test_names_of_the_backbone_stay_those_of_timm(name):
    plain = fcam_zoo.create_model('fcam', backbone=BACKBONES.get(name, 'test_resnet'), num_classes=3)
    own = model_with(name).state_dict()
    assert {key for key in own if not key.startswith('method.')} == plain.state_dict().keys()


@pytest.mark.parametrize('name', WSOL_METHODS)
def test_maps_do_not_depend_on_the_batch(name):
    model = model_with(name).eval()
    x = torch.rand(3, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    whole = model.cam(x, [0, 2, 1])
    for i, label in enumerate([0, 2, 1]):
        # Maps of random networks have little contrast, so that scaling to [0,1] also scales rounding errors.
        torch.testing.assert_close(model.cam(x[i : i + 1], label), whole[i : i + 1], rtol=0, atol=1e-4)
    assert whole.amin() >= 0
    assert whole.amax() <= 1


@pytest.mark.parametrize('name', WSOL_METHODS)
def test_every_trained_parameter_gets_a_gradient(name):
    """DistributedDataParallel needs this."""
    from fcam_zoo.train import ClassifierConfig
    from fcam_zoo.train.stages import ClassifierStage

    model = model_with(name)
    stage = ClassifierStage(model, ClassifierConfig(), 'cam').train()
    images = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    terms = stage(images, torch.tensor([0, 1, 2, 0]), generators(4).images)
    sum(terms.values()).backward()
    for group in stage.parameter_groups():
        assert all(p.grad is not None for p in group['params'])
    trained = {id(p) for group in stage.parameter_groups() for p in group['params']}
    assert {id(p) for p in model.method.parameters()} <= trained
    # The head that a method replaces is not trained.
    assert (id(model.get_classifier().weight) in trained) != model.method.own_head


@pytest.mark.parametrize('name', WSOL_METHODS)
def test_changing_the_method_leaves_no_hook(name):
    model = model_with(name)
    model.set_method(None)
    assert not any(module._forward_hooks for module in model.modules())
    assert model.model_args.get('method') is None
    assert not any(key.startswith('method.') for key in model.state_dict())


@pytest.mark.parametrize('name', ['adl', 'acol', 'spg', 'nl_ccam'])
def test_methods_of_convolutional_networks_refuse_a_transformer(name):
    title = wsol.METHODS[name].title
    with pytest.raises(UnknownModelError, match=f'{title} needs a convolutional network, and VisionTransformer'):
        model_with(name, 'test_vit')
    model = fcam_zoo.create_model('fcam', backbone='test_vit', num_classes=3)
    with pytest.raises(UnknownModelError, match='choose another backbone'):
        model.set_method(name)
    assert model.method.name == ''


@pytest.mark.parametrize('name', ['has', 'cutmix'])
def test_changes_of_the_images_fit_every_backbone(name):
    assert model_with(name, 'test_vit').method.name == name


def test_layers_that_do_not_fit():
    with pytest.raises(UnknownModelError, match="ADL: the backbone has no layer 'layer9'"):
        model_with('adl', layers=['layer9'])
    with pytest.raises(UnknownModelError, match="ADL: the output of layer 'fc' is not a map"):
        model_with('adl', layers=['fc'])


def test_nl_ccam_needs_a_linear_head():
    with pytest.raises(UnknownModelError, match='NL-CCAM needs a head of average pooling and one linear layer'):
        fcam_zoo.create_model('fcam', backbone='test_convnext', num_classes=3, method='nl_ccam')


def test_has_hides_the_given_share():
    images = torch.ones(4, 3, 50, 70)
    draws = torch.rand(4, 13, 18, generator=torch.Generator().manual_seed(0))
    assert torch.equal(wsol.has.hide(images, 4, 0.0, draws), images)
    assert wsol.has.hide(images, 4, 1.0, draws).sum() == 0
    assert 1 - wsol.has.hide(images, 4, 0.3, draws).mean() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(wsol.has.hide(images, 0, 0.5, draws), images)
    with pytest.raises(ValueError, match=r'draws have the shape \(4, 13, 18\): .* need \(4, 10, 14\)'):
        wsol.has.hide(images, 5, 0.5, draws)


def test_draws_of_has_belong_to_the_image():
    method, shape = model_with('has').method, torch.Size([2, 3, 100, 100])
    both = method.draw(shape, generators(2))
    one = method.draw(torch.Size([1, 3, 100, 100]), wsol.Generators(torch.Generator(), generators(2).images[1:]))
    assert torch.equal(one[0], both[1])


def test_draws_of_cutmix():
    method, shape = model_with('cutmix', beta=0.5, probability=0.7).method, torch.Size([4, 3, 20, 30])
    found = [method.draw(shape, generators(4, seed)) for seed in range(300)]
    mixed = [draws for draws in found if draws is not None]
    assert len(mixed) / 300 == pytest.approx(0.7, abs=0.1)
    lam = torch.tensor([draws.lam0 for draws in mixed])
    # Mean and variance of Beta(1/2, 1/2).
    assert lam.mean().item() == pytest.approx(0.5, abs=0.08)
    assert lam.var().item() == pytest.approx(0.125, abs=0.03)
    rows, columns = zip(*(draws.centre for draws in mixed))
    assert (min(rows), max(rows), min(columns), max(columns)) == (0, 19, 0, 29)
    assert all(sorted(draws.partner.tolist()) == [0, 1, 2, 3] for draws in mixed)
    images = torch.rand(4, 3, 20, 30)
    same, targets = method.augment(images, wsol.Targets(torch.arange(4)), None)
    assert same is images
    assert targets.other is None
    unchanged, share = wsol.cutmix.mix(images, 1.0, (3, 4), torch.tensor([1, 2, 3, 0]))
    assert share == 1
    assert torch.equal(unchanged, images)


def test_adl_acts_in_training_only_and_drops_the_strongest_position():
    model = model_with('adl', rate=1.0).train()
    model.backbone.eval()
    x = torch.rand(2, 3, 64, 64)
    before = model.encode(x).features
    assert torch.equal(model.encode(x).features, before)
    with model.method.applied(model.method.draw(x.shape, generators(2))):
        dropped = model.encode(x).features
    assert not torch.equal(dropped, before)
    assert torch.equal(model.encode(x).features, before)
    features = torch.rand(3, 4, 5, 6)
    mask = wsol.adl.drop(features, 1.0, 0.9, 0.0).sum(1) > 0
    strongest = features.mean(1).flatten(1).argmax(1)
    assert not mask.flatten(1).gather(1, strongest[:, None]).any()


def test_adl_hooks_are_off_after_an_error():
    method = model_with('adl').method
    with pytest.raises(KeyError), method.applied([0.5, 0.5]):
        raise KeyError
    assert method._draws == {}


def test_acol_erases_the_strongest_cell_and_nothing_of_a_constant_map():
    maps = torch.rand(3, 5, 6)
    keep = acol.kept(maps, 0.6)
    assert not keep.flatten(1).gather(1, maps.flatten(1).argmax(1)[:, None]).any()
    assert acol.kept(torch.ones(1, 5, 6), 0.6).all()


def test_spg_teaches_nothing_to_the_attention_and_has_no_loss_without_known_pixels():
    attention = torch.rand(2, 7, 7, requires_grad=True)
    sides = tuple(torch.randn(2, 1, 7, 7, requires_grad=True) for _ in range(3))
    terms = spg.guidance_losses(attention, sides, (56, 56), [[0.7, 0.05], [0.5, 0.05], [0.7, 0.1]])
    sum(terms.values()).backward()
    assert attention.grad is None
    assert all(side.grad.abs().sum() > 0 for side in sides)
    zero = tuple(torch.zeros(1, 1, 7, 7, requires_grad=True) for _ in range(3))
    # A constant map of 0 is background for thresholds above 0, else unknown.
    terms = spg.guidance_losses(torch.zeros(1, 7, 7), zero, (56, 56), [[0.5, 0.0]] * 3)
    assert terms['b2'].item() == 0


def test_ccam_is_the_weighted_sum_of_the_maps_of_all_classes():
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(2, 6, 4, 5, generator=generator), torch.randn(7, 6, generator=generator)
    logits, labels = torch.randn(2, 7, generator=generator), torch.tensor([4, 0])
    for combination in ('quadratic', 'linear', 'first_last', 'label'):
        gamma = nl_ccam.rank_weights(7, combination)
        found = nl_ccam.combine(features, weight, logits, labels, gamma)
        for i, label in enumerate(labels.tolist()):
            order = [label] + [k for k in logits[i].argsort(descending=True).tolist() if k != label]
            maps = sum(g * torch.einsum('c,chw->hw', weight[k], features[i]) for g, k in zip(gamma, order))
            torch.testing.assert_close(found[i], maps - maps.min(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('num_classes', [1, 2, 3, 4])
def test_rank_weights_of_few_classes_are_finite(num_classes):
    for combination in ('quadratic', 'linear', 'first_last', 'label'):
        gamma = nl_ccam.rank_weights(num_classes, combination)
        assert gamma[0] == 1
        assert gamma.isfinite().all()


def test_non_local_blocks_are_the_identity_at_first():
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(nl_ccam.NonLocalBlock(16, 2)(x), x)


@pytest.mark.parametrize('name', ['acol', 'spg', 'nl_ccam', 'ts_cam', 'i2c', 'danet', 'spol'])
def test_cam_is_the_map_of_the_method_and_other_maps_explain_its_logits(name):
    model = model_with(name).eval()
    x, labels = torch.rand(2, 3, 64, 64), torch.tensor([2, 0])
    encoding = model.encode(x)
    own = cams.resize(cams.normalize(model.method.class_map(encoding, labels)), (64, 64))
    torch.testing.assert_close(model.cam(x, labels), own)
    if model.method.own_head:
        assert not model.linear_head
        features = encoding.features.detach().requires_grad_(True)
        logits = model.method.logits(encoding._replace(features=features))
        gradient = torch.autograd.grad(logits[[0, 1], labels].sum(), features)[0]
        layercam = cams.normalize((gradient.relu() * features).sum(1).relu().detach())
        torch.testing.assert_close(model.class_map(encoding, labels, 'layercam'), layercam, rtol=1e-4, atol=1e-5)


def test_other_classes_give_a_method_a_new_head(tmp_path):
    model = model_with('acol')
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'model')
    with pytest.raises(WeightsError, match='has 3 classes, but num_classes=5'):
        fcam_zoo.create_model(f'local-dir:{tmp_path / "model"}', num_classes=5)
    other = fcam_zoo.create_model(f'local-dir:{tmp_path / "model"}', num_classes=5, reset_head=True)
    assert other(torch.rand(1, 3, 64, 64)).logits.shape == (1, 5)
    assert torch.equal(other.method.branch_a[0].weight, model.method.branch_a[0].weight)
    model.reset_classifier(4)
    assert model(torch.rand(1, 3, 64, 64)).logits.shape == (1, 4)
    blocks = model_with('nl_ccam')
    before = copy.deepcopy(blocks.method.blocks.state_dict())
    blocks.reset_classifier(4)
    assert all(torch.equal(value, before[key]) for key, value in blocks.method.blocks.state_dict().items())
    assert blocks.cam(torch.rand(1, 3, 64, 64), [3]).shape == (1, 64, 64)


def test_a_head_of_a_method_is_part_of_the_file(tmp_path):
    with pytest.raises(WeightsError, match='has modules of ACoL, which timm does not have'):
        fcam_zoo.hub.save_pretrained(model_with('acol'), tmp_path / 'model', backbone_from='resnet18.a1_in1k')
    with pytest.raises(ValueError, match=r'the head of ACoL: use model\.classify'):
        model_with('acol').forward_head(torch.rand(1, 3, 8, 8))
