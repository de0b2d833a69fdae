"""Data sets and transforms."""

from .folder import FolderDataset as FolderDataset
from .folder import open_dataset as open_dataset
from .images import list_images as list_images
from .images import open_image as open_image
from .transforms import EvalTransform as EvalTransform
from .transforms import TrainTransform as TrainTransform
from .transforms import normalize as normalize
from .wsol import WSOLDataset as WSOLDataset

__all__ = [
    'EvalTransform',
    'FolderDataset',
    'TrainTransform',
    'WSOLDataset',
    'list_images',
    'normalize',
    'open_dataset',
    'open_image',
]
