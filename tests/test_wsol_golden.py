"""WSOL methods: equality with the golden values of their computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn as nn
from tensors import close

from fcam_zoo import cams, wsol
from fcam_zoo.models.pyramid import Encoding
from fcam_zoo.wsol import acol, nl_ccam, spg


@pytest.fixture(scope='module')
def arrays(golden) -> dict[str, np.ndarray]:
    return golden('wsol')


def tensor(arrays: dict[str, np.ndarray], name: str) -> torch.Tensor:
    return torch.tensor(arrays[name])


def test_has_hides_the_cells_of_the_published_code(arrays):
    for i, (cell, rate) in enumerate(arrays['has_configs']):
        hidden = wsol.has.hide(tensor(arrays, 'has_images'), int(cell), float(rate), tensor(arrays, f'has_{i}_draws'))
        np.testing.assert_array_equal(hidden, arrays[f'has_{i}_out'])
    hidden = wsol.has.hide(tensor(arrays, 'has_nonsquare_images'), 8, 0.5, tensor(arrays, 'has_nonsquare_draws'))
    np.testing.assert_array_equal(hidden, arrays['has_nonsquare_out'])


def test_has_with_a_cell_size_per_image_is_the_original(arrays):
    images = tensor(arrays, 'hasorig_images').permute(0, 3, 1, 2)
    for image, cell, draws, want in zip(
        images, arrays['hasorig_grid_sizes'], tensor(arrays, 'hasorig_draws'), arrays['hasorig_out']
    ):
        side = -(-64 // int(cell)) if cell else 0
        hidden = wsol.has.hide(image[None], int(cell), 0.5, draws[: side * side].view(1, side, side))
        np.testing.assert_array_equal(hidden[0].permute(1, 2, 0), want)


def test_cutmix_mixes_images_and_labels_as_the_published_code(arrays):
    images, labels, logits = (tensor(arrays, f'cutmix_{name}') for name in ('images', 'labels', 'logits'))
    for i, (lam0, centre, partner) in enumerate(
        zip(arrays['cutmix_lam0'], arrays['cutmix_centre'], tensor(arrays, 'cutmix_perm'))
    ):
        mixed, share = wsol.cutmix.mix(images, float(lam0), (int(centre[0]), int(centre[1])), partner)
        np.testing.assert_array_equal(mixed, arrays[f'cutmix_{i}_out'])
        assert share == pytest.approx(float(arrays[f'cutmix_{i}_lam']), abs=1e-12)
        z = logits.clone().requires_grad_(True)
        loss = wsol.Targets(labels, other=labels[partner], share=share).cross_entropy(z)
        loss.backward()
        close(loss, arrays[f'cutmix_{i}_loss'])
        close(z.grad, arrays[f'cutmix_{i}_grad'], 1e-4)


def test_adl_drops_or_weights_features_as_the_published_code(arrays):
    for i, (case, rate, threshold, draw) in enumerate(
        zip(arrays['adl_case'], arrays['adl_rate'], arrays['adl_threshold'], arrays['adl_draws'])
    ):
        features = tensor(arrays, f'adl_features_{case}').requires_grad_(True)
        found = wsol.adl.drop(features, float(rate), float(threshold), float(draw))
        found.backward(tensor(arrays, f'adl_upstream_{case}'))
        close(found, arrays[f'adl_{i}_out'])
        close(features.grad, arrays[f'adl_{i}_grad'], 1e-4)


def network_of(net: nn.Module, num_classes: int, num_features: int, **arguments) -> wsol.Network:
    values = {'in_chans': num_features, 'channels': [], 'linear_head': True, 'encode': net, 'head': net}
    return wsol.Network(net, 'NCHW', num_classes, num_features=num_features, **{**values, **arguments})


def renamed(arrays: dict[str, np.ndarray], prefix: str, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Weights of a published network under the names of ours: own prefix -> theirs."""
    state = {}
    for own, theirs in names.items():
        for key in arrays:
            if key.startswith(f'{prefix}{theirs}.'):
                state[own + key.removeprefix(f'{prefix}{theirs}')] = tensor(arrays, key)
    return state


@pytest.mark.parametrize('kind', ['raw', 'pool'])
@pytest.mark.parametrize('i', [0, 1, 2])
def test_acol_equals_the_published_code(arrays, kind, i):
    threshold = float(arrays['acol_thresholds'][i])
    settings = acol.ACoLSettings(threshold=threshold, channels=6, pool=kind == 'pool')
    method = acol.ACoL(network_of(nn.Identity(), 5, 8), settings)
    method.load_state_dict(
        renamed(arrays, 'acol_w_', {'branch_a': 'classifier_A', 'branch_b': 'classifier_B'}), strict=True
    )
    want = {key.removeprefix(f'acol_{kind}_{i}_'): value for key, value in arrays.items()}
    features, labels = tensor(arrays, 'acol_features').requires_grad_(True), tensor(arrays, 'acol_labels')
    encoding = Encoding([], features, None, features)
    logits, terms = method(encoding, wsol.Targets(labels), None)
    sum(terms.values()).backward()
    close(logits, want['logits_a'])
    close(method.logits(encoding), want['logits_a'])
    close(sum(terms.values()), want['loss'])
    close(features.grad, want['grad_features'], 1e-4)
    close(method.branch_a[0].weight.grad, want['grad_A0'], 1e-4)
    close(method.branch_b[0].weight.grad, want['grad_B0'], 1e-4)
    close(method.class_map(encoding, labels), want['cam'])
    maps_a, maps_b = method.maps(features, labels)
    close(maps_a, want['maps_a'])
    close(maps_b, want['maps_b'])
    keep = acol.kept(wsol.base.of_labels(maps_a, labels), threshold)
    np.testing.assert_array_equal(keep, want['keep_mask'][:, 0] > 0)
    if i == 2:
        maps_b = method.maps(features, logits.argmax(1))[1]
        close(maps_b.mean((2, 3)), arrays[f'acol_{kind}_nolabel_logits_b'])


class Stages(nn.Sequential):
    """The layers A_1 to A_3 of the published VGG16 wiring as a backbone."""

    def __init__(self) -> None:
        super().__init__(*(nn.Sequential(nn.Conv2d(c, 6, 3, padding=1), nn.ReLU()) for c in (4, 6, 6)))
        self.feature_info = [{'module': str(i)} for i in range(3)]


def spg_of(arrays: dict[str, np.ndarray], i: int) -> tuple[Stages, spg.SPG]:
    net = Stages()
    names = {'side_b1': 'SPG_B_1a', 'side_b2': 'SPG_B_2a', 'side_shared': 'SPG_B_shared', 'side_c': 'SPG_C'}
    settings = spg.SPGSettings(thresholds=arrays['spg_thresholds'][i].tolist(), channels=4)
    network = network_of(net, 5, 6, in_chans=4)
    method = spg.SPG(network, settings)
    method.load_state_dict(renamed(arrays, 'spg_w_', {**names, 'classifier': 'SPG_A_4'}), strict=True)
    net.load_state_dict(renamed(arrays, 'spg_w_', {'0': 'SPG_A_1', '1': 'SPG_A_2', '2': 'SPG_A_3'}), strict=True)
    return net, method


@pytest.mark.parametrize('i', [0, 1, 2])
def test_spg_equals_the_published_code(arrays, i):
    net, method = spg_of(arrays, i)
    labels, images = tensor(arrays, 'spg_labels'), torch.zeros(3, 3, 224, 224)
    with method.applied(None):
        encoding = Encoding([], net(tensor(arrays, 'spg_features')), None, images)
        logits, terms = method(encoding, wsol.Targets(labels), None)
    close(logits, arrays['spg_logits'])
    close(method.class_map(encoding, labels), arrays['spg_cam'])
    for term, want in zip((terms[name] for name in ('ce', 'b2', 'b1', 'c')), arrays[f'spg_{i}_loss_parts']):
        assert term.item() == pytest.approx(float(want), rel=2e-4)
    if i == 0:
        sum(terms.values()).backward()
        ours = {'SPG_A_1.0': net[0][0], 'SPG_A_2.0': net[1][0], 'SPG_A_3.0': net[2][0], 'SPG_A_4': method.classifier}
        ours |= {'SPG_B_1a.0': method.side_b1[0], 'SPG_B_2a.0': method.side_b2[0], 'SPG_C.0': method.side_c[0]}
        ours |= {'SPG_B_shared.0': method.side_shared[0], 'SPG_B_shared.2': method.side_shared[2]}
        ours['SPG_C.2'] = method.side_c[2]
        for name, layer in ours.items():
            close(layer.weight.grad, arrays[f'spg_0_pgrad_{name}.weight'], 2e-4)
            close(layer.bias.grad, arrays[f'spg_0_pgrad_{name}.bias'], 2e-4)


def bits(array: np.ndarray) -> np.ndarray:
    return np.unpackbits(array, axis=-1).reshape(-1, 224, 224).astype(bool)


def test_spg_masks_equal_the_published_code(arrays):
    def check(maps, pair, name):
        mask = spg.guidance_mask(maps, *map(float, pair)).numpy()
        assert set(np.unique(mask)) <= {0, 1, 255}
        for value, kind in ((1, 'fg'), (0, 'bg')):
            assert ((mask == value) != bits(arrays[f'{name}_{kind}_bits'])).sum((1, 2)).max() <= 5

    up = {name: spg._enlarged(tensor(arrays, f'spg_logits_{name}'), (224, 224)).sigmoid() for name in ('b1', 'b2')}
    attention = cams.normalize(spg._enlarged(tensor(arrays, 'spg_cam')[:, None], (224, 224)))
    close(attention[:, None, ::8, ::8], arrays['spg_attention_every8'])
    fused = (up['b1'] + up['b2']) / 2
    for i, pairs in enumerate(arrays['spg_thresholds']):
        for maps, pair, kind in zip((attention, up['b2'], fused), pairs, ('a', 'b2', 'fused')):
            check(maps, pair, f'spg_{i}_mask_{kind}')
    check(spg._enlarged(tensor(arrays, 'spg_small_logits'), (224, 224)).sigmoid(), (0.7, 0.05), 'spg_small_mask')


@pytest.mark.parametrize(
    ('kind', 'combination', 'split'),
    [
        ('t1b0_100', 'label', None),
        ('t1b1_100', 'first_last', None),
        ('linear_100', 'linear', None),
        ('quadratic_100', 'quadratic', None),
        ('quadratic_60', 'quadratic', 60),
    ],
)
def test_ccam_combines_the_maps_of_all_classes_as_the_published_code(arrays, kind, combination, split):
    features, weight, logits = (tensor(arrays, f'ccam_{name}') for name in ('features', 'weight', 'logits'))
    order = tensor(arrays, 'ccam_order')
    # The published code ignores the label where all classes have weights.
    labels = tensor(arrays, 'ccam_labels') if kind.startswith('t1') else order[:, 0]
    gamma = nl_ccam.rank_weights(200, combination, split)
    maps = nl_ccam.combine(features, weight, logits, labels, gamma)
    for image in (0, 1):
        close(maps[image], arrays[f'ccam_{kind}_{image}_shifted'])


@pytest.mark.parametrize(('kind', 'inner'), [('nl', 2), ('nl_low', 16)])
def test_non_local_blocks_equal_the_published_code(arrays, kind, inner):
    block = nl_ccam.NonLocalBlock(16, inner)
    names = {'query': 'query_conv', 'key': 'key_conv', 'value': 'value_conv', 'project': 'mix_conv', 'norm': 'bn'}
    state = renamed(arrays, f'ccam_{kind}_w_', names)
    block.load_state_dict({**state, 'norm.num_batches_tracked': torch.tensor(0)})
    x = tensor(arrays, f'ccam_{kind}_x')
    close(block.eval()(x), arrays[f'ccam_{kind}_eval'])
    close(block.train()(x), arrays[f'ccam_{kind}_train'])
