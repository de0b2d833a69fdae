"""fcam_zoo: a timm-style zoo of weakly supervised localizers with full-resolution class activation maps.

Importing the package registers its models in timm. Other parts are imported on first use, so that creating a model does
not import OpenCV, for example.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import cams as cams
from . import models as models
from ._version import __version__ as __version__
from .errors import FcamZooError as FcamZooError
from .models import FCAM as FCAM
from .models import FCAMConfig as FCAMConfig
from .models import FCAMOutput as FCAMOutput
from .models import create_model as create_model
from .models import list_models as list_models
from .models import wrap as wrap

if TYPE_CHECKING:
    from . import benchmark as benchmark
    from . import data as data
    from . import export as export
    from . import figures as figures
    from . import hub as hub
    from . import losses as losses
    from . import sampling as sampling
    from . import train as train
    from . import viz as viz
    from .labelling import LabelOptions as LabelOptions
    from .labelling import label_images as label_images
    from .localization import Localization as Localization
    from .localization import localize as localize

_MODULES = ('benchmark', 'data', 'export', 'figures', 'hub', 'losses', 'sampling', 'train', 'viz')
_MODULE_OF = {
    'LabelOptions': 'labelling',
    'label_images': 'labelling',
    'Localization': 'localization',
    'localize': 'localization',
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f'.{name}', __name__)
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f'.{_MODULE_OF[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_MODULE_OF})
