"""CAM methods: score maps of any classifier, batched and on its device."""

from .closed_form import class_activation_map as class_activation_map
from .extract import extract as extract
from .methods import METHODS as METHODS
from .postprocess import normalize as normalize
from .postprocess import resize as resize

__all__ = ['METHODS', 'class_activation_map', 'extract', 'normalize', 'resize']
