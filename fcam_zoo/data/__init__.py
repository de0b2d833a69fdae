"""Images from untrusted files, the data sets that hold them, and the way from a picture to a tensor."""

from .base import ImageDataset as ImageDataset
from .folder import FolderDataset as FolderDataset
from .folder import open_dataset as open_dataset
from .images import MAX_PIXELS as MAX_PIXELS
from .images import image_size as image_size
from .images import list_images as list_images
from .images import open_image as open_image
from .images import to_rgb as to_rgb
from .transforms import EvalTransform as EvalTransform
from .transforms import ScaleTransform as ScaleTransform
from .transforms import TrainTransform as TrainTransform
from .transforms import normalize as normalize
from .validate import check_dataset as check_dataset
from .wsol import WSOLDataset as WSOLDataset

__all__ = [
    'open_image',
    'list_images',
    'image_size',
    'to_rgb',
    'MAX_PIXELS',
    'EvalTransform',
    'TrainTransform',
    'ScaleTransform',
    'normalize',
    'ImageDataset',
    'WSOLDataset',
    'FolderDataset',
    'open_dataset',
    'check_dataset',
]
