"""Layers of the classifier that a training leaves as they are (`classifier.frozen_layers`)."""

from __future__ import annotations

import pytest
import torch
from synthetic import make_wsol, train_config

import fcam_zoo
from fcam_zoo.errors import TrainingError
from fcam_zoo.train import ClassifierConfig, DecoderConfig, plan
from fcam_zoo.train.stages import ClassifierStage


@pytest.mark.parametrize('method', [None, 'acol'])
def test_frozen_layers_stay_as_they_are(method):
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2, method=method)
    stage = ClassifierStage(model, ClassifierConfig(lr=0.1, frozen_layers=['conv1', 'bn1', 'layer1']), 'cam').train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD(stage.parameter_groups())
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    for _ in range(2):  # The head is zero at first, so the layers below have no gradient in the first step.
        terms = stage(images, torch.tensor([0, 1, 0, 1]), [torch.Generator() for _ in range(4)])
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    changed = {name for name, value in model.backbone.state_dict().items() if not torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith(('conv1', 'bn1', 'layer1'))}
    assert frozen
    assert not frozen & changed
    assert {'layer2.0.conv1.weight', 'layer2.0.bn1.running_mean'} <= changed
    with pytest.raises(TrainingError, match=r'classifier.frozen_layers: the backbone has no module layer9'):
        ClassifierStage(model, ClassifierConfig(frozen_layers=['layer9']), 'cam')


def test_something_must_be_trained():
    model = fcam_zoo.create_model('fcam', backbone='test_resnet', num_classes=2)
    names = [name for name, _ in model.backbone.named_children()]
    stage = ClassifierStage(model, ClassifierConfig(frozen_layers=names), 'cam')
    with pytest.raises(TrainingError, match='freezes the whole classifier'):
        stage.parameter_groups()


@pytest.mark.parametrize('epochs', [0, 1])
def test_the_plan_of_a_training_names_them(tmp_path, epochs):
    data = make_wsol(tmp_path / 'shapes', {'train': 4, 'val': 2})
    stages = {'classifier': ClassifierConfig(epochs=epochs, batch_size=2, frozen_layers=['conv1', 'bn1'])}
    text = plan(train_config(data, decoder=DecoderConfig(epochs=1, batch_size=2), **stages), tmp_path / 'run')
    assert ('classifier: frozen layers conv1, bn1' in text) == bool(epochs)
