"""fcam_zoo: a timm-style zoo of weakly supervised localizers with full-resolution class activation maps.

Importing the package registers its models in timm. Its parts are imported on first use (PEP 562), so that the command
line starts fast, and creating a model does not import OpenCV.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import errors as errors
from ._registration import register_with_timm as _register_with_timm
from ._version import __version__ as __version__
from .errors import FcamZooError as FcamZooError

if TYPE_CHECKING:
    from . import benchmark as benchmark
    from . import cams as cams
    from . import data as data
    from . import export as export
    from . import figures as figures
    from . import hub as hub
    from . import losses as losses
    from . import models as models
    from . import sampling as sampling
    from . import train as train
    from . import viz as viz
    from . import wsol as wsol
    from .labelling import LabelOptions as LabelOptions
    from .labelling import label_images as label_images
    from .localization import Localization as Localization
    from .localization import localize as localize
    from .models import FCAM as FCAM
    from .models import FCAMConfig as FCAMConfig
    from .models import FCAMOutput as FCAMOutput
    from .models import create_model as create_model
    from .models import list_models as list_models
    from .models import wrap as wrap

_MODULES = (
    'benchmark',
    'cams',
    'data',
    'export',
    'figures',
    'hub',
    'losses',
    'models',
    'sampling',
    'train',
    'viz',
    'wsol',
)
_MODULE_OF = {
    'FCAM': 'models',
    'FCAMConfig': 'models',
    'FCAMOutput': 'models',
    'create_model': 'models',
    'list_models': 'models',
    'wrap': 'models',
    'Localization': 'localization',
    'localize': 'localization',
    'LabelOptions': 'labelling',
    'label_images': 'labelling',
}

__all__ = [
    'FCAM',
    'FCAMConfig',
    'FCAMOutput',
    'FcamZooError',
    'LabelOptions',
    'Localization',
    'benchmark',
    'cams',
    'create_model',
    'data',
    'errors',
    'export',
    'figures',
    'hub',
    'label_images',
    'list_models',
    'localize',
    'losses',
    'models',
    'sampling',
    'train',
    'viz',
    'wrap',
    'wsol',
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f'.{name}', __name__)
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f'.{_MODULE_OF[name]}', __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register_with_timm()
