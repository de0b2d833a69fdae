"""Settings and recipes: types, ranges, and the grid of the paper."""

from __future__ import annotations

import pytest
import yaml
from synthetic import make_wsol, train_config

from fcam_zoo._catalog import FINE_TUNE, RECIPES
from fcam_zoo.errors import DatasetError, TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, TeacherConfig, TrainConfig, recipe_names, train


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'teacher': 'scorecam'}, r"teacher\.method is 'scorecam': choose one of cam, "),
        ({'learning_rate': 1}, 'unknown field learning_rate: choose one of data, '),
        ({'lr': 1}, r'^unknown setting lr: choose classifier\.lr or decoder\.lr$'),
        ({'decoder': {'lr': 0}}, r'decoder\.lr is 0\.0: give a positive number'),
        ({'decoder': {'schedule': 'linear'}}, r"decoder\.schedule is 'linear': give 'constant' or 'cosine' or 'step'"),
        ({'decoder': {'shift': [1]}}, 'two numbers'),
        ({'decoder': {'erosion': 10}}, 'odd'),
        ({'decoder': {'align': 'plain'}}, r'decoder\.align is a setting of an earlier version: delete it'),
        ({'decoder': {'crf': 1e-9}}, r'earlier version: rename it to decoder\.crf_weight'),
        ({'decoder': {'background_fraction': 2}}, 'from 0 to 1'),
        ({'decoder': {'seed_weight': 0, 'crf_weight': 0, 'size_weight': 0}}, 'are all 0: set one above 0'),
        ({'decoder': {'variant': 'x'}}, r"teacher\.variant is 'x': choose one of published, original, reference"),
        ({'teacher': {'variant': 'x'}}, r"teacher\.variant is 'x': choose one of published, original, reference"),
        (
            {'decoder': {'select': 'iou'}},
            r"decoder\.select is 'iou': give 'localization' or 'localization_50' or 'accuracy'",
        ),
        ({'decoder': {'select': 'accuracy'}}, 'the decoder does not change the classifier'),
        ({'classifier': {'head_init': 'he'}}, r"classifier\.head_init is 'he': give 'zero' or 'xavier'"),
        ({'decoder': {'crop_scale': [2.0]}}, r'decoder\.crop_scale is \[2\.0\]: give the smallest and the largest'),
        ({'decoder': [1]}, r'decoder is \[1\]: give fields by name'),
        ({'decoder': {'classifier_lr': 1e-4}}, r'decoder\.classifier_lr is the learning rate of joint training: set'),
        ({'classifier': {'label_smoothing': 1.5}}, r'in \[0,1\)'),
        ({'classifier': {'epochs': -1}}, 'give a number from 0 to 100000'),
        ({'classifier': {'epochs': 2.5}}, 'give a whole number'),
        ({'classifier': {'head_layers': 'layer4'}}, 'give a list'),
        ({'classifier': {'momentum': 1.5}}, r'in \[0,1\)'),
        ({'decoder': {'lr': float('nan')}}, r'decoder\.lr is nan: give a number'),
        ({'decoder': {'lr': 10**400}}, r'decoder\.lr is 10+\.\.\.0+: give a number'),
        ({'decoder': {'shift': [float('inf'), 0]}}, r'decoder\.shift\[0\] is inf: give a number'),
        ({'checkpoint_minutes': float('inf')}, 'checkpoint_minutes is inf: give a number'),
        ({'num_classes': 0}, 'num_classes is 0'),
        ({'amp': 'half'}, "amp is 'half': give 'off'"),
        ({'workers': -1}, 'workers is -1'),
        ({'image_size': 8}, 'image_size is 8: give a number from 32 to 2048'),
        ({'skip_bad': 'yes'}, 'give true or false'),
        ({'classifier': {'epochs': 0}, 'decoder': {'epochs': 0}}, 'are both 0'),
        ({'init': 'x', 'backbone_pretrained': True}, 'leave out'),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(values)


def test_stages_of_python_callers_are_checked():
    assert TrainConfig(classifier={'epochs': 1}).classifier == ClassifierConfig(epochs=1)
    with pytest.raises(ValueError, match=r"classifier\.epochs is 'x': give a whole number"):
        TrainConfig(classifier=ClassifierConfig(epochs='x'))


def test_paths_become_text(tmp_path):
    config = TrainConfig(
        data=tmp_path,
        annotations=tmp_path / 'boxes.csv',
        init=[tmp_path / 'best'],
        teacher=TeacherConfig(model=tmp_path / 'fine', cache=tmp_path / 'cache'),
    )
    assert (
        config.replace({'init': None, 'backbone_checkpoint': tmp_path / 'net'}).backbone_checkpoint == f'{tmp_path}/net'
    )
    assert config.to_dict()['init'] == [f'{tmp_path}/best']
    assert (config.teacher.models, config.teacher.cache) == ([f'{tmp_path}/fine'], f'{tmp_path}/cache')
    assert TeacherConfig(maps=tmp_path).maps == str(tmp_path)
    assert TrainConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r'workers is .*: give a whole number'):
        TrainConfig(workers=tmp_path)


def test_recipe_from_file_or_name(tmp_path):
    path = tmp_path / 'recipe.yaml'
    path.write_text('teacher: cam\ndecoder:\n  lr: 1.0e-3\n  shift: [1, 2]\n')
    config = TrainConfig.from_file(path)
    assert (config.teacher, config.decoder.lr, config.decoder.shift) == (TeacherConfig('cam'), 1e-3, [1, 2])
    path.write_text('decoder:\n  lr: 1e-3\n')  # YAML 1.1 reads this as text.
    with pytest.raises(ValueError, match=r"decoder\.lr is '1e-3': give a number such as 0.001"):
        TrainConfig.from_file(path)
    for text, message in (
        ('a: [', 'recipe.yaml is damaged .not valid YAML: .* write lines like `backbone: resnet50`'),
        ('- 1', r'recipe.yaml: the content is \[1\]: give fields by name'),
        ('', 'recipe.yaml: the content is None: give fields by name'),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            TrainConfig.from_file(path)
    with pytest.raises(FileNotFoundError, match='fcam_resnet50_cub'):
        TrainConfig.from_file(tmp_path / 'none.yaml')


def test_settings_round_trip_through_json():
    config = TrainConfig(decoder=DecoderConfig(crf_weight=0.0), classifier=ClassifierConfig(crop_scale=[0.4, 1.0]))
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_grid_of_the_paper_has_recipes():
    grid = {f'fcam_{b}_{d}' for b in ('vgg16', 'inception_v3', 'resnet50') for d in ('cub', 'openimages')}
    assert grid <= set(recipe_names())


@pytest.mark.parametrize('name', [name for name in recipe_names() if name != FINE_TUNE])
def test_recipes_have_the_values_of_the_paper(name):
    config = TrainConfig.from_file(name)
    stages = (config.classifier, config.decoder)
    assert [s.batch_size for s in stages] == [32, 32]
    assert {s.epochs for s in stages} == {50 if name.endswith('_cub') else 10}
    assert (config.image_size, config.decoder.lr, config.decoder.schedule) == (224, 0.01, 'constant')
    assert all((s.momentum, s.weight_decay) == (0.9, 1e-4) for s in stages)
    assert (config.decoder.erosion, config.decoder.n_seeds, config.decoder.dilation) == (11, 1, 3)
    assert config.decoder.crf_weight == pytest.approx(0.57 * 2e-9)
    assert config.classifier.schedule == 'step'
    # MaxBoxAcc at IoU 50, or PxAP of masks; all as in the published code.
    select = 'localization_50' if name.endswith('_cub') else 'localization'
    assert all((s.select, s.select_start, s.drop_last) == (select, True, False) for s in stages)
    assert (config.teacher.variant, config.classifier.head_init) == ('reference', 'xavier')
    # The values of alpha, and joint training.
    for alpha in (1, 0.1):
        joint = config.replace({'decoder.seed_weight': alpha, 'decoder.classification_weight': 1})
        assert (joint.decoder.seed_weight, joint.decoder.classification_weight) == (alpha, 1)
    assert config.classifier.head_lr == pytest.approx(10 * config.classifier.lr)
    assert config.classifier.head_layers
    # Every value has its source in a comment.
    text = (RECIPES / f'{name}.yaml').read_text()
    for line in text.splitlines():
        if ':' in line and not line.startswith('#') and not line.rstrip().endswith(':'):
            assert '#' in line, line
    assert yaml.safe_load(text)['backbone'] == config.backbone


def test_unsuitable_data_and_folders_are_refused(tmp_path):
    data = make_wsol(tmp_path / 'shapes', {'train': 8})
    with pytest.raises(DatasetError, match='num_classes=1'):
        train(train_config(data, num_classes=1), tmp_path / 'a', quiet=True)
    with pytest.raises(DatasetError):
        train(train_config(tmp_path / 'nowhere'), tmp_path / 'a', quiet=True)
    assert not (tmp_path / 'a').exists()
    (tmp_path / 'file').write_text('')
    with pytest.raises(TrainingError, match='cannot be written'):
        train(train_config(data), tmp_path / 'file', quiet=True)
    stage = ClassifierConfig(batch_size=16, accumulate=16)
    with pytest.raises(TrainingError, match='fewer than 16 parts'):
        train(train_config(data, classifier=stage), tmp_path / 'c', quiet=True)
