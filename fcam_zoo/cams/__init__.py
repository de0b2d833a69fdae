"""CAM methods: score maps of any classifier, batched and on its device."""

from .closed_form import class_activation_map as class_activation_map
from .extract import extract as extract
from .fusion import FUSIONS as FUSIONS
from .fusion import fuse as fuse
from .methods import METHODS as METHODS
from .methods import as_labels as as_labels
from .methods import check_labels as check_labels
from .methods import check_method as check_method
from .postprocess import normalize as normalize
from .postprocess import resize as resize

__all__ = [
    'FUSIONS',
    'METHODS',
    'as_labels',
    'check_labels',
    'check_method',
    'class_activation_map',
    'extract',
    'fuse',
    'normalize',
    'resize',
]
