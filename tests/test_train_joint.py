"""Joint training of classifier and decoder (`decoder.classification_weight`)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from synthetic import make_wsol, train_config

import fcam_zoo
from fcam_zoo.data import normalize
from fcam_zoo.errors import TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, train
from fcam_zoo.train.joint import JointStage
from fcam_zoo.train.loop import StageRun
from fcam_zoo.train.stages import DecoderStage

GENERATORS = [torch.Generator(), torch.Generator()]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 16, 'val': 4})


def settings(data, **changes):
    decoder = DecoderConfig(epochs=2, batch_size=4, erosion=3, **{'classification_weight': 0.5, **changes})
    return train_config(data, classifier=ClassifierConfig(epochs=1, batch_size=8), decoder=decoder)


def test_the_loss_is_that_of_the_decoder_and_the_weighted_cross_entropy():
    torch.manual_seed(0)
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    torch.nn.init.normal_(model.get_classifier().weight)
    images, labels = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1])
    config = DecoderConfig(classification_weight=0.3, dense=[0.4, 0.6])
    found = JointStage(model, config, 'layercam', ClassifierConfig(label_smoothing=0.2)).eval()(
        images, labels, GENERATORS
    )
    alone = DecoderStage(model, config, 'layercam').eval()(images, labels, GENERATORS)
    assert {name: found[name].item() for name in alone} == {name: term.item() for name, term in alone.items()}
    cfg = model.pretrained_cfg
    logits = model.eval()(normalize(images, cfg['mean'], cfg['std'])).logits
    expected = 0.3 * (0.8 * F.nll_loss(logits.log_softmax(1), labels) - 0.2 * logits.log_softmax(1).mean())
    assert found['ce'].item() == pytest.approx(expected.item(), rel=1e-5)


def test_frozen_layers_stay_frozen():
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    classifier = ClassifierConfig(frozen_layers=['conv1', 'layer1'])
    stage = JointStage(model, DecoderConfig(classification_weight=0.3), 'layercam', classifier).train()
    trained = {id(p) for group in stage.parameter_groups() for p in group['params']}
    names = {name for name, p in model.backbone.named_parameters() if id(p) not in trained}
    assert names == {n for n, _ in model.backbone.named_parameters() if n.startswith(('conv1', 'layer1'))}


def test_classifier_and_decoder_are_trained_but_not_the_statistics_of_batch_norm(data, tmp_path):
    summary = train(settings(data), tmp_path, quiet=True)
    assert summary['decoder'].last.terms['ce'] > 0
    before, after = (
        load_file(path) for path in (tmp_path / 'classifier/best.safetensors', tmp_path / 'last/model.safetensors')
    )
    statistics = [name for name in before if name.startswith('backbone.') and 'running' in name]
    weights = [name for name in before if name.startswith('backbone.') and name.endswith('weight')]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert weights
    assert not any(torch.equal(before[name], after[name]) for name in weights)


def test_the_classifier_has_its_own_rate_and_the_teachers_of_distillation(data, tmp_path):
    train(settings(data), tmp_path / 'first', quiet=True)
    joint = settings(data, classifier_lr=1e-4).replace(
        {
            'init': str(tmp_path / 'first' / 'best'),
            'classifier.epochs': 0,
            'classifier.teacher': str(tmp_path / 'first' / 'best'),
        }
    )
    summary = train(joint, tmp_path / 'joint', quiet=True)
    assert summary['decoder'].last.terms.keys() == {
        *('partial_ce', 'crf', 'area', 'ce', 'distillation', 'train_accuracy')
    }
    model = fcam_zoo.create_model(tmp_path / 'joint' / 'best')
    decoder, classifier = JointStage(model, joint.decoder, 'layercam', joint.classifier).parameter_groups()
    assert (decoder['lr'], classifier['lr']) == (joint.decoder.lr, 1e-4)
    assert len(decoder['params']) + len(classifier['params']) == len(list(model.parameters()))


def test_an_interrupted_run_resumes_bit_for_bit(data, tmp_path, monkeypatch):
    config = settings(data, average=0.9)
    train(config, tmp_path / 'whole', quiet=True)
    step, calls = StageRun.step, []

    def interrupted(self, *arguments):
        calls.append(self.stage.name)
        # In the second epoch of the decoder, after the first step.
        if calls.count('decoder') == 6:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(StageRun, 'step', interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / 'resumed', quiet=True)
    train(config, tmp_path / 'resumed', resume=True, quiet=True)
    whole, resumed = (load_file(tmp_path / name / 'last/model.safetensors') for name in ('whole', 'resumed'))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_classifier_with_another_training_method_is_refused(data, tmp_path):
    joint = settings(data).replace({'classifier.method': 'acol'})
    with pytest.raises(TrainingError, match=r'by cross-entropy, and this one was trained by ACoL: set it to 0'):
        train(joint, tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


def test_the_epoch_cannot_be_selected_by_a_classifier_that_changes(tmp_path, caplog):
    images = make_wsol(tmp_path / 'shapes', {'train': 8})
    train(settings(images), tmp_path / 'run', quiet=True)
    assert 'decoder.classification_weight changes the classifier that selects the epoch' in caplog.text
