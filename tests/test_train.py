"""Training: both stages learn, the output is complete, and bad input is refused before training starts."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from synthetic import make_folder, make_wsol, shape_image
from synthetic import train_config as config

import fcam_zoo
from fcam_zoo import sampling, viz
from fcam_zoo.data import WSOLDataset
from fcam_zoo.errors import ImageError, TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TeacherConfig, TrainConfig, checkpoint, train
from fcam_zoo.train.loading import batches
from fcam_zoo.train.loop import StageRun
from fcam_zoo.train.monitor import sample_sheet
from fcam_zoo.train.setup import Setup, build_model
from fcam_zoo.train.stages import ClassifierStage, DecoderStage, lr_factor


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 24, 'val': 8, 'test': 8})


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    """A finished training, not to be changed."""
    folder = tmp_path_factory.mktemp('trained') / 'run'
    train(config(data), folder, quiet=True)
    return folder


def test_trained_folder_is_a_model(data, run):
    model = fcam_zoo.create_model(f'local-dir:{run / "best"}')
    assert not model.training
    assert model.pretrained_cfg['input_size'][-1] == 64
    assert list(model.pretrained_cfg['label_names']) == ['square', 'disc']
    (found,) = fcam_zoo.localize(model, shape_image(0, 5)[0])
    assert found.label in ('square', 'disc')
    with pytest.raises(TrainingError, match='already holds a training'):
        train(config(data), run, quiet=True)
    with pytest.raises(TrainingError, match='differs in teacher'):
        train(config(data, teacher=TeacherConfig('cam')), run, resume=True, quiet=True)


def test_decoder_stage_does_not_change_the_classifier(run):
    classifier = load_file(run / 'classifier' / 'best.safetensors')
    final = load_file(run / 'last' / 'model.safetensors')
    assert all(torch.equal(final[k], v) for k, v in classifier.items() if k.startswith('backbone.'))
    assert any(not torch.equal(final[k], v) for k, v in classifier.items() if k.startswith('decoder.'))


def test_one_backbone_pass_per_step():
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    stage, calls = DecoderStage(model, DecoderConfig(), 'layercam'), []
    model.backbone.conv1.register_forward_hook(lambda *_: calls.append(1))
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    terms = stage(images, torch.tensor([0, 1]), [torch.Generator(), torch.Generator()])
    assert len(calls) == 1
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.decoder.parameters())


def test_decoder_learns_the_object(data, tmp_path):
    stages = {
        'classifier': ClassifierConfig(epochs=6, batch_size=4, lr=0.02, head_lr=0.1),
        'decoder': DecoderConfig(epochs=6, batch_size=4, background_fraction=0.5, erosion=3),
    }
    summary = train(config(data, **stages), tmp_path / 'run', quiet=True)
    assert summary['classifier'].best.val['cls'] >= 75
    model = fcam_zoo.create_model(f'local-dir:{tmp_path / "run" / "best"}')
    test = WSOLDataset(data, 'test', fcam_zoo.data.EvalTransform(64))
    reports = fcam_zoo.benchmark.evaluate_many(model, test, ('fcam', 'center'), quiet=True)
    assert reports['fcam'].metrics['mean'] > reports['center'].metrics['mean']


def test_masks_select_by_pxap(tmp_path):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4}, kind='masks')
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}
    summary = train(config(data, **stages), tmp_path / 'run', quiet=True)
    assert 0 <= summary['decoder'].best.val['pxap'] <= 100


@pytest.mark.parametrize('splits', [('train',), ('train', 'val')])
def test_without_boxes_the_classifier_selects_the_decoder(tmp_path, splits):
    make_folder(tmp_path / 'photos', dict.fromkeys(splits, 8))
    stages = {'classifier': ClassifierConfig(epochs=2, batch_size=4), 'decoder': DecoderConfig(epochs=3, batch_size=4)}
    summary = train(config(tmp_path / 'photos', keep_epochs=True, **stages), tmp_path / 'run', quiet=True)
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'decoder' / 'metrics.jsonl').open()]
    kept = [row['val']['kept'] for row in rows]
    assert summary['decoder'].best_epoch == 1 + kept.index(max(kept))
    if 'val' in splits:
        assert summary['classifier'].best.val.keys() == {'cls'}
    else:
        assert summary['classifier'].best_epoch == 2
        assert summary['classifier'].best.val == {}
    assert fcam_zoo.create_model(f'local-dir:{tmp_path / "run" / "best"}').threshold == 0.5
    # Compute the criterion of the best epoch in another way.
    model = fcam_zoo.create_model(f'local-dir:{tmp_path / "run" / "best"}')
    probabilities = []
    for path in sorted((tmp_path / 'photos' / splits[-1]).rglob('*.png')):
        image = fcam_zoo.data.EvalTransform(64)(Image.open(path))[None].float()
        cfg = model.pretrained_cfg
        mean, std = (torch.tensor(cfg[k]).view(1, 3, 1, 1) for k in ('mean', 'std'))
        with torch.no_grad():
            p = model.fcam((image / 255 - mean) / std)
            fill = image.mean((2, 3), keepdim=True)
            kept_image = (p * image + (1 - p) * fill).round()
            logits = model((kept_image / 255 - mean) / std).logits
        probabilities.append(logits.softmax(1)[0, int(path.parent.name == 'square')].item())
    assert max(kept) == pytest.approx(100 * sum(probabilities) / len(probabilities), abs=0.05)


def test_non_finite_loss_names_the_images(data, tmp_path):
    stages = {'classifier': ClassifierConfig(epochs=3, batch_size=8, lr=1e30, head_lr=1e30)}
    with pytest.raises(TrainingError, match=r'loss is .*train_\d+\.png'):
        train(config(data, **stages), tmp_path / 'run', quiet=True)


def test_damaged_state_is_refused(data, run, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    state = tmp_path / 'run' / 'decoder' / 'state.safetensors'
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r'state\.safetensors is damaged .*--resume to train the stage again'):
        train(config(data), tmp_path / 'run', resume=True, quiet=True)


def test_output_files(data, run):
    assert TrainConfig.from_file(run / 'config.json') == config(data)
    assert json.loads((run / 'versions.json').read_text())['torch'] == torch.__version__
    summary = json.loads((run / 'summary.json').read_text())
    for stage, maps in (('classifier', 1), ('decoder', 2)):
        rows = [json.loads(line) for line in (run / stage / 'metrics.jsonl').read_text().splitlines()]
        assert [row['epoch'] for row in rows] == [1, 2]
        assert summary[stage]['last'] == rows[1]
        assert summary[stage]['best'] == rows[summary[stage]['best_epoch'] - 1]
        assert rows[0]['images_per_second'] > 0
        sheet = Image.open(run / stage / 'samples' / 'epoch_002.png')
        # Four images with their maps, each 160 pixels high, and a line of captions.
        assert sheet.size == (160 * (1 + maps) + 6 * maps, (160 + 17) * 4 + 6 * 3)
    assert {'partial_ce', 'crf', 'val'} <= rows[0].keys()


def test_samples_show_the_shifted_map_that_training_uses(data, monkeypatch):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    model.cam_variant = 'reference'
    stage = DecoderStage(model, DecoderConfig(shift=[8.0, -4.0]), 'gradcampp')
    samples = WSOLDataset(data, 'val', fcam_zoo.data.EvalTransform(64))
    drawn, used = [], []
    blend = viz.blend
    monkeypatch.setattr(viz, 'blend', lambda picture, score_map: drawn.append(score_map) or blend(picture, score_map))
    regions = sampling.regions
    monkeypatch.setattr(sampling, 'regions', lambda maps, *args: used.append(maps) or regions(maps, *args))
    items = [samples[i] for i in range(2)]
    sample_sheet(stage, items)
    model.eval()
    images, labels = torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])
    stage.regions(stage.teacher_map(stage.encode(images), labels, (64, 64)))
    torch.testing.assert_close(torch.tensor(np.stack(drawn[::2])), used[0])


def test_training_starts_from_an_fcam(data, run, tmp_path, caplog):
    start = load_file(run / 'best' / 'model.safetensors')
    init = f'local-dir:{run / "best"}'
    frozen = config(
        data, init=init, classifier=ClassifierConfig(epochs=0), decoder=DecoderConfig(epochs=1, batch_size=8, lr=1e-12)
    )
    with caplog.at_level(logging.INFO, logger='fcam_zoo'):
        train(frozen, tmp_path / 'second', quiet=True)
    assert f'starting from {init} (--init or --backbone chooses another network)' in caplog.text
    end = load_file(tmp_path / 'second' / 'best' / 'model.safetensors')
    trained = [k for k in start if 'num_batches' not in k and 'running' not in k]
    assert all(torch.allclose(start[k], end[k], atol=1e-6) for k in trained)
    # With other classes the head is new and the decoder is kept.
    other = tmp_path / 'photos' / 'train'
    for i in range(9):
        path = other / 'abc'[i % 3] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        shape_image(i % 2, i)[0].save(path)
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=0)}
    train(config(other.parent, init=init, **stages), tmp_path / 'third', quiet=True)
    third = load_file(tmp_path / 'third' / 'best' / 'model.safetensors')
    assert len(third['backbone.fc.weight']) == 3
    assert torch.equal(third['decoder.head.weight'], start['decoder.head.weight'])


def test_corrupt_image_stops_the_run_or_is_skipped(tmp_path, caplog):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    bad = data / 'images' / 'square' / 'train_2.png'
    bad.write_bytes(bad.read_bytes()[:500])
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=0)}
    for workers in (0, 1):
        with pytest.raises(ImageError, match=r'train_2\.png.*--skip-bad') as raised:
            train(config(data, workers=workers, **stages), tmp_path / f'stopped{workers}', quiet=True)
        assert 'Traceback' not in str(raised.value)
        summary = train(config(data, workers=workers, skip_bad=True, **stages), tmp_path / f'run{workers}', quiet=True)
        assert summary['classifier'].bad == ['square/train_2.png']
    assert sum('is skipped' in r.message for r in caplog.records) == 2
    for path in (data / 'images').rglob('train_*.png'):
        path.write_bytes(b'')
    with pytest.raises(TrainingError, match='no image can be read'):
        train(config(data, skip_bad=True, **stages), tmp_path / 'none', quiet=True)


def test_amp_and_compile_give_a_similar_loss(data, tmp_path):
    decoder = DecoderConfig(epochs=1, batch_size=8, size_weight=0.1, schedule='constant')
    stages = {'classifier': ClassifierConfig(epochs=0), 'decoder': decoder}
    want, *others = (
        train(config(data, **settings, **stages), tmp_path / str(i), quiet=True)['decoder'].last.terms
        for i, settings in enumerate([{}, {'amp': 'bfloat16'}, {'amp': 'float16'}, {'compile': True}])
    )
    assert want.keys() == {'partial_ce', 'crf', 'size', 'area'}
    for terms in others:
        # In half precision the class maps of a random network, and so the seeds, differ slightly.
        assert terms == pytest.approx(want, rel=0.2)


def test_accumulated_step_is_the_step_of_the_whole_batch(data, tmp_path):
    """Without batch norm in training mode, the gradients of the parts sum to that of the batch."""
    weights = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: module
                module.training = False
        settings = ClassifierConfig(epochs=1, batch_size=8, accumulate=accumulate)
        dataset = WSOLDataset(data, 'train', fcam_zoo.data.EvalTransform(64))
        setup = Setup(config(data, classifier=settings), dataset, None, model)
        stage_run = StageRun(ClassifierStage(model, settings, 'layercam'), setup, tmp_path)
        parts = list(batches(stage_run.dataset, [8], accumulate, epoch=1))[:accumulate]
        terms, _ = stage_run.step(1, parts)
        weights.append((terms['ce'], model.get_classifier().weight.detach().clone()))
    assert weights[0][0] == pytest.approx(weights[1][0], rel=1e-5)
    torch.testing.assert_close(weights[0][1], weights[1][1])


def test_learning_rates_follow_their_schedule():
    step = ClassifierConfig(epochs=40, schedule='step', step_epochs=15, gamma=0.1, lr=1e-6)
    assert [lr_factor(step, e, 0, 10) for e in (1, 15, 16, 30)] == pytest.approx([1, 1, 0.1, 0.1])
    assert lr_factor(step, 31, 0, 10) == pytest.approx(0.1)  # Never below 1e-7.
    cosine = ClassifierConfig(epochs=4)
    assert [lr_factor(cosine, e, s, 10) for e, s in ((1, 0), (3, 0), (4, 10))] == pytest.approx([1, 0.5, 0])
    assert lr_factor(DecoderConfig(schedule='constant'), 9, 3, 10) == 1


def test_head_layers_get_the_rate_of_the_head():
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    stage = ClassifierStage(model, ClassifierConfig(lr=0.1, head_lr=1.0, head_layers=['layer4']), 'cam')
    body, fast = stage.parameter_groups()
    names = {id(p): n for n, p in model.backbone.named_parameters()}
    assert {names[id(p)].split('.')[0] for p in fast['params']} == {'layer4', 'fc'}
    assert len(body['params']) + len(fast['params']) == len(names)
    assert (body['lr'], fast['lr']) == (0.1, 1.0)
    stage.config.head_layers = ['layer9']
    with pytest.raises(TrainingError, match='no module layer9'):
        stage.parameter_groups()


def test_disk_that_fills_up_keeps_the_state(data, run, tmp_path, monkeypatch):
    real, calls = checkpoint.save_file, []

    def save_file(tensors, path, metadata=None):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(28, 'No space left on device')
        real(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, 'save_file', save_file)
    with pytest.raises(TrainingError, match=r'cannot be written \(.*No space left.*--resume'):
        train(config(data), tmp_path / 'run', quiet=True)
    train(config(data), tmp_path / 'run', resume=True, quiet=True)
    for which in ('best', 'last'):
        a, b = (load_file(folder / which / 'model.safetensors') for folder in (run, tmp_path / 'run'))
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_tensorboard_gets_the_curves(run):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    # One file per epoch: files of the same second are not read in the order of their numbers.
    files = [accumulator.EventAccumulator(str(f)).Reload() for f in (run / 'tensorboard' / 'classifier').iterdir()]
    assert sorted(e.step for events in files for e in events.Scalars('ce')) == [1, 2]
    assert all({'val/cls', 'images_per_second'} <= set(events.Tags()['scalars']) for events in files)


def test_coco_boxes_of_val_select_the_epoch(tmp_path):
    photos = make_folder(tmp_path / 'photos', {'train': 8, 'val': 4})
    names = ('square', 'disc')
    annotations = {
        'images': [{'id': i, 'file_name': f'{names[i % 2]}/{i}.png', 'width': 72, 'height': 72} for i in range(4)],
        'categories': [{'id': 1, 'name': 'disc'}, {'id': 2, 'name': 'square'}],
        'annotations': [
            {'id': i, 'image_id': i, 'category_id': 2 - i % 2, 'bbox': [9, 9, 30, 30], 'area': 900, 'iscrowd': 0}
            for i in range(4)
        ],
    }
    (tmp_path / 'val.json').write_text(json.dumps(annotations))
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}
    settings = config(photos, annotations=str(tmp_path / 'val.json'), **stages)
    summary = train(settings, tmp_path / 'run', quiet=True)
    assert 0 <= summary['decoder'].best.val['max_box_acc_50'] <= 100


@pytest.mark.parametrize('low', [torch.zeros(2, 4, 4), torch.tensor([0.0, 1.5 / 255]).repeat(2, 4, 2)])
def test_maps_without_an_object_give_a_zero_loss(monkeypatch, low):
    """Constant maps, and maps of gray levels 0 and 1."""
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    stage = DecoderStage(model, DecoderConfig(crf_weight=0.0, size_weight=0.0), 'layercam')
    monkeypatch.setattr(model, 'class_map', lambda *args: low)
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    loss = stage(images, torch.tensor([0, 1]), [torch.Generator(), torch.Generator()])['partial_ce']
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.decoder.parameters())


def test_averaged_weights_are_validated_and_saved(data, tmp_path, monkeypatch):
    weights, step = [], StageRun.step

    def watched(self, *args):
        found = step(self, *args)
        weights.append({k: v.clone() for k, v in self.stage.model.state_dict().items()})
        return found

    monkeypatch.setattr(StageRun, 'step', watched)
    settings = ClassifierConfig(epochs=2, batch_size=8, average=0.5, lr=0.1)
    train(config(data, classifier=settings, decoder=DecoderConfig(epochs=0)), tmp_path / 'run', quiet=True)
    # The first weights are those before training, which the first update nearly forgets.
    saved = load_file(tmp_path / 'run' / 'last' / 'model.safetensors')
    name = 'backbone.conv1.0.weight' if 'backbone.conv1.0.weight' in saved else 'backbone.conv1.weight'
    state = load_file(tmp_path / 'run' / 'classifier' / 'state.safetensors')
    expected, decays = state[f'average.{name}'], [min(0.5, (1 + n) / (10 + n)) for n in range(1, len(weights) + 1)]
    first = fcam_zoo.train.setup.build_model(config(data, classifier=settings), WSOLDataset(data, 'train'))
    found = first.state_dict()[name].clone()
    for each, decay in zip(weights, decays):
        found = decay * found + (1 - decay) * each[name]
    torch.testing.assert_close(expected, found)
    torch.testing.assert_close(saved[name], found)
    assert torch.equal(state[f'model.{name}'], weights[-1][name])
    assert not torch.allclose(saved[name], weights[-1][name])


def test_learning_rates_warm_up():
    settings = ClassifierConfig(epochs=4, warmup_epochs=2, schedule='constant')
    factors = [lr_factor(settings, epoch, step, 2) for epoch in (1, 2, 3) for step in (0, 1)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1]
    plain, slow = (lr_factor(ClassifierConfig(epochs=4, warmup_epochs=n), 1, 0, 2) for n in (0, 2))
    assert slow == pytest.approx(plain / 4)


def test_training_starts_from_the_average_of_models(data, run, tmp_path):
    second = train(config(data, seed=1), tmp_path / 'second', quiet=True)
    assert second
    names = [f'local-dir:{folder / "best"}' for folder in (run, tmp_path / 'second')]
    start = config(data, init=names, classifier=ClassifierConfig(epochs=0))
    model = build_model(start, WSOLDataset(data, 'train'))
    states = [fcam_zoo.create_model(name).state_dict() for name in names]
    for key, value in model.state_dict().items():
        expected = (states[0][key] + states[1][key]) / 2 if value.is_floating_point() else states[0][key]
        torch.testing.assert_close(value, expected)
    other = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, decoder_type='fpn')
    fcam_zoo.hub.save_pretrained(other, tmp_path / 'other')
    with pytest.raises(TrainingError, match='has other layers or classes than'):
        train(start.replace({'init': [names[0], f'local-dir:{tmp_path / "other"}']}), tmp_path / 'third', quiet=True)
