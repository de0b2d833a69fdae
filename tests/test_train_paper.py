"""The procedure of the F-CAM paper: selection, epoch 0, last batch, head, variants of class maps, joint training."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from synthetic import make_wsol, train_config

import fcam_zoo
from fcam_zoo.benchmark import evaluate
from fcam_zoo.cli import main
from fcam_zoo.data import EvalTransform, WSOLDataset
from fcam_zoo.errors import TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TrainConfig, loading, loop, train, validation
from fcam_zoo.train.loop import StageRun
from fcam_zoo.train.records import EpochMetrics, StageSummary, summary_table
from fcam_zoo.train.selection import best_epochs
from fcam_zoo.train.setup import build_model, open_data, prepare

TINY = {
    'backbone': 'test_resnet',
    'backbone_pretrained': False,
    'image_size': 64,
    'workers': 0,
    'device': 'cpu',
    'classifier.head_layers': [],
    'classifier.batch_size': 8,
    'decoder.batch_size': 8,
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_wsol(tmp_path_factory.mktemp('data') / 'shapes', {'train': 10, 'val': 4})


def paper(data, recipe='fcam_resnet50_cub', **changes) -> TrainConfig:
    """Return the recipe of the paper for a tiny network."""
    places = {place.replace('__', '.'): value for place, value in changes.items()}
    return TrainConfig.from_file(recipe).replace({**TINY, 'data': str(data), **places})


def scripted(monkeypatch, *scores: tuple[float, float, float]) -> None:
    """Let each validation give these metrics: MaxBoxAcc at IoU 50, the mean, and the accuracy."""
    rows = iter(scores)

    def validate(*args):
        at_50, mean, cls = next(rows)
        return {'max_box_acc_50': at_50, 'mean': mean, 'cls': cls, 'best_threshold_50': 0.25}

    monkeypatch.setattr(loop, 'validate', validate)


def test_the_recipe_selects_by_iou_50_and_the_package_by_the_mean(data, tmp_path, monkeypatch):
    epochs = ((10, 10, 50), (60, 40, 50), (50, 45, 50))
    for select, best in (('localization_50', 1), ('localization', 2)):
        scripted(monkeypatch, *epochs)
        config = paper(data, classifier__epochs=0, decoder__epochs=2, decoder__select=select)
        summary = train(config, tmp_path / select, quiet=True)['decoder']
        assert (summary.best_epoch, summary.best.epoch, summary.last.epoch) == (best, best, 2)
        rows = [json.loads(line) for line in (tmp_path / select / 'decoder' / 'metrics.jsonl').open()]
        assert [row['epoch'] for row in rows] == [0, 1, 2]
    assert paper(data).decoder.select == 'localization_50'
    assert DecoderConfig().select == 'localization'


def test_the_state_before_the_first_step_can_be_the_best(data, tmp_path, monkeypatch):
    scripted(monkeypatch, (70, 50, 50), (60, 60, 50), (70, 40, 50))
    config = paper(data, classifier__epochs=0, decoder__epochs=2, keep_epochs=True)
    start = build_model(config, open_data(config)[0]).state_dict()
    summary = train(config, tmp_path / 'run', quiet=True)['decoder']
    # The first of two equal epochs.
    assert (summary.best_epoch, summary.best.terms) == (0, {})
    best = load_file(tmp_path / 'run' / 'best' / 'model.safetensors')
    assert all(torch.equal(best[name], value) for name, value in start.items())
    last = load_file(tmp_path / 'run' / 'last' / 'model.safetensors')
    assert not torch.equal(last['decoder.head.weight'], start['decoder.head.weight'])
    written = json.loads((tmp_path / 'run' / 'summary.json').read_text())['decoder']
    assert StageSummary.from_dict(written) == summary


def test_a_run_with_epoch_0_resumes_bit_for_bit(data, tmp_path, monkeypatch):
    config = paper(data, classifier__epochs=1, decoder__epochs=1, decoder__average=0.9)
    want = train(config, tmp_path / 'whole', quiet=True)
    step, stopped = StageRun.step, []

    def interrupted(self, *arguments):
        # Once in each stage, after epoch 0 or after the first step.
        place = (self.stage.name, self.progress.step)
        if place in (('classifier', 0), ('decoder', 1)) and place not in stopped:
            stopped.append(place)
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(StageRun, 'step', interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / 'run', resume=True, quiet=True)
    found = train(config, tmp_path / 'run', resume=True, quiet=True)
    assert [summary.best_epoch for summary in found.values()] == [summary.best_epoch for summary in want.values()]
    whole, resumed = (load_file(tmp_path / name / 'last' / 'model.safetensors') for name in ('whole', 'run'))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_joint_training_changes_the_classifier(data, tmp_path):
    """The paper's alpha is decoder.seed_weight."""
    for weight, changes in ((0.0, False), (1.0, True)):
        run = tmp_path / str(weight)
        config = paper(data, classifier__epochs=1, decoder__epochs=1, decoder__seed_weight=0.1)
        train(config.replace({'decoder.classification_weight': weight}), run, quiet=True)
        before, after = (load_file(run / p) for p in ('classifier/best.safetensors', 'last/model.safetensors'))
        assert torch.equal(before['backbone.fc.weight'], after['backbone.fc.weight']) is not changes


def test_masks_select_by_pxap_at_all_thresholds(tmp_path, monkeypatch):
    data = make_wsol(tmp_path / 'shapes', {'train': 8, 'val': 4}, kind='masks')
    config = paper(data, 'fcam_resnet50_openimages', classifier__epochs=0, decoder__epochs=1)
    best = train(config, tmp_path / 'run', quiet=True)['decoder'].best
    model = fcam_zoo.create_model(tmp_path / 'run' / 'best')
    report = evaluate(model, WSOLDataset(data, 'val', EvalTransform(64)), quiet=True)
    assert len(report.curves['threshold']) > len(validation.BOX_THRESHOLDS)
    assert best.val['pxap'] == pytest.approx(report.metrics['pxap'], abs=1e-3)


def test_both_selections_of_the_tables_are_reported(data, tmp_path, monkeypatch, caplog):
    scripted(monkeypatch, (60, 20, 50), (50, 30, 60), (50, 40, 80))
    config = paper(data, classifier__epochs=2, decoder__epochs=0)
    with caplog.at_level('INFO', logger='fcam_zoo'):
        summary = train(config, tmp_path / 'run', quiet=True)
    written = json.loads((tmp_path / 'run' / 'summary.json').read_text())['classifier']
    found = {name: (row['epoch'], row['val']['max_box_acc_50'], row['val']['cls']) for name, row in
             written['selections'].items()}  # fmt: skip
    assert found == {'localization': (0, 60, 50), 'accuracy': (2, 50, 80)}
    assert written['best_epoch'] == 0
    text = (
        'classifier: best localization in epoch 0 (max_box_acc_50 60.0, mean 20.0, cls 50.0), best accuracy in epoch 2'
    )
    assert text in caplog.text
    table = summary_table(summary)
    assert 'classifier, best localization' in table
    assert 'classifier, best accuracy' in table
    # By the metric of the stage.
    history = [
        EpochMetrics(i, {}, 0, 0, {'max_box_acc_50': a, 'mean': b, 'cls': 0}) for i, a, b in ((0, 2, 1), (1, 1, 2))
    ]
    assert [best_epochs(history, s)['localization'].epoch for s in ('localization_50', 'localization')] == [0, 1]
    assert best_epochs([EpochMetrics(1, {}, 0, 0, {'cls': 5})], 'accuracy') == {}


def test_the_last_batch_is_kept(data, tmp_path):
    setup = prepare(paper(data), torch.device('cpu'))
    run = StageRun(next(iter(setup.stages())), setup, tmp_path)
    assert (run.sizes, run.steps) == ([8, 2], 2)
    found = list(loading.batches(run.dataset, run.sizes, 1, epoch=1))
    assert [len(batch.indices) for batch in found] == [8, 2]
    assert sorted(i for batch in found for i in batch.indices) == list(range(10))
    # From the second step on, as after an interruption.
    (rest,) = loading.batches(run.dataset, run.sizes, 1, epoch=1, first_step=1)
    assert rest.indices == found[1].indices
    # In two passes per step.
    parts = list(loading.batches(run.dataset, run.sizes, 2, epoch=1))
    assert [batch.indices for batch in parts] == [
        found[0].indices[:4], found[0].indices[4:], found[1].indices[:1], found[1].indices[1:]
    ]  # fmt: skip
    settings = ClassifierConfig(batch_size=4, accumulate=2, drop_last=False)
    assert loading.step_sizes('classifier', settings, 11) == [4, 4, 2]
    assert loading.step_sizes('classifier', ClassifierConfig(batch_size=4), 11) == [4, 4]


def test_the_last_batch_must_have_enough_images_for_the_method(tmp_path):
    data = make_wsol(tmp_path / 'shapes', {'train': 9, 'val': 4})
    config = train_config(data, classifier=ClassifierConfig(epochs=1, batch_size=8, method='spol', drop_last=False))
    with pytest.raises(TrainingError, match=r'SPOL needs at least 2 images .* or classifier\.drop_last'):
        prepare(config, torch.device('cpu'))


def test_a_new_head_starts_as_published(data):
    config = paper(data)
    head = build_model(config, open_data(config)[0]).get_classifier()
    bound = (6 / (head.in_features + head.out_features)) ** 0.5
    assert 0.5 * bound < head.weight.abs().max() <= bound
    assert not head.bias.any()
    zero = config.replace({'classifier.head_init': 'zero'})
    assert not build_model(zero, open_data(zero)[0]).get_classifier().weight.any()


def test_the_variant_reaches_the_teacher_the_selection_and_the_finished_model(data, tmp_path, monkeypatch):
    config = paper(data, teacher__method='gradcampp', classifier__epochs=1, decoder__epochs=1)
    assert config.teacher.variant == 'reference'
    variants, original = [], fcam_zoo.cams.class_activation_map
    monkeypatch.setattr(
        fcam_zoo.cams,
        'class_activation_map',
        lambda *args, **options: variants.append(options['variant']) or original(*args, **options),
    )
    train(config, tmp_path / 'run', quiet=True)
    assert set(variants) == {'reference'}
    model = fcam_zoo.create_model(tmp_path / 'run' / 'best')
    assert model.cam_variant == model.model_args['cam_variant'] == 'reference'
    torch.nn.init.normal_(model.get_classifier().weight)
    x = torch.randn(2, 3, 64, 64)
    found = model.cam(x, [0, 1], 'gradcampp')
    assert torch.equal(found, model.cam(x, [0, 1], 'gradcampp', variant='reference'))
    assert not torch.equal(found, model.cam(x, [0, 1], 'gradcampp', variant='published'))


def test_benchmark_uses_the_variant_of_the_model_or_the_option(data, tmp_path):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, cam_variant='reference')
    torch.nn.init.normal_(model.get_classifier().weight)
    model.pretrained_cfg['input_size'] = (3, 64, 64)
    model.pretrained_cfg['label_names'] = ['square', 'disc']
    fcam_zoo.hub.save_pretrained(model, tmp_path / 'model')
    scores = {}
    for name, options in {
        'own': [],
        'reference': ['--variant', 'reference'],
        'other': ['--variant', 'original'],
    }.items():
        arguments = ['--models', str(tmp_path / 'model'), '--split', 'val', '--device', 'cpu', '--quiet', *options]
        out = tmp_path / name
        assert main(['benchmark', str(data), '--maps', 'gradcampp', 'smoothgradcampp', *arguments, '-o', str(out)]) == 0
        scores[name] = [json.loads(path.read_text()) for path in sorted(out.rglob('*gradcampp*.json'))]
    assert scores['own']
    assert [report['rows'] for report in scores['own']] == [report['rows'] for report in scores['reference']]
    texts = {name: [report['meta']['score_maps'] for report in found] for name, found in scores.items()}
    assert all(text.endswith('not renormalized, reference formulas') for text in texts['own'])
    assert all(text.endswith('not renormalized, original formulas') for text in texts['other'])


def test_settings_of_earlier_versions_are_moved():
    config = TrainConfig.from_dict({'teacher': 'gradcampp', 'decoder': {'variant': 'reference'}})
    assert (config.teacher.method, config.teacher.variant) == ('gradcampp', 'reference')
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert TrainConfig().replace({'decoder.variant': 'original'}).teacher.variant == 'original'
