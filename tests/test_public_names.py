"""The names of the package: complete, imported on first use, and registered in timm."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fcam_zoo


def run(code: str) -> str:
    """Run code in a new process and return what it prints."""
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()


def test_all_names_are_public_and_exist():
    listed = {'FcamZooError', 'errors', *fcam_zoo._MODULE_OF, *fcam_zoo._MODULES}
    assert sorted(listed) == sorted(fcam_zoo.__all__)
    for name in fcam_zoo.__all__:
        assert getattr(fcam_zoo, name) is not None
        assert name in dir(fcam_zoo)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fcam_zoo.nothing  # noqa: B018


def test_names_are_attributes_after_the_import_alone():
    parts = 'fcam_zoo.train.train, fcam_zoo.figures.grid, fcam_zoo.cams.fuse, fcam_zoo.FCAM'
    assert run(f'import fcam_zoo; print(*(part.__name__ for part in ({parts})))') == 'train grid fuse FCAM'


def test_star_import():
    names = run('from fcam_zoo import *; print(train.train.__name__, figures.grid.__name__, create_model.__name__)')
    assert names == 'train grid create_model'


def test_the_import_is_light():
    assert run("import sys, fcam_zoo; print({'torch', 'timm', 'numpy'} & sys.modules.keys())") == 'set()'


@pytest.mark.parametrize(
    'imports',
    [
        'import fcam_zoo, timm',
        'import timm, fcam_zoo',
        'import fcam_zoo\nfcam_zoo.cams, fcam_zoo.list_models()\nimport timm',
        "import fcam_zoo, importlib.util\nimportlib.util.find_spec('timm')\nimport timm",
    ],
)
def test_models_are_in_timm_in_any_order_of_imports(imports):
    code = f"{imports}\nprint(timm.is_model('fcam_resnet50'), timm.__loader__.get_filename('timm') == timm.__file__)"
    assert run(code) == 'True True'
