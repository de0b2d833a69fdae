"""Failures of training: unreadable images, changed or unsuitable settings, a full disk."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from synthetic import make_folder, train_config

from fcam_zoo.errors import ImageError, TrainingError
from fcam_zoo.hub import save_pretrained
from fcam_zoo.models import create_model
from fcam_zoo.train import ClassifierConfig, DecoderConfig, train
from fcam_zoo.train.setup import build_model, open_data

SHORT = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}


def test_unreadable_sample_image_is_skipped(tmp_path):
    data = make_folder(tmp_path / 'photos', {'train': 8})
    first = data / 'train' / 'disc' / '1.png'
    first.write_bytes(b'not an image')
    summary = train(train_config(data, skip_bad=True, **SHORT), tmp_path / 'run', quiet=True)
    assert summary['classifier'].bad == ['disc/1.png']
    assert (tmp_path / 'run' / 'decoder' / 'samples' / 'epoch_001.png').is_file()


def test_skip_bad_may_change_on_resume(tmp_path):
    data = make_folder(tmp_path / 'photos', {'train': 8})
    (data / 'train' / 'disc' / '3.png').write_bytes(b'not an image')
    with pytest.raises(ImageError, match='--skip-bad'):
        train(train_config(data, **SHORT), tmp_path / 'run', quiet=True)
    summary = train(train_config(data, skip_bad=True, **SHORT), tmp_path / 'run', resume=True, quiet=True)
    assert summary['classifier'].bad == ['disc/3.png']


def test_runs_of_other_versions_are_resumed_or_refused(tmp_path):
    data = make_folder(tmp_path / 'photos', {'train': 8})
    train(train_config(data, **SHORT), tmp_path / 'run', quiet=True)
    path = tmp_path / 'run' / 'config.json'
    values = json.loads(path.read_text())

    def resume(settings, **kwargs):
        path.write_text(json.dumps(settings))
        return train(train_config(data, **{**SHORT, **kwargs}), tmp_path / 'run', resume=True, quiet=True)

    # Settings that are missing in the saved config have their defaults.
    resume({k: v for k, v in values.items() if k != 'keep_epochs'})
    assert resume(values | {'classifier': {'epochs': 1, 'batch_size': 4}})['decoder'].last.epoch == 1
    with pytest.raises(TrainingError, match=r'differs in decoder\.lr \(was 0\.01, now 0\.5\)'):
        resume(values, decoder=DecoderConfig(epochs=1, batch_size=4, lr=0.5))
    for settings in (values | {'sharpness': 1}, [], {'decoder': 3}):
        with pytest.raises(TrainingError, match='damaged or of another version'):
            resume(settings)
    with pytest.raises(TrainingError, match=r'config\.json .*decoder\.alpha .*rename it to decoder\.seed_weight'):
        resume(values | {'decoder': {'alpha': 1.0}})


@pytest.mark.parametrize(
    ('stages', 'message'),
    [
        ({'classifier': ClassifierConfig(epochs=1, head_layers=['layer9'])}, 'no module layer9'),
        ({'decoder': DecoderConfig(epochs=1, batch_size=16, accumulate=16)}, 'fewer than 16 parts'),
        (
            {'decoder': DecoderConfig(epochs=1, batch_size=9, accumulate=2)},
            'batch_size=9 is not a multiple of 2',
        ),
    ],
)
def test_settings_that_do_not_fit_leave_the_folder_free(tmp_path, stages, message):
    data = make_folder(tmp_path / 'photos', {'train': 8})
    with pytest.raises(TrainingError, match=message):
        train(train_config(data, **{**SHORT, **stages}), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


def test_full_disk_leaves_the_folder_free(tmp_path, monkeypatch):
    data = make_folder(tmp_path / 'photos', {'train': 8})
    with monkeypatch.context() as full:
        full.setattr('shutil.disk_usage', lambda path: SimpleNamespace(free=1000))
        with pytest.raises(TrainingError, match='make room'):
            train(train_config(data, **SHORT), tmp_path / 'run', quiet=True)
    assert train(train_config(data, **SHORT), tmp_path / 'run', quiet=True)['decoder'].best_epoch == 1


def test_bar_counts_images(tmp_path, capfd):
    data = make_folder(tmp_path / 'photos', {'train': 8})
    stages = {'classifier': ClassifierConfig(epochs=1, batch_size=32), 'decoder': DecoderConfig(epochs=0)}
    train(train_config(data, **stages), tmp_path / 'run')
    assert '/8 [' in capfd.readouterr().err


def test_warning_about_an_untrained_head(tmp_path, caplog):
    model = create_model('fcam', backbone='test_resnet', num_classes=2)
    model.pretrained_cfg['label_names'] = ['cat', 'dog']
    save_pretrained(model, tmp_path / 'model')
    data = make_folder(tmp_path / 'photos', {'train': 4})
    settings = train_config(data, init=f'local-dir:{tmp_path / "model"}', classifier=ClassifierConfig(epochs=0))
    build_model(settings, open_data(settings)[0])
    assert 'so the head is random' in caplog.text
