"""Data sets of images, annotation formats, and the transforms from images to tensors."""

from .base import AnnotatedDataset, ImageDataset
from .box_csv import CsvDataset
from .coco import CocoDataset
from .folder import FolderDataset
from .formats import open_dataset
from .hub_dataset import HubDataset
from .images import MAX_PIXELS, image_size, list_images, open_image, to_rgb
from .mask_folder import MaskDataset
from .shard_dataset import ShardDataset
from .sources import ImageSource, open_source
from .table import TableDataset
from .transforms import EvalTransform, ScaleTransform, TrainTransform, denormalize, normalize
from .validate import check_dataset
from .voc import VocDataset
from .wsol import WSOLDataset

__all__ = [
    'open_image',
    'list_images',
    'image_size',
    'to_rgb',
    'MAX_PIXELS',
    'EvalTransform',
    'TrainTransform',
    'ScaleTransform',
    'denormalize',
    'normalize',
    'ImageDataset',
    'WSOLDataset',
    'FolderDataset',
    'TableDataset',
    'HubDataset',
    'ShardDataset',
    'AnnotatedDataset',
    'CocoDataset',
    'VocDataset',
    'CsvDataset',
    'MaskDataset',
    'ImageSource',
    'open_source',
    'open_dataset',
    'check_dataset',
]
