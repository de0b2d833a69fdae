"""Labels, boxes and masks for folders of images, in the formats that detectors and segmenters train from."""

from .formats import FORMATS as FORMATS
from .formats import SHEET as SHEET
from .formats import SHEET_IMAGES as SHEET_IMAGES
from .options import LabelOptions as LabelOptions
from .run import Summary as Summary
from .run import label_images as label_images

__all__ = ['label_images', 'LabelOptions', 'Summary', 'FORMATS', 'SHEET', 'SHEET_IMAGES']
