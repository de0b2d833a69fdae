"""CAM methods: batched, on-device score maps out of any classifier."""

from .closed_form import class_activation_map as class_activation_map
from .extract import extract as extract
from .geometry import ALIGNS as ALIGNS
from .geometry import CellGeometry as CellGeometry
from .geometry import align_geometry as align_geometry
from .geometry import cell_geometry as cell_geometry
from .geometry import check_align as check_align
from .methods import METHODS as METHODS
from .postprocess import normalize as normalize
from .postprocess import resize as resize

__all__ = [
    'ALIGNS',
    'METHODS',
    'CellGeometry',
    'align_geometry',
    'cell_geometry',
    'check_align',
    'class_activation_map',
    'extract',
    'normalize',
    'resize',
]
