"""Functions of tensors and models refuse arguments of a wrong type, shape or range with one clear error."""

import numpy as np
import pytest
import timm
import torch

import fcam_zoo
from fcam_zoo import cams, losses, sampling
from fcam_zoo.errors import HubError
from fcam_zoo.models.fcam import FCAM

ERRORS = (ValueError, TypeError)
MAPS, CANDIDATES = torch.rand(2, 16, 16), torch.ones(2, 16, 16, dtype=torch.bool)
LOGITS, SEEDS, RGB = torch.randn(2, 2, 16, 16), torch.zeros(2, 16, 16, dtype=torch.int64), torch.rand(2, 3, 16, 16)
FEATURES, WEIGHT, LABELS = torch.rand(2, 4, 3, 3), torch.rand(5, 4), torch.tensor([0, 1])
HUGE = 10**400


@pytest.fixture(scope='module')
def model() -> FCAM:
    return fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2).eval()


def refused(call, *arguments, **options) -> str:
    """Return the message of the ValueError or TypeError of a call: one line."""
    with pytest.raises(ERRORS) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert 20 <= len(message) <= 1000, message
    assert message.isprintable(), message
    return message


def wrong_tensors(good: torch.Tensor) -> list:
    """Return arguments that no function of dense tensors of numbers takes."""
    return [
        None,
        'a',
        3,
        good.tolist(),
        good.numpy(),
        good.to_sparse(),
        good.to(torch.complex64),
        good.flatten()[0],
        good[None, None],
        good[:, :0],
        torch.nested.nested_tensor([good.flatten().float(), good.flatten()[:1].float()]),
        torch.quantize_per_tensor(good.float(), 0.1, 0, torch.quint8),
    ]


@pytest.mark.parametrize(
    ('call', 'good', 'place'),
    [
        (sampling.otsu_threshold, [MAPS], 0),
        (sampling.regions, [MAPS], 0),
        (sampling.seeds, [CANDIDATES, CANDIDATES], 0),
        (sampling.seeds, [CANDIDATES, CANDIDATES], 1),
        (losses.partial_cross_entropy, [LOGITS, SEEDS], 0),
        (losses.partial_cross_entropy, [LOGITS, SEEDS], 1),
        (losses.size_loss, [LOGITS, 1.0], 0),
        (losses.crf_loss, [RGB, LOGITS.softmax(1)], 0),
        (losses.crf_loss, [RGB, LOGITS.softmax(1)], 1),
        (cams.class_activation_map, [FEATURES, WEIGHT, LABELS], 0),
        (cams.class_activation_map, [FEATURES, WEIGHT, LABELS], 1),
        (cams.normalize, [MAPS], 0),
        (lambda maps: cams.resize(maps, (8, 8)), [MAPS], 0),
    ],
)
def test_wrong_tensors(call, good, place):
    call(*good)
    for wrong in wrong_tensors(good[place]):
        arguments = list(good)
        arguments[place] = wrong
        refused(call, *arguments)


def test_seeds_that_are_not_classes():
    assert 'seeds hold 7: give classes from 0 to 1' in refused(losses.partial_cross_entropy, LOGITS, SEEDS + 7)
    assert 'seeds hold -1' in refused(losses.partial_cross_entropy, LOGITS, SEEDS - 1)
    assert 'do not fit' in refused(losses.partial_cross_entropy, LOGITS, SEEDS[:, :9])
    assert 'torch.float32' in refused(losses.partial_cross_entropy, LOGITS, SEEDS.float())
    assert losses.partial_cross_entropy(LOGITS, SEEDS.byte()) == losses.partial_cross_entropy(LOGITS, SEEDS)


@pytest.mark.parametrize('value', [HUGE, -HUGE, 1e300, float('nan'), float('inf'), 'a', None, [1], 1j])
def test_wrong_numbers(value):
    for name in ('background_fraction', 'erosion', 'erosion_iterations'):
        refused(sampling.regions, MAPS, **{name: value})
    refused(sampling.seeds, CANDIDATES, CANDIDATES, dilation=value)
    refused(losses.log_barrier, MAPS, value)
    for name in ('sigma_rgb', 'sigma_xy', 'kernel'):
        refused(losses.crf_loss, RGB, LOGITS, **{name: value})
    refused(losses.PixelAlignmentLoss, t0=value) if value != 1e300 else None
    refused(cams.class_activation_map, FEATURES, WEIGHT, LABELS, n_samples=value)


def test_sizes_that_would_need_all_memory():
    refused(sampling.regions, MAPS, erosion=10**9 + 1)
    refused(sampling.regions, MAPS, erosion_iterations=10**9)
    refused(sampling.seeds, CANDIDATES, CANDIDATES, dilation=10**5 + 1)
    refused(cams.resize, MAPS, (10**5, 10**5))
    assert (sampling.seeds(CANDIDATES, ~CANDIDATES, n_foreground=2**50) == 1).all()


def test_generators():
    assert 'generator is 5: give a torch.Generator' in refused(sampling.seeds, CANDIDATES, CANDIDATES, generator=5)
    refused(sampling.seeds, CANDIDATES, CANDIDATES, generator=[None, 'a'])


@pytest.mark.parametrize(
    'images',
    [
        None,
        [1],
        torch.zeros(3, 64, 64),
        torch.zeros(1, 4, 64, 64),
        torch.zeros(0, 3, 64, 64),
        torch.zeros(1, 3, 0, 64),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        torch.zeros(1, 3, 64, 64, dtype=torch.float64),
        torch.zeros(1, 3, 64, 64, device='meta'),
    ],
)
def test_wrong_images(model, images):
    for call in (model, model.fcam, model.cam, lambda x: cams.extract(model.backbone, x)):
        refused(call, images)


def test_arguments_of_class_maps(model):
    x = torch.rand(2, 3, 64, 64)
    wrong = (5, -1, 0.5, 'a', [0], [0, 1, 0], [0, -1], [0, 0.5], [[0], [1]], {}, object())
    for labels in (*wrong, torch.tensor([0.0, 1.0]), torch.tensor([0]), torch.tensor([0, 2])):
        refused(model.cam, x, labels)
        refused(cams.extract, model.backbone, x, labels)
    for options in ({'method': 'x' * 10**4}, {'method': []}, {'variant': 5}, {'generator': 5}):
        refused(model.cam, x, **options)
        refused(cams.extract, model.backbone, x, **options)
    for options in ({'size': (10**6, 10**6)}, {'size': (8.5, 8)}, {'normalize': 'yes'}, {'n_samples': None}):
        refused(cams.extract, model.backbone, x, **options)
    assert 'give a torch.nn.Module' in refused(cams.extract, len, x)


@pytest.mark.parametrize('labels', [[1, 0], (1, 0), np.array([1, 0])])
def test_labels_as_lists(model, labels):
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.cam(x, labels), model.cam(x, torch.tensor([1, 0])))
    want = cams.extract(model.backbone, x, torch.tensor([1, 0]))
    assert torch.equal(cams.extract(model.backbone, x, labels), want)


@pytest.mark.parametrize('label', [0, 1, np.int64(1), torch.tensor(1)])
def test_one_label_for_all_images(model, label):
    x = torch.rand(2, 3, 64, 64)
    want = cams.extract(model.backbone, x, torch.full((2,), int(label)))
    assert torch.equal(cams.extract(model.backbone, x, labels=label), want)
    assert torch.equal(model.cam(x, label), model.cam(x, torch.full((2,), int(label))))


@pytest.mark.parametrize('classes', [0, -1, 10**9, 2.5, '5', None, [2]])
def test_reset_classifier_needs_a_number_of_classes(classes):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    assert 'num_classes is' in refused(model.reset_classifier, classes)


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float64])
def test_localize_uses_the_precision_of_the_model(kind):
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2).to(kind)
    (found,) = fcam_zoo.localize(model, np.zeros((40, 50, 3), np.uint8), sizes=[64])
    assert found.map.dtype == np.float32


def test_localize_needs_a_usable_model():
    image = np.zeros((40, 50, 3), np.uint8)
    gray = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, in_chans=1)
    assert 'images of 1 channels' in refused(fcam_zoo.localize, gray, image)
    meta = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2).to('meta')
    assert 'meta device' in refused(fcam_zoo.localize, meta, image)
    for cfg in (None, {}, {'input_size': (3, 64, 64)}, {**meta.pretrained_cfg, 'input_size': (3, 1e9, 1e9)}):
        gray = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
        gray.pretrained_cfg = cfg
        assert 'pretrained_cfg of the model' in refused(fcam_zoo.localize, gray, image)


@pytest.mark.parametrize('options', [{'multi': [0]}, {'flip': 'no'}, {'class_names': torch.zeros(2)}])
def test_flags_and_names_of_localize(model, options):
    refused(fcam_zoo.localize, model, np.zeros((40, 50, 3), np.uint8), **options)


def test_scalars_are_not_images(model):
    assert 'tensor of int64 ()' in refused(fcam_zoo.localize, model, torch.tensor(2))


@pytest.mark.parametrize('name', [5, b'resnet18', [], {}, torch.zeros(2)])
def test_names_of_another_type(name):
    refused(fcam_zoo.create_model, name)
    refused(fcam_zoo.create_model, 'fcam', backbone=name)
    refused(fcam_zoo.list_models, name)


def test_long_names():
    refused(fcam_zoo.create_model, 'fcam', backbone='x' * 10**4)
    with pytest.raises(FileNotFoundError, match='does not exist: check the path'):
        fcam_zoo.create_model('fcam', backbone='test_resnet', backbone_checkpoint='x' * 10**4)
    refused(fcam_zoo.list_models, '*' * 10**4)


def test_create_model_has_no_argument_self():
    assert 'remove it' in refused(fcam_zoo.create_model, 'fcam', backbone='test_resnet', self=5)


@pytest.mark.parametrize('name', ['a\0/b', 'a/b\n', 'a' * 1000])
def test_names_of_repositories(name):
    with pytest.raises(HubError, match='is not a repository id: write org/name') as caught:
        fcam_zoo.create_model(f'hf-hub:{name}')
    assert len(str(caught.value)) < 300


def test_wrap_needs_the_configuration_of_timm():
    net = timm.create_model('test_resnet', num_classes=2)
    net.pretrained_cfg = 'x'
    refused(fcam_zoo.wrap, net)


@pytest.mark.parametrize('path', ['missing', '\n', 'x' * 10**4])
def test_missing_weights(model, path):
    with pytest.raises(Exception, match=r'check the path|cannot be read') as caught:
        model.load_weights(path)
    assert isinstance(caught.value, (FileNotFoundError, fcam_zoo.errors.FcamZooError))
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()
