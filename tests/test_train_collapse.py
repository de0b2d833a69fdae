"""Trainings that fail: they are noticed, the earlier epoch is kept, and some are predicted before they start."""

from __future__ import annotations

import json
import logging
import re

import pytest
import torch
from synthetic import make_folder, make_wsol
from synthetic import train_config as config

from fcam_zoo.benchmark import evaluate
from fcam_zoo.data import EvalTransform, WSOLDataset
from fcam_zoo.errors import TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig, loop, plan, train
from fcam_zoo.train.collapse import collapse_of, undertrained
from fcam_zoo.train.records import EpochMetrics
from fcam_zoo.train.stages import DecoderStage
from fcam_zoo.train.validation import BOX_THRESHOLDS

STAGES = {'classifier': ClassifierConfig(epochs=0), 'decoder': DecoderConfig(epochs=3, batch_size=4)}


def epochs(*terms: tuple[float, float]) -> list[EpochMetrics]:
    return [EpochMetrics(i, {'partial_ce': ce, 'area': area}, 1, 1) for i, (ce, area) in enumerate(terms, 1)]


@pytest.mark.parametrize(
    ('history', 'message'),
    [
        ([(0.9, 0.4)], None),  # Not trained yet.
        ([(0.5, 0.4), (0.6, 0.4)], None),
        ([(0.9, 0.4), (0.8, 0.5)], None),
        ([(0.5, 0.8), (0.8, 0.8)], 'contradict the teacher .partial cross-entropy 0.80'),
        ([(0.5, 0.94)], r'almost all foreground \(mean 0.94\)'),
        ([(0.5, 0.001)], r'almost all background \(mean 0.00\)'),
    ],
)
def test_signs_of_a_collapse(history, message):
    found = collapse_of(epochs(*history), 1.0)
    assert (found is None) if message is None else re.search(message, found)


def test_cross_entropy_is_compared_without_its_weight():
    history = epochs((0.05, 0.4), (0.08, 0.4))
    assert collapse_of(history, 0.1)
    assert collapse_of(history, 1.0) is None


def test_a_collapsed_epoch_is_not_the_best(tmp_path, monkeypatch, caplog):
    """Without boxes, maps that fill the image keep all of it, which would be the best score."""
    data = make_folder(tmp_path / 'photos', {'train': 8})
    forward = DecoderStage.forward

    def fill_later(self, *args):
        terms = forward(self, *args)
        if len(steps) >= 2:
            with torch.no_grad():
                self.model.decoder.head.bias.copy_(torch.tensor([-9.0, 9.0]))
        steps.append(terms['area'].item())
        return terms

    steps: list[float] = []
    monkeypatch.setattr(DecoderStage, 'forward', fill_later)
    with caplog.at_level(logging.WARNING):
        summary = train(config(data, **STAGES), tmp_path / 'run', quiet=True)['decoder']
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'decoder' / 'metrics.jsonl').open()]
    assert summary.best_epoch == 1
    assert rows[0]['area'] < 0.8 < 0.9 < rows[2]['area']
    assert rows[2]['val']['kept'] >= rows[0]['val']['kept']
    assert 'decoder 3: the maps are almost all foreground (mean' in caplog.text
    assert 'lower decoder.crf_weight' in caplog.text


def test_with_boxes_the_metric_alone_selects(tmp_path, monkeypatch, caplog):
    """A collapsed epoch is reported, and is the best if its metric on val is."""
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    scores = iter((10.0, 20.0, 15.0))
    monkeypatch.setattr(
        loop, 'validate', lambda *_: {'mean': (n := next(scores)), 'max_box_acc_50': n, 'best_threshold_50': 0.5}
    )
    monkeypatch.setattr(
        DecoderStage, 'collapse', lambda self, history: 'the maps collapsed' if history[-1].epoch == 2 else None
    )
    with caplog.at_level(logging.WARNING):
        summary = train(config(data, **STAGES), tmp_path / 'run', quiet=True)['decoder']
    assert summary.best_epoch == 2
    assert 'decoder 2: the maps collapsed: lower decoder.crf_weight' in caplog.text


def test_area_is_not_part_of_the_loss(tmp_path):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    terms = train(config(data, **STAGES), tmp_path / 'run', quiet=True)['decoder'].last.terms
    assert terms.keys() == {'partial_ce', 'crf', 'area'}
    assert 0 < terms['area'] < 1


def test_the_crf_weight_grows(tmp_path, monkeypatch):
    weights = []
    forward = DecoderStage.forward
    monkeypatch.setattr(
        DecoderStage, 'forward', lambda self, *args: weights.append(self.criterion.crf_weight) or forward(self, *args)
    )
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    decoder = DecoderConfig(epochs=3, batch_size=4, crf_weight=1e-8, crf_rampup=2)
    train(config(data, classifier=ClassifierConfig(epochs=0), decoder=decoder), tmp_path / 'run', quiet=True)
    assert weights == pytest.approx([2.5e-9, 5e-9, 7.5e-9, 1e-8, 1e-8, 1e-8])


def test_warnings_before_the_training(tmp_path, caplog):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    text = plan(config(data), tmp_path / 'run')
    assert 'warning: the backbone starts from random weights' in text
    assert 'warning: 2 steps are too few to train the decoder: set decoder.epochs to 150 or more' in text
    with caplog.at_level(logging.WARNING):
        train(config(data, **STAGES), tmp_path / 'run', quiet=True)
    assert 'the backbone starts from random weights' in caplog.text
    # At the start, and again at the end, where it is seen.
    advice = '6 steps are too few to train the decoder: set decoder.epochs to 75 or more (--decoder-epochs 75)'
    assert caplog.messages.count(advice) == 2
    assert caplog.messages[-1] == advice
    enough = config(data, classifier=ClassifierConfig(epochs=0), decoder=DecoderConfig(epochs=150, batch_size=8))
    assert 'too few' not in plan(enough, tmp_path / 'other')


def test_steps_are_counted_only_in_stages_with_epochs_and_by_pairs():
    classifier, counts = ClassifierConfig(epochs=10, batch_size=4), {'classifier': 5, 'decoder': 0}
    settings = TrainConfig(data='x', classifier=classifier, decoder=DecoderConfig(epochs=0))
    for pairs in (False, True):
        (line,) = undertrained(settings, counts.__getitem__, pairs)
        assert line.startswith('10 steps are too few to train the classifier: set classifier.epochs to 150 or more')
    counts['classifier'] = 1
    assert undertrained(settings, counts.__getitem__, False)
    with pytest.raises(TrainingError, match='2 images of a class'):
        undertrained(settings, counts.__getitem__, True)


def test_maps_that_are_not_better_than_the_center_baseline(tmp_path, monkeypatch, caplog):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4})
    center = evaluate(None, WSOLDataset(data, 'val', EvalTransform(64)), 'center', thresholds=BOX_THRESHOLDS)
    for score, warned in ((center.metrics['mean'] - 0.01, True), (center.metrics['mean'] + 1, False)):
        metrics = {'mean': score, 'max_box_acc_50': score, 'best_threshold_50': 0.5}
        monkeypatch.setattr(loop, 'validate', lambda *args, metrics=metrics: metrics)
        caplog.clear()
        train(config(data, **STAGES), tmp_path / str(warned), quiet=True)
        text = f'decoder: on val the maps ({score:.1f}) are not better than a blob in the middle of the image ('
        assert (text in caplog.text) is warned
