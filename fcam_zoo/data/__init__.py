"""Images from untrusted files, the data sets that hold them, and the way from a picture to a tensor."""

from .annotated import AnnotatedDataset as AnnotatedDataset
from .base import ImageDataset as ImageDataset
from .box_csv import CsvDataset as CsvDataset
from .coco import CocoDataset as CocoDataset
from .folder import FolderDataset as FolderDataset
from .formats import open_dataset as open_dataset
from .images import MAX_PIXELS as MAX_PIXELS
from .images import image_size as image_size
from .images import list_images as list_images
from .images import open_image as open_image
from .images import to_rgb as to_rgb
from .mask_folder import MaskDataset as MaskDataset
from .transforms import EvalTransform as EvalTransform
from .transforms import ScaleTransform as ScaleTransform
from .transforms import TrainTransform as TrainTransform
from .transforms import normalize as normalize
from .validate import check_dataset as check_dataset
from .voc import VocDataset as VocDataset
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
    'AnnotatedDataset',
    'CocoDataset',
    'VocDataset',
    'CsvDataset',
    'MaskDataset',
    'open_dataset',
    'check_dataset',
]
