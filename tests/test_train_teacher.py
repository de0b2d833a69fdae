"""Teachers other than the classifier in training: their maps, the stored files, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from synthetic import make_folder, make_wsol
from synthetic import train_config as config

import fcam_zoo
from fcam_zoo import cams
from fcam_zoo._lock import locked
from fcam_zoo.data import EvalTransform, TrainTransform, WSOLDataset, normalize
from fcam_zoo.errors import SettingsError, TrainingError
from fcam_zoo.hub.facts import public_recipe, teacher_of, teacher_text
from fcam_zoo.sampling import IGNORE
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TeacherConfig, plan, teacher_maps, train
from fcam_zoo.train.loading import SeededDataset
from fcam_zoo.train.setup import prepare
from fcam_zoo.train.stages import DecoderStage
from fcam_zoo.train.teacher import NetworkTeacher, open_teacher
from fcam_zoo.train.teacher_maps import LOCK, MAPS, RECORD, stored_maps

SIDE = 64
LAYERS = ['layer3', 'layer4']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 20, 'val': 4})


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """Another F-CAM of the same classes, at stride 8."""
    torch.manual_seed(1)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, output_stride=8)
    model.pretrained_cfg['label_names'] = ['square', 'disc']
    folder = tmp_path_factory.mktemp('other')
    fcam_zoo.hub.save_pretrained(model, folder)
    return f'local-dir:{folder}'


def settings(data, teacher, **changes):
    stages = {'classifier': ClassifierConfig(epochs=1), 'decoder': DecoderConfig(epochs=1, batch_size=4, erosion=3)}
    return config(data, **{**stages, 'teacher': teacher, **changes})


def train_set(data) -> WSOLDataset:
    return WSOLDataset(data, 'train', TrainTransform(SIDE), ground_truth=False)


def student():
    torch.manual_seed(2)
    return fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2).eval()


def maps_of(data, teacher, folder, **changes):
    """Store the maps of a teacher and return them."""
    one = settings(data, teacher, **changes)
    images = train_set(data)
    found = stored_maps(open_teacher(one, images, student()), one, images, folder, torch.device('cpu'), quiet=True)
    return np.stack([found[i] for i in range(len(found))])


def normalized(data, model):
    dataset = WSOLDataset(data, 'train', EvalTransform(SIDE), ground_truth=False)
    images, labels = zip(*[dataset[i][:2] for i in range(len(dataset))])
    cfg = model.pretrained_cfg
    return normalize(torch.stack(images), cfg['mean'], cfg['std']), torch.tensor(labels)


def in_8_bits(maps: torch.Tensor) -> np.ndarray:
    return (maps * 255).round().to(torch.uint8).numpy()


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare gray levels; the batches differ, so a level on the edge may round to its neighbor."""
    assert found.shape == expected.shape
    assert int(abs(found.astype(int) - expected).max()) <= 1


def test_maps_of_another_network_are_its_class_maps(data, other, tmp_path):
    found = maps_of(data, TeacherConfig('gradcam', other), tmp_path)
    model = fcam_zoo.create_model(other)
    x, labels = normalized(data, model)
    close(found, in_8_bits(model.cam(x, labels, 'gradcam')))


def test_layers_flip_sizes_and_shift(data, tmp_path):
    teacher = TeacherConfig(layers=LAYERS, flip=True, sizes=[64, 96])
    decoder = DecoderConfig(epochs=1, shift=[4.0, -6.0])
    found = maps_of(data, teacher, tmp_path, decoder=decoder)
    model = student()
    dataset = WSOLDataset(data, 'train', EvalTransform(96), ground_truth=False)
    cfg, views = model.pretrained_cfg, []
    images = torch.stack([dataset[i][0] for i in range(len(dataset))])
    labels = torch.from_numpy(dataset.labels)
    for side in (64, 96):
        x = torch.nn.functional.interpolate(
            normalize(images, cfg['mean'], cfg['std']), size=(side, side), mode='bilinear', antialias=True
        )
        for flip in (False, True):
            maps = [
                cams.extract(model.backbone, x.flip(3) if flip else x, labels, 'layercam', layer, None)
                for layer in LAYERS
            ]
            large = cams.resize(maps[1], tuple(maps[0].shape[1:]))
            fused = (maps[0].clamp(min=1e-3) * large.clamp(min=1e-3)).sqrt()
            moved = cams.resize(fused, (SIDE, SIDE), (4.0, -6.0))
            views.append(moved.flip(2) if flip else moved)
    close(found, in_8_bits(torch.stack(views).mean(0).clamp(0, 1)))


def test_consensus_is_the_mean_of_the_networks(data, other, tmp_path):
    torch.manual_seed(5)
    model = fcam_zoo.create_model('fcam', backbone='test_efficientnet', num_classes=2)
    model.pretrained_cfg['label_names'] = ['square', 'disc']
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'third')
    third = f'local-dir:{tmp_path / "third"}'
    single = [maps_of(data, TeacherConfig(model=name), tmp_path / str(i)) for i, name in enumerate((other, third))]
    both = maps_of(data, TeacherConfig(model=[other, third]), tmp_path / 'both')
    close(both, np.stack(single).astype(float).mean(0).round().astype(np.uint8))


def test_each_network_of_a_consensus_has_its_method(data, other, tmp_path):
    """A geometric mean is high only where the F-CAM of one network and the class map of another agree."""
    fcam, class_map = (
        maps_of(data, TeacherConfig(method, other), tmp_path / method) for method in ('fcam', 'layercam')
    )
    teacher = TeacherConfig(['fcam', 'layercam'], [other, other], 'geometric_mean')
    product = (np.maximum(fcam / 255, 1e-3) * np.maximum(class_map / 255, 1e-3)) ** 0.5
    # The stored maps were rounded before the square root, which enlarges the error of small values.
    assert np.abs(maps_of(data, teacher, tmp_path / 'both') / 255 - product).max() < 0.04
    assert teacher_of({'teacher': asdict(teacher)}) == 'layercam'
    assert teacher_of({'teacher': asdict(TeacherConfig(maps='maps'))}) == 'maps of another tool'
    text = teacher_text('layercam', {'teacher': asdict(teacher)})
    assert text == f'fcam of {other} and layercam of {other}, consensus by their geometric mean'


def test_classes_are_found_by_name(data, other, tmp_path):
    folder = tmp_path / 'reversed'
    model = fcam_zoo.create_model(other)
    model.pretrained_cfg['label_names'] = ['disc', 'square']
    for parameter in model.get_classifier().parameters():
        parameter.data = parameter.data.flip(0)
    fcam_zoo.hub.save_pretrained(model, folder)
    teacher = TeacherConfig('gradcam', f'local-dir:{folder}')
    close(maps_of(data, teacher, tmp_path / 'a'), maps_of(data, TeacherConfig('gradcam', other), tmp_path / 'b'))


def test_fcam_teaches_another_fcam(data, other, tmp_path):
    """Self-training with dense targets: another network's classes do not matter."""
    found = maps_of(data, TeacherConfig('fcam', other), tmp_path / 'maps')
    model = fcam_zoo.create_model(other)
    with torch.no_grad():
        close(found, in_8_bits(model.fcam(normalized(data, model)[0])))
    decoder = DecoderConfig(epochs=1, batch_size=4, dense=[0.45, 0.55])
    summary = train(settings(data, TeacherConfig('fcam', other), decoder=decoder), tmp_path / 'run', quiet=True)
    assert summary['decoder'].last.terms['partial_ce'] > 0
    assert (tmp_path / 'run' / 'teacher' / 'samples.png').is_file()


def test_maps_of_any_tool(data, tmp_path):
    rng = np.random.default_rng(0)
    dataset = train_set(data)
    expected = []
    for image_id in dataset.ids:
        path = tmp_path / 'maps' / f'{image_id}.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        values = rng.random((8, 8), np.float32)
        np.save(path, values)
        expected.append(cams.resize(torch.from_numpy(values)[None], (SIDE, SIDE)))
    teacher = TeacherConfig(maps=str(tmp_path / 'maps'))
    close(maps_of(data, teacher, tmp_path / 'run'), in_8_bits(torch.cat(expected)))
    train(settings(data, teacher), tmp_path / 'trained', quiet=True)
    np.save(tmp_path / 'maps' / f'{dataset.ids[3]}.npy', np.full((8, 8), 1.5, np.float32))
    with pytest.raises(TrainingError, match=rf'teacher\.maps: .*{dataset.ids[3]}\.npy has values outside \[0,1\]'):
        maps_of(data, teacher, tmp_path / 'wrong')
    (tmp_path / 'maps' / f'{dataset.ids[3]}.npy').unlink()
    with pytest.raises(TrainingError, match=r'teacher\.maps: 1 of 20 maps are missing'):
        maps_of(data, teacher, tmp_path / 'missing')


def test_maps_are_cropped_and_flipped_with_their_images(data):
    """With the images' own gray values as maps, both must stay equal."""
    dataset = train_set(data)
    whole = WSOLDataset(data, 'train', EvalTransform(72), ground_truth=False)
    maps = np.stack([whole[i][0][0].numpy() for i in range(len(whole))])
    items = [SeededDataset(dataset, 3, False, maps)[1, i] for i in range(len(dataset))]
    for item in items:
        assert torch.equal(item.map, item.image[0])
    assert len({item.image.sum().item() for item in items}) == len(items)


def test_training_with_stored_maps_resumes_bit_for_bit(data, other, tmp_path, monkeypatch):
    one = settings(data, TeacherConfig(model=other))
    whole = train(one, tmp_path / 'whole', quiet=True)
    compute, calls = NetworkTeacher.maps, []

    def maps(self, images, labels):
        if len(images) > 1:  # A single image is a test of the teacher.
            calls.append(len(images))
        if calls == [16, 4] and len(images) > 1:
            raise KeyboardInterrupt
        return compute(self, images, labels)

    monkeypatch.setattr(teacher_maps, 'CHUNK', 16)
    monkeypatch.setattr(NetworkTeacher, 'maps', maps)
    with pytest.raises(KeyboardInterrupt):
        train(one, tmp_path / 'resumed', quiet=True)
    assert json.loads((tmp_path / 'resumed' / 'teacher' / RECORD).read_text())['finished'] == 16
    resumed = train(one, tmp_path / 'resumed', resume=True, quiet=True)
    # Only the last four images were missing, and no map is computed in training.
    assert calls == [16, 4, 4]
    assert resumed['decoder'].last.terms == whole['decoder'].last.terms


def test_a_cache_is_shared_and_a_stale_one_refused(data, other, tmp_path, monkeypatch):
    cache = str(tmp_path / 'cache')
    first = maps_of(data, TeacherConfig(model=other, cache=cache), tmp_path / 'a')
    monkeypatch.setattr(teacher_maps.MapCache, 'fill', lambda *args: pytest.fail('computed again'))
    assert np.array_equal(maps_of(data, TeacherConfig(model=other, cache=cache), tmp_path / 'b'), first)
    assert not (tmp_path / 'b').exists()
    for changes, teacher in (
        ({}, TeacherConfig(model=other, cache=cache, flip=True)),
        ({'decoder': DecoderConfig(shift=[1.0, 0.0])}, TeacherConfig(model=other, cache=cache)),
    ):
        name = 'shift' if changes else 'flip'
        with pytest.raises(TrainingError, match=rf'maps of another teacher or data set \({name} differ\): delete the'):
            maps_of(data, teacher, tmp_path / 'c', **changes)
    fewer = make_wsol(tmp_path / 'fewer', {'train': 8, 'val': 4})
    with pytest.raises(TrainingError, match=r'another teacher or data set \(images differ\)'):
        maps_of(fewer, TeacherConfig(model=other, cache=cache), tmp_path / 'd')


@pytest.mark.parametrize(
    ('file', 'content', 'fix'),
    [
        (RECORD, '{', 'delete the folder'),
        (RECORD, '{"finished": 1}', 'the field source is missing: add it'),
        (MAPS, 'x', 'delete the folder'),
        (MAPS, None, 'delete the folder'),
    ],
)
def test_damaged_cache(data, other, tmp_path, file, content, fix):
    teacher = TeacherConfig(model=other)
    maps_of(data, teacher, tmp_path)
    path = tmp_path / 'teacher' / file
    if content is None:
        np.save(path, np.zeros((3, 2, 2), np.uint8))
    else:
        path.write_text(content)
    with pytest.raises(TrainingError, match=f'{file}.*{fix}'):
        maps_of(data, teacher, tmp_path)


def test_unreadable_images_have_empty_maps(data, other, tmp_path):
    broken = shutil.copytree(data, tmp_path / 'broken')
    dataset = train_set(broken)
    dataset.path(5).write_bytes(b'no image')
    with pytest.raises(fcam_zoo.errors.ImageError, match='--skip-bad'):
        maps_of(broken, TeacherConfig(model=other), tmp_path / 'a')
    found = maps_of(broken, TeacherConfig(model=other), tmp_path / 'b', skip_bad=True)
    assert not found[5].any()
    assert found[[0, 4, 6, 19]].any((1, 2)).all()


@pytest.mark.parametrize(
    ('teacher', 'message'),
    [
        ({'method': 'fcam'}, r"teacher\.method is 'fcam': give a finished F-CAM as teacher\.model"),
        ({'method': 'fcam', 'model': 'x', 'layers': ['a']}, r'teacher\.layers are layers of a classifier'),
        ({'method': ['fcam', 'cam'], 'model': 'x'}, r'teacher\.method has 2 methods for 1 models: give one for each'),
        ({'consensus': 'median'}, r"teacher\.consensus is 'median': choose one of geometric_mean"),
        (
            {'method': ['gradcam', 'scorecam'], 'model': ['x', 'y']},
            r"teacher\.method\[1\] is 'scorecam': choose one of",
        ),
        ({'consensus': 'max'}, r'teacher\.consensus=max fuses the maps of several models: give two or more'),
        ({'consensus': 'max', 'model': ['x']}, r'teacher\.consensus=max fuses'),
        ({'maps': 'x', 'flip': True}, r'teacher\.maps holds the maps: leave out'),
        ({'fusion': 'median'}, r"teacher\.fusion is 'median': choose one of geometric_mean"),
        ({'sizes': [8]}, r'teacher\.sizes\[0\] is 8'),
        ({'model': [1]}, r'teacher\.model\[0\] is 1: give text'),
        ({'colour': 1}, r'unknown field teacher\.colour'),
    ],
)
def test_settings_that_are_refused(tmp_path, teacher, message):
    path = tmp_path / 'recipe.json'
    path.write_text(json.dumps({'teacher': teacher}))
    with pytest.raises(SettingsError, match=message):
        fcam_zoo.train.TrainConfig.from_file(path)


def test_teachers_that_do_not_fit(data, other, tmp_path):
    with pytest.raises(TrainingError, match=r"teacher\.layers, the model: no layer 'layer9' in the ResNet"):
        train(settings(data, TeacherConfig(layers=['layer9'])), tmp_path / 'a', quiet=True)
    birds = make_folder(tmp_path / 'birds', {'train': 8})
    (birds / 'train' / 'disc').rename(birds / 'train' / 'heron')
    with pytest.raises(TrainingError, match='lacks 1 of 2 classes, the first heron'):
        train(settings(birds, TeacherConfig(model=other)), tmp_path / 'b', quiet=True)
    with pytest.raises(TrainingError, match='teacher cam needs a head of average pooling'):
        train(settings(data, TeacherConfig('cam'), backbone='test_vit', output_stride=None), tmp_path / 'c', quiet=True)
    assert not any((tmp_path / name).exists() for name in 'abc')


def test_layers_and_sizes_that_the_network_cannot_use_are_refused_before_training(data, tmp_path):
    with pytest.raises(TrainingError, match=r'the teacher cannot compute maps: .* choose'):
        train(settings(data, TeacherConfig(layers=['global_pool'])), tmp_path / 'a', quiet=True)
    assert not (tmp_path / 'a').exists()
    with pytest.raises(ValueError, match=r'teacher\.cache stores the maps of another teacher'):
        fcam_zoo.train.TrainConfig().replace({'teacher.cache': 'x'})


def test_the_same_weights_with_another_stride_are_another_teacher(data, other, tmp_path):
    cache = str(tmp_path / 'cache')
    maps_of(data, TeacherConfig(model=other, cache=cache), tmp_path)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, output_stride=16)
    model.load_state_dict(fcam_zoo.create_model(other).state_dict())
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'coarse')
    with pytest.raises(TrainingError, match=r'\(networks differ\)'):
        maps_of(data, TeacherConfig(model=f'local-dir:{tmp_path / "coarse"}', cache=cache), tmp_path)


def test_a_cache_in_use_is_refused(data, other, tmp_path):
    folder = tmp_path / 'teacher'
    folder.mkdir()
    with locked(folder / LOCK, folder), pytest.raises(TrainingError, match='is being written by another run'):
        maps_of(data, TeacherConfig(model=other), tmp_path)


def test_a_full_disk_is_noticed_before(data, other, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_maps.shutil, 'disk_usage', lambda path: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match='has 0 MiB free and the maps need 0 MiB: make room'):
        maps_of(data, TeacherConfig(model=other), tmp_path)


def test_dense_targets_ignore_the_band_and_constant_maps():
    model = student()
    stage = DecoderStage(model, DecoderConfig(dense=[0.2, 0.7]), 'layercam')
    maps = torch.tensor([[[0.0, 0.2, 0.5, 0.7, 1.0]], [[0.1, 0.1, 0.1, 0.1, 0.1]]])
    assert stage.pseudo_labels(maps, []).tolist() == [[[0, 0, IGNORE, 1, 1]], [[IGNORE] * 5]]


def test_crops_of_annotations_have_labels_inside_and_outside_of_the_object():
    stage = DecoderStage(student(), DecoderConfig(dense=[0.4, 0.6]), 'layercam')
    maps = torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]], [[0.5, 0.5]]])
    assert stage.pseudo_labels(maps, []).tolist() == [[[IGNORE] * 2]] * 3
    stage.annotated = True
    assert stage.pseudo_labels(maps, []).tolist() == [[[1, 1]], [[0, 0]], [[IGNORE] * 2]]


@pytest.mark.parametrize('supervision', [0, 2])
def test_only_supervision_has_annotations(data, supervision):
    setup = prepare(settings(data, TeacherConfig(supervision=supervision)), torch.device('cpu'))
    (decoder,) = (stage for stage in setup.stages() if stage.name == 'decoder')
    assert decoder.annotated == bool(supervision)


def test_published_recipes_have_no_place_of_this_machine():
    recipe = {
        'teacher': {
            'method': 'layercam',
            'model': ['local-dir:/place/runs/fine/best', 'hf-hub:a/b@c'],
            'flip': True,
        }
    }
    recipe['teacher'] |= {'cache': '/place/x', 'maps': None, 'layers': [], 'fusion': 'mean', 'sizes': [64]}
    public = public_recipe({**recipe, 'data': '/place/birds'})
    assert public['teacher']['model'] == ['local-dir:fine/best', 'hf-hub:a/b@c']
    assert 'place' not in json.dumps(public)
    assert (
        teacher_text('layercam', public)
        == 'layercam of local-dir:fine/best, hf-hub:a/b@c, consensus by their mean, sides of 64 pixels, flipped'
    )
    alone = public_recipe(
        {'teacher': {'method': 'cam', 'model': 'local-dir:/place/alice', 'layers': ['a', 'b'], 'fusion': 'max'}}
    )
    assert teacher_text('cam', alone) == 'cam of local-dir:alice, layers a, b (max)'
    folders = public_recipe({'teacher': {'method': 'fcam', 'model': ['/place/runs/fine/best', 'fcam_resnet50_cub']}})
    assert folders['teacher']['model'] == ['local-dir:fine/best', 'fcam_resnet50_cub']
    assert teacher_text('cam', public_recipe({'teacher': {'maps': '/place/maps'}})) == 'maps of another tool'
    assert teacher_text('cam', {'teacher': 'cam'}) == teacher_text('cam', None) == 'cam'


def test_the_plan_tells_the_time_of_the_maps(data, other, tmp_path):
    text = plan(settings(data, TeacherConfig(model=other)), tmp_path / 'run')
    assert re.search(r'teacher: maps of 20 images, computed once: [\d.]+ s', text)
    assert 'teacher:' not in plan(settings(data, TeacherConfig()), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
