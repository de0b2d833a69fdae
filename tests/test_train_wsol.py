"""Training with WSOL methods, and with boxes or masks of a few images: from the command to the loaded model."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import make_folder, make_wsol
from wsol_nets import SMALL, config_of

import fcam_zoo
from fcam_zoo import benchmark, cams, hub, wsol
from fcam_zoo.cli import main
from fcam_zoo.data import WSOLDataset, open_dataset
from fcam_zoo.errors import TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TeacherConfig, TrainConfig, train
from fcam_zoo.train.setup import build_model, prepare, start_method
from fcam_zoo.train.stages import ClassifierStage
from fcam_zoo.train.supervision import chosen, open_supervision
from fcam_zoo.train.teacher import open_teacher


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return make_wsol(tmp_path_factory.mktemp('wsol') / 'shapes', {'train': 16, 'val': 4})


def test_command_takes_a_method_and_its_settings(data, tmp_path, capsys):
    recipe = tmp_path / 'recipe.json'
    recipe.write_text(json.dumps(config_of(data, None).to_dict()))
    arguments = [
        'train',
        str(data),
        '-o',
        str(tmp_path / 'run'),
        '--recipe',
        str(recipe),
        '--quiet',
        '--method',
        'acol',
    ]
    settings = ['--set', 'classifier.method.channels=8', '--set', 'classifier.method.threshold=0.5']
    assert main([*arguments, *settings, '--dry-run']) == 0
    assert not (tmp_path / 'run').exists()
    assert 'classifier: 1 epochs of 2 steps' in capsys.readouterr().out
    assert main([*arguments, *settings]) == 0
    saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert saved['classifier']['method'] == {'name': 'acol', 'threshold': 0.5, 'channels': 8, 'pool': False}
    # The map of the method is the teacher by default.
    assert saved['teacher']['method'] is None
    # Without a decoder there is no teacher.
    assert 'teacher' not in hub.facts_of_run(tmp_path / 'run')
    again = [*arguments[:3], str(tmp_path / 'other'), *arguments[4:]]
    assert main([*again, '--set', 'classifier.method.speed=1']) == 1
    assert 'unknown field classifier.method.speed: choose one of threshold, channels, pool' in capsys.readouterr().err


def test_recipes_name_a_method(tmp_path):
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('classifier: {method: adl}')
    assert TrainConfig.from_file(recipe).classifier.method == {
        'name': 'adl',
        'rate': 0.75,
        'threshold': 0.9,
        'layers': [],
    }
    recipe.write_text('classifier:\n  method: {name: has, rate: 0.25}')
    assert TrainConfig.from_file(recipe).classifier.method == {'name': 'has', 'cell': 44, 'rate': 0.25}
    with pytest.raises(ValueError, match=r'classifier\.method changes the classifier stage'):
        TrainConfig(classifier=ClassifierConfig(epochs=0, method='has'))


def test_cutmix_is_one_setting_and_fits_methods_that_mix(data, tmp_path):
    for name, message in (
        ('acol', 'mixes images, and ACoL needs one label per image'),
        ('cutmix', 'CutMix has its own setting probability'),
    ):
        settings = ClassifierConfig(epochs=1, batch_size=8, cutmix=0.5, method=name)
        with pytest.raises(TrainingError, match=message):
            train(config_of(data, None, classifier=settings), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()
    settings = ClassifierConfig(epochs=1, batch_size=8, cutmix=1.0, method='adl')
    train(config_of(data, None, classifier=settings), tmp_path / 'run', quiet=True)


@pytest.mark.parametrize('settings', [{'cutmix': 0.5}, {'method': {'name': 'cutmix', 'probability': 0.5}}])
def test_cutmix_mixes_images_and_labels_of_some_steps(monkeypatch, settings):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    config = ClassifierConfig(label_smoothing=0, **settings)
    model.set_method(config.method)
    logits, seen = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), []
    monkeypatch.setattr(model, 'encode', lambda x: seen.append(x))
    monkeypatch.setattr(model.method, 'logits', lambda encoding: logits)
    images = torch.stack([torch.full((3, 64, 64), value, dtype=torch.uint8) for value in (10, 200)])
    stage, losses = ClassifierStage(model, config, 'layercam'), []
    for seed in range(40):
        torch.manual_seed(seed)
        losses.append(stage(images, torch.tensor([0, 1]), [])['ce'].item())
    own, x = logits.log_softmax(1), stage.normalized(images)
    for mixed, loss in zip(seen, losses):
        # The share of the first image that is still its own is the share of its label.
        share = (mixed[0, 0] == x[0, 0]).double().mean().item()
        expected = -sum(share * own[i, i] + (1 - share) * own[i, 1 - i] for i in (0, 1)).item() / 2
        assert loss == pytest.approx(expected, abs=1e-5)
    # In half of the mixed steps, each image is its own partner.
    assert 3 <= sum(not torch.equal(mixed, x) for mixed in seen) <= 20


def test_training_continues_with_the_method_of_the_first_model(data, tmp_path):
    train(config_of(data, 'acol'), tmp_path / 'acol', quiet=True)
    first = fcam_zoo.create_model(f'local-dir:{tmp_path / "acol" / "best"}').eval()
    start = f'local-dir:{tmp_path / "acol" / "best"}'
    decoder = DecoderConfig(epochs=1, batch_size=8)
    settings = {'classifier': ClassifierConfig(epochs=0), 'teacher': TeacherConfig(method='cam')}
    train(config_of(data, None, decoder, init=start, **settings), tmp_path / 'decoder', quiet=True)
    second = fcam_zoo.create_model(f'local-dir:{tmp_path / "decoder" / "best"}').eval()
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(first.cam(x, [0, 1]), second.cam(x, [0, 1]))
    # Its maps can teach another model.
    teacher = TeacherConfig(method='cam', model=start)
    settings = {'classifier': ClassifierConfig(epochs=1, batch_size=8, method='has'), 'teacher': teacher}
    train(config_of(data, None, decoder, **settings), tmp_path / 'third', quiet=True)
    stored = np.load(tmp_path / 'third' / 'teacher' / 'maps.npy')
    dataset = WSOLDataset(data, 'train', transform=fcam_zoo.data.EvalTransform(64))
    cfg = first.pretrained_cfg
    x = fcam_zoo.data.normalize(torch.stack([dataset[i][0] for i in range(4)]), cfg['mean'], cfg['std'])
    want = first.cam(x, torch.from_numpy(dataset.labels[:4])) * 255
    np.testing.assert_allclose(stored[:4], want.numpy(), atol=1)


def test_new_classes_start_with_the_new_method(data, tmp_path):
    method = {'name': 'danet', **SMALL['danet'], 'parents': [0, 1, 1], 'roots': [0, 0, 0]}
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=3, method=method)
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'start')
    images = open_dataset(data, 'train', ground_truth=False)
    changed = build_model(config_of(data, 'danet', init=str(tmp_path / 'start')), images)
    assert changed.config.method == wsol.complete_settings({'name': 'danet', **SMALL['danet']})
    with pytest.raises(ValueError, match='3 entries for 2 classes'):
        build_model(config_of(data, None, init=str(tmp_path / 'start')), images)


def test_a_method_keeps_its_weights_with_other_settings(caplog):
    caplog.set_level(logging.INFO, 'fcam_zoo.train.setup')
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, method={'name': 'acol', 'channels': 8})
    old = {key: value.clone() for key, value in model.method.state_dict().items()}

    def kept() -> bool:
        new = model.method.state_dict()
        return new.keys() == old.keys() and all(torch.equal(old[key], value) for key, value in new.items())

    start_method(model, None)
    assert kept()
    start_method(model, {'name': 'acol', 'channels': 8, 'threshold': 0.5})
    assert kept()
    assert model.method.settings.threshold == model.config.method['threshold'] == 0.5
    # The same number of other classes.
    start_method(model, None, 2)
    assert not kept()
    start_method(model, {'name': 'acol', 'channels': 4})
    assert not kept()
    start_method(model, 'has')
    assert model.method.name == 'has'
    assert [message.partition(': ')[2] for message in caplog.messages] == [
        'ACoL, as in init',
        'ACoL with other settings; it keeps its weights',
        'ACoL, with new weights',
        'ACoL, with new weights',
        'HaS, with new weights',
    ]


def test_the_default_teacher_is_the_own_map_of_the_model(data, tmp_path):
    for name, teacher in (('acol', 'cam'), ('has', 'layercam')):
        method = {'name': name, **SMALL.get(name, {})}
        model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, method=method)
        fcam_zoo.hub.save_pretrained(model, tmp_path / name)
        decoder = DecoderConfig(epochs=1, batch_size=8)
        classifier = ClassifierConfig(epochs=0)
        settings = {'init': str(tmp_path / name), 'classifier': classifier}
        (stage,) = prepare(config_of(data, None, decoder, **settings), torch.device('cpu')).stages()
        assert stage.teacher == teacher
        given = prepare(
            config_of(data, None, decoder, **settings, teacher=TeacherConfig('gradcam')), torch.device('cpu')
        )
        assert next(given.stages()).teacher == 'gradcam'
        flipped = open_teacher(
            config_of(data, None, decoder, teacher=TeacherConfig(flip=True)),
            open_dataset(data, 'train', ground_truth=False),
            model,
        )
        assert flipped.networks[0].method == teacher


def test_benchmark_scores_the_map_of_the_method(data):
    torch.manual_seed(0)
    method = {'name': 'acol', 'channels': 8}
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, method=method).eval()
    dataset = WSOLDataset(data, 'val', transform=fcam_zoo.data.EvalTransform(64))
    get = benchmark.maps_of(model, dataset, ['cam'], labels='true')['cam']
    cfg = model.pretrained_cfg
    for i in range(len(dataset)):
        image, label, _ = dataset[i]
        encoding = model.encode(fcam_zoo.data.normalize(image[None], cfg['mean'], cfg['std']))
        own = cams.normalize(model.method.class_map(encoding, torch.tensor([label])).detach())
        np.testing.assert_allclose(get(i), cams.resize(own, (64, 64))[0].numpy(), atol=1e-5)


@pytest.mark.parametrize('kind', ['boxes', 'masks'])
def test_supervision_trains_the_decoder_on_annotations_of_a_few_images(tmp_path, kind):
    data = make_wsol(tmp_path / 'shapes', {'train': 16, 'val': 4}, kind)
    config = config_of(
        data, None, DecoderConfig(epochs=8, batch_size=4, lr=0.1, crf_weight=0), teacher=TeacherConfig(supervision=3)
    )
    assert config.decoder.dense == [0.4, 0.6]
    summary = train(config, tmp_path / 'run', quiet=True)
    stored = np.load(tmp_path / 'run' / 'teacher' / 'maps.npy')
    assert stored.shape == (6, 64, 64)
    images = open_supervision(config).images
    assert images.labels.tolist().count(0) == images.labels.tolist().count(1) == 3
    truth = WSOLDataset(data, 'train', ground_truth=True)
    for row, image_id in zip(stored, images.ids):
        index = truth.ids.index(image_id)
        if kind == 'masks':
            want = truth.mask(index, (64, 64)) == 1
        else:
            x0, y0, x1, y1 = (np.round(v * 64 / 72) for v in truth.boxes[index][0] + np.array([0, 0, 1, 1]))
            rows, columns = np.mgrid[:64, :64]
            want = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
        np.testing.assert_array_equal(row == 255, want)
        np.testing.assert_array_equal(row == 0, ~want)
    # Maps of 16 images would not fit the steps of 6.
    losses = [json.loads(line)['partial_ce'] for line in (tmp_path / 'run/decoder/metrics.jsonl').open()]
    assert losses[-1] < losses[0]
    assert summary['decoder'].last.epoch == 8


def test_ignored_pixels_get_no_label(tmp_path):
    data = make_wsol(tmp_path / 'shapes', {'train': 4}, 'masks')
    file = data / 'metadata' / 'train' / 'localization.txt'
    ignore = np.zeros((72, 72), np.uint8)
    ignore[:9] = 255
    Image.fromarray(ignore).save(data / 'masks' / 'ignore.png')
    file.write_text(file.read_text().replace('_mask.png,', '_mask.png,ignore.png'))
    teacher = open_supervision(config_of(data, None, teacher=TeacherConfig(supervision=1)))
    found = teacher.read(0)[0]
    assert (found[:8] == 0.5).all()
    assert set(found[8:].unique().tolist()) == {0.0, 1.0}


def test_the_images_of_supervision_depend_on_the_seed_only(data):
    images = WSOLDataset(data, 'train', ground_truth=True)
    part = chosen(images, 2, 0)
    assert part.ids == chosen(images, 2, 0).ids
    assert any(part.ids != chosen(images, 2, seed).ids for seed in range(1, 5))
    assert chosen(images, 100, 0).ids == images.ids
    for i, image_id in enumerate(part.ids):
        index = images.ids.index(image_id)
        assert part.labels[i] == images.labels[index]
        np.testing.assert_array_equal(part.boxes[i], images.boxes[index])
        np.testing.assert_array_equal(part.sizes[i], images.sizes[index])


def test_supervision_reads_the_boxes_of_a_csv_file(tmp_path):
    make_folder(tmp_path / 'folder', {'train': 4})
    files = sorted((tmp_path / 'folder' / 'train').glob('*/*'))
    lines = [f'{path.relative_to(tmp_path)},{path.parent.name},8,16,39,47' for path in files]
    (tmp_path / 'data.csv').write_text('\n'.join(['image,label,x0,y0,x1,y1', *lines]))
    teacher = open_supervision(config_of(tmp_path / 'data.csv', None, teacher=TeacherConfig(supervision=1)))
    assert len(teacher.images) == 2
    assert {*teacher.read(0).unique().tolist()} == {0.0, 1.0}


def test_supervision_needs_annotations_and_no_other_teacher(tmp_path):
    folder = make_folder(tmp_path / 'folder', {'train': 8})
    config = config_of(folder, None, DecoderConfig(epochs=1, batch_size=4), teacher=TeacherConfig(supervision=1))
    with pytest.raises(
        TrainingError, match=r'needs boxes or masks of train.* or a CSV file with the columns x0,y0,x1,y1'
    ):
        train(config, tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()
    with pytest.raises(ValueError, match=r'teacher\.supervision uses boxes or masks as maps: leave out teacher\.model'):
        TeacherConfig(supervision=1, flip=True)
