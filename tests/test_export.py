"""Compiled and exported models: one graph for any batch and image size, equal results, only verified files are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import fcam_zoo
from fcam_zoo import export
from fcam_zoo.cli import main
from fcam_zoo.errors import ExportError

BACKBONES = ('test_resnet', 'mobilenetv1_025', 'test_convnext', 'test_efficientnet')
# Batch and image sizes, some odd; graphs are traced at other sizes.
SHAPES = ((1, 3, 64, 64), (2, 3, 97, 131), (3, 3, 224, 160))


def build(backbone: str = 'test_resnet', **kwargs) -> fcam_zoo.FCAM:
    torch.manual_seed(0)
    return fcam_zoo.create_model('fcam', backbone=backbone, num_classes=5, **{'output_stride': 16, **kwargs}).eval()


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def results(model: fcam_zoo.FCAM, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    output = model(x)
    return output.logits, output.maps.softmax(1)[:, 1]


@pytest.mark.parametrize('backbone', [*BACKBONES, 'test_vit'])
def test_compiles_to_one_graph(backbone):
    model = build(backbone)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend='aot_eager')
    for shape in SHAPES[:2]:
        with torch.no_grad():
            got = compiled(noise(shape))
        want = model(noise(shape))
        torch.testing.assert_close(got.logits, want.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got.maps, want.maps, atol=1e-4, rtol=1e-4)
    torch.compiler.reset()


needs_export = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split('.')[:2])) < (2, 9), reason='export needs torch>=2.9'
)


@needs_export
@pytest.mark.parametrize('backbone', BACKBONES)
def test_program_supports_every_size(backbone):
    model = build(backbone)
    module = export.to_program(model).module()
    for shape in SHAPES:
        for got, want in zip(module(noise(shape)), results(model, noise(shape))):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope='module')
def onnx() -> object:
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    return pytest.importorskip('onnx')


def run(path: Path, x: torch.Tensor) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session.run(['logits', 'fcam'], {'images': x.numpy()})


@needs_export
@pytest.mark.parametrize('backbone', BACKBONES)
def test_onnx_of_any_batch_and_size(onnx, backbone, tmp_path):
    model = build(backbone)
    done = export.to_onnx(model, tmp_path / 'new' / 'model.onnx')
    assert done.difference <= 1e-4
    assert done.size == done.path.stat().st_size
    assert [p.name for p in done.path.parent.iterdir()] == ['model.onnx']
    for shape in SHAPES:
        for got, want in zip(run(done.path, noise(shape)), results(model, noise(shape))):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-4)
    onnx.checker.check_model(str(done.path))


@needs_export
@pytest.mark.parametrize('backbone', ['test_vit', 'maxvit_rmlp_pico_rw_256'])
def test_networks_without_dynamic_sizes_export_at_one_size(onnx, backbone, tmp_path):
    model = build(
        backbone, output_stride=None, backbone_kwargs={'depths': (1, 1, 1, 1)} if 'maxvit' in backbone else {}
    )
    done = export.to_onnx(model, tmp_path / 'model.onnx', size=96, dynamic=False)
    assert done.shapes == ((1, 3, 96, 96),)
    for got, want in zip(run(done.path, noise((1, 3, 96, 96))), results(model, noise((1, 3, 96, 96)))):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-4)
    if model.pyramid.multiple > 1:
        with pytest.raises(ExportError, match=r'resized to multiples of 16 pixels.*try dynamic=False'):
            export.to_onnx(model, tmp_path / 'other.onnx')
        assert [p.name for p in tmp_path.iterdir()] == ['model.onnx']


@needs_export
def test_metadata_describe_preprocessing_and_threshold(onnx, tmp_path):
    model = build('mobilenetv1_025')
    model.threshold = 0.25
    model.pretrained_cfg['label_names'] = ['a', 'b', 'c', 'd', 'ø']
    export.to_onnx(model, tmp_path / 'model.onnx', size=(96, 128), dynamic=False)
    proto = onnx.load(tmp_path / 'model.onnx')
    properties = {p.key: p.value for p in proto.metadata_props}
    assert properties['name'] == 'fcam'
    assert json.loads(properties['mean']) == [0.5, 0.5, 0.5]
    assert json.loads(properties['input_size']) == [3, 96, 128]
    assert json.loads(properties['threshold']) == 0.25
    assert json.loads(properties['class_names']) == ['a', 'b', 'c', 'd', 'ø']
    # No path of this machine.
    assert str(Path(fcam_zoo.__file__).parent).encode() not in (tmp_path / 'model.onnx').read_bytes()


@needs_export
def test_command_exports_a_released_model(onnx, tmp_path, capsys):
    name, path = 'fcam_mobilenetv1_075_cub50', tmp_path / 'cub50.onnx'
    assert main(['export', '--model', name, '-o', str(path)]) == 0
    assert 'verified with onnxruntime at 1x3x224x224' in capsys.readouterr().out
    model, x = fcam_zoo.create_model(name, pretrained=True), noise((2, 3, 224, 224))
    for got, want in zip(run(path, x), results(model, x)):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-4)


@needs_export
def test_a_file_that_differs_is_not_written(onnx, tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_bytes(b'older')
    with pytest.raises(ExportError, match=r'differs from the model .* no file was written'):
        export.to_onnx(build(), path, size=64, dynamic=False, tolerance=-1)
    assert path.read_bytes() == b'older'
    assert [p.name for p in tmp_path.iterdir()] == ['model.onnx']


@needs_export
def test_argument_errors(onnx, tmp_path, monkeypatch, capsys):
    model = build()
    with pytest.raises(TypeError, match='ResNet is not an FCAM'):
        export.to_program(model.backbone)
    with pytest.raises(ValueError, match='each at least 32 pixels'):
        export.to_program(model, size=16)
    with pytest.raises(ValueError, match='opset is 3: choose 18 to'):
        export.to_onnx(model, tmp_path / 'a.onnx', opset=3)
    with pytest.raises(IsADirectoryError, match='is a folder: name a file'):
        export.to_onnx(model, tmp_path)
    (tmp_path / 'file').touch()
    with pytest.raises(NotADirectoryError, match='file is not a folder: choose another output'):
        export.to_onnx(model, tmp_path / 'file' / 'a.onnx')
    assert main(['export', '--model', 'fcam_nothing', '-o', str(tmp_path / 'b.onnx')]) == 1
    assert "unknown model 'fcam_nothing'" in capsys.readouterr().err
    monkeypatch.setattr(export, 'MAX_BYTES', 1000)
    with pytest.raises(ExportError, match='choose a smaller backbone'):
        export.to_onnx(model, tmp_path / 'a.onnx')


def test_missing_extras_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib, 'import_module', _refuse)
    with pytest.raises(ImportError, match=r"pip install 'fcam-zoo\[export\]'"):
        export.to_onnx(build(), tmp_path / 'a.onnx')


def _refuse(name: str) -> None:
    raise ImportError(f'No module named {name!r}')
