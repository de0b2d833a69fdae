"""Training: both stages learn, runs resume bit-identically, and bad input is refused before work is lost."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from synthetic import make_wsol, shape_image

import fcam_zoo
from fcam_zoo.data import WSOLDataset
from fcam_zoo.errors import DatasetError, TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig, run, train
from fcam_zoo.train.stages import DecoderStage


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 24, 'val': 8, 'test': 8})


def config(data, **kwargs) -> TrainConfig:
    values = {
        'data': str(data),
        'backbone': 'test_resnet',
        'output_stride': 8,
        'image_size': 64,
        'workers': 0,
        'device': 'cpu',
        'classifier': ClassifierConfig(epochs=2, batch_size=8),
        'decoder': DecoderConfig(epochs=2, batch_size=8),
    }
    return TrainConfig(**{**values, **kwargs})


def test_resume_is_bit_identical(data, tmp_path, monkeypatch):
    train(config(data), tmp_path / 'whole', quiet=True)
    save_state, calls = run.save_state, []

    def stop_after_each_epoch(*args):
        save_state(*args)
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, 'save_state', stop_after_each_epoch)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            train(config(data), tmp_path / 'parts', resume=True, quiet=True)
    assert len(calls) == 4
    summary = train(config(data), tmp_path / 'parts', resume=True, quiet=True)
    for which in ('best', 'last'):
        whole, parts = (load_file(tmp_path / d / which / 'model.safetensors') for d in ('whole', 'parts'))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert summary['decoder']['last']['epoch'] == 2
    rows = (tmp_path / 'parts' / 'decoder' / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(row)['epoch'] for row in rows] == [1, 2]
    assert {'partial_ce', 'crf', 'size', 'val'} <= json.loads(rows[0]).keys()


def test_trained_folder_is_a_model(data, tmp_path):
    train(config(data), tmp_path / 'run', quiet=True)
    model = fcam_zoo.create_model(f'local-dir:{tmp_path / "run" / "best"}')
    assert not model.training
    assert list(model.pretrained_cfg['label_names']) == ['square', 'disc']
    (found,) = fcam_zoo.localize(model, shape_image(0, 5)[0])
    assert found.label in ('square', 'disc')
    with pytest.raises(TrainingError, match='holds a training already'):
        train(config(data), tmp_path / 'run', quiet=True)
    with pytest.raises(TrainingError, match='differs in teacher'):
        train(config(data, teacher='cam'), tmp_path / 'run', resume=True, quiet=True)


def test_decoder_stage_leaves_the_classifier_alone(data, tmp_path):
    train(config(data), tmp_path / 'run', quiet=True)
    classifier = load_file(tmp_path / 'run' / 'classifier' / 'best.safetensors')
    final = load_file(tmp_path / 'run' / 'last' / 'model.safetensors')
    assert all(torch.equal(final[k], v) for k, v in classifier.items() if k.startswith('backbone.'))
    assert any(not torch.equal(final[k], v) for k, v in classifier.items() if k.startswith('decoder.'))


def test_one_backbone_pass_a_step(data):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    stage, calls = DecoderStage(model, DecoderConfig(), 'layercam'), []
    model.backbone.conv1.register_forward_hook(lambda *_: calls.append(1))
    terms = stage.loss(torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1]))
    assert len(calls) == 1
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.decoder.parameters())


def test_decoder_learns_the_object(data, tmp_path):
    stages = {
        'classifier': ClassifierConfig(epochs=6, batch_size=4, lr=0.02, head_lr=0.1),
        'decoder': DecoderConfig(epochs=6, batch_size=4, background_fraction=0.5, erosion=3),
    }
    summary = train(config(data, **stages), tmp_path / 'run', quiet=True)
    assert summary['classifier']['best']['val']['cls'] >= 75
    model = fcam_zoo.create_model(f'local-dir:{tmp_path / "run" / "best"}')
    test = WSOLDataset(data, 'test', fcam_zoo.data.EvalTransform(64))
    reports = fcam_zoo.benchmark.evaluate_many(model, test, ('fcam', 'center'), quiet=True)
    # A square of half the side at the wrong place: the centre baseline; a decoder that learnt beats it.
    assert reports['fcam'].metrics['mean'] > reports['center'].metrics['mean']


def test_masks_select_by_pxap(tmp_path):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4}, kind='masks')
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}
    summary = train(config(data, **stages), tmp_path / 'run', quiet=True)
    assert 0 <= summary['decoder']['best']['val']['pxap'] <= 100


def test_folder_without_boxes_takes_the_last_epoch(tmp_path, caplog):
    for i in range(8):
        path = tmp_path / 'photos' / 'train' / ('square' if i % 2 == 0 else 'disc') / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        shape_image(i % 2, i)[0].save(path)
    stages = {'classifier': ClassifierConfig(epochs=2, batch_size=4), 'decoder': DecoderConfig(epochs=2, batch_size=4)}
    summary = train(config(tmp_path / 'photos', **stages), tmp_path / 'run', quiet=True)
    assert summary['decoder']['best_epoch'] == 2
    assert 'the last epoch is taken' in caplog.text


def test_non_finite_loss_names_the_images(data, tmp_path):
    stages = {'classifier': ClassifierConfig(epochs=3, batch_size=8, lr=1e30, head_lr=1e30)}
    with pytest.raises(TrainingError, match=r'loss is .*train_\d+\.png'):
        train(config(data, **stages), tmp_path / 'run', quiet=True)


def test_bad_settings_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match='unknown CAM method'):
        config(data, teacher='scorecam')
    with pytest.raises(ValueError, match='no setting learning_rate'):
        TrainConfig.from_dict({'learning_rate': 1})
    with pytest.raises(ValueError, match='must be positive'):
        config(data, decoder=DecoderConfig(lr=0))
    with pytest.raises(DatasetError, match='num_classes=1'):
        train(config(data, num_classes=1), tmp_path / 'a', quiet=True)
    (tmp_path / 'file').write_text('')
    with pytest.raises(TrainingError, match='cannot be written'):
        train(config(data), tmp_path / 'file', quiet=True)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        TrainConfig.from_file(tmp_path / 'none.json')
    assert TrainConfig.from_dict(config(data).to_dict()) == config(data)


def test_fewer_images_than_a_batch_still_train(data, tmp_path):
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=64), 'decoder': DecoderConfig(epochs=0)}
    summary = train(config(data, **stages), tmp_path / 'run', quiet=True)
    assert summary['classifier']['last']['ce'] > 0


def test_a_failed_start_leaves_the_folder_free(data, tmp_path):
    with pytest.raises(DatasetError):
        train(config(tmp_path / 'nowhere'), tmp_path / 'run', quiet=True)
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=8), 'decoder': DecoderConfig(epochs=0)}
    train(config(data, **stages), tmp_path / 'run', quiet=True)
    model = fcam_zoo.create_model(f'local-dir:{tmp_path / "run" / "best"}')
    assert model.pretrained_cfg['input_size'][-1] == 64


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'schedule': 'linear'}, 'constant'),
        ({'cell_shift': [1]}, 'two numbers'),
        ({'erosion': 10}, 'odd'),
        ({'background_fraction': 2}, r'in \[0,1\]'),
    ],
)
def test_bad_decoder_settings_fail_before_training(data, settings, message):
    with pytest.raises(ValueError, match=message):
        config(data, decoder=DecoderConfig(**settings))


def test_damaged_state_is_refused(data, tmp_path):
    train(config(data), tmp_path / 'run', quiet=True)
    state = tmp_path / 'run' / 'decoder' / 'state.safetensors'
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(TrainingError, match='is not the state of this training'):
        train(config(data), tmp_path / 'run', resume=True, quiet=True)
